//! What a client needs to know.

use crate::{ConnectError, GatewayUrl, RequestHeader, Secret};
use httvps_tls::{ClientTls, Roots, read_authorities};
use rustls_pki_types::CertificateDer;
use std::path::Path;
use std::time::Duration;

/// Whom to connect to, as whom, and how patiently. There is no `Debug`, for the token's sake.
#[derive(Clone)]
pub struct Config {
    /// The gateway.
    pub gateway: GatewayUrl,
    /// Who wants to enter, at most 128 bytes for a gateway with default limits.
    pub device_id: String,
    /// What proves it.
    pub token: Secret,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// The region that the device would like to leave from.
    pub region: Option<String>,
    /// Whether the binary wire format is offered. Default true; a gateway that lacks it speaks JSON
    /// all the same.
    pub offers_v2: bool,
    /// Whether TLS offers the post-quantum key exchange. Default true; where handshakes break or
    /// are not answered, every other attempt goes without.
    pub offers_post_quantum: bool,
    /// Header fields of the request for the WebSocket besides its own. Default a `User-Agent`,
    /// [`USER_AGENT`](crate::USER_AGENT).
    pub headers: Vec<RequestHeader>,
    /// Sessions that a [`Client`](crate::Client) keeps at most. Default 32, which are 256 streams
    /// with a gateway that allows 8 on each; 0 is taken as 1.
    pub max_sessions: usize,
    /// Times.
    pub timing: Timing,
}

impl Config {
    /// A configuration with the system's certificates and default limits.
    pub fn new(gateway: GatewayUrl, device_id: impl Into<String>, token: Secret) -> Self {
        Self {
            gateway,
            device_id: device_id.into(),
            token,
            trust: Trust::System,
            region: None,
            offers_v2: true,
            offers_post_quantum: true,
            headers: vec![RequestHeader::user_agent()],
            max_sessions: 32,
            timing: Timing::default(),
        }
    }
}

/// Whose certificates are believed.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The authorities of this system.
    System,
    /// These authorities and no others; one of them may be the gateway's own certificate.
    Only(Vec<CertificateDer<'static>>),
    /// **Any certificate is accepted.** Anyone on the network path can read and change everything, the token
    /// included. For tests on a trusted network only.
    Insecure,
}

impl Trust {
    /// Reads authorities from a PEM file, or the gateway's own certificate. The error is one line that names the file.
    pub fn from_pem_file(path: &Path) -> Result<Self, String> {
        read_authorities(path).map(Self::Only).map_err(|error| error.to_string())
    }
}

impl Config {
    pub(crate) fn tls(&self) -> Result<ClientTls, ConnectError> {
        let tls = self.trust.tls()?;
        Ok(if self.offers_post_quantum { tls } else { tls.without_post_quantum() })
    }
}

impl Trust {
    fn tls(&self) -> Result<ClientTls, ConnectError> {
        let roots = match self {
            Self::System => Roots::Bundle(rustls_native_certs::load_native_certs().certs),
            Self::Only(certificates) => Roots::Bundle(certificates.clone()),
            Self::Insecure => Roots::Insecure,
        };
        ClientTls::new(roots).map_err(|_| {
            ConnectError::Config(
                match self {
                    Self::System => {
                        "this system has no certificate authorities; name them in a file"
                    }
                    _ => "none of the certificate authorities can be used",
                }
                .into(),
            )
        })
    }
}

/// Deadlines and intervals of a client.
#[derive(Debug, Clone)]
pub struct Timing {
    /// For the resolver. Default 5 s.
    pub dns_timeout: Duration,
    /// For the TCP connection, over all addresses of the gateway. Default 10 s.
    pub dial_timeout: Duration,
    /// For the TLS handshake, and again for the WebSocket upgrade. Default 10 s.
    pub handshake_timeout: Duration,
    /// For the answer to `hello`. Default 15 s.
    pub hello_timeout: Duration,
    /// A silent gateway is pinged after this time; zero switches it off. Default 25 s.
    pub keepalive_interval: Duration,
    /// Unanswered pings that end a session. Default 2.
    pub keepalive_max_missed: u32,
    /// How long a gateway may take no byte while some wait. Default 30 s.
    pub write_timeout: Duration,
    /// An open or payload makes a session ping the gateway when nothing has come from it for so long;
    /// zero switches it off. Default 4 s.
    pub probe_after: Duration,
    /// How long the answer to that ping may take before new streams go to another session. Default
    /// 3 s.
    pub probe_timeout: Duration,
    /// For a stream: waiting for a session and a place, and the answer of the target. Default 15 s.
    pub open_timeout: Duration,
    /// A session beyond the first is closed when it had no stream for so long. Default 60 s.
    pub idle_timeout: Duration,
    /// A session that lived for so long makes the back-off start over. Default 60 s.
    pub stable_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            dns_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(15),
            keepalive_interval: Duration::from_secs(25),
            keepalive_max_missed: 2,
            write_timeout: Duration::from_secs(30),
            probe_after: Duration::from_secs(4),
            probe_timeout: Duration::from_secs(3),
            open_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_mins(1),
            stable_after: Duration::from_mins(1),
        }
    }
}
