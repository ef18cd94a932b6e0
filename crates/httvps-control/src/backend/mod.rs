//! The client of the operator's backend: admission of devices, assignment of nodes.

mod answer;
mod assignment;
mod breaker;
mod connection;
mod error;
mod exchange;
mod head;
mod pace;
mod places;

pub use answer::ValidateDeviceResult;
pub use assignment::{AssignOutlineResult, OutlineKey, OutlineNode};
pub use error::BackendError;

use crate::source::Source;
use breaker::{Blame, Breaker};
use bytes::Bytes;
use connection::Bounds;
use exchange::{Answer, Connections, Failure, Keeping, Question};
use head::Head;
use http_body_util::Full;
use httvps_config::Secret;
use httvps_https as authorities;
use httvps_https::Dial;
use httvps_https::Https;
use httvps_proto::Bucket;
use httvps_telemetry::metrics::{Limit, Metrics};
use hyper::{Method, Request, Uri};
use pace::Pace;
use places::{Place, Places};
use serde::Serialize;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The address of the backend, and the limits of one gateway on it.
pub struct BackendSettings {
    /// Base URL, `http` or `https`; the API paths are appended to its path.
    pub base_url: String,
    /// Bound on a whole call: waiting for a place, connecting, request and answer.
    pub timeout: Duration,
    /// Sent as `X-Internal-Secret`.
    pub secret: Option<Secret>,
    /// Concurrent calls; further ones wait inside their time-out, and those of the source
    /// with the fewest running calls come first.
    pub max_concurrent: usize,
    /// How long an unused connection is kept; zero = a new one for each call.
    pub idle_timeout: Duration,
    /// Longest answer that is read, in bytes.
    pub max_body: usize,
    /// Failures in a row that open the breaker; 0 = never.
    pub breaker_failures: u32,
    /// How long the breaker stays open before trials.
    pub breaker_cooldown: Duration,
    /// Extra certificate authorities for an `https` backend, a PEM file.
    pub ca_path: Option<PathBuf>,
    /// The name of this gateway, at most 128 bytes of visible ASCII: `X-Gateway-Id`, and the member
    /// `gateway_id` of a request. Empty = it has none.
    pub gateway_id: String,
}

/// The settings of the backend cannot be used.
#[derive(Debug)]
pub struct BackendSetupError(String);

impl std::fmt::Display for BackendSetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BackendSetupError {}

/// The device and source of a request.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The source of the connection.
    pub peer: IpAddr,
    /// The device.
    pub device_id: &'a str,
}

/// The client of the backend. One per gateway; connections are pooled.
pub struct BackendClient {
    connections: Connections,
    validate_device: Endpoint,
    assign_outline: Endpoint,
    head: Head,
    timeout: Duration,
    places: Arc<Places>,
    pace: Mutex<Pace>,
    metrics: Metrics,
    log_budget: Mutex<Bucket>,
}

/// Log lines about failed calls, a second and at once: strangers cause them.
const LOG_RATE: u32 = 50;
const LOG_BURST: u32 = 500;

/// One path of the API. Each has a breaker of its own: a backend without nodes must not reject
/// devices that need none.
struct Endpoint {
    uri: Uri,
    /// The statuses whose bodies say something.
    statuses: &'static [u16],
    /// Whether its answers go beyond the founding page for a gateway that understands it.
    is_negotiated: bool,
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
        Ok(Self { uri, statuses, is_negotiated: false, breaker: Mutex::new(breaker) })
    }

    fn negotiated(self) -> Self {
        Self { is_negotiated: true, ..self }
    }

    fn with_breaker<R>(&self, f: impl FnOnce(&mut Breaker) -> R) -> R {
        f(&mut lock(&self.breaker))
    }
}

/// Reports a call to the breaker that is dropped because its client disconnected.
struct Leaving<'a> {
    endpoint: &'a Endpoint,
    source: Option<IpAddr>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(source) = self.source {
            self.endpoint.with_breaker(|breaker| breaker.handle_void(source));
        }
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

/// Most unused connections that are kept.
const MAX_IDLE: usize = 64;

impl BackendClient {
    /// Prepares the client; sends no request.
    pub fn new(settings: &BackendSettings, metrics: Metrics) -> Result<Self, BackendSetupError> {
        let validate_device = Endpoint::new("/api/v1/auth/validate-device", &[200, 403], settings)?;
        let validate_device = validate_device.negotiated();
        let assign_outline = Endpoint::new("/api/v1/nodes/assign-outline", &[200, 503], settings)?;
        let head = Head::new(settings)?;
        let protocols: [&[u8]; 2] = [b"h2", b"http/1.1"];
        let https = Https::new(Dial::new(settings.timeout), tls(settings)?, &protocols);
        let bounds = Bounds { body: settings.max_body, answers: settings.max_concurrent };
        let keeping = Keeping {
            idle: settings.idle_timeout,
            connections: settings.max_concurrent.min(MAX_IDLE),
            bounds,
        };
        Ok(Self {
            connections: Connections::new(https, keeping),
            validate_device,
            assign_outline,
            head,
            timeout: settings.timeout,
            places: Places::new(settings.max_concurrent),
            pace: Mutex::new(Pace::new(settings.max_concurrent, settings.timeout, Instant::now())),
            metrics,
            log_budget: Mutex::new(Bucket::new(LOG_RATE, LOG_BURST, Instant::now())),
        })
    }

    /// Asks whether a device is admitted. Ends within the time-out, and at `deadline` at the latest;
    /// dropping it frees its place and ends the request.
    pub async fn validate_device(
        &self,
        asker: Asker<'_>,
        token: &str,
        deadline: Instant,
    ) -> Result<ValidateDeviceResult, BackendError> {
        let question = ValidateDevice { device_id: asker.device_id, token };
        self.call(&self.validate_device, asker, &question, answer::read, deadline).await
    }

    /// Asks for the Outline node of a session, by the same rules as [`Self::validate_device`].
    pub async fn assign_outline(
        &self,
        asker: Asker<'_>,
        region: Option<&str>,
        deadline: Instant,
    ) -> Result<AssignOutlineResult, BackendError> {
        let question = AssignOutline { device_id: asker.device_id, region_code: region };
        self.call(&self.assign_outline, asker, &question, assignment::read, deadline).await
    }

    async fn call<T>(
        &self,
        endpoint: &Endpoint,
        asker: Asker<'_>,
        question: &impl Serialize,
        read: Read<T>,
        deadline: Instant,
    ) -> Result<T, BackendError> {
        let start = Instant::now();
        let until = (start + self.timeout).min(deadline);
        let source = Source::of(asker.peer);
        let result = if endpoint.with_breaker(|breaker| breaker.try_pass(source.party(), start)) {
            let mut leaving = Leaving { endpoint, source: Some(source.party()) };
            let result = self.ask_in_turn(endpoint, source, question, read, until).await;
            leaving.source = None;
            result
        } else {
            Err(Failure { error: BackendError::CircuitOpen, blame: Blame::Nothing })
        };
        match &result {
            Err(Failure { error: BackendError::CircuitOpen, .. }) => {}
            Err(Failure { error: BackendError::Busy, .. }) => {
                endpoint.with_breaker(|breaker| breaker.handle_void(source.party()));
            }
            Err(Failure { error, blame }) if error.is_outage() => {
                let now = Instant::now();
                let failed =
                    |breaker: &mut Breaker| breaker.handle_failure(source.party(), *blame, now);
                if endpoint.with_breaker(failed) {
                    let (code, path) = (error.code().as_str(), endpoint.uri.path());
                    tracing::error!(
                        code,
                        path,
                        problem = error.problem(),
                        "backend_circuit_opened"
                    );
                }
            }
            // It answered, if only to say that it dislikes what a client sent: not an outage.
            Ok(_) | Err(_) => endpoint.with_breaker(Breaker::handle_success),
        }
        let result = result.map_err(|failure| failure.error);
        if let Err(error) = &result {
            self.log(endpoint, asker, *error);
        }
        let failure = result.as_ref().err().map(|error| error.code());
        self.metrics.backend_request(start.elapsed(), failure);
        result
    }

    /// Logs nothing that was sent or received.
    fn log(&self, endpoint: &Endpoint, asker: Asker<'_>, error: BackendError) {
        if lock(&self.log_budget).try_take(Instant::now()) {
            tracing::warn!(
                device_id = asker.device_id,
                code = error.code().as_str(),
                status = error.status(),
                path = endpoint.uri.path(),
                problem = error.problem(),
                hint = error.hint(),
                "backend_error"
            );
        }
    }

    async fn ask_in_turn<T>(
        &self,
        endpoint: &Endpoint,
        source: Source,
        question: &impl Serialize,
        read: Read<T>,
        until: Instant,
    ) -> Result<T, Failure> {
        let not_asked = |error| Failure { error, blame: Blame::Nothing };
        let _place: Place = if let Some(place) = self.places.try_enter(source) {
            place
        } else {
            self.metrics.limit_hit(Limit::BackendConcurrent);
            let place = tokio::time::timeout_at(until.into(), self.places.enter(source)).await;
            place.map_err(|_| not_asked(BackendError::Busy))?
        };
        let request = self.request(endpoint, question).ok_or_else(|| {
            not_asked(BackendError::Broken("the question cannot be put into a request"))
        })?;
        let question = Question { request, statuses: endpoint.statuses };
        let begun = Instant::now();
        let mut answer =
            self.connections.ask(&question, until, || self.places.try_enter(source)).await;
        self.set_pace(&mut answer, begun, until);
        let answer = answer?;
        read(answer.status, &answer.body).map_err(|error| Failure { error, blame: Blame::Question })
    }

    /// Adapts the number of concurrent calls to the backend.
    fn set_pace(&self, answer: &mut Result<Answer, Failure>, begun: Instant, until: Instant) {
        let now = Instant::now();
        let is_slower = match answer {
            Err(failure @ Failure { error: BackendError::Timeout, .. }) => {
                if until.saturating_duration_since(begun) < self.timeout / 2 {
                    // A late hello, or a long wait for a place, is not the backend's fault.
                    failure.blame = Blame::Nothing;
                }
                if failure.blame != Blame::Question {
                    return;
                }
                lock(&self.pace).handle_timeout(begun, now)
            }
            Err(Failure { blame, .. }) if *blame != Blame::Question => return,
            Ok(_) | Err(_) => {
                lock(&self.pace).handle_answer(now);
                false
            }
        };
        let window = lock(&self.pace).window();
        self.places.set_window(window);
        if is_slower {
            tracing::warn!(calls = window, "backend_late");
        }
    }

    fn request(
        &self,
        endpoint: &Endpoint,
        question: &impl Serialize,
    ) -> Option<Request<Full<Bytes>>> {
        let body = serde_json::to_vec(question).ok()?;
        let uri = endpoint.uri.clone();
        if endpoint.is_negotiated {
            self.head.negotiating(Method::POST, uri, Some(body))
        } else {
            self.head.founding(uri, body)
        }
    }
}

/// What is behind these locks is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tls(settings: &BackendSettings) -> Result<authorities::TlsConfigs, BackendSetupError> {
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
