//! Sockets and WebSocket: carriers of messages for httvps.
//!
//! The layers, from the wire up, are [`socket`] (listening and connecting), TLS (`httvps-tls`, a stream that holds no
//! buffer while it is idle) and [`ws`] (an RFC 6455 codec without I/O, and a connection over any byte stream). Nothing
//! here knows the httvps protocol.
//!
//! **Memory.** All large buffers belong to the worker thread, not to the connection: a small pool of message buffers,
//! and the areas of `httvps-tls`. A connection borrows them while bytes move and gives them back when it has nothing
//! left to do, so an idle connection is its TLS keys, its socket and a few hundred bytes of state.

pub mod socket;
pub mod ws;

mod buffers;

pub use httvps_tls::give_way;
