//! The task that keeps the sessions of a client: when another one is opened, which one goes.

use crate::ConnectError;
use crate::Session;
use crate::backoff::{Backoff, random};
use crate::event::{Event, Report};
use crate::pool::{Member, Pool, State};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Makes one attempt to connect.
pub(crate) type Dial = Box<
    dyn Fn(watch::Sender<()>) -> Pin<Box<dyn Future<Output = Result<Session, ConnectError>> + Send>>
        + Send
        + Sync,
>;

/// A drained session that lived shorter is replaced after a back-off, or a gateway that drains
/// for long would be asked again and again.
const MIN_LIFE_BEFORE_DRAIN: Duration = Duration::from_secs(10);

/// Further sessions that are being opened at once.
const MAX_ATTEMPTS: usize = 8;

/// How long no further session is asked for when the gateway has said that there are enough.
const SESSION_LIMIT_PAUSE: Duration = Duration::from_secs(10);

/// A shortage of places lasts for so long before it is reported, and then once in so long.
const REPORT_WAIT_AFTER: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// The task that keeps the pool: connects, reports, retires.
pub(crate) struct Keeper {
    pool: Arc<Pool>,
    dial: Dial,
    report: Report,
    backoff: Backoff,
    /// When a first session may be opened.
    next_attempt: Instant,
    /// What `next_attempt` is counted from.
    failed_at: Instant,
    is_hastened: bool,
    /// For sessions beside the first.
    growth: Backoff,
    attempts: JoinSet<Result<Session, ConnectError>>,
    shortage: Shortage,
}

/// What has been reported of the want of places.
#[derive(Default)]
struct Shortage {
    stuck_since: Option<Instant>,
    told_full: Option<Instant>,
    displaced: u64,
    displaced_since: Option<Instant>,
    told_displaced: Option<Instant>,
}

impl Keeper {
    pub(crate) fn new(pool: Arc<Pool>, dial: Dial, report: Report) -> Self {
        let now = Instant::now();
        Self {
            pool,
            dial,
            report,
            backoff: Backoff::default(),
            next_attempt: now,
            failed_at: now,
            is_hastened: false,
            growth: Backoff::default(),
            attempts: JoinSet::new(),
            shortage: Shortage::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        let pool = self.pool.clone();
        let mut changes = pool.changes.subscribe();
        while !pool.closing.is_cancelled() {
            changes.mark_unchanged();
            let now = Instant::now();
            let mut due = self.tidy(now);
            self.hasten(now);
            let (wanted, from) = self.wanted(now);
            if wanted > 0 && now < from {
                due = due.min(from);
            } else {
                for _ in 0..wanted {
                    self.attempts.spawn((self.dial)(pool.changes.clone()));
                }
            }
            due = due.min(self.report_shortage(now));
            tokio::select! {
                // Ready at every change; the sender lives in the pool.
                _ = changes.changed() => {}
                Some(result) = self.attempts.join_next() => match result {
                    Ok(Ok(session)) => self.welcome(session),
                    Ok(Err(error)) => self.failed(error),
                    // It has panicked. Without a pause the next one would at once.
                    Err(_) => {
                        self.failed(ConnectError::Closed("an attempt to connect panicked".into()));
                    }
                },
                () = sleep_until(due), if now < due => {}
            }
        }
        self.close().await;
    }

    /// Sessions to open, the first one or as many as those who wait would fill, and from when on.
    fn wanted(&self, now: Instant) -> (usize, Instant) {
        let state = self.pool.state();
        let live = state.live();
        if live == 0 {
            return (usize::from(self.attempts.is_empty()), self.next_attempt);
        }
        // A gateway that allows no streams would allow none on a further session either.
        let needed = match state.each() {
            0 => 0,
            each => self.pool.waiting().saturating_sub(state.vacant()).div_ceil(each),
        };
        let room = self.pool.max_sessions.saturating_sub(live).min(MAX_ATTEMPTS);
        let wanted = needed.min(room).saturating_sub(self.attempts.len());
        (wanted, state.grow_after.unwrap_or(now))
    }

    /// Removes what is over and retires what is not needed; says when to look again.
    fn tidy(&mut self, now: Instant) -> Instant {
        let pool = self.pool.clone();
        let mut state = pool.state();
        let mut events = Vec::new();
        let members = std::mem::take(&mut state.members);
        for mut member in members {
            let connection = member.session.connection();
            if let Some(end) = connection.end() {
                if !member.is_retired {
                    if !member.was_silent {
                        self.lost(now, member.since);
                    }
                    events.push(Event::Ended { end, sessions: 0 });
                }
                continue;
            }
            let (is_draining, is_silent) = (connection.is_draining(), connection.is_silent());
            if is_draining && !member.is_retired {
                member.is_retired = true;
                self.drained(now, member.since);
                events.push(Event::Draining { sessions: 0 });
            }
            if is_silent != std::mem::replace(&mut member.was_silent, is_silent)
                && !member.is_retired
            {
                if is_silent {
                    self.lost(now, member.since);
                    events.push(Event::Silent { sessions: 0 });
                } else {
                    events.push(Event::Heard { sessions: 0 });
                }
            }
            state.members.push(member);
        }
        let due = self.retire(&mut state, now);
        let sessions = state.live();
        drop(state);
        for mut event in events {
            if let Event::Ended { sessions: n, .. }
            | Event::Draining { sessions: n }
            | Event::Silent { sessions: n }
            | Event::Heard { sessions: n } = &mut event
            {
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
            self.put_off(
                now,
                if now < self.next_attempt { self.next_attempt.min(next) } else { next },
            );
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
            let next = now + delay(&mut self.backoff, random());
            self.put_off(now, next);
        }
    }

    fn put_off(&mut self, now: Instant, next: Instant) {
        self.next_attempt = next;
        self.failed_at = now;
        self.is_hastened = false;
    }

    /// Brings the next attempt forward for those who wait, once for each failure; not towards a
    /// gateway that is full.
    fn hasten(&mut self, now: Instant) {
        if self.is_hastened || now >= self.next_attempt || self.pool.waiting() == 0 {
            return;
        }
        let state = self.pool.state();
        let is_full = |error: &ConnectError| matches!(error, ConnectError::SessionLimit);
        let problem = state.problem.as_deref();
        if state.live() > 0 || problem.is_some_and(|error| error.is_lasting() || is_full(error)) {
            return;
        }
        drop(state);
        self.is_hastened = true;
        let soon = self.failed_at + self.backoff.hastened(random());
        self.next_attempt = self.next_attempt.min(soon.max(now));
    }

    /// Closes sessions that have nothing left to do; says when the next one may have to go.
    fn retire(&mut self, state: &mut State, now: Instant) -> Instant {
        let idle_timeout = self.pool.timing.idle_timeout;
        let mut due = now + Duration::from_hours(1);
        let mut is_first = true;
        for member in &mut state.members {
            let is_extra =
                !member.is_retired && (member.was_silent || !std::mem::take(&mut is_first));
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
        let max = self.pool.max_sessions;
        // Those that are silent end by their keep-alive; a path that dies again and again gets no
        // more of them than of living ones.
        let silent = |member: &Member| member.was_silent && !member.is_retired;
        if state.members.iter().filter(|member| silent(member)).count() > max
            && let Some(oldest) = state.members.iter_mut().find(|member| silent(member))
        {
            oldest.is_retired = true;
            oldest.session.connection().close();
        }
        // A gateway that drains again and again gets no more of them than of living ones. The
        // streams of the one that is let go here live on without us.
        let retired = state.members.iter().filter(|member| member.is_retired).count();
        if retired > max
            && let Some(oldest) = state.members.iter().position(|member| member.is_retired)
        {
            state.members.remove(oldest);
        }
        due
    }

    /// Says what streams wait for, and that flows of datagrams had to go; when to look again.
    fn report_shortage(&mut self, now: Instant) -> Instant {
        let Self { pool, shortage, .. } = self;
        let state = pool.state();
        let waiting = pool.waiting();
        let is_stuck = waiting > 0 && state.is_stuck(pool.max_sessions, now);
        let (sessions, each) = (state.live(), state.each());
        drop(state);
        let mut due = now + Duration::from_hours(1);
        let mut is_time = |told: &mut Option<Instant>, first: Instant| {
            let next = told.map_or(first, |told| first.max(told + REPORT_EVERY));
            if now < next {
                due = due.min(next);
                return false;
            }
            *told = Some(now);
            true
        };
        let mut events = Vec::new();
        if is_stuck {
            let since = *shortage.stuck_since.get_or_insert(now);
            if is_time(&mut shortage.told_full, since + REPORT_WAIT_AFTER) {
                events.push(Event::Full { waiting, max_streams: each, sessions });
            }
        } else {
            shortage.stuck_since = None;
        }
        let displaced = pool.flows.displaced();
        if displaced > shortage.displaced {
            // Those that come together are told together.
            let since = *shortage.displaced_since.get_or_insert(now);
            if is_time(&mut shortage.told_displaced, since + REPORT_WAIT_AFTER) {
                shortage.displaced_since = None;
                let flows = displaced - std::mem::replace(&mut shortage.displaced, displaced);
                events.push(Event::Displaced { flows, sessions });
            }
        }
        for event in &events {
            (self.report)(event);
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
        state.grow_after = None;
        self.growth.reset();
        state.members.push(Member::new(session, Instant::now()));
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
        let delay =
            if error.is_refusal() { Backoff::after_refusal } else { Backoff::after_failure };
        let error = Arc::new(error);
        let pool = self.pool.clone();
        let mut state = pool.state();
        let sessions = state.live();
        // A further session that is refused says nothing of how soon a lost one may be replaced.
        let next = if sessions > 0 {
            let known = state.grow_after.filter(|&at| now < at);
            let next = known.unwrap_or_else(|| {
                now + match *error {
                    ConnectError::SessionLimit => SESSION_LIMIT_PAUSE,
                    _ => delay(&mut self.growth, random()),
                }
            });
            *state.grow_after.insert(next)
        } else {
            state.problem = Some(error.clone());
            self.postpone(now, delay);
            self.next_attempt
        };
        drop(state);
        pool.changes.send_replace(());
        let retry_in = next.saturating_duration_since(now);
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
