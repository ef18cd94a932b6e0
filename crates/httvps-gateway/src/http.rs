//! HTTP on the main listener and on the admin listener.

use crate::context::Context;
use crate::metrics::Limit;
use bytes::Bytes;
use http_body_util::Full;
use httvps_transport::tls::TlsStream;
use httvps_transport::ws::handshake::{self, Rejection};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_VERSION,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

type Answer = Response<Full<Bytes>>;

/// Where the WebSocket lives.
pub(crate) const WEBSOCKET_PATH: &str = "/ws";

/// Serves HTTP/1.1 on a TLS connection until it is upgraded; then gives the connection back with
/// the bytes that came after the request. None: it ended without an upgrade. `answered` is set when
/// an ordinary request was answered.
pub(crate) async fn serve(
    gateway: &Arc<Context>,
    tls: TlsStream<TcpStream>,
    answered: &AtomicBool,
) -> Option<(TlsStream<TcpStream>, Bytes)> {
    let is_upgraded = AtomicBool::new(false);
    let service = service_fn(|request| {
        let answer = answer_main(gateway, &request);
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            is_upgraded.store(true, Ordering::Relaxed);
        } else {
            answered.store(true, Ordering::Relaxed);
        }
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = builder(gateway).serve_connection(TokioIo::new(tls), service);
    let parts = match connection.without_shutdown().await {
        Ok(parts) => parts,
        Err(error) => {
            if answered.load(Ordering::Relaxed) {
                // A kept-alive connection that had nothing more to ask.
            } else if error.is_timeout() {
                gateway.metrics.limit_hit(Limit::HeaderTimeout);
            } else if error.is_parse_too_large() {
                gateway.metrics.limit_hit(Limit::HeaderBytes);
            }
            return None;
        }
    };
    let (io, early) = (parts.io.into_inner(), parts.read_buf);
    is_upgraded.load(Ordering::Relaxed).then_some((io, early))
}

fn builder(gateway: &Context) -> http1::Builder {
    let config = &gateway.config;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        // The exact bound is ours, so that the metric can tell it from that on bytes.
        .max_headers(config.max_headers.saturating_mul(4))
        .max_buf_size(config.max_header_bytes);
    builder
}

/// The main listener: the WebSocket, the founding page's routes, and an ordinary 404 for the rest.
fn answer_main(gateway: &Context, request: &Request<Incoming>) -> Answer {
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
        Err(Rejection::NotWebSocket) => return not_found(),
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
            let service = service_fn(|request| {
                let answer = answer_admin(&gateway, &request);
                async { Ok::<_, Infallible>(answer) }
            });
            let connection = builder(&gateway).serve_connection(TokioIo::new(socket), service);
            tokio::select! {
                _ = tokio::time::timeout(ADMIN_TIMEOUT, connection) => {}
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
}
