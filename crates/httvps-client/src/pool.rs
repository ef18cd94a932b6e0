//! The sessions of a client: who gets a place, when another one is opened, which one goes.

use crate::backoff::{Backoff, random};
use crate::client::{Dial, Event, Report};
use crate::{ConnectError, OpenError, Session, Timing};
use httvps_mux::{Connection, Datagrams, OpenError as Refusal, Stream};
use httvps_proto::Target;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

/// Streams that may wait for a place; more are told at once that there is none.
const MAX_WAITING: usize = 1024;

/// A session that said it has no place is left alone for so long.
const COOL_DOWN: Duration = Duration::from_millis(250);

/// A drained session that lived shorter is replaced after a back-off, or a gateway that drains
/// for long would be asked again and again.
const MIN_LIFE_BEFORE_DRAIN: Duration = Duration::from_secs(10);

/// What the streams and the keeper share.
pub(crate) struct Pool {
    max_sessions: usize,
    timing: Timing,
    /// Told by every session of its changes, by those who begin to wait, and by the keeper.
    changes: watch::Sender<()>,
    state: Mutex<State>,
    waiting: AtomicUsize,
    /// Whose turn it is to take the next place. tokio's mutex is fair, so the turns go round in
    /// the order of arrival, and one who gives up gives his turn on.
    turn: tokio::sync::Mutex<()>,
    closing: CancellationToken,
}

#[derive(Default)]
struct State {
    members: Vec<Member>,
    /// The last failed attempt; None while a session is up.
    problem: Option<Arc<ConnectError>>,
}

struct Member {
    session: Arc<Session>,
    since: Instant,
    idle_since: Option<Instant>,
    /// No new streams before.
    cool_until: Option<Instant>,
    /// Takes no new streams: it drains, or was idle for too long.
    is_retired: bool,
}

impl Member {
    fn is_live(&self) -> bool {
        !self.is_retired && !self.session.connection().is_draining() && !self.is_over()
    }

    fn is_over(&self) -> bool {
        self.session.connection().end().is_some()
    }

    fn free(&self, now: Instant) -> usize {
        if !self.is_live() || self.cool_until.is_some_and(|until| now < until) {
            return 0;
        }
        let connection = self.session.connection();
        connection.max_streams().saturating_sub(connection.stream_count())
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
            closing: CancellationToken::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        loop {
            let take = |connection: &Connection| connection.begin(&text);
            let (session, opening) = match timeout_at(deadline, self.place(&take)).await {
                Ok(place) => place?,
                Err(_) => return Err(self.why_no_place()),
            };
            match timeout_at(deadline, opening).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(Refusal::NoPlace)) => self.cool(&session),
                // Nothing was sent to the target yet, so another session may try.
                Ok(Err(Refusal::Draining | Refusal::Closed(_))) => {}
                Ok(Err(refusal)) => return Err(final_error(refusal)),
                Err(_) => return Err(OpenError::TimedOut),
            }
        }
    }

    /// Takes a place for datagrams; whether the gateway opens them is not waited for.
    pub(crate) async fn open_datagrams(&self, target: &Target) -> Result<Datagrams, OpenError> {
        let text = target.to_string();
        let deadline = Instant::now() + self.timing.open_timeout;
        let take = |connection: &Connection| connection.begin_datagrams(&text);
        match timeout_at(deadline, self.place(&take)).await {
            Ok(place) => Ok(place?.1),
            Err(_) => Err(self.why_no_place()),
        }
    }

    fn why_no_place(&self) -> OpenError {
        let state = self.state();
        if state.live() > 0 {
            OpenError::NoPlace
        } else {
            OpenError::NoSession(state.problem.clone())
        }
    }

    /// Takes a place on some session, after those who came before.
    async fn place<T>(
        &self,
        take: &(impl Fn(&Connection) -> Result<T, Refusal> + Sync),
    ) -> Result<(Arc<Session>, T), OpenError> {
        if let Ok(_turn) = self.turn.try_lock()
            && let Some(place) = self.try_place(take)?
        {
            return Ok(place);
        }
        let _waiting = Waiting::begin(self)?;
        let _turn = self.turn.lock().await;
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(place) = self.try_place(take)? {
                return Ok(place);
            }
            let now = Instant::now();
            let is_cooling =
                self.state().members.iter().any(|m| m.cool_until.is_some_and(|until| now < until));
            let patience = if is_cooling { COOL_DOWN } else { self.timing.open_timeout };
            // A time-out and a change both mean: look again. The sender lives in `self`.
            let _ = tokio::time::timeout(patience, changes.changed()).await;
        }
    }

    /// Takes a place on the oldest session that has one, so that the others fall idle.
    fn try_place<T>(
        &self,
        take: &impl Fn(&Connection) -> Result<T, Refusal>,
    ) -> Result<Option<(Arc<Session>, T)>, OpenError> {
        if self.closing.is_cancelled() {
            return Err(OpenError::Closed);
        }
        let now = Instant::now();
        let mut state = self.state();
        if state.live() == 0 && state.problem.as_ref().is_some_and(|error| error.is_lasting()) {
            return Err(OpenError::NoSession(state.problem.clone()));
        }
        for member in &mut state.members {
            if member.free(now) == 0 {
                continue;
            }
            match take(member.session.connection()) {
                Ok(opening) => return Ok(Some((member.session.clone(), opening))),
                Err(Refusal::NoPlace | Refusal::Draining | Refusal::Closed(_)) => {}
                Err(refusal) => return Err(final_error(refusal)),
            }
        }
        Ok(None)
    }

    /// Leaves a session alone that has just said it has no place.
    fn cool(&self, session: &Arc<Session>) {
        let until = Instant::now() + COOL_DOWN;
        for member in &mut self.state().members {
            if Arc::ptr_eq(&member.session, session) {
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

impl State {
    fn live(&self) -> usize {
        self.members.iter().filter(|member| member.is_live()).count()
    }
}

/// The task that keeps the pool: connects, reports, retires.
pub(crate) struct Keeper {
    pool: Arc<Pool>,
    dial: Dial,
    report: Report,
    backoff: Backoff,
    next_attempt: Instant,
    attempts: JoinSet<Result<Session, ConnectError>>,
}

impl Keeper {
    pub(crate) fn new(pool: Arc<Pool>, dial: Dial, report: Report) -> Self {
        Self {
            pool,
            dial,
            report,
            backoff: Backoff::default(),
            next_attempt: Instant::now(),
            attempts: JoinSet::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        let pool = self.pool.clone();
        let mut changes = pool.changes.subscribe();
        while !pool.closing.is_cancelled() {
            changes.mark_unchanged();
            let now = Instant::now();
            let due = self.tidy(now);
            let wanted = self.wanted(now);
            let due = if wanted > 0 { due.min(self.next_attempt) } else { due };
            if now >= self.next_attempt {
                for _ in 0..wanted {
                    self.attempts.spawn((self.dial)(pool.changes.clone()));
                }
            }
            tokio::select! {
                // Ready at every change; the sender lives in the pool.
                _ = changes.changed() => {}
                Some(result) = self.attempts.join_next() => match result {
                    Ok(Ok(session)) => self.welcome(session),
                    Ok(Err(error)) => self.failed(error),
                    // It has panicked. Without a pause the next one would at once.
                    Err(_) => self.failed(ConnectError::Closed("an attempt to connect panicked".into())),
                },
                () = sleep_until(due), if now < due => {}
            }
        }
        self.close().await;
    }

    /// Sessions to open now: the first one, or as many as those who wait would fill.
    fn wanted(&self, now: Instant) -> usize {
        let state = self.pool.state();
        let live = state.live();
        if live == 0 {
            return usize::from(self.attempts.is_empty());
        }
        let waiting = self.pool.waiting.load(Ordering::Relaxed);
        let free: usize = state.members.iter().map(|member| member.free(now)).sum();
        let live_members = state.members.iter().filter(|member| member.is_live());
        let each = live_members.map(|m| m.session.connection().max_streams()).max();
        let needed = waiting.saturating_sub(free).div_ceil(each.unwrap_or(1).max(1));
        let room = self.pool.max_sessions.saturating_sub(live);
        needed.min(room).saturating_sub(self.attempts.len())
    }

    /// Removes what is over and retires what is not needed; says when to look again.
    fn tidy(&mut self, now: Instant) -> Instant {
        let pool = self.pool.clone();
        let mut state = pool.state();
        let mut events = Vec::new();
        let members = std::mem::take(&mut state.members);
        for mut member in members {
            if let Some(end) = member.session.connection().end() {
                if !member.is_retired {
                    self.lost(now, member.since);
                    events.push(Event::Ended { end, sessions: 0 });
                }
                continue;
            }
            if member.session.connection().is_draining() && !member.is_retired {
                member.is_retired = true;
                self.drained(now, member.since);
                events.push(Event::Draining { sessions: 0 });
            }
            state.members.push(member);
        }
        let due = self.retire(&mut state, now);
        let sessions = state.live();
        drop(state);
        for mut event in events {
            if let Event::Ended { sessions: n, .. } | Event::Draining { sessions: n } = &mut event {
                *n = sessions;
            }
            (self.report)(&event);
        }
        due
    }

    fn lost(&mut self, now: Instant, since: Instant) {
        if now - since >= self.pool.timing.stable_after {
            // A delay that other attempts have earned does not concern this one.
            self.backoff.reset();
            let next = now + self.backoff.after_failure(random());
            self.next_attempt =
                if now < self.next_attempt { self.next_attempt.min(next) } else { next };
        } else {
            self.postpone(now, Backoff::after_failure);
        }
    }

    fn drained(&mut self, now: Instant, since: Instant) {
        if now - since >= MIN_LIFE_BEFORE_DRAIN {
            self.next_attempt = now;
        } else {
            self.postpone(now, Backoff::after_failure);
        }
    }

    /// Puts the next attempt off. What fails while it is put off already, fails together with
    /// what was the reason, and counts once.
    fn postpone(&mut self, now: Instant, delay: fn(&mut Backoff, u64) -> Duration) {
        if now >= self.next_attempt {
            self.next_attempt = now + delay(&mut self.backoff, random());
        }
    }

    /// Closes sessions that have nothing left to do; says when the next one may have to go.
    fn retire(&mut self, state: &mut State, now: Instant) -> Instant {
        let idle_timeout = self.pool.timing.idle_timeout;
        let mut due = now + Duration::from_hours(1);
        let mut is_first = true;
        for member in &mut state.members {
            let is_extra = !member.is_retired && !std::mem::take(&mut is_first);
            if member.session.connection().stream_count() > 0 || !(is_extra || member.is_retired) {
                member.idle_since = None;
                continue;
            }
            let idle_until = *member.idle_since.get_or_insert(now) + idle_timeout;
            if member.is_retired || now >= idle_until {
                member.is_retired = true;
                member.session.connection().close();
            } else {
                due = due.min(idle_until);
            }
        }
        // A gateway that drains again and again gets no more of them than of living ones. The
        // streams of the one that is let go here live on without us.
        let retired = state.members.iter().filter(|member| member.is_retired).count();
        if retired > self.pool.max_sessions
            && let Some(oldest) = state.members.iter().position(|member| member.is_retired)
        {
            state.members.remove(oldest);
        }
        due
    }

    fn welcome(&mut self, session: Session) {
        let connection = session.connection();
        let (session_id, peer) = (connection.session_id().to_owned(), session.peer());
        let max_streams = connection.max_streams();
        let subscription_status = connection.subscription_status().map(str::to_owned);
        let has_v2 = connection.has_v2();
        let mut state = self.pool.state();
        state.problem = None;
        state.members.push(Member {
            session: Arc::new(session),
            since: Instant::now(),
            idle_since: None,
            cool_until: None,
            is_retired: false,
        });
        let sessions = state.live();
        drop(state);
        self.pool.changes.send_replace(());
        let event = Event::Connected {
            session_id,
            peer,
            max_streams,
            subscription_status,
            has_v2,
            sessions,
        };
        (self.report)(&event);
    }

    fn failed(&mut self, error: ConnectError) {
        let now = Instant::now();
        let is_refusal = error.is_refusal();
        self.postpone(
            now,
            if is_refusal { Backoff::after_refusal } else { Backoff::after_failure },
        );
        let error = Arc::new(error);
        let mut state = self.pool.state();
        let sessions = state.live();
        if sessions == 0 {
            state.problem = Some(error.clone());
        }
        drop(state);
        self.pool.changes.send_replace(());
        let retry_in = self.next_attempt.saturating_duration_since(now);
        (self.report)(&Event::Failed { error, retry_in, sessions });
    }

    /// Closes every session, side by side; each has a deadline of its own.
    async fn close(&mut self) {
        self.attempts.abort_all();
        let members = std::mem::take(&mut self.pool.state().members);
        for member in &members {
            member.session.connection().close();
        }
        for member in members {
            member.session.connection().closed().await;
        }
    }
}
