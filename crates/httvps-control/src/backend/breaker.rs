//! The circuit breaker of the backend client.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A circuit breaker, in virtual time.
///
/// ```text
///           `threshold` failures in a row            cool-down over
///  Closed ───────────────────────────────▶ Open ─────────────────────▶ trials
///    ▲                                       ▲                            │
///    └──────────────── success ──────────────┼────────────────────────────┤
///                                            └────────── failure ─────────┘
/// ```
/// While it is open, devices are refused at once instead of waiting for the time-out; no device is
/// admitted. A threshold of 0 switches it off.
///
/// Clients choose what the backend is asked, so one source must not open the breaker for others:
/// - Failures of the transport count for every source. Failures of a request count
///   by source: one source adds at most half of the threshold, and does not open it alone.
/// - Each source makes trials of its own; while the failures are those of one source, others are let
///   through at once.
///
/// A source that has been the only one for a minute counts in full: it may be a proxy in front.
#[derive(Debug)]
pub(super) struct Breaker {
    threshold: u32,
    cooldown: Duration,
    row: Row,
    open_until: Option<Instant>,
    /// The sources that made their trial since the last cool-down.
    trials: Vec<Trial>,
    /// The source that asked last, and when another source asked before it.
    last: Option<IpAddr>,
    others_at: Option<Instant>,
}

#[derive(Debug)]
struct Trial {
    source: IpAddr,
    /// It ended without a response.
    is_void: bool,
}

/// The failures since the last success.
#[derive(Debug, Default)]
struct Row {
    transport: u32,
    by_source: Vec<(IpAddr, u32)>,
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// No connection could be opened.
    Transport,
    /// The connection worked, and the backend failed to answer the request of this source.
    Question,
    /// No evidence about the backend: an old connection, or a limit of this gateway.
    Nothing,
}

/// Sources that are recorded for one row of failures, and for one cool-down.
const MAX_SOURCES: usize = 8;
/// Sources that make trials in one cool-down, including those that disconnect before the result.
const MAX_TRIALS: usize = 64;
/// How long after a request of another source a source counts as one of several.
const ALONE_AFTER: Duration = Duration::from_mins(1);

impl Breaker {
    pub(super) fn new(threshold: u32, cooldown: Duration) -> Self {
        Self {
            threshold,
            cooldown,
            row: Row::default(),
            open_until: None,
            trials: Vec::new(),
            last: None,
            others_at: None,
        }
    }

    /// Whether a call for this source may go out. At the end of each cool-down the first few
    /// sources are let through once, as trials; the others wait another cool-down for what they
    /// find.
    pub(super) fn try_pass(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.last.is_some_and(|last| last != source) {
            self.others_at = Some(now);
        }
        self.last = Some(source);
        let Some(until) = self.open_until else { return true };
        if now >= until {
            self.open_until = Some(now + self.cooldown);
            self.trials.clear();
        } else if self.trials.is_empty() && !self.row.is_only_of_other_than(source) {
            return false;
        }
        let valid = self.trials.iter().filter(|trial| !trial.is_void).count();
        if valid >= MAX_SOURCES
            || self.trials.len() >= MAX_TRIALS
            || self.trials.iter().any(|trial| trial.source == source)
        {
            return false;
        }
        self.trials.push(Trial { source, is_void: false });
        true
    }

    /// Records that a call was dropped because its client disconnected. If it was a trial, another source may make
    /// one instead; otherwise a few clients that disconnect at once could use up all trials repeatedly.
    pub(super) fn handle_void(&mut self, source: IpAddr) {
        for trial in self.trials.iter_mut().filter(|trial| trial.source == source) {
            trial.is_void = true;
        }
    }

    pub(super) fn handle_success(&mut self) {
        self.row = Row::default();
        self.open_until = None;
        self.trials.clear();
    }

    /// Records a failure; true when it opens the breaker.
    pub(super) fn handle_failure(&mut self, source: IpAddr, blame: Blame, now: Instant) -> bool {
        match blame {
            Blame::Transport => self.row.transport = self.row.transport.saturating_add(1),
            Blame::Question => self.row.add(source),
            Blame::Nothing => {
                self.handle_void(source);
                return false;
            }
        }
        let is_alone =
            self.others_at.is_none_or(|at| now.saturating_duration_since(at) > ALONE_AFTER);
        let share = if is_alone { u32::MAX } else { self.threshold.div_ceil(2) };
        let may_open = is_alone || self.row.transport > 0 || self.row.by_source.len() > 1;
        let is_enough = may_open && self.row.count(share) >= self.threshold;
        if self.threshold == 0 || self.open_until.is_some() || !is_enough {
            return false;
        }
        self.open_until = Some(now + self.cooldown);
        true
    }
}

impl Row {
    fn add(&mut self, source: IpAddr) {
        // Beyond the first few it does not matter whose they are.
        let known = self.by_source.iter().position(|(known, _)| *known == source);
        match known.or((self.by_source.len() == MAX_SOURCES).then_some(MAX_SOURCES - 1)) {
            Some(at) => self.by_source[at].1 = self.by_source[at].1.saturating_add(1),
            None => self.by_source.push((source, 1)),
        }
    }

    fn count(&self, share: u32) -> u32 {
        let counts = self.by_source.iter().map(|(_, count)| (*count).min(share));
        counts.fold(self.transport, u32::saturating_add)
    }

    /// Whether all failures come from one source, and not from this one.
    fn is_only_of_other_than(&self, source: IpAddr) -> bool {
        self.transport == 0 && matches!(&*self.by_source, [(one, _)] if *one != source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(1);

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn it_opens_after_the_threshold_and_closes_after_a_good_trial() {
        let start = Instant::now();
        let mut breaker = Breaker::new(3, COOLDOWN);
        assert!(!breaker.handle_failure(ip(1), Blame::Transport, start));
        assert!(!breaker.handle_failure(ip(1), Blame::Question, start));
        assert!(breaker.try_pass(ip(1), start));
        assert!(breaker.handle_failure(ip(1), Blame::Transport, start), "the third opens it");
        assert!(!breaker.try_pass(ip(1), start + COOLDOWN / 2));
        assert!(!breaker.try_pass(ip(2), start + COOLDOWN / 2), "the backend is spared");
        assert!(breaker.try_pass(ip(1), start + COOLDOWN), "one trial");
        assert!(!breaker.try_pass(ip(1), start + COOLDOWN), "only one");
        breaker.handle_success();
        assert!(breaker.try_pass(ip(1), start + COOLDOWN));
    }

    #[test]
    fn a_failed_trial_keeps_it_open() {
        let start = Instant::now();
        let mut breaker = Breaker::new(1, COOLDOWN);
        assert!(breaker.handle_failure(ip(1), Blame::Transport, start));
        assert!(breaker.try_pass(ip(1), start + COOLDOWN));
        assert!(!breaker.handle_failure(ip(1), Blame::Transport, start + COOLDOWN), "open already");
        assert!(!breaker.try_pass(ip(1), start + COOLDOWN + COOLDOWN / 2));
        assert!(breaker.try_pass(ip(1), start + COOLDOWN * 2));
    }

    #[test]
    fn sources_that_leave_their_trials_do_not_use_them_up() {
        let start = Instant::now();
        let mut breaker = Breaker::new(1, COOLDOWN);
        assert!(breaker.handle_failure(ip(1), Blame::Transport, start));
        let later = start + COOLDOWN;
        for last in 1..=20 {
            assert!(breaker.try_pass(ip(last), later), "{last}");
            match last % 2 {
                0 => breaker.handle_void(ip(last)),
                _ => assert!(!breaker.handle_failure(ip(last), Blame::Nothing, later)),
            }
            assert!(!breaker.try_pass(ip(last), later), "one each");
        }
        assert_eq!((21..=100).filter(|&last| breaker.try_pass(ip(last), later)).count(), 8);
        let later = start + COOLDOWN * 2;
        let left = (1..=100).filter(|&last| {
            let may_pass = breaker.try_pass(ip(last), later);
            breaker.handle_void(ip(last));
            may_pass
        });
        assert_eq!(left.count(), MAX_TRIALS, "and there is an end to it");
    }

    #[test]
    fn a_success_between_failures_starts_the_count_over() {
        let start = Instant::now();
        let mut breaker = Breaker::new(2, COOLDOWN);
        breaker.handle_failure(ip(1), Blame::Transport, start);
        breaker.handle_success();
        assert!(!breaker.handle_failure(ip(1), Blame::Transport, start));
        assert!(breaker.try_pass(ip(1), start));
    }

    #[test]
    fn a_threshold_of_zero_never_opens() {
        let start = Instant::now();
        let mut breaker = Breaker::new(0, COOLDOWN);
        assert!((0..100).all(|_| {
            let is_opened = breaker.handle_failure(ip(1), Blame::Transport, start);
            !is_opened && breaker.try_pass(ip(1), start)
        }));
    }

    #[test]
    fn one_source_among_several_does_not_open_it() {
        let start = Instant::now();
        let mut breaker = Breaker::new(4, COOLDOWN);
        assert!(breaker.try_pass(ip(2), start) && breaker.try_pass(ip(1), start));
        for _ in 0..100 {
            assert!(!breaker.handle_failure(ip(1), Blame::Question, start));
        }
        assert!(breaker.try_pass(ip(1), start));
        assert!(!breaker.handle_failure(ip(2), Blame::Question, start), "half and one");
        assert!(breaker.handle_failure(ip(3), Blame::Question, start), "and another one");
    }

    #[test]
    fn a_source_that_is_alone_opens_it_for_itself_only() {
        let start = Instant::now();
        let mut breaker = Breaker::new(2, COOLDOWN);
        assert!(breaker.try_pass(ip(1), start));
        assert!(!breaker.handle_failure(ip(1), Blame::Question, start));
        assert!(breaker.handle_failure(ip(1), Blame::Question, start));
        assert!(!breaker.try_pass(ip(1), start));
        assert!(breaker.try_pass(ip(2), start), "another source is let through at once");
        breaker.handle_success();
        assert!(breaker.try_pass(ip(1), start), "and what it finds is for all");
    }

    #[test]
    fn a_source_that_fails_its_trials_leaves_the_others_theirs() {
        let start = Instant::now();
        let mut breaker = Breaker::new(1, COOLDOWN);
        assert!(breaker.handle_failure(ip(1), Blame::Transport, start));
        let later = start + COOLDOWN;
        assert!(breaker.try_pass(ip(1), later));
        breaker.handle_failure(ip(1), Blame::Question, later);
        assert!(!breaker.try_pass(ip(1), later));
        assert!(breaker.try_pass(ip(2), later));
        let passed = (10..250).filter(|last| breaker.try_pass(ip(*last), later)).count();
        assert_eq!(passed, MAX_SOURCES - 2, "and the backend is still spared");
    }

    #[test]
    fn a_connection_of_before_says_nothing() {
        let start = Instant::now();
        let mut breaker = Breaker::new(1, COOLDOWN);
        assert!(!breaker.handle_failure(ip(1), Blame::Nothing, start));
        assert!(breaker.try_pass(ip(1), start));
    }
}
