//! A TLS WebSocket echo server on the layers of this crate, for conformance suites.
//!
//! `ws_echo [ADDRESS] [MAX_MESSAGE_MIB]`: listens on ADDRESS (127.0.0.1:9443) with a certificate
//! made at the start, upgrades `/ws`, and sends every message back. The limit of a message is 64
//! MiB unless given.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io::Write as _;
use std::task::Poll;
use std::time::Duration;

use http_body_util::Empty;
use httvps_tls::{CertSource, ServerTls, TlsStream};
use httvps_transport::socket::{self, Bind};
use httvps_transport::ws::{self, Event, Limits, Role, WebSocket, handshake};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

type Connection = WebSocket<TlsStream<TcpStream>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let bind: Bind = args.next().as_deref().unwrap_or("127.0.0.1:9443").parse()?;
    let mebibytes: usize = args.next().as_deref().unwrap_or("64").parse()?;
    let limits = Limits {
        max_message: mebibytes * 1024 * 1024,
        max_fragments: 1024 * 1024,
        ..Limits::default()
    };

    let dir = tempfile::tempdir()?;
    let source =
        CertSource { cert_path: dir.path().join("cert.pem"), key_path: dir.path().join("key.pem") };
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(&source.cert_path, made.cert.pem())?;
    std::fs::write(&source.key_path, made.signing_key.serialize_pem())?;
    let tls = ServerTls::new(&source)?;

    let listener = socket::listen(bind)?;
    writeln!(std::io::stdout(), "wss://{}/ws", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let tls = tls.clone();
        tokio::spawn(async move {
            if let Ok(Ok(stream)) =
                tokio::time::timeout(Duration::from_secs(5), tls.accept(stream)).await
            {
                // How a connection ends is the peer's to judge.
                let _ = serve(stream, limits).await;
            }
        });
    }
}

/// Answers HTTP until a request is upgraded, then echoes.
async fn serve(stream: TlsStream<TcpStream>, limits: Limits) -> Result<(), Box<dyn Error>> {
    let service =
        hyper::service::service_fn(|request| async move { Ok::<_, Infallible>(answer(&request)) });
    let parts = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .without_shutdown()
        .await?;
    let mut socket = WebSocket::new(parts.io.into_inner(), Role::Server, limits, &parts.read_buf);
    let result = poll_fn(|cx| poll_echo(&mut socket, cx)).await;
    if let Err(ws::Error::Io(_)) = result {
        return Ok(());
    }
    let farewell = async {
        poll_fn(|cx| socket.poll_shutdown(cx)).await?;
        // Until the peer has closed too; a close with unread bytes would be a reset.
        while poll_fn(|cx| socket.poll_recv(cx)).await.is_ok() {}
        Ok::<_, ws::Error>(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), farewell).await;
    Ok(())
}

fn answer(request: &Request<Incoming>) -> Response<Empty<Bytes>> {
    let verdict = handshake::check(request.method(), request.version(), request.headers());
    match verdict {
        Ok(accept) if request.uri().path() == "/ws" => accept.response(Empty::new()),
        _ => {
            let mut response = Response::new(Empty::new());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

/// Sends back what comes until the connection is over.
fn poll_echo(
    socket: &mut Connection,
    cx: &mut std::task::Context<'_>,
) -> Poll<Result<(), ws::Error>> {
    loop {
        let mut is_idle = false;
        while !is_idle && !socket.is_congested() {
            match socket.poll_recv(cx) {
                Poll::Ready(Ok(Event::Message(kind))) => {
                    let payload = socket.message().to_vec();
                    socket
                        .queue_message(kind, payload.len(), |out| out.extend_from_slice(&payload));
                }
                Poll::Ready(Ok(Event::Ping | Event::Pong)) => {}
                Poll::Ready(Ok(Event::Close { .. })) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => is_idle = true,
            }
        }
        match socket.poll_flush(cx) {
            Poll::Ready(Ok(())) if !is_idle => {}
            Poll::Ready(Ok(())) | Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        }
    }
}
