//! From an accepted connection to a session: TCP → TLS → HTTP → session.

use crate::context::{Context, HalfOpen};
use crate::http::{self, Ended};
use crate::session::{self, Arrival};
use futures_util::future::Abortable;
use httvps_telemetry::metrics::{HandshakePhase, Limit};
use httvps_tls::{TlsError, TlsStream};
use httvps_transport::socket::suit_peer;
use httvps_transport::ws::{self, Role, WebSocket};
use rustix::io::Errno;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Shortest time between two log lines about the same fault.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts until `stop`, then closes the listener.
pub(crate) async fn accept(gateway: Arc<Context>, listener: TcpListener, stop: CancellationToken) {
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => admit(&gateway, socket, peer),
            Err(error) if is_exhausted(&error) => {
                gateway.metrics.limit_hit(Limit::Descriptors);
                if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                    logged = Some(Instant::now());
                    tracing::error!(error = %error, "accept_paused");
                }
                // The connection stays in the backlog; without a pause this would spin.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(gateway.config.accept_pause) => {}
                }
            }
            // The peer was gone before it was accepted; nothing is wrong here.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(error = %error, "accept_failed");
                tokio::time::sleep(gateway.config.accept_pause).await;
            }
        }
    }
}

fn is_exhausted(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// Decides whether a connection may begin its handshake. One that may not is closed at once.
fn admit(gateway: &Arc<Context>, socket: TcpStream, peer: SocketAddr) {
    gateway.metrics.connection_accepted();
    let entered = if gateway.descriptors.is_kept_from_newcomers(socket.as_fd()) {
        Err(Limit::Descriptors)
    } else {
        gateway.admission.enter(peer.ip())
    };
    match entered {
        Ok((half_open, registration)) => {
            suit_peer(&socket, peer.ip());
            let handshake = handshake(gateway.clone(), socket, peer.ip(), half_open);
            let until_displaced = Abortable::new(handshake, registration);
            gateway.tasks.spawn(async move {
                let _ = until_displaced.await;
            });
        }
        Err(limit) => {
            gateway.metrics.limit_hit(limit);
            tracing::debug!(limit = limit.as_str(), "connection_turned_away");
        }
    }
}

/// TLS, HTTP and `hello`, under one absolute deadline.
async fn handshake(gateway: Arc<Context>, socket: TcpStream, peer: IpAddr, half_open: HalfOpen) {
    let accepted = Instant::now();
    let connection = gateway.metrics.track_connection();
    let deadline = accepted + gateway.config.handshake_timeout;
    let tls_deadline = deadline.min(accepted + gateway.config.tls_handshake_timeout);
    let held = |bytes| half_open.hold(bytes);
    let greeting =
        tokio::time::timeout_at(tls_deadline.into(), gateway.tls.accept_watched(socket, &held));
    let tls = match gateway.handshakes.run_until_cancelled(greeting).await {
        Some(Ok(Ok(tls))) => tls,
        Some(Ok(Err(error))) => {
            gateway.metrics.handshake_failed(HandshakePhase::Tls);
            note_tls_failure(&gateway, &error, &half_open);
            return;
        }
        Some(Err(_)) => {
            gateway.metrics.handshake_failed(HandshakePhase::Tls);
            gateway.metrics.limit_hit(Limit::TlsHandshakeTimeout);
            return;
        }
        None => return,
    };
    // Each phase has its own memory: most of those that idle do so in the first.
    let serving = Box::pin(http::serve(&gateway, tls, &half_open, deadline));
    let (tls, early) = match serving.await {
        Ok(upgraded) => upgraded,
        Err(Ended::Answered) => return,
        Err(Ended::Failed) => return gateway.metrics.handshake_failed(HandshakePhase::Http),
    };
    let ws = websocket(&gateway, tls, &early);
    let arrival = Arrival { accepted, deadline, peer, half_open, connection };
    let stop = gateway.handshakes.clone();
    stop.run_until_cancelled(Box::pin(session::begin(gateway, ws, arrival))).await;
}

fn note_tls_failure(gateway: &Context, error: &TlsError, half_open: &HalfOpen) {
    if !gateway.may_log() {
        return;
    }
    if matches!(error, TlsError::ProxyHeader) {
        let source = half_open.source().to_string();
        let hint = "the proxy in front sends a PROXY protocol header; switch it off there";
        tracing::debug!(source, hint, "proxy_header");
    } else {
        tracing::debug!(error = error.label(), "tls_failed");
    }
}

fn websocket(
    gateway: &Context,
    tls: TlsStream<TcpStream>,
    early: &[u8],
) -> WebSocket<TlsStream<TcpStream>> {
    let limits = ws::Limits {
        max_message: gateway.config.max_message_bytes_before_auth,
        max_fragments: gateway.config.max_message_fragments,
        ..ws::Limits::default()
    };
    WebSocket::new(tls, Role::Server, limits, early)
}
