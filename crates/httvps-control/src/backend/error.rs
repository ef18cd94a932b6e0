//! Why the backend gave no verdict, in words for the operator.

use httvps_resolve::ResolveError;
use httvps_telemetry::metrics::BackendErrorCode;
use httvps_tls::{CertificateFault, certificate_fault};
use hyper_util::client::legacy::Error as HttpError;
use rustls::Error as TlsError;
use serde::Deserialize;
use serde_json::error::Category;
use std::error::Error;
use std::io;

/// Why the backend gave no verdict. The device is refused in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendError {
    /// No complete response within the time-out.
    Timeout,
    /// No connection: refused, no route, no such name, bad certificate.
    Unreachable(&'static str),
    /// The connection broke or the answer was not HTTP.
    Broken(&'static str),
    /// A status that the API does not have.
    Status(u16),
    /// The body is not what the API promises.
    BadBody {
        /// The status that came with it.
        status: u16,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The body is longer than allowed.
    BodyTooLarge {
        /// The status that came with it.
        status: u16,
    },
    /// Not sent: the breaker is open after many failures in a row.
    CircuitOpen,
    /// Not sent: no place among the concurrent calls came free in time.
    Busy,
}

impl BackendError {
    /// Whether it indicates that the backend is down, and not that the request was bad.
    pub(super) const fn is_outage(self) -> bool {
        matches!(
            self,
            Self::Timeout | Self::Unreachable(_) | Self::Broken(_) | Self::Status(500..=599)
        )
    }

    /// The label `code` of `httvps_gateway_backend_errors_total`.
    pub const fn code(self) -> BackendErrorCode {
        match self {
            Self::Timeout => BackendErrorCode::Timeout,
            Self::Unreachable(_) => BackendErrorCode::Unreachable,
            Self::Broken(_) => BackendErrorCode::Broken,
            Self::Status(500..=599) => BackendErrorCode::Http5xx,
            Self::Status(400..=499) => BackendErrorCode::Http4xx,
            Self::Status(300..=399) => BackendErrorCode::Http3xx,
            Self::Status(_) => BackendErrorCode::HttpOther,
            Self::BadBody { .. } => BackendErrorCode::BadBody,
            Self::BodyTooLarge { .. } => BackendErrorCode::BodyTooLarge,
            Self::CircuitOpen => BackendErrorCode::CircuitOpen,
            Self::Busy => BackendErrorCode::Busy,
        }
    }

    /// The status of the answer, if there was one.
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) | Self::BadBody { status, .. } | Self::BodyTooLarge { status } => {
                Some(status)
            }
            _ => None,
        }
    }

    /// Details beyond the code. Never contains anything that was sent or
    /// received.
    pub const fn problem(self) -> Option<&'static str> {
        match self {
            Self::Unreachable(problem) | Self::Broken(problem) | Self::BadBody { problem, .. } => {
                Some(problem)
            }
            Self::Status(300..=399) => Some("redirects are not followed"),
            Self::Status(_) => Some("the API has no such status here"),
            Self::BodyTooLarge { .. } => Some("the body is larger than backend_max_body_bytes"),
            Self::Timeout | Self::CircuitOpen | Self::Busy => None,
        }
    }

    /// A hint for the operator.
    pub const fn hint(self) -> Option<&'static str> {
        match self.status() {
            Some(401) => {
                Some("set BACKEND_GATEWAY_SECRET of gateway and backend to the same value")
            }
            Some(403) => Some(
                "a device is refused by 403 with allowed and reason in a JSON body; other answers 403 \
                 come from a firewall in front, or a backend that expects another BACKEND_GATEWAY_SECRET",
            ),
            Some(404) => Some(
                "BACKEND_BASE_URL is what stands before /api/v1; look whether the backend serves this \
                 path",
            ),
            Some(300..=399) => Some("set BACKEND_BASE_URL to the address that it redirects to"),
            _ => None,
        }
    }
}

/// Parses a JSON body. The error contains nothing of the body; `types` describes the
/// types of the members.
pub(super) fn parse<'a, T: Deserialize<'a>>(
    body: &'a [u8],
    types: &'static str,
) -> Result<T, &'static str> {
    serde_json::from_slice(body).map_err(|error| {
        let is_object = body.trim_ascii_start().starts_with(b"{");
        match error.classify() {
            Category::Data if is_object => types,
            Category::Data => "the body is not a JSON object",
            _ if body.is_empty() => "the body is empty",
            _ => "the body is not JSON",
        }
    })
}

/// A connection received more bytes than its responses may have.
#[derive(Debug)]
pub(super) struct TooMuch;

impl std::fmt::Display for TooMuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(TOO_MUCH)
    }
}

impl Error for TooMuch {}

const TOO_MUCH: &str = "it sends more than an answer may have, or interim answers without end";

/// The error of a failed request.
pub(super) fn of_request(error: &HttpError) -> BackendError {
    if error.is_connect() {
        BackendError::Unreachable(unreachable(error))
    } else {
        BackendError::Broken(broken(error))
    }
}

/// The error of a failed read of a body.
pub(super) fn of_body(error: &(dyn Error + 'static)) -> BackendError {
    BackendError::Broken(broken(error))
}

/// The text for the first known cause. The causes themselves may quote received data.
fn find(
    error: &(dyn Error + 'static),
    words: fn(&(dyn Error + 'static)) -> Option<&'static str>,
) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(words) = words(error) {
            return Some(words);
        }
        // An I/O error answers for what it holds, and hides it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn unreachable(error: &(dyn Error + 'static)) -> &'static str {
    let words = |error: &(dyn Error + 'static)| {
        if let Some(tls) = error.downcast_ref::<TlsError>() {
            return Some(of_tls(tls));
        }
        if let Some(name) = error.downcast_ref::<ResolveError>() {
            return Some(match name {
                ResolveError::NoSuchName => "there is no such name",
                ResolveError::NoAddress => "its name has no address",
                _ => "its name could not be looked up",
            });
        }
        match error.downcast_ref::<io::Error>()?.kind() {
            io::ErrorKind::ConnectionRefused => Some("the connection was refused"),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Some("there is no route to it")
            }
            io::ErrorKind::TimedOut => Some("it does not answer the connection"),
            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                Some("it ended the connection before TLS or HTTP began")
            }
            io::ErrorKind::AddrNotAvailable => Some("this host has no port left to connect from"),
            _ => None,
        }
    };
    find(error, words).unwrap_or("no connection came about")
}

fn of_tls(error: &TlsError) -> &'static str {
    match certificate_fault(error) {
        Some(CertificateFault::UnknownIssuer) => {
            return "its certificate is by an authority that is not trusted: backend_ca_path";
        }
        Some(fault) => return fault.words(),
        None => {}
    }
    match error {
        TlsError::InvalidMessage(_) => "it does not speak TLS",
        TlsError::AlertReceived(_) => "it refused the TLS handshake",
        _ => "the TLS handshake failed",
    }
}

fn broken(error: &(dyn Error + 'static)) -> &'static str {
    let words = |error: &(dyn Error + 'static)| {
        if error.is::<TooMuch>() {
            return Some(TOO_MUCH);
        }
        if let Some(http) = error.downcast_ref::<hyper::Error>() {
            if http.is_parse() {
                return Some("the answer is not HTTP");
            }
            if http.is_incomplete_message() {
                return Some("it ended the connection before the answer was whole");
            }
        }
        match error.downcast_ref::<io::Error>()?.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Some("it reset the connection")
            }
            io::ErrorKind::UnexpectedEof => {
                Some("it ended the connection before the answer was whole")
            }
            _ => None,
        }
    };
    find(error, words).unwrap_or("the connection broke")
}
