//! Errors of a proxy.

use std::fmt;
use std::io;

/// Why a proxy gave no stream. `Display` names neither proxy, target nor password.
#[derive(Debug)]
pub enum Error {
    /// The connection to the proxy failed or ended.
    Io(io::Error),
    /// The answer does not follow the proxy's protocol.
    NotAProxy,
    /// The proxy refused user and password.
    Credentials,
    /// The proxy wants a user and a password, and the key has none.
    NoCredentials,
    /// The proxy did not connect to the target.
    Target(Refusal),
    /// The proxy does not support the request: datagrams, or streams.
    Unsupported,
}

/// Why a proxy refused a target, common to both protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The target refused the connection.
    Refused,
    /// The target cannot be reached from the proxy, or the proxy does not say why it failed.
    Unreachable,
    /// The target did not answer the proxy in time.
    TimedOut,
    /// The rules of the proxy forbid the target.
    Denied,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the proxy ended the connection"
            }
            Self::Io(error) => return write!(f, "the connection to the proxy failed: {error}"),
            Self::NotAProxy => "the answer is not that of such a proxy",
            Self::Credentials => "the proxy refused user and password",
            Self::NoCredentials => "the proxy wants a user and a password, and the key has none",
            Self::Target(Refusal::Refused) => "the target refused the proxy's connection",
            Self::Target(Refusal::Unreachable) => "the proxy cannot reach the target",
            Self::Target(Refusal::TimedOut) => "the target did not answer the proxy in time",
            Self::Target(Refusal::Denied) => "the proxy does not let the target through",
            Self::Unsupported => "the proxy does not offer that",
        })
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
