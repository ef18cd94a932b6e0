//! What can go wrong, in words for people.

use httvps_mux::{ConnectionEnd, HelloError, StreamFailure};
use httvps_proto::TargetError;
use httvps_tls::{CertificateFault, TlsError, certificate_fault};
use httvps_transport::ws::connect::HandshakeError;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Why there is no session with the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// The gateway's name did not resolve.
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        words: String,
    },
    /// No program listens at the gateway's address.
    ConnectionRefused {
        /// Host and port.
        gateway: String,
    },
    /// There is no way to the gateway, or the connection broke before the session stood.
    Unreachable {
        /// Host and port.
        gateway: String,
        /// What the system said.
        words: String,
    },
    /// The gateway did not answer in time.
    TimedOut {
        /// Host and port.
        gateway: String,
        /// What we waited for.
        step: Step,
    },
    /// The gateway's certificate is not acceptable.
    Certificate {
        /// What is wrong with it, to choose the advice by.
        fault: CertificateFault,
        /// What is wrong with it, in words.
        words: String,
    },
    /// TLS failed in another way.
    Tls(String),
    /// What answers there is not a gateway, or the path is wrong.
    NotAGateway {
        /// The HTTP status, if it answered in HTTP.
        status: Option<u16>,
        /// What is wrong.
        words: String,
    },
    /// The backend does not let the device in.
    Refused {
        /// The backend's reason, a token such as `no_active_subscription`; may be empty.
        reason: String,
        /// What the backend says of the subscription.
        subscription_status: Option<String>,
    },
    /// The gateway cannot ask its backend, and admits no device without it.
    BackendUnavailable,
    /// The gateway has as many sessions as it may, of this device or in all.
    SessionLimit,
    /// The gateway has no node through which this device's streams could leave.
    NoNode {
        /// The gateway's reason; may be empty.
        reason: String,
    },
    /// The gateway did not take our `hello`; its words.
    BadHello(String),
    /// The gateway closed the connection instead of an answer.
    Closed(String),
    /// The configuration cannot be used.
    Config(String),
}

/// What a client waits for while it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The resolver.
    Dns,
    /// The TCP connection.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// The WebSocket upgrade.
    Upgrade,
    /// The answer to `hello`.
    Hello,
}

impl ConnectError {
    /// Whether the user has to act (renew a subscription, correct a token) before another attempt
    /// can succeed. Such errors are retried slowly.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::BadHello(_) | Self::Config(_))
    }

    /// Whether those who wait for a session had better hear of it at once: the next attempt will
    /// hardly end otherwise. A certificate may be mended at any time, so it is retried fast.
    pub fn is_lasting(&self) -> bool {
        self.is_refusal() || matches!(self, Self::Certificate { .. })
    }

    pub(crate) fn from_tls(gateway: &str, error: &TlsError) -> Self {
        match error {
            TlsError::Io(error) => {
                Self::Unreachable { gateway: gateway.into(), words: error.to_string() }
            }
            other => match other.tls().and_then(certificate_fault) {
                Some(fault) => Self::Certificate { fault, words: other.to_string() },
                None => Self::Tls(other.to_string()),
            },
        }
    }

    pub(crate) fn from_upgrade(gateway: &str, error: &HandshakeError) -> Self {
        match error {
            HandshakeError::Io(error) => {
                Self::Unreachable { gateway: gateway.into(), words: error.to_string() }
            }
            HandshakeError::Status(status) => {
                Self::NotAGateway { status: Some(*status), words: error.to_string() }
            }
            other => Self::NotAGateway { status: None, words: other.to_string() },
        }
    }

    pub(crate) fn from_hello(gateway: &str, error: HelloError) -> Self {
        match error {
            HelloError::Timeout => Self::TimedOut { gateway: gateway.into(), step: Step::Hello },
            // The gateway's own token for every failure of its backend.
            HelloError::Refused { reason, .. } if &*reason == "backend_unavailable" => {
                Self::BackendUnavailable
            }
            HelloError::Refused { reason, .. } if &*reason == "session_limit" => Self::SessionLimit,
            HelloError::Refused { reason, subscription_status } => Self::Refused {
                reason: reason.into(),
                subscription_status: subscription_status.map(String::from),
            },
            HelloError::NoNode { reason } => Self::NoNode { reason: reason.into() },
            HelloError::BadHello(words) => Self::BadHello(words.into()),
            other @ (HelloError::Closed { .. } | HelloError::Link(_)) => {
                Self::Closed(other.to_string())
            }
        }
    }

    pub(crate) fn from_dial(gateway: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused { gateway: gateway.into() },
            io::ErrorKind::TimedOut => Self::TimedOut { gateway: gateway.into(), step: Step::Tcp },
            _ => Self::Unreachable { gateway: gateway.into(), words: error.to_string() },
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns { host, words } => {
                write!(f, "the gateway's name {host} does not resolve: {words}")
            }
            Self::ConnectionRefused { gateway } => {
                write!(f, "no program listens at {gateway} (connection refused)")
            }
            Self::Unreachable { gateway, words } => {
                write!(f, "the gateway {gateway} cannot be reached: {words}")
            }
            Self::TimedOut { gateway, step } => {
                write!(f, "the gateway {gateway} did not answer in time ({step})")
            }
            Self::Certificate { words, .. }
            | Self::Tls(words)
            | Self::NotAGateway { words, .. }
            | Self::Closed(words)
            | Self::Config(words) => f.write_str(words),
            Self::Refused { reason, subscription_status } => {
                write!(f, "the backend refused this device: {}", words_of_refusal(reason))?;
                match subscription_status {
                    Some(status) => write!(f, " ({status})"),
                    None => Ok(()),
                }
            }
            Self::BackendUnavailable => {
                f.write_str("the gateway cannot reach its backend and admits no device without it")
            }
            Self::SessionLimit => f.write_str(
                "the gateway allows no further session now, of this device or of all devices",
            ),
            Self::NoNode { reason } => {
                write!(
                    f,
                    "the gateway has no exit node for this device: {}",
                    words_of_no_node(reason)
                )
            }
            Self::BadHello(words) => write!(f, "the gateway did not accept the hello: {words}"),
        }
    }
}

impl std::error::Error for ConnectError {}

fn words_of_refusal(reason: &str) -> &str {
    match reason {
        "" => "it gave no reason",
        "device_not_found" => "it does not know the device",
        "no_active_subscription" => "no active subscription",
        "invalid_token" => "the token is wrong",
        "device_mismatch" => "the token belongs to another device",
        other => other,
    }
}

fn words_of_no_node(reason: &str) -> &str {
    match reason {
        "" => "it gave no reason",
        "no_outline_nodes_available" => "there is none, or none that works",
        "backend_unavailable" => "its backend, which gives them out, failed",
        "bad_access_key" => "its backend gave it one that cannot be used",
        other => other,
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "while its name was looked up",
            Self::Tcp => "no answer to the TCP connection",
            Self::Tls => "no end of the TLS handshake",
            Self::Upgrade => "no answer to the WebSocket upgrade",
            Self::Hello => "no answer to the hello",
        })
    }
}

/// Why a stream did not open.
#[derive(Debug, Clone)]
pub enum OpenError {
    /// The target is malformed.
    BadTarget(TargetError),
    /// There is no session with the gateway; why, if an attempt has failed.
    NoSession(Option<Arc<ConnectError>>),
    /// Every session has as many streams as it may, and none ended in time.
    NoPlace,
    /// The gateway does not answer: the path to it may have been lost.
    Silent,
    /// The gateway did not say within the deadline whether the target answers.
    TimedOut,
    /// The gateway could not or would not reach the target.
    Failed(StreamFailure),
    /// The session ended while the stream was being opened.
    Ended(Arc<ConnectionEnd>),
    /// The gateway speaks JSON only, which carries no datagrams.
    NoDatagrams,
    /// The client has been closed.
    Closed,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadTarget(error) => error.fmt(f),
            Self::NoSession(None) => f.write_str("not connected to the gateway yet"),
            Self::NoSession(Some(error)) => write!(f, "not connected to the gateway: {error}"),
            Self::NoPlace => f.write_str("the gateway allows no more streams now"),
            Self::Silent => {
                f.write_str("the gateway does not answer; the path to it may have been lost")
            }
            Self::TimedOut => f.write_str("the target did not answer in time"),
            Self::Failed(failure) => failure.fmt(f),
            Self::Ended(end) => end.fmt(f),
            Self::NoDatagrams => f.write_str("the gateway carries no datagrams: it speaks no v2"),
            Self::Closed => f.write_str("the client is shutting down"),
        }
    }
}

impl std::error::Error for OpenError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_like_a_sentence() {
        let refused = |reason: &str, status: Option<&str>| {
            let subscription_status = status.map(Into::into);
            let error = HelloError::Refused { reason: reason.into(), subscription_status };
            ConnectError::from_hello("g:443", error).to_string()
        };
        assert_eq!(
            refused("no_active_subscription", Some("expired")),
            "the backend refused this device: no active subscription (expired)"
        );
        assert_eq!(refused("quota", None), "the backend refused this device: quota");
        assert_eq!(
            refused("backend_unavailable", None),
            "the gateway cannot reach its backend and admits no device without it"
        );
    }

    #[test]
    fn a_gateway_without_a_node_says_why_and_is_asked_again() {
        for (reason, words) in [
            ("no_outline_nodes_available", "there is none, or none that works"),
            ("backend_unavailable", "its backend, which gives them out, failed"),
            ("quota", "quota"),
        ] {
            let error = HelloError::NoNode { reason: reason.into() };
            let error = ConnectError::from_hello("g:443", error);
            let text = error.to_string();
            assert_eq!(text, format!("the gateway has no exit node for this device: {words}"));
            assert!(!error.is_refusal() && !error.is_lasting());
        }
    }

    #[test]
    fn only_what_a_person_must_mend_is_retried_slowly() {
        let refused = ConnectError::Refused { reason: String::new(), subscription_status: None };
        assert!(refused.is_refusal());
        assert!(!ConnectError::BackendUnavailable.is_refusal());
        let untrusted = ConnectError::Certificate {
            fault: CertificateFault::UnknownIssuer,
            words: "not trusted".into(),
        };
        assert!(untrusted.is_lasting() && !untrusted.is_refusal());
        assert!(!ConnectError::BackendUnavailable.is_lasting());
        assert!(!ConnectError::ConnectionRefused { gateway: "g:1".into() }.is_refusal());
    }
}
