//! The httvps protocol without I/O: frames, codec, session and stream state, limits and codes.
//!
//! This crate names no runtime, no socket, no clock and no log. The time (`now`), the bytes of a
//! message and the verdict of the backend come in as arguments; frames to send go out through an
//! [`Outbox`]; what happened comes back as a value. So every behaviour can be tested in virtual
//! time, and the same state machines serve any carrier.
//!
//! Reading order: [`json`] (the frames on the wire) → [`Session`] (the gateway's side) →
//! [`ClientSession`] (the client's side) → [`KeepAlive`], [`Bucket`], [`Limits`]. The second wire
//! format is in [`v2`].

pub mod address;
mod bucket;
mod client;
mod code;
mod input;
pub mod json;
mod keepalive;
mod limits;
mod outbox;
pub mod reference;
mod session;
mod streams;
mod target;
pub mod v2;

pub use bucket::Bucket;
pub use client::{ClientInput, ClientSession, OpenError};
pub use code::{CloseCause, ErrorCode, StreamEnd, StreamRefusal};
pub use input::{Input, Verdict};
pub use keepalive::{KeepAlive, KeepAliveAction};
pub use limits::Limits;
pub use outbox::Outbox;
pub use session::Session;
pub use streams::StreamKey;
pub use target::{Host, Target, TargetError};

/// Capability: the gateway answers a `stream_open` with `stream_opened` once the upstream is connected.
pub const CAPABILITY_OPEN_ACK: &str = "open_ack";
/// Capability: the gateway announces a drain with `go_away` before it closes the connection.
pub const CAPABILITY_GO_AWAY: &str = "go_away";
/// Capability: after the `auth_result` both sides speak the second wire format, [`v2`].
pub const CAPABILITY_V2: &str = "v2";
/// Every capability that this implementation speaks.
pub const CAPABILITIES: [&str; 3] = [CAPABILITY_OPEN_ACK, CAPABILITY_GO_AWAY, CAPABILITY_V2];
/// Those of the JSON protocol.
pub const FOUNDING_CAPABILITIES: [&str; 2] = [CAPABILITY_OPEN_ACK, CAPABILITY_GO_AWAY];
