//! The operator's backend: who may enter, and through which node.

mod answer;
mod assignment;
mod breaker;

pub use answer::ValidateDeviceResult;
pub use assignment::{AssignOutlineResult, OutlineKey, OutlineNode};

use crate::authorities;
use crate::config::Secret;
use crate::dial::Dial;
use crate::metrics::{Limit, Metrics};
use breaker::Breaker;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Where the backend is and how much of it one gateway may use.
pub struct BackendSettings {
    /// Base URL, `http` or `https`; the API paths are appended to its path.
    pub base_url: String,
    /// Bound on a whole call: waiting for a place, connecting, request and answer.
    pub timeout: Duration,
    /// Sent as `X-Internal-Secret`.
    pub secret: Option<Secret>,
    /// Calls under way at once; further ones wait inside their time-out.
    pub max_concurrent: usize,
    /// Longest answer that is read, in bytes.
    pub max_body: usize,
    /// Failures in a row that open the breaker; 0 = never.
    pub breaker_failures: u32,
    /// How long the open breaker spares the backend.
    pub breaker_cooldown: Duration,
    /// Extra certificate authorities for an `https` backend, a PEM file.
    pub ca_path: Option<PathBuf>,
}

/// A backend that cannot even be asked, because its settings do not work.
#[derive(Debug)]
pub struct BackendSetupError(String);

impl std::fmt::Display for BackendSetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BackendSetupError {}

/// Why the backend gave no verdict. The device is refused in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendError {
    /// No whole answer within the time-out.
    Timeout,
    /// No connection: refused, no route, no such name, bad certificate.
    Unreachable,
    /// The connection broke or the answer was not HTTP.
    Broken,
    /// A status that the API does not have.
    Status(u16),
    /// The body is not what the API promises.
    BadBody,
    /// The body is longer than allowed.
    BodyTooLarge,
    /// Not asked: the breaker is open after many failures in a row.
    CircuitOpen,
    /// Not asked: no place among the concurrent calls came free in time.
    Busy,
}

impl BackendError {
    /// All values of [`Self::code`].
    pub const CODES: [&'static str; 11] = [
        "timeout",
        "unreachable",
        "broken",
        "http_5xx",
        "http_4xx",
        "http_3xx",
        "http_other",
        "bad_body",
        "body_too_large",
        "circuit_open",
        "busy",
    ];

    /// Whether it says that the backend is down, rather than that it dislikes the question.
    const fn is_outage(self) -> bool {
        matches!(self, Self::Timeout | Self::Unreachable | Self::Broken | Self::Status(500..=599))
    }

    /// The label `code` of `httvps_gateway_backend_errors_total`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
            Self::Status(500..=599) => "http_5xx",
            Self::Status(400..=499) => "http_4xx",
            Self::Status(300..=399) => "http_3xx",
            Self::Status(_) => "http_other",
            Self::BadBody => "bad_body",
            Self::BodyTooLarge => "body_too_large",
            Self::CircuitOpen => "circuit_open",
            Self::Busy => "busy",
        }
    }
}

/// Asks the backend. One per gateway; connections are pooled and kept.
pub struct BackendClient {
    http: Client<HttpsConnector<Dial>, Full<Bytes>>,
    validate_device: Endpoint,
    assign_outline: Endpoint,
    secret: Option<HeaderValue>,
    timeout: Duration,
    places: Semaphore,
    max_body: usize,
    metrics: Metrics,
}

/// One path of the API. Each has a breaker of its own: a backend without nodes is no reason to turn
/// devices away that need none.
struct Endpoint {
    uri: Uri,
    /// The statuses whose bodies say something.
    statuses: &'static [u16],
    breaker: Mutex<Breaker>,
}

impl Endpoint {
    fn new(
        path: &str,
        statuses: &'static [u16],
        settings: &BackendSettings,
    ) -> Result<Self, BackendSetupError> {
        let base = settings.base_url.trim_end_matches('/');
        let uri = format!("{base}{path}")
            .parse()
            .map_err(|error| BackendSetupError(format!("backend_base_url: {error}")))?;
        let breaker = Breaker::new(settings.breaker_failures, settings.breaker_cooldown);
        Ok(Self { uri, statuses, breaker: Mutex::new(breaker) })
    }

    fn with_breaker<R>(&self, f: impl FnOnce(&mut Breaker) -> R) -> R {
        f(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Serialize)]
struct ValidateDevice<'a> {
    device_id: &'a str,
    token: &'a str,
}

#[derive(Serialize)]
struct AssignOutline<'a> {
    device_id: &'a str,
    region_code: Option<&'a str>,
}

/// Reads a status and a body.
type Read<T> = fn(u16, &[u8]) -> Result<T, BackendError>;

const INTERNAL_SECRET: HeaderName = HeaderName::from_static("x-internal-secret");

impl BackendClient {
    /// Prepares the client; asks nothing yet.
    pub fn new(settings: &BackendSettings, metrics: Metrics) -> Result<Self, BackendSetupError> {
        let validate_device = Endpoint::new("/api/v1/auth/validate-device", &[200, 403], settings)?;
        let assign_outline = Endpoint::new("/api/v1/nodes/assign-outline", &[200, 503], settings)?;
        let secret = settings.secret.as_ref().map(secret_header).transpose()?;
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(settings)?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(Dial::new(settings.timeout));
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_mins(1))
            .pool_max_idle_per_host(settings.max_concurrent.min(64))
            .build(https);
        Ok(Self {
            http,
            validate_device,
            assign_outline,
            secret,
            timeout: settings.timeout,
            places: Semaphore::new(settings.max_concurrent),
            max_body: settings.max_body,
            metrics,
        })
    }

    /// Asks whether a device may enter. Ends within the time-out, and at `deadline` at the latest;
    /// cancelling it frees its place.
    pub async fn validate_device(
        &self,
        device_id: &str,
        token: &str,
        deadline: Instant,
    ) -> Result<ValidateDeviceResult, BackendError> {
        let question = ValidateDevice { device_id, token };
        self.call(&self.validate_device, &question, answer::read, deadline).await
    }

    /// Asks for the Outline node of a session, by the same rules as [`Self::validate_device`].
    pub async fn assign_outline(
        &self,
        device_id: &str,
        region: Option<&str>,
        deadline: Instant,
    ) -> Result<AssignOutlineResult, BackendError> {
        let question = AssignOutline { device_id, region_code: region };
        self.call(&self.assign_outline, &question, assignment::read, deadline).await
    }

    async fn call<T>(
        &self,
        endpoint: &Endpoint,
        question: &impl Serialize,
        read: Read<T>,
        deadline: Instant,
    ) -> Result<T, BackendError> {
        let start = Instant::now();
        let own_deadline = start + self.timeout;
        let until = own_deadline.min(deadline);
        let result = if endpoint.with_breaker(|breaker| breaker.try_pass(start)) {
            self.ask_in_turn(endpoint, question, read, until).await
        } else {
            Err(BackendError::CircuitOpen)
        };
        match &result {
            Err(BackendError::CircuitOpen | BackendError::Busy) => {}
            // A late hello is not the backend's fault.
            Err(BackendError::Timeout) if until < own_deadline => {}
            Err(error) if error.is_outage() => {
                if endpoint.with_breaker(|breaker| breaker.handle_failure(Instant::now())) {
                    let path = endpoint.uri.path();
                    tracing::error!(code = error.code(), path, "backend_circuit_opened");
                }
            }
            // It answered, if only to say that it dislikes what a client sent: not an outage.
            Ok(_) | Err(_) => endpoint.with_breaker(Breaker::handle_success),
        }
        let failure = result.as_ref().err().map(|error| error.code());
        self.metrics.backend_request(start.elapsed(), failure);
        result
    }

    async fn ask_in_turn<T>(
        &self,
        endpoint: &Endpoint,
        question: &impl Serialize,
        read: Read<T>,
        until: Instant,
    ) -> Result<T, BackendError> {
        let _place = if let Ok(place) = self.places.try_acquire() {
            place
        } else {
            self.metrics.limit_hit(Limit::BackendConcurrent);
            let place = tokio::time::timeout_at(until.into(), self.places.acquire()).await;
            place.ok().and_then(Result::ok).ok_or(BackendError::Busy)?
        };
        tokio::time::timeout_at(until.into(), self.ask(endpoint, question, read))
            .await
            .unwrap_or(Err(BackendError::Timeout))
    }

    async fn ask<T>(
        &self,
        endpoint: &Endpoint,
        question: &impl Serialize,
        read: Read<T>,
    ) -> Result<T, BackendError> {
        let body = serde_json::to_vec(question).map_err(|_| BackendError::Broken)?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(endpoint.uri.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| BackendError::Broken)?;
        if let Some(secret) = &self.secret {
            request.headers_mut().insert(INTERNAL_SECRET, secret.clone());
        }
        let response = self.http.request(request).await.map_err(|error| {
            if error.is_connect() { BackendError::Unreachable } else { BackendError::Broken }
        })?;
        let status = response.status().as_u16();
        if !endpoint.statuses.contains(&status) {
            return Err(BackendError::Status(status));
        }
        let body = Limited::new(response.into_body(), self.max_body).collect().await;
        match body {
            Ok(body) => read(status, &body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(BackendError::BodyTooLarge),
            Err(_) => Err(BackendError::Broken),
        }
    }
}

fn secret_header(secret: &Secret) -> Result<HeaderValue, BackendSetupError> {
    let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| {
        BackendSetupError(
            "backend_secret: holds characters that a header cannot carry; use visible ASCII".into(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn tls(settings: &BackendSettings) -> Result<rustls::ClientConfig, BackendSetupError> {
    let is_https = settings.base_url.starts_with("https:");
    let ca = is_https.then_some(settings.ca_path.as_deref()).flatten();
    authorities::client_config(is_https, ca)
        .map_err(|problem| BackendSetupError(format!("backend_ca_path: {problem}")))
}

/// As the answer of a call is read, opened to the fuzzer: None is an error of the backend.
#[cfg(feature = "fuzzing")]
pub fn read_answer(status: u16, body: &[u8]) -> Option<ValidateDeviceResult> {
    answer::read(status, body).ok()
}
