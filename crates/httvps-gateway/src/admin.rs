//! The admin listener: metrics and health in plain HTTP.

use crate::context::Context;
use crate::http_connection::{self, builder, finish};
use crate::routes::{self, Admin, Answer, Route, not_found, page};
use http_body_util::Full;
use httvps_config::Config;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// All admin routes.
const ROUTES: [Route<Admin>; 3] = [
    Route::new(|config| config.metrics_enabled.then_some(&*config.metrics_path), metrics),
    Route::new(|_| Some("/healthz"), healthz),
    Route::new(|_| Some("/readyz"), readyz),
];

/// The admin routes that the main listener serves: all of them while `admin_addr` is not set, as the founding page has
/// it, else none.
pub(crate) fn exposed(config: &Config) -> &'static [Route<Admin>] {
    if config.admin_addr.is_none() { &ROUTES } else { &[] }
}

fn metrics(gateway: &Context, request: &Request<Incoming>) -> Answer {
    read_only(request).unwrap_or_else(|| {
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        let growth =
            gateway.config.window_budget_bytes.saturating_sub(gateway.window_budget.left());
        gateway.metrics.window_growth.set(i64::try_from(growth).unwrap_or(i64::MAX));
        let (content_type, body) = gateway.metrics.encode(accept);
        text(StatusCode::OK, content_type, body)
    })
}

/// The process lives.
fn healthz(_: &Context, request: &Request<Incoming>) -> Answer {
    read_only(request).unwrap_or_else(|| text(StatusCode::OK, PLAIN, "ok\n".into()))
}

/// The gateway takes new devices.
fn readyz(gateway: &Context, request: &Request<Incoming>) -> Answer {
    read_only(request).unwrap_or_else(|| {
        if gateway.is_draining() {
            return text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "draining\n".into());
        }
        text(StatusCode::OK, PLAIN, "ok\n".into())
    })
}

/// The refusal of a method that would change something.
fn read_only(request: &Request<Incoming>) -> Option<Answer> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let mut answer = page(StatusCode::METHOD_NOT_ALLOWED);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    Some(answer)
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
            let answer = |request: &Request<Incoming>| {
                routes::find(&ROUTES, &gateway, request).unwrap_or_else(not_found)
            };
            let until = (Instant::now() + ADMIN_TIMEOUT, &stop);
            let builder = builder(&gateway.config);
            let served = http_connection::serve(&builder, socket, answer, &|_| {}, until).await;
            finish(served.io, served.has_more, |socket| socket, &stop).await;
            drop(place);
        });
    }
}
