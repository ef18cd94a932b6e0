//! The state of a connection, shared by its driver and its owners.

use crate::carrier::Carrier;
use crate::connection::{ConnectionEnd, OpenError, Settings};
use crate::link::LinkError;
use crate::ready::Ready;
use crate::silence::{Finding, Silence};
use crate::stream::{StreamFailure, plain};
use crate::table::{Progress, Table};
use crate::turns::Turns;
use crate::wire::{NotOpened, Wire};
use crate::work::{CLIENT_TURN, Work};
use httvps_proto::v2::{Kind as StreamKind, Violation};
use httvps_proto::{ClientInput, ClientSession, Limits, StreamEnd, StreamKey};
use httvps_transport::give_way;
use httvps_transport::ws::{Event, Kind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

/// Messages that are taken while the connection closes before the other tasks of the runtime get their turn.
const RECV_BUDGET: u32 = 32;

/// What small frames may add to the queue while the gateway takes nothing. From there on nothing
/// more is read that may want an answer, and no stream is opened.
const ANSWER_ROOM: usize = 256 * 1024;

/// The connection. Only the driver polls the carrier, so no task replaces the waker of another.
pub(crate) struct State {
    /// None when the connection is over.
    pub(crate) carrier: Option<Box<dyn Carrier>>,
    pub(crate) wire: Wire,
    scratch: Vec<u8>,
    pub(crate) table: Table,
    pub(crate) settings: Settings,
    phase: Phase,
    /// Whether the gateway answers while the connection is being used.
    pub(crate) silence: Silence,
    pub(crate) is_draining: bool,
    /// No handle is left that could open streams: the last one to end closes the connection.
    is_abandoned: bool,
    /// An `open` was refused for want of room in the queue.
    has_refused_open: bool,
    /// The position to continue from in the message that the carrier holds, after a turn ended inside it.
    pub(crate) unread: Option<usize>,
    /// The last `error` of the gateway about the session.
    pub(crate) last_error: Option<Box<str>>,
    /// Which of the local connections that the driver carries have woken up.
    pub(crate) ready: Arc<Ready>,
    /// Those of them that have something to do.
    pub(crate) turns: Turns,
    /// Those of them that wait for room in the queue or for credit of the session.
    pub(crate) held_up: Turns,
    /// When the readers that hold up the connection lose their streams.
    stalled_at: Option<Instant>,
    pub(crate) driver: Option<Waker>,
    pub(crate) effects: Effects,
}

/// What [`Shared::with`] has to do once the lock is given back.
#[derive(Default)]
pub(crate) struct Effects {
    /// The driver is to be woken.
    pub(crate) has_work: bool,
    /// Streams to be woken.
    pub(crate) wakes: Vec<Waker>,
    /// The watchers of the connection are to be notified.
    pub(crate) has_changed: bool,
}

/// `Open → Closing → Over`; the end is known from `Closing` on.
enum Phase {
    Open,
    /// A Close frame was sent or received.
    Closing {
        end: Arc<ConnectionEnd>,
        until: Instant,
        has_peer_closed: bool,
    },
    Over(Arc<ConnectionEnd>),
}

/// What the driver does next.
pub(crate) enum Step {
    Over,
    Again,
    Wait(Option<Instant>),
}

impl State {
    pub(crate) fn new(
        carrier: Box<dyn Carrier>,
        session: ClientSession,
        settings: Settings,
        now: Instant,
    ) -> Self {
        let windows = (settings.max_stream_window, settings.max_session_window);
        let wire = Wire::new(session, windows, now);
        let (max_stream, max_session) = match wire {
            Wire::Json(_) => (settings.max_stream_buffered, settings.max_session_buffered),
            // The windows are the bound, and no stream holds up the connection.
            Wire::V2(_) => (usize::MAX, usize::MAX),
        };
        Self {
            carrier: Some(carrier),
            wire,
            scratch: Vec::new(),
            table: Table::new(max_stream, max_session),
            silence: Silence::new(settings.probe_after, settings.probe_timeout, now),
            settings,
            phase: Phase::Open,
            is_draining: false,
            is_abandoned: false,
            has_refused_open: false,
            unread: None,
            last_error: None,
            ready: Arc::default(),
            turns: Turns::default(),
            held_up: Turns::default(),
            stalled_at: None,
            driver: None,
            effects: Effects::default(),
        }
    }

    pub(crate) fn end(&self) -> Option<Arc<ConnectionEnd>> {
        match &self.phase {
            Phase::Open => None,
            Phase::Closing { end, .. } | Phase::Over(end) => Some(end.clone()),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Reserves a place and sends the `stream_open`.
    pub(crate) fn open(
        &mut self,
        kind: StreamKind,
        target: &str,
        now: Instant,
    ) -> Result<usize, OpenError> {
        if let Some(end) = self.end() {
            return Err(OpenError::Closed(end));
        }
        if self.is_draining {
            return Err(OpenError::Draining);
        }
        if self.silence.is_silent() {
            return Err(OpenError::Silent);
        }
        if target.len() > Limits::MAX_TARGET {
            return Err(OpenError::TargetTooLong);
        }
        let carrier = self.carrier.as_mut().expect("a connection that is not over has a carrier");
        // Above what writers may fill, so that they cannot keep it out.
        if carrier.queued() > self.settings.max_queued + ANSWER_ROOM {
            self.has_refused_open = true;
            return Err(OpenError::NoPlace);
        }
        let opened = self.wire.open(kind, target, now, &mut carrier.outbox());
        let key = opened.map_err(|error| match error {
            NotOpened::NoPlace => OpenError::NoPlace,
            NotOpened::Draining => OpenError::Draining,
            NotOpened::NoDatagrams => OpenError::NoDatagrams,
        })?;
        let has_ack = self.wire.has_open_ack();
        let progress = if has_ack { Progress::Opening } else { Progress::Open };
        self.silence.used();
        self.effects.has_work = true;
        let id = self.table.insert(key, progress);
        if kind == StreamKind::Datagrams {
            // A dropped stream of datagrams leaves nothing that its target would wait for.
            self.table.slot(id).is_broken_off = true;
        }
        Ok(id)
    }

    /// No further stream will be opened.
    pub(crate) fn abandon(&mut self) {
        self.is_abandoned = true;
        self.effects.has_work = true;
    }

    /// Begins to close; streams that are open fail.
    pub(crate) fn close(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Open) {
            if let Some(carrier) = &mut self.carrier {
                carrier.queue_close(1000, "");
            }
            self.begin_closing(ConnectionEnd::Local, false, now);
            self.effects.has_work = true;
        }
    }

    /// One round of the driver.
    pub(crate) fn step(&mut self, cx: &mut Context<'_>, now: Instant) -> Step {
        self.driver = Some(cx.waker().clone());
        // Before anything is looked at, so that no wake-up falls between.
        self.ready.register(cx.waker());
        if matches!(self.phase, Phase::Open) {
            match self.step_open(cx, now) {
                Ok(true) => return Step::Again,
                Ok(false) => {}
                Err(error) => self.finish(error.into()),
            }
        }
        if self.is_abandoned && self.table.is_empty() {
            self.close(now);
        }
        match self.phase {
            Phase::Open => match self.carrier.as_ref().map(|carrier| carrier.poll_timeout()) {
                Some(due) => {
                    let due = earlier(due, self.silence.poll_timeout());
                    Step::Wait(earlier(due, self.stalled_at))
                }
                None => Step::Over,
            },
            Phase::Closing { until, .. } if now < until => match self.poll_closing(cx, now) {
                Poll::Ready(()) => self.over(),
                Poll::Pending => Step::Wait(Some(until)),
            },
            Phase::Closing { .. } | Phase::Over(_) => self.over(),
        }
    }

    /// Receives, keeps the times, sends. True when there may be more to receive at once.
    fn step_open(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, LinkError> {
        if self.table.has_room() {
            self.stalled_at = None;
        }
        self.end_stalled(now);
        let mut work = Work::of_turn(CLIENT_TURN);
        if let Some(carrier) = &mut self.carrier {
            carrier.begin_turn(CLIENT_TURN);
        }
        while !work.is_spent() && self.may_read() && matches!(self.phase, Phase::Open) {
            if let Some(at) = self.unread {
                self.handle_frames(at, &mut work, now);
                continue;
            }
            let Some(carrier) = &mut self.carrier else { break };
            match carrier.poll_recv(cx, now)? {
                Poll::Ready(event) => self.handle_event(event, &mut work, now),
                Poll::Pending => break,
            }
        }
        self.stalled_at = match self.stalled_at {
            _ if self.table.has_room() => None,
            None => Some(now + self.settings.stall_timeout),
            since => since,
        };
        self.measure(now);
        self.readmit();
        let mut has_turns = self.take_turns(cx, now)?;
        let Some(carrier) = self.carrier.as_mut().filter(|_| matches!(self.phase, Phase::Open))
        else {
            return Ok(false);
        };
        // Pending or not: the carrier has this task's waker, and the queue tells how far it got.
        // Sent before the deadlines are looked at, so that a machine that slept gets its chance.
        let _ = carrier.poll_flush(cx, now)?;
        let queued = carrier.queued();
        carrier.handle_timeout(now)?;
        match self.silence.step(now, carrier.signs_of_life(), self.table.has_room()) {
            Finding::Nothing => {}
            Finding::Ask => carrier.queue_ping(),
            Finding::Silent => {
                self.table.wake_undecided(&mut self.effects.wakes);
                self.effects.has_changed = true;
            }
            Finding::Heard => self.effects.has_changed = true,
        }
        if carrier.queued() > queued {
            let _ = carrier.poll_flush(cx, now)?;
        }
        if carrier.queued() <= self.settings.max_queued / 2 {
            self.table.wake_writers(&mut self.effects.wakes);
            self.effects.has_changed |= std::mem::take(&mut self.has_refused_open);
            self.send_leaving();
            has_turns |= self.readmit();
        }
        if work.is_spent() {
            give_way(cx);
        }
        Ok(has_turns)
    }

    fn may_read(&self) -> bool {
        let queued = self.carrier.as_ref().map_or(0, |carrier| carrier.queued());
        self.table.has_room() && queued <= self.max_queued()
    }

    /// Bytes queued for the gateway from which on it is not read any further.
    pub(crate) fn max_queued(&self) -> usize {
        self.settings.max_queued + ANSWER_ROOM
    }

    /// Takes the streams from readers that have held up the connection for too long.
    fn end_stalled(&mut self, now: Instant) {
        if self.table.has_room() || self.stalled_at.is_none_or(|at| now < at) {
            return;
        }
        let mut keys: Vec<StreamKey> = Vec::new();
        self.table.end_stalled(&mut keys, &mut self.effects.wakes);
        if let Some(carrier) = &mut self.carrier {
            for key in keys {
                self.wire.close(key, &mut carrier.outbox());
            }
        }
        self.effects.has_changed = true;
    }

    fn handle_event(&mut self, event: Event, work: &mut Work, now: Instant) {
        work.spend(Work::MESSAGE);
        match event {
            Event::Message(kind) => match (kind, &self.wire) {
                (Kind::Text, Wire::Json(_)) => self.handle_text(work),
                (Kind::Binary, Wire::Json(_)) => {}
                (Kind::Text, Wire::V2(_)) => self.break_off(Violation::Text, now),
                (Kind::Binary, Wire::V2(_)) => self.handle_frames(0, work, now),
            },
            Event::Close { code } => {
                let end = ConnectionEnd::Gateway { code, words: self.last_error.take() };
                self.begin_closing(end, true, now);
            }
            _ => {}
        }
    }

    fn handle_text(&mut self, work: &mut Work) {
        let Some(carrier) = &mut self.carrier else { return };
        let (message, mut out) = carrier.message();
        work.spend(Work::CALL + message.len());
        let table = &mut self.table;
        let Wire::Json(session) = &mut self.wire else { return };
        match session.handle_text(message, &mut self.scratch, &mut out) {
            ClientInput::Data { stream, data } => table.push(stream, data, &mut self.effects.wakes),
            ClientInput::Opened(stream) => table.opened(stream, &mut self.effects.wakes),
            ClientInput::Ended { stream, end: Some(StreamEnd::Eof), .. } => {
                table.end(stream, Progress::Eof, &mut self.effects.wakes);
                self.effects.has_changed = true;
            }
            ClientInput::Ended { stream, end, words } => {
                let words = match end {
                    Some(end) => end.words(),
                    None if words.is_empty() => "the gateway ended the stream",
                    None => &words,
                };
                table.end(
                    stream,
                    Progress::Failed(StreamFailure::new(end, words)),
                    &mut self.effects.wakes,
                );
                self.effects.has_changed = true;
            }
            ClientInput::NoPlace(stream) => {
                table.end(stream, Progress::NoPlace, &mut self.effects.wakes);
                self.effects.has_changed = true;
            }
            ClientInput::GoAway => {
                self.is_draining = true;
                self.effects.has_changed = true;
            }
            ClientInput::Error { words, .. } => self.last_error = Some(plain(&words)),
            ClientInput::Nothing | ClientInput::Authenticated(_) => {}
        }
    }

    pub(crate) fn begin_closing(
        &mut self,
        end: ConnectionEnd,
        has_peer_closed: bool,
        now: Instant,
    ) {
        self.table.fail_all(&StreamFailure::of_connection(&end), &mut self.effects.wakes);
        let until = now + self.settings.close_timeout;
        self.phase = Phase::Closing { end: Arc::new(end), until, has_peer_closed };
        self.effects.has_changed = true;
    }

    /// Sends what is queued and waits for the peer's close frame; errors end it as well.
    fn poll_closing(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let (Some(carrier), Phase::Closing { has_peer_closed, .. }) =
            (&mut self.carrier, &mut self.phase)
        else {
            return Poll::Ready(());
        };
        if matches!(carrier.poll_flush(cx, now), Poll::Ready(Err(_))) {
            return Poll::Ready(());
        }
        for _ in 0..RECV_BUDGET {
            if *has_peer_closed {
                return carrier.poll_shutdown(cx).map(|_| ());
            }
            match ready!(carrier.poll_recv(cx, now)) {
                Ok(Event::Close { .. }) => *has_peer_closed = true,
                Ok(_) => {}
                Err(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends the connection without a Close frame, since the peer cannot be reached.
    pub(crate) fn finish(&mut self, end: ConnectionEnd) {
        self.table.fail_all(&StreamFailure::of_connection(&end), &mut self.effects.wakes);
        self.phase = Phase::Over(Arc::new(end));
        self.effects.has_changed = true;
    }

    /// Closes the connection.
    pub(crate) fn over(&mut self) -> Step {
        self.carrier = None;
        self.scratch = Vec::new();
        self.driver = None;
        if let Some(end) = self.end() {
            self.phase = Phase::Over(end);
            self.effects.has_changed = true;
        }
        Step::Over
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
