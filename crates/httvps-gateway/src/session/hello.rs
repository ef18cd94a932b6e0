//! From an upgraded connection to an authenticated session, or to a refusal.

use super::ClientLink;
use super::active::{Active, Entry};
use super::closing::close;
use crate::context::{Context as Gateway, Egress, HalfOpen};
use crate::registry::{NoPlace, Order};
use httvps_config::Secret;
use httvps_control::backend::Asker;
use httvps_egress::nodes::Assigned;
use httvps_mux::{Link, LinkError, LinkTiming};
use httvps_proto::{CloseCause, ErrorCode, Input, Session, Verdict};
use httvps_telemetry::metrics::{
    ClientErrorCode, HandshakePhase, HandshakeResult, Limit, OpenConnection, RefusalReason,
};
use httvps_tls::TlsStream;
use httvps_transport::ws::codec::Violation;
use httvps_transport::ws::{self, CloseCode, Event, Kind, WebSocket};
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::Interest;
use tokio::net::TcpStream;
use uuid::Uuid;

/// The device behind a `hello`, and what it brought.
struct Applicant {
    device_id: Arc<str>,
    token: Secret,
    client_version: Option<String>,
    region: Option<String>,
}

/// What is known of a connection before it says `hello`.
pub(crate) struct Arrival {
    pub(crate) accepted: Instant,
    /// The absolute end of the whole handshake; nothing that the client sends extends it.
    pub(crate) deadline: Instant,
    pub(crate) peer: IpAddr,
    pub(crate) half_open: HalfOpen,
    pub(crate) connection: OpenConnection,
}

/// Takes an upgraded connection through `hello` and the backend's verdict.
pub(crate) async fn begin(
    gateway: Arc<Gateway>,
    ws: WebSocket<TlsStream<TcpStream>>,
    arrival: Arrival,
) {
    let Arrival { accepted, deadline, peer, half_open, connection } = arrival;
    let config = &gateway.config;
    let timing = LinkTiming {
        keepalive_interval: config.keepalive_interval,
        keepalive_max_missed: config.keepalive_max_missed,
        write_timeout: config.write_timeout,
    };
    let mut link = Link::new(ws, timing, Instant::now());
    let mut session = Session::new(gateway.limits.clone());
    let mut pings = config.max_exchanges_before_auth;
    let hello = poll_fn(|cx| {
        let hello = poll_hello(cx, &mut link, &mut session, &mut pings);
        // While it is polled it has a buffer of the worker's.
        if hello.is_pending() {
            half_open.hold(link.get_mut().buffered_capacity());
        }
        hello
    });
    let applicant = match tokio::time::timeout_at(deadline.into(), hello).await {
        Ok(Ok(applicant)) => applicant,
        Ok(Err(failure)) => {
            failure.note(&gateway);
            return close(link).await;
        }
        Err(_) => {
            gateway.metrics.handshake_failed(HandshakePhase::Hello);
            gateway.metrics.limit_hit(Limit::HandshakeTimeout);
            link.queue_close(CloseCode::POLICY.get(), "no hello in time");
            return close(link).await;
        }
    };
    // From here on it is not the client that has to do something.
    half_open.keep_place();
    let reception =
        Reception { gateway: &gateway, applicant: &applicant, peer, accepted, deadline };
    let entry = match reception.decide(&mut link, &mut session).await {
        Ok(entry) => entry,
        Err(Turned::Away) => return close(link).await,
        Err(Turned::Gone) => {
            return gateway.metrics.handshake_failed(HandshakePhase::Backend);
        }
    };
    link.get_mut().set_limits(ws::Limits {
        max_message: config.max_message_bytes,
        max_fragments: config.max_message_fragments,
        ..ws::Limits::default()
    });
    link.limit_message_time(config.message_timeout);
    drop(half_open);
    drop(applicant);
    let active = Box::new(Active::new(gateway.clone(), link, session, entry));
    // A task of its own, so that the memory of the handshake is given back.
    gateway.tasks.spawn(active.run(connection));
}

/// How a connection ended before its verdict.
enum HelloFailure {
    /// The client went away.
    Gone,
    /// The first message was not a valid `hello`.
    Bad(CloseCause),
    /// The client sent pings in place of a `hello`.
    Pings,
    /// The client broke the rules of WebSocket, or sent more than it may before it is let in.
    Broken(Violation),
}

impl HelloFailure {
    fn note(&self, gateway: &Gateway) {
        let limit = match self {
            Self::Bad(CloseCause::DeviceIdTooLong) => Some(Limit::DeviceId),
            Self::Bad(CloseCause::TokenTooLong) => Some(Limit::Token),
            Self::Pings => Some(Limit::Exchanges),
            Self::Broken(Violation::MessageTooBig) => Some(Limit::MessageBeforeAuth),
            Self::Broken(Violation::TooManyFragments) => Some(Limit::Fragments),
            _ => None,
        };
        if let Some(limit) = limit {
            gateway.metrics.limit_hit(limit);
        }
        if let Self::Bad(_) = self {
            gateway.metrics.handshake(HandshakeResult::Error);
            gateway.metrics.client_error(ClientErrorCode::from(ErrorCode::BadHello));
        }
        gateway.metrics.handshake_failed(HandshakePhase::Hello);
    }
}

/// Reads the first message. RFC 6455 pings before it are answered, so many.
fn poll_hello(
    cx: &mut Context<'_>,
    link: &mut ClientLink,
    session: &mut Session,
    pings: &mut usize,
) -> Poll<Result<Applicant, HelloFailure>> {
    loop {
        let now = Instant::now();
        let is_flushed = match link.poll_flush(cx, now) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(HelloFailure::Gone)),
            Poll::Pending => false,
        };
        if !is_flushed {
            return Poll::Pending;
        }
        match std::task::ready!(link.poll_recv(cx, now)) {
            Ok(Event::Message(kind)) => return Poll::Ready(read_hello(kind, now, link, session)),
            Ok(Event::Ping | Event::Pong) if *pings > 0 => *pings -= 1,
            Ok(Event::Ping | Event::Pong) => {
                link.queue_close(CloseCode::POLICY.get(), "pings in place of a hello");
                return Poll::Ready(Err(HelloFailure::Pings));
            }
            Err(LinkError::WebSocket(ws::Error::Protocol { violation, .. })) => {
                return Poll::Ready(Err(HelloFailure::Broken(violation)));
            }
            Ok(Event::Close { .. }) | Err(_) => return Poll::Ready(Err(HelloFailure::Gone)),
        }
    }
}

fn read_hello(
    kind: Kind,
    now: Instant,
    link: &mut ClientLink,
    session: &mut Session,
) -> Result<Applicant, HelloFailure> {
    let mut scratch = Vec::new();
    let (message, mut out) = link.message();
    let input = match kind {
        Kind::Text => session.handle_text(now, message, &mut scratch, &mut out),
        Kind::Binary => session.handle_binary(now, &mut out),
    };
    let applicant = match input {
        Input::Hello(hello) => Ok(Applicant {
            device_id: (&*hello.device_id).into(),
            token: Secret::new(hello.token.into_owned()),
            client_version: hello.client_version.as_deref().map(cut),
            region: hello.region.as_deref().map(cut),
        }),
        Input::Fatal(cause) => Err(HelloFailure::Bad(cause)),
        // A session that waits for its hello says nothing else.
        _ => Err(HelloFailure::Gone),
    };
    // A token, even a refused one, shall not live on in a buffer that the next connection gets.
    link.message().0.fill(0);
    if let Err(HelloFailure::Bad(cause)) = &applicant {
        link.queue_close(CloseCode::POLICY.get(), cause.words());
    }
    applicant
}

/// Bytes of `client_version` and `region` that are kept; the protocol sets them no limit.
const MAX_LABEL: usize = 128;

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_LABEL)].to_owned()
}

/// Waits for what the backend says, as long as the client is there to hear it: whatever is asked for
/// a client that has gone would take a place from those that wait. None = it has gone.
///
/// Nothing is read: what the client sends before the verdict stays where it is.
async fn while_there<T>(link: &mut ClientLink, asking: impl Future<Output = T>) -> Option<T> {
    let socket = link.get_mut().get_ref().get_ref();
    tokio::select! {
        biased;
        () = closed(socket) => None,
        said = asking => Some(said),
    }
}

/// Ends when the peer has closed its direction or the connection broke.
async fn closed(socket: &TcpStream) {
    // `PRIORITY` waits for urgent data, which no client sends, or for the end of reading; `READABLE` would
    // be ready for as long as there is something that is not read.
    while let Ok(ready) = socket.ready(Interest::PRIORITY).await {
        if ready.is_read_closed() {
            return;
        }
        if ready.is_priority() {
            // Urgent data after all, and it would be ready for ever.
            break;
        }
    }
    std::future::pending::<()>().await;
}

/// What is needed to answer a `hello`.
struct Reception<'a> {
    gateway: &'a Arc<Gateway>,
    applicant: &'a Applicant,
    peer: IpAddr,
    accepted: Instant,
    deadline: Instant,
}

/// Why there is no session.
enum Turned {
    /// The client was told why.
    Away,
    /// The client went before the backend had spoken.
    Gone,
}

impl Reception<'_> {
    fn asker(&self) -> Asker<'_> {
        Asker { peer: self.peer, device_id: &self.applicant.device_id }
    }

    /// Asks the backend, answers the client, counts and logs. Only a clear yes of the backend leads to
    /// a session.
    async fn decide(&self, link: &mut ClientLink, session: &mut Session) -> Result<Entry, Turned> {
        let config = &self.gateway.config;
        let token = self.applicant.token.expose();
        let asking = self.gateway.backend.validate_device(self.asker(), token, self.deadline);
        let result = match while_there(link, asking).await.ok_or(Turned::Gone)? {
            Ok(result) if result.allowed => result,
            Ok(result) => {
                let reason = result.reason.as_deref().filter(|r| !r.is_empty());
                let reason = reason.unwrap_or("not_allowed");
                let status = result.subscription_status.as_deref();
                self.refuse(HandshakeResult::Rejected, reason, status, link, session);
                return Err(Turned::Away);
            }
            Err(_) => {
                let reason = "backend_unavailable";
                self.refuse(HandshakeResult::Error, reason, None, link, session);
                return Err(Turned::Away);
            }
        };
        let max = config.max_sessions;
        let place = match self.gateway.registry.enter(&self.applicant.device_id, max) {
            Ok(place) => place,
            Err(no_place) => {
                self.gateway.metrics.limit_hit(match no_place {
                    NoPlace::Sessions => Limit::Sessions,
                    NoPlace::SessionsOfDevice => Limit::SessionsPerDevice,
                    NoPlace::DescriptorsOfDevice => Limit::DescriptorsPerDevice,
                });
                self.refuse(HandshakeResult::Rejected, "session_limit", None, link, session);
                return Err(Turned::Away);
            }
        };
        let device_id = self.applicant.device_id.clone();
        let (connector, node) = match &self.gateway.egress {
            Egress::Common(connector) => (connector.clone(), None),
            Egress::Nodes(outline) => {
                let region = self.applicant.region.as_deref();
                let asking = outline.assign(self.peer, &device_id, region, self.deadline);
                match while_there(link, asking).await.ok_or(Turned::Gone)? {
                    Ok(Assigned { connector, node_id }) => (connector, Some(node_id)),
                    Err(unavailable) => {
                        self.turn_away(unavailable.as_str(), link, session);
                        return Err(Turned::Away);
                    }
                }
            }
        };
        if self.gateway.is_draining() {
            // It came through while the others were being told.
            place.control.give(Order::Close);
        }
        let session_id: Arc<str> = Uuid::new_v4().to_string().into();
        let verdict = Verdict::Allowed {
            session_id: &session_id,
            subscription_status: result.subscription_status.as_deref(),
        };
        session.handle_verdict(Instant::now(), &verdict, &mut link.outbox());
        self.count(HandshakeResult::Accepted);
        if place.device.may_log(Instant::now()) {
            tracing::info!(
                device_id = &*self.applicant.device_id,
                session_id = &*session_id,
                user_id = result.user_id,
                subscription_status = result.subscription_status,
                client_version = self.applicant.client_version,
                region = self.applicant.region,
                node,
                "session_started"
            );
        }
        Ok(Entry { place, connector, device_id, session_id })
    }

    /// The device may enter, but there is no node for it.
    fn turn_away(&self, reason: &str, link: &mut ClientLink, session: &mut Session) {
        let verdict = Verdict::Unavailable { reason };
        session.handle_verdict(Instant::now(), &verdict, &mut link.outbox());
        link.queue_close(CloseCode::TRY_AGAIN.get(), "try again later");
        self.count(HandshakeResult::Error);
        if self.gateway.may_log() {
            let device_id = &*self.applicant.device_id;
            let region = self.applicant.region.as_deref();
            tracing::warn!(device_id, region, reason, "outline_unavailable");
        }
    }

    fn refuse(
        &self,
        result: HandshakeResult,
        reason: &str,
        subscription_status: Option<&str>,
        link: &mut ClientLink,
        session: &mut Session,
    ) {
        let verdict = Verdict::Refused { reason, subscription_status };
        session.handle_verdict(Instant::now(), &verdict, &mut link.outbox());
        match result {
            HandshakeResult::Error => {
                link.queue_close(CloseCode::TRY_AGAIN.get(), "try again later");
            }
            _ => link.queue_close(CloseCode::POLICY.get(), "not allowed"),
        }
        self.count(result);
        if result == HandshakeResult::Rejected {
            self.gateway.metrics.refusal(RefusalReason::from_token(reason));
            if self.gateway.may_log() {
                let device_id = &*self.applicant.device_id;
                tracing::info!(device_id, reason, "handshake_rejected");
            }
        }
    }

    fn count(&self, result: HandshakeResult) {
        self.gateway.metrics.handshake(result);
        self.gateway.metrics.handshake_duration(self.accepted.elapsed());
    }
}
