//! Errors of name resolution.

use std::fmt;

/// Why a name could not be resolved. `Display` does not contain the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The name does not exist.
    NoSuchName,
    /// The name exists and has no address.
    NoAddress,
    /// The system has no name server configured; only addresses and the names in the hosts file work.
    NoNameServer,
    /// The name servers refused, failed, or could not be reached.
    ServerFailed,
    /// The name servers did not answer in time.
    TimedOut,
    /// This host has no descriptor or buffer left for the query.
    Overload,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchName => "the name does not exist",
            Self::NoAddress => "the name has no address",
            Self::NoNameServer => {
                "/etc/resolv.conf names no name server; only addresses and names in /etc/hosts work"
            }
            Self::ServerFailed => "the name server could not resolve it",
            Self::TimedOut => "the name server did not answer in time",
            Self::Overload => "this host has no room for another lookup",
        })
    }
}

impl std::error::Error for ResolveError {}
