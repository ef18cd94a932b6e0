//! HTTP on the main listener.

use crate::admin;
use crate::admission::HalfOpen;
use crate::context::Context;
use crate::http_connection::{self, End, builder, finish};
use crate::routes::{self, Answer, Public, Route, not_found, page};
use bytes::Bytes;
use http_body_util::Full;
use httvps_telemetry::metrics::{Limit, MissingUpgrade};
use httvps_tls::TlsStream;
use httvps_transport::ws::handshake::{self, Rejection};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_VERSION};
use hyper::{Request, StatusCode, Version};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use tokio::net::TcpStream;

/// The path of the WebSocket.
pub(crate) const WEBSOCKET_PATH: &str = "/ws";

/// Serves HTTP/1.1 on a TLS connection until it is upgraded; then gives the connection back with
/// the bytes that came after the request. Else the connection has ended, and says how.
pub(crate) async fn serve(
    gateway: &Arc<Context>,
    tls: TlsStream<TcpStream>,
    half_open: &HalfOpen,
    deadline: Instant,
) -> Result<(TlsStream<TcpStream>, Bytes), Ended> {
    let (is_upgraded, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let answer = |request: &Request<Incoming>| {
        let mut answer = answer_main(gateway, request);
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            is_upgraded.store(true, Ordering::Relaxed);
            return answer;
        }
        if answered.fetch_add(1, Ordering::Relaxed) + 1 >= gateway.config.max_exchanges_before_auth
        {
            gateway.metrics.limit_hit(Limit::Exchanges);
            close_behind(&mut answer);
        }
        answer
    };
    let stop = &gateway.handshakes;
    let held = |bytes| half_open.hold(bytes);
    let until = (deadline, stop);
    let served = http_connection::serve(&builder(&gateway.config), tls, answer, &held, until).await;
    if is_upgraded.load(Ordering::Relaxed) && matches!(served.end, End::Done) {
        return Ok((served.io, served.early));
    }
    let ended = match &served.end {
        // An ordinary request was answered; that is no failed handshake, however it ended.
        _ if answered.load(Ordering::Relaxed) > 0 => Ended::Answered,
        End::Stopped if gateway.is_draining() => Ended::Answered,
        End::Stopped => {
            gateway.metrics.limit_hit(Limit::HandshakeTimeout);
            Ended::Failed
        }
        End::Failed(error) => {
            if error.is_timeout() {
                gateway.metrics.limit_hit(Limit::HeaderTimeout);
            } else if error.is_parse_too_large() {
                gateway.metrics.limit_hit(Limit::HeaderBytes);
            }
            Ended::Failed
        }
        End::Done => Ended::Failed,
    };
    half_open.hold(0);
    finish(served.io, served.has_more, TlsStream::get_ref, stop).await;
    Err(ended)
}

/// How a connection ended that was not upgraded.
pub(crate) enum Ended {
    /// After ordinary requests.
    Answered,
    /// Without one.
    Failed,
}

/// Says that the connection ends with this answer.
fn close_behind(answer: &mut Answer) {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

/// The answer of the main listener; as to how long the connection lasts, HTTP/1.0 has its own rule.
fn answer_main(gateway: &Context, request: &Request<Incoming>) -> Answer {
    let mut answer = route_main(gateway, request);
    if request.version() == Version::HTTP_10 && !wants_keep_alive(request) {
        close_behind(&mut answer);
    }
    answer
}

fn wants_keep_alive(request: &Request<Incoming>) -> bool {
    let mut values = request.headers().get_all(CONNECTION).iter();
    values.any(|value| {
        let mut options = value.as_bytes().split(|byte| *byte == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"keep-alive"))
    })
}

/// What the main listener serves, whatever the settings.
const ROUTES: [Route<Public>; 1] = [Route::new(|_| Some(WEBSOCKET_PATH), upgrade)];

/// The WebSocket, the admin routes where no listener of their own is set, and an ordinary 404 for the rest.
fn route_main(gateway: &Context, request: &Request<Incoming>) -> Answer {
    if let Some(refusal) = refuse_head(gateway, request) {
        return refusal;
    }
    let public = routes::find(&ROUTES, gateway, request);
    let found = public.or_else(|| routes::find(admin::exposed(&gateway.config), gateway, request));
    found.unwrap_or_else(not_found)
}

/// What any web server refuses whatever the path: too many fields, and HTTP/1.1 without a `Host`
/// (RFC 9112 section 3.2).
fn refuse_head(gateway: &Context, request: &Request<Incoming>) -> Option<Answer> {
    if request.headers().len() > gateway.config.max_headers {
        gateway.metrics.limit_hit(Limit::Headers);
        return Some(page(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    let hosts = request.headers().get_all(HOST).iter().count();
    let needs_host = request.version() == Version::HTTP_11;
    (hosts > 1 || (needs_host && hosts == 0)).then(|| page(StatusCode::BAD_REQUEST))
}

fn upgrade(gateway: &Context, request: &Request<Incoming>) -> Answer {
    let accept = match handshake::check(request.method(), request.version(), request.headers()) {
        Ok(accept) => accept,
        // Without an upgrade the path looks like any other.
        Err(Rejection::NotWebSocket) => {
            note_missing_upgrade(gateway, request);
            return not_found();
        }
        Err(Rejection::BadVersion) => {
            let mut answer = page(StatusCode::UPGRADE_REQUIRED);
            answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return answer;
        }
        Err(Rejection::BadKey) => return page(StatusCode::BAD_REQUEST),
    };
    if !is_origin_allowed(&gateway.config.allowed_origins, request) {
        gateway.metrics.limit_hit(Limit::Origins);
        return page(StatusCode::FORBIDDEN);
    }
    if gateway.is_draining() {
        return page(StatusCode::SERVICE_UNAVAILABLE);
    }
    accept.response(Full::default())
}

/// Logs what a request for the WebSocket's path lacked; the usual cause is a proxy in front that does not pass the upgrade on.
fn note_missing_upgrade(gateway: &Context, request: &Request<Incoming>) {
    let (method, version) = (request.method(), request.version());
    let missing = handshake::not_an_upgrade(method, version, request.headers());
    if let Some(missing) = missing.and_then(MissingUpgrade::from_token) {
        gateway.metrics.not_upgraded.inc(missing);
        if gateway.may_log() {
            tracing::debug!(missing = missing.as_str(), path = WEBSOCKET_PATH, "not_upgraded");
        }
    }
}

/// Browsers name the page that opens a WebSocket; other clients name none and are let through.
fn is_origin_allowed(allowed: &[String], request: &Request<Incoming>) -> bool {
    let Some(origin) = request.headers().get(ORIGIN) else { return true };
    allowed.is_empty()
        || allowed.iter().any(|a| a.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
}
