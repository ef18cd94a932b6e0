//! An authenticated session.

mod binary;
mod busy;
mod counted;
mod datagrams;
mod delivering;
mod relays;
mod streams;
mod to_client;

use super::ClientLink;
use super::closing::close;
use super::wire::Wire;
use crate::context::Context as Gateway;
use crate::registry::{Order, Place};
use httvps_egress::Connector;
use httvps_mux::{FLUSH_AT, LinkError, Ready, TURN, Turns, Work};
use httvps_proto::v2::{self, Side};
use httvps_proto::{Bucket, CloseCause, ErrorCode, Input, Session, StreamKey, StreamRefusal};
use httvps_telemetry::metrics::{ClientErrorCode, Limit, OpenConnection, SessionEnd};
use httvps_transport::give_way;
use httvps_transport::ws::codec::Violation;
use httvps_transport::ws::{self, CloseCode, Event, Kind};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::time::Sleep;

use busy::Busy;
pub(crate) use busy::Crowd;
use counted::Counted;
use delivering::Delivering;
use relays::Relays;
use to_client::ToClient;

/// Turns that were cut short in a row until what is queued is sent although it is little: credit, as a rule, for a client
/// that still has some. A write for each turn, and a client that wakes up for it, cost a fifth of a bulk upload.
const CUTS_BEFORE_FLUSH: u8 = 8;
/// Room for answers (pongs, errors, closes) above the bound on queued payload, in bytes.
const ANSWER_ROOM: usize = 64 * 1024;
/// Log lines about errors of one client, a second and at once.
const LOG_RATE: u32 = 2;
const LOG_BURST: u32 = 20;

thread_local! {
    /// Where payloads are decoded; used within one poll only, so one per worker is enough.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A session with its link, its streams and its timers.
///
/// Bounds, per session: queued towards the client `max_session_queue_bytes` plus one payload and
/// 64 KiB of answers and the answers to one frame (the queue is checked before each frame), and meanwhile
/// the rest of one message; waiting for upstreams `max_stream_queue_bytes` a stream and
/// `max_session_queue_bytes` in all, plus one message; datagrams in both directions
/// `max_session_queue_bytes` in all, plus two datagrams for each of their streams.
pub(super) struct Active {
    gateway: Arc<Gateway>,
    /// Where the streams go.
    connector: Arc<dyn Connector>,
    link: ClientLink,
    wire: Wire,
    place: Place,
    device_id: Arc<str>,
    session_id: Arc<str>,
    started: Instant,
    relays: Relays,
    counted: Counted,
    ready: Arc<Ready>,
    /// Streams with something to do, in the order of their turns.
    turns: Turns,
    /// Streams that wait for room towards the client.
    without_room: Turns,
    /// The same for streams of datagrams, which need no credit.
    datagrams_without_room: VecDeque<StreamKey>,
    /// What may still be done in this poll.
    work: Work,
    /// Whether its turns end before what there is to do.
    busy: Busy,
    /// Turns in a row that ended before what there was to do.
    cut_turns: u8,
    /// The position to continue from in the message that the link holds, after a turn ended inside it.
    unread: Option<usize>,
    /// Closed streams whose last bytes are still being delivered.
    delivering: Arc<Delivering>,
    traffic: Traffic,
    log_budget: Bucket,
    /// OPENs of the second format that may be refused; the JSON session counts its own errors.
    errors: Bucket,
    is_announced: bool,
    timer: Pin<Box<Sleep>>,
    timer_at: Instant,
    /// When streams are next looked at for having been idle or stalled.
    sweep_at: Option<Instant>,
}

/// Payload bytes and streams of the session, for its last log line.
#[derive(Default)]
struct Traffic {
    bytes_in: u64,
    bytes_out: u64,
    streams: u64,
}

/// What a session gets at its start.
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) connector: Arc<dyn Connector>,
    pub(super) device_id: Arc<str>,
    pub(super) session_id: Arc<str>,
}

impl Active {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        link: ClientLink,
        session: Session,
        entry: Entry,
    ) -> Self {
        let Entry { place, connector, device_id, session_id } = entry;
        let now = Instant::now();
        let config = &gateway.config;
        let errors = Bucket::new(config.max_errors_per_second, config.max_error_burst, now);
        let wire = if session.has_v2() {
            let (limits, budget) = (gateway.window_limits.clone(), place.device.windows.clone());
            Wire::V2(Box::new(v2::Session::new(Side::Gateway, limits, budget, now)))
        } else {
            Wire::Json(session)
        };
        Self {
            connector,
            link,
            wire,
            place,
            device_id,
            session_id,
            started: now,
            relays: Relays::new(gateway.metrics.clone()),
            counted: Counted::new(gateway.metrics.clone()),
            ready: Arc::default(),
            turns: Turns::default(),
            without_room: Turns::default(),
            datagrams_without_room: VecDeque::new(),
            work: Work::of_turn(TURN),
            busy: Busy::new(&gateway.crowd),
            cut_turns: 0,
            unread: None,
            delivering: Arc::default(),
            traffic: Traffic::default(),
            log_budget: Bucket::new(LOG_RATE, LOG_BURST, now),
            errors,
            is_announced: false,
            timer: Box::pin(tokio::time::sleep_until(now.into())),
            timer_at: now,
            sweep_at: None,
            gateway,
        }
    }

    /// Runs the session to its end, then closes the connection so that the client reads why.
    pub(super) async fn run(mut self: Box<Self>, connection: OpenConnection) {
        let end = poll_fn(|cx| {
            let poll = self.poll(cx);
            self.counted.note_waiting(self.relays.pending, self.link.queued());
            poll
        })
        .await;
        self.end_streams(end == SessionEnd::ClientClosed);
        match end {
            SessionEnd::Drain => {
                self.link.queue_close(CloseCode::RESTART.get(), "the gateway is draining");
            }
            SessionEnd::KeepAlive => {
                self.link.queue_close(CloseCode::GOING_AWAY.get(), "no sign of life");
            }
            SessionEnd::ErrorFlood => {
                self.link.queue_close(CloseCode::POLICY.get(), CloseCause::ErrorFlood.words());
            }
            _ => {}
        }
        if self.place.device.may_log(Instant::now()) {
            tracing::info!(
                device_id = &*self.device_id,
                session_id = &*self.session_id,
                reason = end.as_str(),
                duration_seconds = self.started.elapsed().as_secs_f64(),
                bytes_in = self.traffic.bytes_in,
                bytes_out = self.traffic.bytes_out,
                streams = self.traffic.streams,
                "session_ended"
            );
        }
        self.gateway.metrics.session_ended(end);
        let Self { link, place, relays, counted, busy, .. } = *self;
        // The session has ended; flush and close the connection.
        drop((place, relays, counted, busy));
        close(link).await;
        drop(connection);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        // Registered before anything is looked at, so that no wake-up falls between.
        self.ready.register(cx.waker());
        let order = self.place.control.poll_order(cx.waker());
        let (turn, is_long) = self.busy.turn();
        self.work = Work::of_turn(turn);
        self.link.begin_turn(turn);
        loop {
            let now = Instant::now();
            if let Err(end) = self.follow(order) {
                return Poll::Ready(end);
            }
            let has_moved = match self.poll_once(cx, now) {
                Ok(has_moved) => has_moved,
                Err(end) => return Poll::Ready(end),
            };
            if self.work.is_spent() || self.link.is_turn_over() {
                self.busy.note(true);
                self.cut_turns = if is_long { 0 } else { (self.cut_turns + 1) % CUTS_BEFORE_FLUSH };
                // Deadlines hold for the busiest session too. Its silence cannot be judged: there
                // may be more to read than was read.
                self.link.hold_silence(now);
                if let Poll::Ready(Err(end)) = self.poll_timer(cx, now) {
                    return Poll::Ready(end);
                }
                give_way(cx);
                return Poll::Pending;
            }
            // What was held back while turns were cut short is sent now.
            if std::mem::take(&mut self.cut_turns) > 0 || has_moved {
                continue;
            }
            match self.poll_timer(cx, now) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => {
                    self.busy.note(false);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Carries out an order of the gateway.
    fn follow(&mut self, order: Order) -> Result<(), SessionEnd> {
        if order >= Order::Announce && !self.is_announced {
            self.is_announced = true;
            self.wire.go_away(self.gateway.config.drain_timeout, &mut self.link.outbox());
        }
        let may_stay = self.wire.may_outlive_drain() && self.wire.stream_count() > 0;
        match order {
            Order::CloseNow => Err(SessionEnd::Drain),
            Order::Close if !may_stay => Err(SessionEnd::Drain),
            _ => Ok(()),
        }
    }

    /// One round: streams, flush, messages. True when something moved.
    fn poll_once(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, SessionEnd> {
        self.measure(now);
        let mut has_moved = self.poll_streams(cx, now)?;
        if (self.cut_turns == 0 || self.link.queued() >= FLUSH_AT)
            && let Poll::Ready(Err(error)) = self.link.poll_flush(cx, now)
        {
            return Err(self.end_of_link(&error));
        }
        has_moved |= self.readmit();
        while !self.work.is_spent() && self.may_read() {
            if let Some(at) = self.unread {
                has_moved = true;
                self.handle_frames(at, now)?;
                continue;
            }
            let event = match self.link.poll_recv(cx, now) {
                Poll::Pending => break,
                Poll::Ready(Ok(event)) => event,
                Poll::Ready(Err(error)) => return Err(self.end_of_link(&error)),
            };
            has_moved = true;
            match event {
                Event::Message(kind) => self.handle_message(kind, now)?,
                Event::Ping | Event::Pong => self.work.spend(Work::MESSAGE),
                Event::Close { .. } => return Err(SessionEnd::ClientClosed),
            }
        }
        Ok(has_moved)
    }

    /// Whether another message or frame may be handled: not while the queue of answers, or that of an upstream, is
    /// at its bound.
    fn may_read(&self) -> bool {
        let config = &self.gateway.config;
        if self.link.queued() >= config.max_session_queue_bytes + ANSWER_ROOM {
            return false;
        }
        if let Wire::V2(session) = &self.wire {
            // What waits for upstreams is bounded by the credit, and no stream holds up another.
            return !session.is_overdrawn();
        }
        self.relays.pending < config.max_session_queue_bytes
            && self.relays.full == 0
            && self.delivering.bytes() < config.max_session_queue_bytes
            && self.delivering.streams() < config.max_streams_per_session.saturating_mul(2)
    }

    fn handle_message(&mut self, kind: Kind, now: Instant) -> Result<(), SessionEnd> {
        match (&self.wire, kind) {
            (Wire::V2(_), Kind::Binary) => {
                self.work.spend(Work::MESSAGE);
                self.handle_frames(0, now)
            }
            (Wire::V2(_), Kind::Text) => Err(self.break_off(v2::Violation::Text)),
            (Wire::Json(_), _) => {
                let mut scratch = SCRATCH.take();
                let result = self.handle_json(kind, &mut scratch, now);
                SCRATCH.set(scratch);
                result
            }
        }
    }

    fn handle_json(
        &mut self,
        kind: Kind,
        scratch: &mut Vec<u8>,
        now: Instant,
    ) -> Result<(), SessionEnd> {
        let (message, mut out) = self.link.message();
        let Wire::Json(session) = &mut self.wire else { return Ok(()) };
        self.work.spend(Work::MESSAGE + message.len());
        let input = match kind {
            Kind::Text => session.handle_text(now, message, scratch, &mut out),
            Kind::Binary => session.handle_binary(now, &mut out),
        };
        match input {
            Input::Nothing | Input::Hello(_) => Ok(()),
            Input::Data { stream, data } => {
                let len = data.len();
                self.work.spend(Work::CALL + len);
                self.count_in(len);
                let way = ToClient {
                    bounds: self.bounds(),
                    relays: &mut self.relays,
                    wire: &mut self.wire,
                    out: self.link.outbox(),
                };
                // The payload is at the front of the scratch buffer; taken from there it does not
                // keep the session borrowed, in which an echo writes.
                let data = &scratch[..len];
                let moved = way.with_relay(stream, len, now, |r, s| r.handle_data(data, now, s));
                if let Some(((), moved)) = moved {
                    self.account(moved, now);
                }
                Ok(())
            }
            Input::Open { stream, target } => {
                self.work.spend(Work::OPEN);
                let target = target.map(Cow::into_owned);
                self.open_stream(stream, target.as_deref(), now)
            }
            Input::Close { stream } => {
                self.work.spend(Work::CALL);
                self.close_stream(stream, true);
                Ok(())
            }
            Input::Refused { code, refusal } => {
                self.note_refusal(code, refusal);
                Ok(())
            }
            Input::Fatal(cause) => Err(self.end_of_flood(cause)),
        }
    }

    fn count_in(&mut self, bytes: usize) {
        self.traffic.bytes_in += bytes as u64;
        self.gateway.metrics.bytes_in.inc_by(bytes as u64);
    }

    fn note_refusal(&mut self, code: ErrorCode, refusal: Option<StreamRefusal>) {
        match refusal {
            Some(StreamRefusal::Limit) => self.gateway.metrics.limit_hit(Limit::Streams),
            Some(StreamRefusal::OpenRate) => self.gateway.metrics.limit_hit(Limit::StreamOpens),
            Some(StreamRefusal::IdTooLong) => self.gateway.metrics.limit_hit(Limit::StreamId),
            Some(StreamRefusal::Duplicate | StreamRefusal::Unknown) | None => {}
        }
        self.count_error(code, refusal);
    }

    /// Counts and logs an error that was sent to the client.
    fn count_error(&mut self, code: ErrorCode, refusal: Option<StreamRefusal>) {
        self.gateway.metrics.client_error(ClientErrorCode::from(code));
        self.log_error(code, None, refusal.map(StreamRefusal::as_str));
    }

    fn end_of_flood(&self, cause: CloseCause) -> SessionEnd {
        debug_assert_eq!(cause, CloseCause::ErrorFlood, "the hello is long over");
        self.gateway.metrics.limit_hit(Limit::Errors);
        SessionEnd::ErrorFlood
    }

    /// Logs an error that was sent to the client; no more than [`LOG_RATE`] a second, since the
    /// client decides how many there are. The metrics count them all.
    fn log_error(&mut self, code: ErrorCode, stream_id: Option<&str>, reason: Option<&str>) {
        let now = Instant::now();
        if !self.log_budget.try_take(now) || !self.place.device.may_log(now) {
            return;
        }
        let (device_id, session_id) = (&*self.device_id, &*self.session_id);
        if code == ErrorCode::StreamError {
            tracing::info!(device_id, session_id, stream_id, reason, "stream_error");
        } else {
            let code = code.as_str();
            tracing::info!(device_id, session_id, code, stream_id, reason, "frame_error");
        }
    }

    /// Pending until the next deadline; ready when one was handled and there may be more to do.
    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<(), SessionEnd>> {
        if self.sweep_at.is_some_and(|at| at <= now) {
            return Poll::Ready(self.sweep(now));
        }
        if !self.may_read() {
            self.link.hold_keepalive(now);
        }
        let link_at = self.link.poll_timeout();
        if link_at.is_some_and(|at| at <= now) {
            return match self.link.handle_timeout(now) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(error) => Poll::Ready(Err(self.end_of_link(&error))),
            };
        }
        let next = match (link_at, self.sweep_at) {
            (Some(a), Some(b)) => a.min(b),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => return Poll::Pending,
        };
        // A timer that fires early is cheap, moving one on every message is not: it is moved only
        // when it would fire too late or has fired.
        if next < self.timer_at || self.timer_at <= now {
            self.timer.as_mut().reset(next.into());
            self.timer_at = next;
        }
        self.timer.as_mut().poll(cx).map(|()| {
            self.timer_at = now;
            Ok(())
        })
    }

    fn end_of_link(&self, error: &LinkError) -> SessionEnd {
        let end = match error {
            LinkError::KeepAlive => SessionEnd::KeepAlive,
            LinkError::WriteTimeout => SessionEnd::WriteTimeout,
            LinkError::MessageTimeout => SessionEnd::MessageTimeout,
            LinkError::WebSocket(ws::Error::Io(error)) if is_tls(error) => SessionEnd::TlsError,
            LinkError::WebSocket(ws::Error::Disconnected | ws::Error::Io(_)) => {
                SessionEnd::Disconnected
            }
            LinkError::WebSocket(ws::Error::Protocol { violation, .. }) => match violation {
                Violation::MessageTooBig => SessionEnd::MessageTooBig,
                Violation::TooManyFragments => {
                    self.gateway.metrics.limit_hit(Limit::Fragments);
                    SessionEnd::ProtocolError
                }
                _ => SessionEnd::ProtocolError,
            },
        };
        match end {
            SessionEnd::KeepAlive => self.gateway.metrics.limit_hit(Limit::KeepAlive),
            SessionEnd::WriteTimeout => self.gateway.metrics.limit_hit(Limit::Write),
            SessionEnd::MessageTimeout => self.gateway.metrics.limit_hit(Limit::MessageTimeout),
            SessionEnd::MessageTooBig => self.gateway.metrics.limit_hit(Limit::Message),
            _ => {}
        }
        end
    }
}

/// The TLS layer reports a peer that breaks TLS as invalid data.
fn is_tls(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::InvalidData
}
