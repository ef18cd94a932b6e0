//! The founding backend API: from a request to its answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{error, fmt};

use bytes::Bytes;
use http_body_util::Full;
use httvps_proto::Bucket;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::body::{self, BodyError, Fields, MAX_BODY_LEN};
use crate::{Backend, DeviceId, Verdict};

/// The header that carries the shared secret.
const SECRET_HEADER: &str = "x-internal-secret";

/// Lines about requests that are logged in a second, and at once before that holds. Without a secret
/// every host that reaches the port can ask, and with one every device behind a gateway.
const LOG_RATE: u32 = 50;
const LOG_BURST: u32 = 500;

/// The secret that gateways show in `X-Internal-Secret`.
///
/// Only its SHA-256 is kept: two digests have one length, so the comparison takes the same time
/// whatever is presented.
pub struct GatewaySecret([u8; 32]);

impl GatewaySecret {
    /// Takes the secret without the white space around it, as it goes through a header; at least
    /// one character.
    pub fn new(text: &str) -> Result<Self, EmptySecret> {
        match text.trim() {
            "" => Err(EmptySecret),
            text => Ok(Self(Sha256::digest(text.as_bytes()).into())),
        }
    }

    fn admits(&self, presented: &[u8]) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        self.0.ct_eq(&presented).into()
    }
}

impl fmt::Debug for GatewaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatewaySecret(..)")
    }
}

/// The secret is empty or white space only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptySecret;

impl fmt::Display for EmptySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the secret is empty")
    }
}

impl error::Error for EmptySecret {}

/// Answers requests from the devices in memory.
pub(crate) struct Api {
    backend: Arc<Backend>,
    secret: Option<GatewaySecret>,
    body_deadline: Duration,
    /// A wrong secret is logged once until a right one comes.
    is_secret_trouble_told: AtomicBool,
    log_budget: Mutex<Bucket>,
}

/// A finished answer.
type Answer = Response<Full<Bytes>>;

impl Api {
    pub(crate) fn new(
        backend: Arc<Backend>,
        secret: Option<GatewaySecret>,
        body_deadline: Duration,
    ) -> Self {
        Self {
            backend,
            secret,
            body_deadline,
            is_secret_trouble_told: AtomicBool::new(false),
            log_budget: Mutex::new(Bucket::new(LOG_RATE, LOG_BURST, Instant::now())),
        }
    }

    /// Answers one request; never fails.
    ///
    /// The secret is asked for first, so that who does not have it learns nothing about the paths.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Answer {
        if !self.is_admitted(request.headers()) {
            return refusal(StatusCode::UNAUTHORIZED, "X-Internal-Secret is missing or wrong");
        }
        let Some(endpoint) = Endpoint::at(request.uri().path()) else {
            return refusal(StatusCode::NOT_FOUND, "not found");
        };
        if request.method() != Method::POST {
            let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "only POST is allowed here");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        let body =
            match tokio::time::timeout(self.body_deadline, body::read(request.into_body())).await {
                Ok(Ok(body)) => body,
                Ok(Err(BodyError::TooLarge)) => {
                    let detail = format!("the body is larger than {MAX_BODY_LEN} bytes");
                    return last(refusal(StatusCode::PAYLOAD_TOO_LARGE, &detail));
                }
                Ok(Err(BodyError::Incomplete)) => {
                    return last(refusal(StatusCode::BAD_REQUEST, "the body broke off"));
                }
                Err(_) => {
                    return last(refusal(StatusCode::REQUEST_TIMEOUT, "the body came too slowly"));
                }
            };
        let outcome = Fields::parse(&body).and_then(|fields| match endpoint {
            Endpoint::ValidateDevice => self.validate_device(&fields),
            Endpoint::AssignOutline => self.assign_outline(&fields),
            Endpoint::UsageReport => self.usage_report(&fields),
            Endpoint::Heartbeat => heartbeat(&fields),
        });
        match outcome {
            Ok(answer) => answer,
            Err(problem) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &problem),
        }
    }

    fn is_admitted(&self, headers: &HeaderMap) -> bool {
        let Some(secret) = &self.secret else { return true };
        let presented = headers.get(SECRET_HEADER).map_or(&b""[..], HeaderValue::as_bytes);
        let admitted = secret.admits(presented);
        let was_told = self.is_secret_trouble_told.swap(!admitted, Ordering::Relaxed);
        if !admitted && !was_told && self.may_log() {
            tracing::warn!(
                hint = "set BACKEND_GATEWAY_SECRET of gateway and backend to the same value",
                "gateway_secret_refused"
            );
        }
        admitted
    }

    /// Whether a line about a request may be logged now.
    fn may_log(&self) -> bool {
        let mut budget = self.log_budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.try_take(Instant::now())
    }

    fn validate_device(&self, fields: &Fields) -> Result<Answer, String> {
        let (device_id, token) = (fields.text("device_id")?, fields.text("token")?);
        let verdict = self.backend.validate(device_id, token);
        let device_id = shortened(device_id);
        let may_log = self.may_log();
        Ok(match verdict {
            Verdict::Allowed { user_id, subscription_status } => {
                if may_log {
                    tracing::info!(device_id, user_id, "device_allowed");
                }
                let answer = json!({
                    "allowed": true,
                    "user_id": user_id,
                    "subscription_status": subscription_status,
                });
                respond(StatusCode::OK, &answer)
            }
            Verdict::Refused { reason, subscription_status } => {
                let reason = reason.as_str();
                if may_log {
                    tracing::info!(device_id, reason, "device_refused");
                }
                let mut answer = json!({ "allowed": false, "reason": reason });
                if let Some(status) = subscription_status {
                    answer["subscription_status"] = status.into();
                }
                respond(StatusCode::FORBIDDEN, &answer)
            }
        })
    }

    fn assign_outline(&self, fields: &Fields) -> Result<Answer, String> {
        let device_id = shortened(fields.text("device_id")?);
        let region = fields.optional_text("region_code")?.filter(|region| !region.is_empty());
        let Some(node) = self.backend.assign(region) else {
            if self.may_log() {
                tracing::warn!(device_id, "no_outline_nodes_available");
            }
            return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "no_outline_nodes_available"));
        };
        if self.may_log() {
            tracing::info!(device_id, node_id = node.node_id.as_str(), "outline_node_assigned");
        }
        let answer = json!({
            "node_id": node.node_id,
            "host": node.host,
            "port": node.port,
            "method": node.method,
            "password": node.password,
            "region": node.region,
            "access_key_id": node.access_key_id,
            "access_url": node.access_url,
        });
        Ok(respond(StatusCode::OK, &answer))
    }

    fn usage_report(&self, fields: &Fields) -> Result<Answer, String> {
        fields.optional_text("session_id")?;
        let device_id = fields.text("device_id")?;
        self.backend.record_usage(
            device_id,
            fields.count("bytes_up")?,
            fields.count("bytes_down")?,
        );
        Ok(respond(StatusCode::OK, &json!({ "status": "accepted" })))
    }
}

/// The paths of the API; all of them take POST only.
#[derive(Clone, Copy)]
enum Endpoint {
    ValidateDevice,
    AssignOutline,
    UsageReport,
    Heartbeat,
}

impl Endpoint {
    fn at(path: &str) -> Option<Self> {
        match path {
            "/api/v1/auth/validate-device" => Some(Self::ValidateDevice),
            "/api/v1/nodes/assign-outline" => Some(Self::AssignOutline),
            "/api/v1/usage/report" => Some(Self::UsageReport),
            "/api/v1/gateway/heartbeat" => Some(Self::Heartbeat),
            _ => None,
        }
    }
}

fn heartbeat(fields: &Fields) -> Result<Answer, String> {
    for name in ["node_id", "timestamp"] {
        fields.optional_name(name)?;
    }
    for name in ["region", "status", "last_error"] {
        fields.optional_text(name)?;
    }
    for name in ["uptime_sec", "active_sessions", "cpu_load", "mem_load", "bytes_up", "bytes_down"]
    {
        fields.level(name)?;
    }
    Ok(respond(StatusCode::OK, &json!({ "status": "ok" })))
}

fn refusal(status: StatusCode, detail: &str) -> Answer {
    respond(status, &json!({ "detail": detail }))
}

fn respond(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The connection ends with this answer: part of a request may still be on the way.
fn last(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// What a stranger sent as his name, short enough for a log.
fn shortened(device_id: &str) -> &str {
    &device_id[..device_id.floor_char_boundary(DeviceId::MAX_LEN)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_admits_itself_only() {
        let secret = GatewaySecret::new(" s3cret\n").unwrap();
        assert!(secret.admits(b"s3cret"));
        for wrong in [&b""[..], b"s3cre", b"s3cret2", b"S3cret"] {
            assert!(!secret.admits(wrong));
        }
        assert_eq!(format!("{secret:?}"), "GatewaySecret(..)");
        assert_eq!(GatewaySecret::new(" \n").unwrap_err(), EmptySecret);
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(shortened("anna"), "anna");
        assert_eq!(shortened(&"ä".repeat(100)).len(), 128);
        assert_eq!(shortened(&"€".repeat(100)).len(), 126);
    }

    #[test]
    fn a_caller_that_asks_without_end_is_not_logged_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let store = crate::Store::new(directory.path().join("devices.json"));
        store.add(crate::NewDevice::default()).unwrap();
        let backend = Arc::new(Backend::load(store.path()).unwrap());
        let api = Api::new(backend, None, Duration::from_secs(1));
        let question = Fields::parse(br#"{"device_id":"stranger","token":"guess"}"#).unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let file = log.reopen().unwrap();
        let lines = tracing_subscriber::fmt().with_writer(Mutex::new(file)).finish();
        let began = Instant::now();
        tracing::subscriber::with_default(lines, || {
            for _ in 0..5_000 {
                assert!(api.validate_device(&question).is_ok());
            }
        });
        let earned = began.elapsed().as_secs() as usize * LOG_RATE as usize + LOG_RATE as usize;
        let count = std::fs::read_to_string(log.path()).unwrap().lines().count();
        assert!((1..=LOG_BURST as usize + earned).contains(&count), "{count} lines");
    }
}
