//! Errors of nodes.

use crate::ConnectError;
use httvps_https as authorities;
use httvps_shadowsocks::Error as ShadowsocksError;
use httvps_telemetry::metrics::NodeProbe;
use httvps_tls::{CertificateFault, TlsError, certificate_fault};
use std::fmt;
use std::io;

/// Why an exchange with a node failed. `Display` is for operators and
/// names neither the node nor a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeError {
    /// The node could not be reached.
    Unreachable(ConnectError),
    /// The node's certificate was rejected.
    Certificate(CertificateFault),
    /// The node does not speak the protocol of its key.
    OtherProtocol,
    /// The node's answer does not match the key, or is not Shadowsocks.
    WrongKey,
    /// The node refused user and password.
    Credentials,
    /// The node wants a user and a password.
    NoCredentials,
    /// The clocks differ by so many seconds, more than the ciphers of 2022 allow.
    Clock(u64),
    /// The node did not connect to the target.
    Target(ConnectError),
    /// The node does not support datagrams, or streams.
    Unsupported,
    /// The relay that the node names is forbidden or unreachable.
    Relay,
    /// The node ended the connection without an answer.
    Closed,
    /// No answer within the time-out.
    Silent,
    /// The answer to a probe is not that of a web server.
    NoHttp,
}

impl NodeError {
    /// The result of a probe with this error.
    pub(super) fn result(self) -> NodeProbe {
        match self {
            Self::Unreachable(_) => NodeProbe::Unreachable,
            Self::Certificate(_)
            | Self::OtherProtocol
            | Self::WrongKey
            | Self::Credentials
            | Self::NoCredentials
            | Self::Clock(_) => NodeProbe::WrongKey,
            Self::Target(_)
            | Self::Unsupported
            | Self::Relay
            | Self::Closed
            | Self::Silent
            | Self::NoHttp => NodeProbe::Silent,
        }
    }

    /// The error of a dial with this error.
    pub(super) fn of_dial(self) -> ConnectError {
        match self {
            Self::Unreachable(error) => error,
            _ => ConnectError::Io,
        }
    }

    /// Whether a probe with this error counts as a failed dial: a node that refuses authentication is
    /// unusable. The target of a probe is the operator's; for a target of a client an HTTP proxy
    /// may give the same answer, see [`super::session`].
    pub(super) fn is_of_node_alone(self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::Certificate(_) | Self::Credentials | Self::NoCredentials
        )
    }

    /// What an error of a stream means for the health of its node.
    pub(super) fn of_io(error: &io::Error) -> Self {
        match ShadowsocksError::of(error) {
            Some(ShadowsocksError::Clock(seconds)) => Self::Clock(*seconds),
            Some(_) => Self::WrongKey,
            None => Self::Closed,
        }
    }
}

impl From<TlsError> for NodeError {
    fn from(error: TlsError) -> Self {
        if let Some(fault) = error.tls().and_then(certificate_fault) {
            return Self::Certificate(fault);
        }
        match error.label() {
            "io" | "eof" => Self::Closed,
            _ => Self::OtherProtocol,
        }
    }
}

impl From<httvps_proxies::Error> for NodeError {
    fn from(error: httvps_proxies::Error) -> Self {
        use httvps_proxies::{Error, Refusal};
        match error {
            Error::Io(_) => Self::Closed,
            Error::NotAProxy => Self::OtherProtocol,
            Error::Credentials => Self::Credentials,
            Error::NoCredentials => Self::NoCredentials,
            Error::Unsupported => Self::Unsupported,
            Error::Target(refusal) => Self::Target(match refusal {
                Refusal::Refused => ConnectError::Refused,
                Refusal::Unreachable => ConnectError::Unreachable,
                Refusal::TimedOut => ConnectError::TimedOut,
                Refusal::Denied => ConnectError::DeniedByNode,
            }),
        }
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable(ConnectError::Refused) => {
                "the node refused the connection: nothing listens on its port"
            }
            Self::Unreachable(ConnectError::TimedOut) => {
                "the node did not take the connection in time"
            }
            Self::Unreachable(ConnectError::ResolveFailed(_)) => {
                "the node's name could not be resolved"
            }
            Self::Unreachable(error) => {
                return write!(f, "the node cannot be reached ({})", error.reason());
            }
            Self::Certificate(fault) => {
                let words = authorities::fault_words(*fault, "outline_ca_path (or --ca-file)");
                return write!(f, "TLS with the node failed: {words}");
            }
            Self::OtherProtocol => "what answers there does not speak the protocol of the key",
            Self::WrongKey => {
                "the node's answer does not fit the key: wrong password or cipher, or no Shadowsocks"
            }
            Self::Credentials => "the node refused user and password",
            Self::NoCredentials => {
                "the node wants a user and a password, and the key has none; write user:password@ before the host"
            }
            Self::Clock(seconds) => {
                return write!(f, "the node's clock is off by {seconds} s; set it");
            }
            Self::Target(error) => {
                return write!(f, "the node opened no protocol to the target ({})", error.reason());
            }
            Self::Unsupported => "the node does not offer that",
            Self::Relay => {
                "the proxy wants datagrams sent to an address that is neither its own, nor public, nor in egress_allow, or that cannot be reached"
            }
            Self::Closed => {
                "the node took the connection and ended it without an answer: wrong password or cipher, or the target cannot be reached from there"
            }
            Self::NoHttp => {
                "what answers through the node is no web server: name one as the probe's target, or the node does not reach it"
            }
            Self::Silent => {
                "the node took the connection and did not answer in time: wrong password or cipher, or the target does not answer"
            }
        })
    }
}

impl std::error::Error for NodeError {}
