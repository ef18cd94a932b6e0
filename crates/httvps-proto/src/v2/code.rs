//! Why a stream was reset: one closed table for both directions.

use crate::StreamEnd;

macro_rules! reset_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $token:literal;)+) => {
        /// The code of a `RESET` or `GO_AWAY` frame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ResetCode { $($(#[$doc])* $name = $code,)+ }

        impl ResetCode {
            /// All codes, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name in documents and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $token,)+ }
            }

            /// The code of a number on the wire; an unknown one is [`Self::Io`].
            pub const fn from_wire(number: u8) -> Self {
                match number { $($code => Self::$name,)+ _ => Self::Io }
            }
        }
    };
}

reset_codes! {
    /// The sender of the frame does not want the stream any more.
    Cancelled = 0, "cancelled";
    /// The target refused the connection.
    Refused = 1, "refused";
    /// There is no way to the target's host or network.
    Unreachable = 2, "unreachable";
    /// The target did not answer within the dial time-out.
    Timeout = 3, "timeout";
    /// The gateway's policy does not allow this target.
    Denied = 4, "denied";
    /// The session has as many streams as it may, or opens them too fast.
    Limit = 5, "limit";
    /// The target reset the connection.
    Reset = 6, "reset";
    /// The peer broke the protocol.
    ProtocolError = 7, "protocol_error";
    /// The gateway drains; the stream may be opened on another session.
    GoingAway = 8, "going_away";
    /// The target's name did not resolve.
    ResolveFailed = 9, "resolve_failed";
    /// The target is malformed, or absent where one is needed.
    BadTarget = 10, "bad_target";
    /// The receiver took no byte for the stall time-out.
    Stalled = 11, "stalled";
    /// Nothing moved for the idle time-out.
    Idle = 12, "idle";
    /// The gateway has no memory or descriptor left.
    Overload = 13, "overload";
    /// Another failure of the connection to the target.
    Io = 14, "io";
    /// This kind of stream is not offered.
    Unsupported = 15, "unsupported";
    /// The node through which the stream would leave does not answer; the target was not asked.
    NodeUnreachable = 16, "node_unreachable";
}

impl ResetCode {
    /// The number on the wire.
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// What a RESET of this code means for a stream that was open; None when no end of our own
    /// says the same.
    pub const fn to_end(self) -> Option<StreamEnd> {
        Some(match self {
            Self::Refused => StreamEnd::Refused,
            Self::Unreachable => StreamEnd::Unreachable,
            Self::NodeUnreachable => StreamEnd::NodeUnreachable,
            Self::Timeout => StreamEnd::Timeout,
            Self::Denied => StreamEnd::Denied,
            Self::Reset => StreamEnd::Reset,
            Self::GoingAway => StreamEnd::SessionEnded,
            Self::ResolveFailed => StreamEnd::ResolveFailed,
            Self::BadTarget => StreamEnd::NoTarget,
            Self::Stalled => StreamEnd::Stalled,
            Self::Idle => StreamEnd::Idle,
            Self::Overload => StreamEnd::Overload,
            Self::Unsupported => StreamEnd::NotOffered,
            Self::Io => StreamEnd::Io,
            Self::Cancelled | Self::Limit | Self::ProtocolError => return None,
        })
    }
}

/// The code of a RESET for an end; None for the end that is a FINISH.
impl TryFrom<StreamEnd> for ResetCode {
    type Error = ();

    fn try_from(end: StreamEnd) -> Result<Self, ()> {
        Ok(match end {
            StreamEnd::Eof => return Err(()),
            StreamEnd::ClientClosed => Self::Cancelled,
            StreamEnd::Refused => Self::Refused,
            StreamEnd::Unreachable => Self::Unreachable,
            StreamEnd::NodeUnreachable => Self::NodeUnreachable,
            StreamEnd::Timeout => Self::Timeout,
            StreamEnd::Reset => Self::Reset,
            StreamEnd::Denied => Self::Denied,
            StreamEnd::ResolveFailed => Self::ResolveFailed,
            StreamEnd::NoTarget => Self::BadTarget,
            StreamEnd::Overload => Self::Overload,
            StreamEnd::NotOffered => Self::Unsupported,
            StreamEnd::Io => Self::Io,
            StreamEnd::Stalled => Self::Stalled,
            StreamEnd::Idle => Self::Idle,
            StreamEnd::SessionEnded => Self::GoingAway,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_survive_the_wire() {
        for (number, code) in (0u8..).zip(ResetCode::ALL) {
            assert_eq!((code.to_wire(), ResetCode::from_wire(number)), (number, *code));
        }
        assert_eq!(ResetCode::from_wire(17), ResetCode::Io);
        assert_eq!(ResetCode::from_wire(255), ResetCode::Io);
    }

    #[test]
    fn every_end_but_a_finish_has_a_code() {
        for end in StreamEnd::ALL {
            let code = ResetCode::try_from(*end);
            assert_eq!(code.is_err(), *end == StreamEnd::Eof, "{end:?}");
            let is_told = !matches!(end, StreamEnd::Eof | StreamEnd::ClientClosed);
            assert_eq!(code.ok().and_then(ResetCode::to_end), is_told.then_some(*end));
        }
    }
}
