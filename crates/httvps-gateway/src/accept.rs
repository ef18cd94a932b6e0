//! Accepting connections and taking them to the WebSocket: TCP → TLS → HTTP → session.

use crate::admission::TurnedAway;
use crate::context::{Context, HalfOpen};
use crate::http;
use crate::metrics::{HandshakePhase, Limit};
use crate::overload::Overload;
use crate::session::{self, Arrival};
use httvps_transport::socket::suit_peer;
use httvps_transport::tls::TlsStream;
use httvps_transport::ws::{self, Role, WebSocket};
use rustix::io::Errno;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The same trouble is logged once in so long.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts until `stop`, then closes the listener.
pub(crate) async fn accept(
    gateway: Arc<Context>,
    listener: TcpListener,
    overload: Arc<Overload>,
    stop: CancellationToken,
) {
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => admit(&gateway, &overload, socket, peer),
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
fn admit(gateway: &Arc<Context>, overload: &Overload, socket: TcpStream, peer: SocketAddr) {
    gateway.metrics.connection_accepted();
    let limit = if overload.is_reserved(socket.as_fd()) {
        Limit::Descriptors
    } else if overload.is_memory_short() {
        Limit::Memory
    } else {
        match gateway.admission.enter(peer.ip()) {
            Ok(half_open) => {
                suit_peer(&socket, peer.ip());
                let handshake = handshake(gateway.clone(), socket, peer.ip(), half_open);
                let until_drain = gateway.handshakes.clone();
                gateway.tasks.spawn(async move {
                    until_drain.run_until_cancelled(handshake).await;
                });
                return;
            }
            Err(TurnedAway::Handshakes) => Limit::Handshakes,
            Err(TurnedAway::HandshakesOfSource) => Limit::HandshakesPerSource,
        }
    };
    gateway.metrics.limit_hit(limit);
    tracing::debug!(limit = limit.as_str(), "connection_turned_away");
}

/// Everything before the session, under one absolute deadline.
async fn handshake(gateway: Arc<Context>, socket: TcpStream, peer: IpAddr, half_open: HalfOpen) {
    let accepted = Instant::now();
    let connection = gateway.metrics.track_connection();
    let deadline = accepted + gateway.config.handshake_timeout;
    let tls_deadline = deadline.min(accepted + gateway.config.tls_handshake_timeout);
    let tls = match tokio::time::timeout_at(tls_deadline.into(), gateway.tls.accept(socket)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            gateway.metrics.handshake_failed(HandshakePhase::Tls);
            tracing::debug!(error = error.label(), "tls_failed");
            return;
        }
        Err(_) => {
            gateway.metrics.handshake_failed(HandshakePhase::Tls);
            gateway.metrics.limit_hit(Limit::TlsHandshakeTimeout);
            return;
        }
    };
    let answered = AtomicBool::new(false);
    let serving = http::serve(&gateway, tls, &answered);
    let upgraded = tokio::time::timeout_at(deadline.into(), serving).await;
    let (tls, early) = match upgraded {
        Ok(Some(upgraded)) => upgraded,
        // An ordinary request was answered; that is no failed handshake, however it ended.
        _ if answered.load(Ordering::Relaxed) => return,
        Ok(None) => return gateway.metrics.handshake_failed(HandshakePhase::Http),
        Err(_) => {
            gateway.metrics.limit_hit(Limit::HandshakeTimeout);
            return gateway.metrics.handshake_failed(HandshakePhase::Http);
        }
    };
    let ws = websocket(&gateway, tls, &early);
    let arrival = Arrival { accepted, deadline, peer, half_open, connection };
    session::begin(gateway, ws, arrival).await;
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
