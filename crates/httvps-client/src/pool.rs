//! The sessions of a client: who gets a place, and who has to wait for one.

use crate::datagrams::{Datagrams, FlowPlaces};
use crate::{ConnectError, OpenError, Session, Timing};
use httvps_mux::{Connection, OpenError as Refusal, Stream};
use httvps_proto::Target;
use httvps_proto::v2::Kind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Streams that may wait for a place; more are told at once that there is none.
const MAX_WAITING: usize = 1024;

/// A session that said it has no place is left alone for so long.
const COOL_DOWN: Duration = Duration::from_millis(250);

/// Opens in a row that a session refuses although it has announced places, before it is taken for
/// full and another session is opened beside it.
const MAX_REFUSALS: u32 = 4;

/// A UDP flow that has been quiet for so long gives its place to a stream that finds none.
const QUIET: Duration = Duration::from_secs(2);

/// What the streams and the keeper share.
pub(crate) struct Pool {
    pub(crate) max_sessions: usize,
    pub(crate) timing: Timing,
    /// Told by every session of its changes, by those who begin to wait, and by the keeper.
    pub(crate) changes: watch::Sender<()>,
    state: Mutex<State>,
    waiting: AtomicUsize,
    /// Whose turn it is to take the next place. tokio's mutex is fair, so the turns go round in
    /// the order of arrival, and one who gives up gives his turn on.
    turn: tokio::sync::Mutex<()>,
    /// The places that hold datagrams.
    pub(crate) flows: Arc<FlowPlaces>,
    pub(crate) closing: CancellationToken,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) members: Vec<Member>,
    /// The last failed attempt; None while a session is up.
    pub(crate) problem: Option<Arc<ConnectError>>,
    /// A further session has failed: none is opened before.
    pub(crate) grow_after: Option<Instant>,
}

pub(crate) struct Member {
    pub(crate) session: Arc<Session>,
    pub(crate) since: Instant,
    pub(crate) idle_since: Option<Instant>,
    /// No new streams before.
    cool_until: Option<Instant>,
    /// Opens in a row that the gateway had no place for.
    refusals: u32,
    /// Takes no new streams: it drains, or was idle for too long.
    pub(crate) is_retired: bool,
    /// Was silent when the keeper last looked.
    pub(crate) was_silent: bool,
}

impl Member {
    pub(crate) fn new(session: Session, now: Instant) -> Self {
        Self {
            session: Arc::new(session),
            since: now,
            idle_since: None,
            cool_until: None,
            refusals: 0,
            is_retired: false,
            was_silent: false,
        }
    }

    /// Whether it takes new streams.
    fn is_live(&self) -> bool {
        let connection = self.session.connection();
        !self.is_retired
            && !connection.is_draining()
            && !connection.is_silent()
            && connection.end().is_none()
    }

    /// Places that the gateway has announced and that are not taken. A session whose opens are
    /// refused has none, unless it carries nothing: then another one would hardly fare better.
    fn vacant(&self) -> usize {
        let connection = self.session.connection();
        let count = connection.stream_count();
        if self.refusals >= MAX_REFUSALS && count > 0 {
            return 0;
        }
        connection.max_streams().saturating_sub(count)
    }

    fn is_cooling(&self, now: Instant) -> bool {
        self.cool_until.is_some_and(|until| now < until)
    }
}

impl State {
    fn usable(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_live())
    }

    /// Sessions that take new streams.
    pub(crate) fn live(&self) -> usize {
        self.usable().count()
    }

    /// Places that are free, over all sessions.
    pub(crate) fn vacant(&self) -> usize {
        self.usable().map(Member::vacant).fold(0, usize::saturating_add)
    }

    /// Places of a session; 0 where the gateway allows none.
    pub(crate) fn each(&self) -> usize {
        self.usable().map(|m| m.session.connection().max_streams()).max().unwrap_or(0)
    }

    /// Whether no place is free and no further session can be had now.
    pub(crate) fn is_stuck(&self, max_sessions: usize, now: Instant) -> bool {
        let live = self.live();
        live > 0 && self.vacant() == 0 && !self.may_grow(live, max_sessions, now)
    }

    fn may_grow(&self, live: usize, max_sessions: usize, now: Instant) -> bool {
        live < max_sessions && self.grow_after.is_none_or(|at| now >= at)
    }

    /// Places that datagrams may take: half of those that can be had.
    fn share(&self, max_sessions: usize, now: Instant) -> usize {
        let live = self.live();
        let sessions = if self.may_grow(live, max_sessions, now) { max_sessions } else { live };
        (sessions.saturating_mul(self.each()) / 2).max(1)
    }
}

impl Pool {
    pub(crate) fn new(max_sessions: usize, timing: Timing) -> Self {
        Self {
            max_sessions: max_sessions.max(1),
            timing,
            changes: watch::Sender::default(),
            state: Mutex::default(),
            waiting: AtomicUsize::new(0),
            turn: tokio::sync::Mutex::new(()),
            flows: Arc::new(FlowPlaces::new()),
            closing: CancellationToken::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self) {
        self.closing.cancel();
        self.changes.send_replace(());
    }

    /// Waits until it is closed.
    pub(crate) async fn ended(&self) {
        self.closing.cancelled().await;
    }

    pub(crate) fn session_count(&self) -> usize {
        self.state().live()
    }

    pub(crate) async fn connected(&self) -> Result<(), OpenError> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if self.closing.is_cancelled() {
                return Err(OpenError::Closed);
            }
            if self.session_count() > 0 {
                return Ok(());
            }
            // The sender lives in `self`.
            let _ = changes.changed().await;
        }
    }

    pub(crate) async fn open(&self, target: &Target) -> Result<Stream, OpenError> {
        let text = target.to_string();
        let deadline = Instant::now() + self.timing.open_timeout;
        // What the last session that was asked is to be blamed for.
        let mut refused = None;
        loop {
            let take = |connection: &Connection| connection.begin(&text);
            let (session, opening) =
                match timeout_at(deadline, self.place(Kind::Bytes, &take)).await {
                    Ok(place) => place?,
                    Err(_) => return Err(self.why_no_place()),
                };
            match timeout_at(deadline, opening).await {
                Ok(Ok(stream)) => {
                    self.opened(&session);
                    return Ok(stream);
                }
                Ok(Err(Refusal::NoPlace)) => {
                    self.cool(&session);
                    refused = Some(OpenError::NoPlace);
                }
                // Nothing was sent to the target yet, so another session may try.
                Ok(Err(Refusal::Silent)) => refused = Some(OpenError::Silent),
                Ok(Err(Refusal::Draining | Refusal::Closed(_))) => {}
                Ok(Err(refusal)) => return Err(final_error(refusal)),
                Err(_) => return Err(refused.unwrap_or(OpenError::TimedOut)),
            }
        }
    }

    /// Takes a place for datagrams; whether the gateway opens them is not waited for.
    pub(crate) async fn open_datagrams(&self, target: &Target) -> Result<Datagrams, OpenError> {
        let text = target.to_string();
        let deadline = Instant::now() + self.timing.open_timeout;
        let take = |connection: &Connection| {
            connection.begin_datagrams(&text).map(|flow| self.flows.enter(flow))
        };
        match timeout_at(deadline, self.place(Kind::Datagrams, &take)).await {
            Ok(place) => Ok(place?.1),
            Err(_) => Err(self.why_no_place()),
        }
    }

    fn why_no_place(&self) -> OpenError {
        let state = self.state();
        if state.live() > 0 {
            OpenError::NoPlace
        } else if state.problem.is_none() && state.members.iter().any(|member| member.was_silent) {
            OpenError::Silent
        } else {
            OpenError::NoSession(state.problem.clone())
        }
    }

    /// Takes a place on some session, after those who came before.
    async fn place<T>(
        &self,
        kind: Kind,
        take: &(impl Fn(&Connection) -> Result<T, Refusal> + Sync),
    ) -> Result<(Arc<Session>, T), OpenError> {
        {
            let turn = self.turn.try_lock();
            if let Some(place) = self.try_place(kind, turn.is_ok(), take)? {
                return Ok(place);
            }
        }
        let _waiting = Waiting::begin(self)?;
        let _turn = self.turn.lock().await;
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(place) = self.try_place(kind, true, take)? {
                return Ok(place);
            }
            let now = Instant::now();
            // That a session may be asked again, or that a flow has become quiet, shows in nothing
            // but the time.
            let looks_again = self.flows.count() > 0
                || self.state().members.iter().any(|member| member.is_cooling(now));
            let patience = if looks_again { COOL_DOWN } else { self.timing.open_timeout };
            // A time-out and a change both mean: look again. The sender lives in `self`.
            let _ = tokio::time::timeout(patience, changes.changed()).await;
        }
    }

    /// Takes a place on the oldest session that has one, so that the others fall idle.
    ///
    /// Datagrams beyond their share take the place of the quietest flow, and so does everything
    /// when no place is free and none can be had; that needs no turn for datagrams, which leave
    /// those who wait as many places as before.
    fn try_place<T>(
        &self,
        kind: Kind,
        has_turn: bool,
        take: &impl Fn(&Connection) -> Result<T, Refusal>,
    ) -> Result<Option<(Arc<Session>, T)>, OpenError> {
        if self.closing.is_cancelled() {
            return Err(OpenError::Closed);
        }
        let now = Instant::now();
        let mut state = self.state();
        let live = state.live();
        if live == 0 && state.problem.as_ref().is_some_and(|error| error.is_lasting()) {
            return Err(OpenError::NoSession(state.problem.clone()));
        }
        if live > 0 && state.each() == 0 {
            return Err(OpenError::NoPlace);
        }
        let has_displaced = live > 0 && self.displace(&state, kind, has_turn, now);
        if !has_turn && !has_displaced {
            return Ok(None);
        }
        for member in &mut state.members {
            if !member.is_live() || member.is_cooling(now) {
                continue;
            }
            match take(member.session.connection()) {
                Ok(opening) => return Ok(Some((member.session.clone(), opening))),
                Err(
                    Refusal::NoPlace | Refusal::Draining | Refusal::Silent | Refusal::Closed(_),
                ) => {}
                Err(refusal) => return Err(final_error(refusal)),
            }
        }
        Ok(None)
    }

    /// Makes a flow of datagrams give its place back if this newcomer may have it.
    fn displace(&self, state: &State, kind: Kind, has_turn: bool, now: Instant) -> bool {
        let flows = self.flows.count();
        if flows == 0 {
            return false;
        }
        let share = state.share(self.max_sessions, now);
        let is_stuck = state.is_stuck(self.max_sessions, now);
        match kind {
            Kind::Datagrams => (flows >= share || is_stuck) && self.flows.displace(Duration::ZERO),
            Kind::Bytes => {
                let quiet = if flows > share { Duration::ZERO } else { QUIET };
                has_turn && is_stuck && self.flows.displace(quiet)
            }
        }
    }

    fn opened(&self, session: &Arc<Session>) {
        for member in &mut self.state().members {
            if Arc::ptr_eq(&member.session, session) {
                member.refusals = 0;
            }
        }
    }

    /// Leaves a session alone that has just said it has no place.
    fn cool(&self, session: &Arc<Session>) {
        let until = Instant::now() + COOL_DOWN;
        for member in &mut self.state().members {
            if Arc::ptr_eq(&member.session, session) {
                // Those that were refused together count once.
                member.refusals += u32::from(!member.is_cooling(Instant::now()));
                member.cool_until = Some(until);
            }
        }
    }
}

fn final_error(refusal: Refusal) -> OpenError {
    match refusal {
        Refusal::Failed(failure) => OpenError::Failed(failure),
        Refusal::Closed(end) => OpenError::Ended(end),
        Refusal::TargetTooLong => OpenError::BadTarget(httvps_proto::TargetError::TooLong),
        Refusal::NoDatagrams => OpenError::NoDatagrams,
        Refusal::Silent => OpenError::Silent,
        Refusal::NoPlace | Refusal::Draining => OpenError::NoPlace,
    }
}

/// Counts one who waits, for as long as it lives.
struct Waiting<'a>(&'a Pool);

impl<'a> Waiting<'a> {
    fn begin(pool: &'a Pool) -> Result<Self, OpenError> {
        let waiting = Self(pool);
        if pool.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            return Err(OpenError::NoPlace);
        }
        pool.changes.send_replace(());
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
