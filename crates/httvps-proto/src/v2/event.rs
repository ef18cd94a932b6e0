//! Limits, events and violations of a [`Session`](super::Session).

use super::{BadFrame, Kind, ResetCode};
use std::fmt;
use std::time::Duration;

/// The limits of one session.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams open at once. Default 8.
    pub max_streams: usize,
    /// OPEN frames a second that a gateway accepts; 0 = no limit. Default 200.
    pub max_opens_per_second: u32,
    /// OPEN frames of one burst above the rate. Default 500.
    pub max_open_burst: u32,
    /// Bytes that the window of one stream may grow to. Default 16 MiB.
    pub max_stream_window: u32,
    /// Bytes that the windows of all streams may grow to. Default 32 MiB; at least
    /// [`INITIAL_SESSION_CREDIT`](super::INITIAL_SESSION_CREDIT) is always promised.
    pub max_session_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_streams: 8,
            max_opens_per_second: 200,
            max_open_burst: 500,
            max_stream_window: 16 * 1024 * 1024,
            max_session_window: 32 * 1024 * 1024,
        }
    }
}

/// How the peer has broken the protocol. The session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// The bytes are no frames.
    Frame(BadFrame),
    /// A text message: frames are binary.
    Text,
    /// A frame for a stream that was never opened.
    UnopenedStream,
    /// An OPEN whose id is not above all earlier ones.
    ReusedStream,
    /// A frame that this kind of stream does not have.
    WrongKind,
    /// DATA or a second FINISH after FINISH.
    AfterFinish,
    /// DATA beyond the stream's or the session's credit.
    CreditExceeded,
    /// More credit than may be outstanding.
    CreditOverflow,
    /// A second OPENED for a stream.
    OpenedTwice,
}

impl Violation {
    /// A short text; also the reason of the WebSocket Close 1002.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Frame(bad) => bad.words(),
            Self::Text => "text message after v2 was accepted",
            Self::UnopenedStream => "frame for a stream that was never opened",
            Self::ReusedStream => "stream ids must grow",
            Self::WrongKind => "frame does not fit the kind of the stream",
            Self::AfterFinish => "data after finish",
            Self::CreditExceeded => "data beyond the credit",
            Self::CreditOverflow => "too much credit",
            Self::OpenedTwice => "stream opened twice",
        }
    }
}

impl From<BadFrame> for Violation {
    fn from(bad: BadFrame) -> Self {
        Self::Frame(bad)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl std::error::Error for Violation {}

/// The event of a frame for the owner of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'m> {
    /// Nothing: it was answered, crossed with the end of its stream, or is of a later version.
    Nothing,
    /// Gateway: open an upstream; answer with [`Session::opened`](super::Session::opened) or [`Session::reset`](super::Session::reset).
    Open {
        /// The new stream.
        stream: u32,
        /// Its kind.
        kind: Kind,
        /// The target as the client wrote it; empty when it named none.
        target: &'m str,
    },
    /// Gateway: an OPEN was answered with a RESET of this code.
    Refused(ResetCode),
    /// Client: the far socket is open.
    Opened(u32),
    /// Bytes for the stream's next hop. Say [`Session::consumed`](super::Session::consumed) when it has taken them.
    Data {
        /// An open stream.
        stream: u32,
        /// The bytes; never empty.
        data: &'m [u8],
    },
    /// The peer sends no more on this stream. It may be over now: see [`Session::is_open`](super::Session::is_open).
    Finish(u32),
    /// The peer reset the stream; it is over. Bytes that still wait for its next hop are dropped.
    Reset {
        /// The stream that was.
        stream: u32,
        /// Why.
        code: ResetCode,
        /// For people; not to be trusted.
        words: &'m str,
    },
    /// More may be sent on this stream; 0 = on all of them.
    Credit(u32),
    /// A datagram for the stream's next hop.
    Datagram {
        /// An open stream.
        stream: u32,
        /// The datagram; may be empty.
        data: &'m [u8],
    },
    /// A round trip was measured.
    RoundTrip(Duration),
    /// Client: the gateway wants the session to end.
    GoAway(GoneAway<'m>),
}

/// The contents of a `GO_AWAY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoneAway<'m> {
    /// Why.
    pub code: ResetCode,
    /// When the connection is closed, from now: the earliest that any `GO_AWAY` has said.
    pub deadline: Duration,
    /// For people; not to be trusted.
    pub words: &'m str,
}

/// Why a stream cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// The session has as many streams as it may.
    NoPlace,
    /// The gateway has announced its end.
    GoingAway,
    /// The target is longer than [`MAX_TARGET`](super::MAX_TARGET) bytes.
    TargetTooLong,
    /// All ids were used: four billion streams. Open another session.
    NoMoreIds,
}
