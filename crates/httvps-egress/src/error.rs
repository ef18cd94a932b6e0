//! Why an upstream did not open, or ended: one small set of reasons for the wire, the logs and the metrics.

use std::fmt;
use std::io;

use rustix::io::Errno;

use httvps_resolve::ResolveError;

use crate::Denied;

/// Why an upstream could not be opened. `Display` contains no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The target's host answered that no program listens on the port.
    Refused,
    /// There is no route to the target, or a host on the way rejects the connection.
    Unreachable,
    /// The node through which the stream would leave cannot be reached; the target was not asked.
    NodeUnreachable,
    /// The target did not answer within the deadline.
    TimedOut,
    /// The target reset the connection while it was being opened.
    Reset,
    /// The destination policy denies the target.
    Denied(Denied),
    /// The node of the stream denies the target.
    DeniedByNode,
    /// The target's name could not be resolved.
    ResolveFailed(ResolveError),
    /// The client named no target, and this connector needs one.
    NoTarget,
    /// This host has no descriptor, buffer or memory left for another connection.
    Overload,
    /// The egress does not support streams of this kind.
    NotOffered,
    /// Any other error of the operating system.
    Io,
}

impl ConnectError {
    /// The reason as it stands on the wire and in metric labels. One of `refused`, `unreachable`, `node_unreachable`, `timeout`, `reset`,
    /// `denied`, `resolve_failed`, `no_target`, `overload`, `not_offered`, `io`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NodeUnreachable => "node_unreachable",
            Self::TimedOut => "timeout",
            Self::Reset => "reset",
            Self::Denied(_) | Self::DeniedByNode => "denied",
            Self::ResolveFailed(_) => "resolve_failed",
            Self::NoTarget => "no_target",
            Self::Overload => "overload",
            Self::NotOffered => "not_offered",
            Self::Io => "io",
        }
    }

    /// The rank of this error when the addresses of one target failed in different ways: the highest is reported.
    pub(crate) fn weight(self) -> u8 {
        match self {
            // Our own shortage first: the other attempts may have failed because of it.
            Self::Overload => 6,
            // Then what the target itself said, then silence, then what the network said.
            Self::Refused => 5,
            Self::Reset => 4,
            Self::TimedOut => 3,
            Self::Io => 2,
            // A host without IPv6 fails so at once for every IPv6 address; that hides nothing better.
            Self::Unreachable => 1,
            Self::Denied(_)
            | Self::DeniedByNode
            | Self::NodeUnreachable
            | Self::ResolveFailed(_)
            | Self::NoTarget
            | Self::NotOffered => 0,
        }
    }
}

impl From<&io::Error> for ConnectError {
    fn from(error: &io::Error) -> Self {
        // What we put in ourselves.
        if let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<Self>()) {
            return *error;
        }
        // By number first: the standard library has no kind for most of these.
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                return Self::Overload;
            }
            // The latter is an interface that is gone.
            Some(Errno::AFNOSUPPORT | Errno::NODEV) => return Self::Unreachable,
            _ => {}
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            // A local firewall answers with PermissionDenied; a host without IPv6 with AddrNotAvailable.
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::PermissionDenied => Self::Unreachable,
            io::ErrorKind::TimedOut => Self::TimedOut,
            // BrokenPipe is what a write meets after the reset has been read.
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::OutOfMemory => Self::Overload,
            _ => Self::Io,
        }
    }
}

/// The error comes back out of it as it went in.
impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        Self::other(error)
    }
}

impl From<Denied> for ConnectError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<ResolveError> for ConnectError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Overload => Self::Overload,
            error => Self::ResolveFailed(error),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the target refused the connection",
            Self::Unreachable => "the target cannot be reached from the gateway",
            Self::NodeUnreachable => "the exit node does not answer",
            Self::TimedOut => "the target did not answer in time",
            Self::Reset => "the target broke the connection off",
            Self::Denied(denied) => return denied.fmt(f),
            Self::DeniedByNode => "the node does not let the target through",
            Self::ResolveFailed(error) => words_of_resolve_error(*error),
            Self::NoTarget => "the stream names no target; give host:port",
            Self::Overload => "the gateway has no room for another connection",
            Self::NotOffered => "the way out does not carry streams of this kind",
            Self::Io => "the connection failed",
        })
    }
}

/// The text for a client; for the client the name is that of its target.
fn words_of_resolve_error(error: ResolveError) -> &'static str {
    match error {
        ResolveError::NoSuchName => "the target's name does not exist",
        ResolveError::NoAddress => "the target's name has no address",
        ResolveError::NoNameServer => {
            "the gateway's host names no name server; only addresses and names in its hosts file work"
        }
        ResolveError::ServerFailed => "the name server could not resolve the target's name",
        ResolveError::TimedOut => "the name server did not answer in time",
        ResolveError::Overload => "the gateway has no room for another lookup",
    }
}

impl std::error::Error for ConnectError {}

/// The reason of an error on an established connection: a word of the same set as [`ConnectError::reason`], most often
/// `reset`, `timeout`, `unreachable` or `io`.
pub fn end_of_io_error(error: &io::Error) -> &'static str {
    ConnectError::from(error).reason()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EgressPolicy;
    use std::net::Ipv4Addr;

    #[test]
    fn every_error_of_the_system_finds_its_reason() {
        for (errno, reason) in [
            (Errno::CONNREFUSED, "refused"),
            (Errno::HOSTUNREACH, "unreachable"),
            (Errno::NETUNREACH, "unreachable"),
            (Errno::NETDOWN, "unreachable"),
            (Errno::ADDRNOTAVAIL, "unreachable"),
            (Errno::AFNOSUPPORT, "unreachable"),
            (Errno::NODEV, "unreachable"),
            (Errno::PERM, "unreachable"),
            (Errno::ACCESS, "unreachable"),
            (Errno::TIMEDOUT, "timeout"),
            (Errno::CONNRESET, "reset"),
            (Errno::CONNABORTED, "reset"),
            (Errno::PIPE, "reset"),
            (Errno::MFILE, "overload"),
            (Errno::NFILE, "overload"),
            (Errno::NOBUFS, "overload"),
            (Errno::NOMEM, "overload"),
            (Errno::PROTO, "io"),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(end_of_io_error(&error), reason, "{errno:?}");
        }
        assert_eq!(end_of_io_error(&io::Error::other("whatever")), "io");
    }

    #[test]
    fn each_error_has_its_own_reason_and_words() {
        let denied = EgressPolicy::default().check(Ipv4Addr::LOCALHOST.into()).unwrap_err();
        let errors = [
            ConnectError::Refused,
            ConnectError::Unreachable,
            ConnectError::NodeUnreachable,
            ConnectError::TimedOut,
            ConnectError::Reset,
            ConnectError::Denied(denied),
            ConnectError::ResolveFailed(ResolveError::NoSuchName),
            ConnectError::NoTarget,
            ConnectError::Overload,
            ConnectError::NotOffered,
            ConnectError::Io,
        ];
        assert_eq!(ConnectError::DeniedByNode.reason(), "denied");
        for (i, error) in errors.iter().enumerate() {
            assert_eq!(ConnectError::from(&io::Error::from(*error)), *error);
            for other in &errors[..i] {
                assert_ne!(error.reason(), other.reason());
                assert_ne!(error.to_string(), other.to_string());
            }
        }
    }
}
