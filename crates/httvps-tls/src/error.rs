//! Why a TLS handshake failed.

use std::fmt;
use std::io;

use rustls::{Error, PeerIncompatible};

/// A handshake that did not end in a [`TlsStream`](super::TlsStream).
#[derive(Debug)]
pub enum TlsError {
    /// The byte stream below failed or ended.
    Io(io::Error),
    /// The peer and we could not agree, or the peer broke the protocol.
    Tls(Error),
    /// The peer sent more than fits (a server 64 KiB, a client 32 KiB) without completing its part of the handshake.
    Oversized,
    /// The peer began with the header of the PROXY protocol, which a proxy in front sends.
    ProxyHeader,
}

impl TlsError {
    /// A short name for metrics, from a closed set: `io`, `eof`, `not_tls`, `version`, `suite`,
    /// `certificate`, `alert`, `oversized`, `proxy_header`, `protocol`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => "eof",
            Self::Io(_) => "io",
            Self::Oversized => "oversized",
            Self::ProxyHeader => "proxy_header",
            Self::Tls(error) => match error {
                Error::InvalidMessage(_) => "not_tls",
                Error::PeerIncompatible(
                    PeerIncompatible::Tls12NotOffered
                    | PeerIncompatible::Tls12NotOfferedOrEnabled
                    | PeerIncompatible::Tls13RequiredForQuic
                    | PeerIncompatible::SupportedVersionsExtensionRequired
                    | PeerIncompatible::ServerDoesNotSupportTls12Or13,
                ) => "version",
                Error::PeerIncompatible(_) | Error::NoApplicationProtocol => "suite",
                Error::InvalidCertificate(_)
                | Error::NoCertificatesPresented
                | Error::UnsupportedNameType => "certificate",
                Error::AlertReceived(_) => "alert",
                _ => "protocol",
            },
        }
    }

    /// The TLS error inside, if it is one.
    pub fn tls(&self) -> Option<&Error> {
        match self {
            Self::Tls(error) => Some(error),
            Self::Io(_) | Self::Oversized | Self::ProxyHeader => None,
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the connection failed during the TLS handshake: {error}"),
            Self::Tls(error) => match super::explain(error) {
                Some(words) => f.write_str(&words),
                None => write!(f, "the TLS handshake failed: {error}"),
            },
            Self::Oversized => f.write_str("the peer's TLS handshake is too large"),
            Self::ProxyHeader => f.write_str("a PROXY protocol header in place of TLS"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Tls(error) => Some(error),
            Self::Oversized | Self::ProxyHeader => None,
        }
    }
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        Self::Tls(error)
    }
}
