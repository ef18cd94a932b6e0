//! Drives one httvps protocol session over one message transport.
//!
//! [`Link`] is what both ends share: a WebSocket with keep-alive, a write deadline and an
//! [`Outbox`](httvps_proto::Outbox) for frames. It owns no task and no timer, so the gateway can
//! poll it together with everything else of a session in one task, and the client can put it
//! behind the [`Stream`]s that it hands out.

mod carrier;
mod carry;
mod chunks;
mod connection;
mod datagram_queue;
mod datagrams;
mod driver;
mod link;
mod owned;
mod ready;
mod silence;
mod state;
mod stream;
mod table;
mod turns;
mod v2;
mod wire;
mod work;

pub use carry::{Carry, Local};
pub use connection::{
    Connection, ConnectionEnd, Greeting, HelloError, OpenError, Opening, Settings,
};
pub use datagram_queue::{DatagramQueue, MAX_QUEUED_DATAGRAMS};
pub use datagrams::{Datagrams, Displacer};
pub use link::{CHUNK, FLUSH_AT, Link, LinkError, LinkOutbox, LinkTiming};
pub use ready::{Ready, StreamWaker};
pub use stream::{Stream, StreamFailure};
pub use turns::{Pace, Turns};
pub use work::{TURN, Work};
