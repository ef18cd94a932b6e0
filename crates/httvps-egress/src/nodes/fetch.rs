//! Fetching dynamic keys over TLS.

use super::document;
use super::key::KeyUrl;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use httvps_https as authorities;
use httvps_https::Dial;
use httvps_https::Https;
use httvps_shadowsocks::AccessKey;
use httvps_tls::CertificateFault;
use hyper::Request;
use hyper::header::{ACCEPT, HeaderValue, USER_AGENT};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// How long a fetch may take in all.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Most bytes of a document.
const MAX_DOCUMENT: usize = 64 * 1024;
/// Servers of keys often stand behind a front that refuses requests without a `User-Agent`; it names no
/// product, since the request crosses networks that may look for one.
pub(super) const AGENT: &str = "Mozilla/5.0";

/// Fetches the keys behind `ssconf://` and `https://`.
///
/// A fetch takes at most 10 s and 64 KiB; redirects are not followed, so that the key is requested
/// only from the server that the operator named.
pub struct Fetcher {
    http: Client<Https, Empty<Bytes>>,
}

/// Why a key was not fetched. `Display` repeats neither the URL nor a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// No complete response within the time-out.
    Timeout,
    /// No connection: refused, no route, no such name, no TLS.
    Unreachable,
    /// The server's certificate was rejected.
    Certificate(CertificateFault),
    /// The connection broke or the answer was not HTTP.
    Broken,
    /// A status other than 200.
    Status(u16),
    /// The document is longer than 64 KiB.
    TooLarge,
    /// Too many keys are being fetched already.
    Busy,
    /// The document is not a key, with the reason.
    Document(String),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the key's server did not answer in time"),
            Self::Unreachable => f.write_str("the key's server cannot be reached"),
            Self::Certificate(fault) => {
                let words = authorities::fault_words(*fault, "outline_ca_path (or --ca-file)");
                write!(f, "the key was not fetched: {words}")
            }
            Self::Broken => f.write_str("the key's server broke the answer off"),
            Self::Status(status @ 300..=399) => {
                write!(f, "the key's server answered {status}; redirects are not followed")
            }
            Self::Status(status) => write!(f, "the key's server answered {status}"),
            Self::TooLarge => f.write_str("the key's document is larger than 64 KiB"),
            Self::Busy => f.write_str("too many keys are being fetched"),
            Self::Document(problem) => write!(f, "the key's document {problem}"),
        }
    }
}

impl Error for FetchError {}

impl Fetcher {
    /// Prepares to fetch; `ca` is a PEM file of authorities to trust besides those of the system.
    /// Blocks. The error names the file and what is wrong with it.
    pub fn new(ca: Option<&Path>) -> Result<Self, String> {
        let configs = authorities::client_config(true, ca)?;
        let https = Https::new(Dial::new(DEADLINE), configs, &[]);
        // Minutes lie between two fetches: no connection is kept.
        let http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(https);
        Ok(Self { http })
    }

    /// Fetches a key within 10 s. Cancelling it closes the connection.
    pub async fn fetch(&self, url: &KeyUrl) -> Result<AccessKey, FetchError> {
        self.fetch_within(url, DEADLINE).await
    }

    /// Fetches a key within the caller's time-out. Cancelling it closes the connection.
    pub async fn fetch_within(
        &self,
        url: &KeyUrl,
        patience: Duration,
    ) -> Result<AccessKey, FetchError> {
        tokio::time::timeout(patience, self.get(url)).await.unwrap_or(Err(FetchError::Timeout))
    }

    async fn get(&self, url: &KeyUrl) -> Result<AccessKey, FetchError> {
        let request = Request::get(url.uri().clone())
            .header(ACCEPT, HeaderValue::from_static("*/*"))
            .header(USER_AGENT, HeaderValue::from_static(AGENT))
            .body(Empty::new())
            .map_err(|_| FetchError::Broken)?;
        let response = self.http.request(request).await.map_err(|error| {
            if let Some(fault) = authorities::fault_behind(&error) {
                FetchError::Certificate(fault)
            } else if error.is_connect() {
                FetchError::Unreachable
            } else {
                FetchError::Broken
            }
        })?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(FetchError::Status(status));
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() { FetchError::TooLarge } else { FetchError::Broken }
        })?;
        let bytes = body.to_bytes();
        // Parsing is bounded, and still too long for a thread that serves sessions.
        let read = tokio::task::spawn_blocking(move || {
            let text = httvps_text::decode(&bytes).map_err(|problem| problem.to_string())?;
            document::read(text)
        });
        let read = read.await.map_err(|_| FetchError::Document("cannot be read".to_owned()))?;
        read.map_err(FetchError::Document)
    }
}
