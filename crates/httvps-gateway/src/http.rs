//! HTTP on the main listener and on the admin listener.

use crate::admission::HalfOpen;
use crate::context::Context;
use crate::http_connection::{self, End, finish};
use bytes::Bytes;
use http_body_util::Full;
use httvps_telemetry::metrics::{Limit, MissingUpgrade};
use httvps_tls::TlsStream;
use httvps_transport::ws::handshake::{self, Rejection};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, ORIGIN,
    SEC_WEBSOCKET_VERSION,
};
use hyper::server::conn::http1;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioTimer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

type Answer = Response<Full<Bytes>>;

/// Where the WebSocket lives.
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
    let served = http_connection::serve(&builder(gateway), tls, answer, &held, until).await;
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

fn builder(gateway: &Context) -> http1::Builder {
    let config = &gateway.config;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // A peer that has ended its side behind a request gets the answer.
        .half_close(true)
        .header_read_timeout(config.header_timeout)
        // The exact bound is ours, so that the metric can tell it from that on bytes.
        .max_headers(config.max_headers.saturating_mul(4))
        .max_buf_size(config.max_header_bytes);
    builder
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

/// The WebSocket, the founding page's routes, and an ordinary 404 for the rest.
fn route_main(gateway: &Context, request: &Request<Incoming>) -> Answer {
    if let Some(refusal) = refuse_head(gateway, request) {
        return refusal;
    }
    if request.uri().path() == WEBSOCKET_PATH {
        return upgrade(gateway, request);
    }
    if gateway.config.admin_addr.is_none() {
        return answer_admin(gateway, request);
    }
    not_found()
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

/// Says what a request for the WebSocket's path lacked: most often a proxy in front that does not pass it on.
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

/// `/metrics`, `/healthz` and `/readyz`.
fn answer_admin(gateway: &Context, request: &Request<Incoming>) -> Answer {
    let config = &gateway.config;
    let path = request.uri().path();
    let is_metrics = config.metrics_enabled && path == config.metrics_path;
    if !is_metrics && path != "/healthz" && path != "/readyz" {
        return not_found();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = page(StatusCode::METHOD_NOT_ALLOWED);
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    if is_metrics {
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        let growth = config.window_budget_bytes.saturating_sub(gateway.window_budget.left());
        gateway.metrics.window_growth.set(i64::try_from(growth).unwrap_or(i64::MAX));
        let (content_type, body) = gateway.metrics.encode(accept);
        return text(StatusCode::OK, content_type, body);
    }
    if path == "/readyz" && gateway.is_draining() {
        return text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "draining\n".into());
    }
    text(StatusCode::OK, PLAIN, "ok\n".into())
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn text(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn not_found() -> Answer {
    page(StatusCode::NOT_FOUND)
}

/// A page as an ordinary web server shows it; it names no product.
fn page(status: StatusCode) -> Answer {
    let words = status.canonical_reason().unwrap_or("Error");
    let title = format!("{} {words}", status.as_u16());
    let body = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n\
         <center><h1>{title}</h1></center>\r\n</body>\r\n</html>\r\n"
    );
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    answer
}

/// Connections that the admin listener serves at once.
const MAX_ADMIN_CONNECTIONS: usize = 64;
/// How long one of them may last; a scraper that does not read shall not keep its place.
const ADMIN_TIMEOUT: Duration = Duration::from_mins(1);

/// Serves the admin routes in plain HTTP until `stop`.
pub(crate) async fn serve_admin(
    gateway: Arc<Context>,
    listener: TcpListener,
    stop: CancellationToken,
) {
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_ADMIN_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(gateway.config.accept_pause).await;
            continue;
        };
        let (gateway, stop) = (gateway.clone(), stop.clone());
        tokio::spawn(async move {
            let answer = |request: &Request<Incoming>| answer_admin(&gateway, request);
            let until = (Instant::now() + ADMIN_TIMEOUT, &stop);
            let builder = builder(&gateway);
            let served = http_connection::serve(&builder, socket, answer, &|_| {}, until).await;
            finish(served.io, served.has_more, |socket| socket, &stop).await;
            drop(place);
        });
    }
}
