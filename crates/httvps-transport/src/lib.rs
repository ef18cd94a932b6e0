//! Sockets, TLS and WebSocket: carriers of messages for httvps.
//!
//! The layers, from the wire up, are [`socket`] (listening and connecting), [`tls`] (a TLS stream
//! that holds no buffer while it is idle) and [`ws`] (an RFC 6455 codec without I/O, and a
//! connection over it). Nothing here knows the httvps protocol.
//!
//! **Memory.** All large buffers belong to the worker thread, not to the connection: a few areas
//! for TLS records and a small pool of message buffers. A connection borrows them while
//! bytes move and gives them back when it has nothing left to do, so an idle connection is its
//! TLS keys, its socket and a few hundred bytes of state.

pub mod socket;
pub mod tls;
pub mod ws;

mod buffers;
mod turn;

pub use turn::give_way;

/// The name under which tests that are shared with the outside know this crate.
#[cfg(test)]
extern crate self as httvps_transport;
