//! The second wire format: binary frames with credit for each stream, half-close and datagrams.
//!
//! docs/protocol-v2.md is the contract. Reading order: [`Frame`] and [`Frames`] (the bytes) →
//! [`Session`] (either side's state) → `window` (credit) → [`Budget`] (what all sessions of a
//! process may hold) → [`ResetCode`].

mod budget;
mod code;
mod event;
mod frame;
mod pings;
mod session;
mod stream;
mod window;

pub use budget::{Budget, Scarce};
pub use code::ResetCode;
pub use event::{Event, GoneAway, Limits, OpenError, Violation};
pub use frame::{BadFrame, Frame, Frames, Kind, Side};
pub use session::Session;

/// Bytes of a frame's header.
pub const HEADER: usize = 8;
/// Largest payload of a DATA frame, and of a frame that is skipped, in bytes.
pub const MAX_DATA: usize = 65_536;
/// Largest payload of a DATAGRAM frame, in bytes: that of one IPv4 packet.
pub const MAX_DATAGRAM: usize = 65_507;
/// Longest target in OPEN, in bytes.
pub const MAX_TARGET: usize = 262;
/// Longest text in `RESET` and `GO_AWAY`, in bytes.
pub const MAX_WORDS: usize = 255;
/// Credit of a new stream in each direction, in bytes.
pub const INITIAL_STREAM_CREDIT: u32 = 65_536;
/// Credit of a new session in each direction, in bytes.
pub const INITIAL_SESSION_CREDIT: u32 = 262_144;
/// Most credit that may be outstanding, and that one CREDIT frame may add, in bytes.
pub const MAX_CREDIT: u32 = (1 << 31) - 1;
/// PINGs that may be unanswered at once.
pub const MAX_PINGS: usize = 16;
