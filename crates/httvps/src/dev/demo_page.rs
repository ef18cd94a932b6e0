//! A page to fetch through the tunnel when there is no network.

use super::Tasks;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A loopback address of its own, so that the gateway can be allowed to reach the page without
/// being allowed to reach anything else on this machine.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 86, 0, 1);

const PAGE: &str = "It works: this page came through the tunnel.

  you -> local proxy -> TLS + WebSocket -> gateway (the backend let the device in) -> this page
";

/// Serves the page until `stop`. Where only 127.0.0.1 is loopback it is served there.
pub(super) async fn start(tasks: &mut Tasks, stop: &CancellationToken) -> io::Result<SocketAddr> {
    let listener = match TcpListener::bind((ADDRESS, 0)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
    };
    let address = listener.local_addr()?;
    let serving = stop.clone().run_until_cancelled_owned(serve(listener));
    tasks.spawn(async move {
        serving.await;
        "the demo page"
    });
    Ok(address)
}

async fn serve(listener: TcpListener) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            continue;
        };
        tokio::spawn(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(socket), service_fn(answer)),
        );
    }
}

async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_page = request.uri().path() == "/";
    let mut response = Response::new(Full::from(if is_page { PAGE } else { "not found\n" }));
    if !is_page {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}
