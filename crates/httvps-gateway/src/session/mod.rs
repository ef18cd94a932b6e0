//! One authenticated session: a task that moves bytes between its client and its upstreams.
//!
//! Everything of a session is polled by one task: the link to the client, and every upstream with a
//! waker of its own. So a frame costs no task switch, no channel and no lock, and backpressure is a
//! matter of not polling: upstreams are not read while the client's queue is full, and the client
//! is not read while an upstream's queue is full.

mod active;
mod closing;
mod datagrams;
mod hello;
mod pending;
mod relay;
mod wire;

pub(crate) use active::Crowd;
pub(crate) use hello::{Arrival, begin};

use httvps_mux::Link;
use httvps_tls::TlsStream;
use tokio::net::TcpStream;

/// The link that the gateway's sessions run over.
pub(crate) type ClientLink = Link<TlsStream<TcpStream>>;
