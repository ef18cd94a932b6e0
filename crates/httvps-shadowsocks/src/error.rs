//! Errors of a node.

use std::fmt;
use std::io;

use httvps_proto::address::AddressError;

/// Why a stream to a node did not open, or broke. `Display` names neither the node nor a
/// key.
///
/// An `io::Error` of a [`Stream`](crate::Stream) carries one of these unless the connection itself failed; see
/// [`Error::of`].
#[derive(Debug)]
pub enum Error {
    /// The connection to the node could not be opened.
    Dial(io::Error),
    /// The node did not accept the connection within the deadline.
    TimedOut,
    /// The node's first bytes are not authentic: its password or cipher differs, or it is not a
    /// Shadowsocks node.
    WrongKey,
    /// Later bytes of the node are not authentic: they were altered on the way.
    Integrity,
    /// The node closed the connection inside a chunk.
    Truncated,
    /// The node sent authentic bytes that are not the protocol: a chunk that is too long, or an invalid header of
    /// SIP022.
    Protocol,
    /// The node's clock and ours differ by more than 30 s (SIP022 section 3.1.5), by this many seconds.
    Clock(u64),
    /// The node's answer belongs to another request: it was recorded earlier (SIP022 section 3.1.3).
    Replay,
    /// The node sent back what this process had sent to it, on this stream or another one.
    Reflected,
    /// The stream was opened without a target, and its first bytes are not an address header.
    Address(AddressError),
    /// The stream was opened without a target and finished within its address header.
    NoAddress,
}

impl Error {
    /// The error that a [`Stream`](crate::Stream) reported through an `io::Error`.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dial(error) => return write!(f, "the node cannot be reached: {error}"),
            Self::TimedOut => "the node did not take the connection in time",
            Self::WrongKey => {
                "the node's answer does not fit the key: wrong password or wrong method"
            }
            Self::Integrity => "the node's bytes were altered on the way",
            Self::Truncated => "the node finished in the middle of a chunk",
            Self::Protocol => "the node does not keep to the Shadowsocks protocol",
            Self::Clock(seconds) => {
                return write!(
                    f,
                    "the node's clock and the gateway's differ by {seconds} s, and 30 s are allowed: set the clocks"
                );
            }
            Self::Replay => "the node's answer belongs to another request",
            Self::Reflected => {
                "the node sends the request back: it is no Shadowsocks node and has not the key"
            }
            Self::Address(error) => return error.fmt(f),
            Self::NoAddress => "the stream finished within its address header",
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Dial(error) => Some(error),
            Self::Address(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Dial(error) => return error,
            Error::TimedOut => io::ErrorKind::TimedOut,
            Error::Truncated => io::ErrorKind::UnexpectedEof,
            Error::Address(_) | Error::NoAddress => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_found_again_behind_an_io_error() {
        let error = io::Error::from(Error::Clock(31));
        assert!(matches!(Error::of(&error), Some(Error::Clock(31))));
        assert!(error.to_string().contains("31 s"));
        assert!(Error::of(&io::ErrorKind::ConnectionReset.into()).is_none());
        let dial = io::Error::from(Error::Dial(io::ErrorKind::ConnectionRefused.into()));
        assert_eq!(dial.kind(), io::ErrorKind::ConnectionRefused);
    }
}
