//! This crate against independent implementations of the same standards.

mod pki;
mod tls;
mod websocket;
