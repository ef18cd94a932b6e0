//! This crate against independent implementations of the same standards.

#![allow(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

mod pki;
mod records;
mod tls;
