//! The health of one node, without I/O: a state machine over events and time.

use std::time::{Duration, Instant};

/// The state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It takes streams.
    Healthy,
    /// It takes streams when no healthy one does as well.
    Degraded,
    /// It takes single trials only.
    Down,
}

impl State {
    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// The thresholds between states.
#[derive(Debug, Clone)]
pub struct Thresholds {
    /// Failed dials in a row, or failed probes in a row, that take a node down; at least 1.
    pub down_failures: u32,
    /// Successes in a row that make a node healthy again; at least 1.
    pub recover_successes: u32,
    /// How long a node that went down is not used before a trial; doubled by each trial that
    /// fails and each relapse, up to [`Thresholds::MAX_BACKOFF`] times as long.
    pub cooldown: Duration,
    /// Mean time of a dial above which a node counts as degraded, until it falls below three
    /// quarters of it; zero = no limit.
    pub slow: Duration,
    /// Whether probes run. Then the trials are probes, and a successful connection alone is no proof;
    /// otherwise the trial is a stream, and a connection counts as proof.
    pub has_probes: bool,
}

impl Thresholds {
    /// The largest factor of the cool-down.
    pub const MAX_BACKOFF: u32 = 8;
}

/// A permission to use a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The node takes streams.
    Open,
    /// The node is down, and this is the trial. It must
    /// end in a success, a failure, [`Health::give_back`] or [`Health::postpone`].
    Trial,
}

/// The state machine of one node, its breaker included.
///
/// ```text
///              a failure, doubts, slow            failures in a row
///   Healthy ───────────────────────▶ Degraded ───────────────────────▶ Down ◀─┐
///      ▲                                │ ▲                             │     │ trial failed
///      └──── successes in a row ────────┘ └────── trial succeeded ──────┴─────┘ (cool-down doubled)
/// ```
///
/// Only failures of the node itself take it down: a dial that did not reach it, or a failed probe.
/// A stream without an answer may be the fault of its target, and clients choose
/// targets: it at most degrades the node and requests a probe. An answer to any
/// stream shows that the node works, so an outage of the probe's target takes no busy node down.
#[derive(Debug)]
pub struct Health {
    thresholds: Thresholds,
    state: State,
    dial_failures: u32,
    probe_failures: u32,
    successes: u32,
    /// Streams without an answer since the last answer.
    doubts: u32,
    is_slow: bool,
    is_reachable: bool,
    /// Mean time of a dial.
    dial: Mean,
    /// Mean time of a probe's answer.
    answer: Mean,
    /// While down: when the next trial may be.
    trial_at: Option<Instant>,
    is_on_trial: bool,
    backoff: u32,
    /// When the node last came back up.
    recovered_at: Option<Instant>,
}

/// An exponential moving average in seconds with weight 1/8; none before the first sample.
#[derive(Debug, Default)]
struct Mean(Option<f64>);

impl Mean {
    fn add(&mut self, sample: Duration) -> f64 {
        let sample = sample.as_secs_f64();
        let mean = self.0.map_or(sample, |mean| mean + (sample - mean) / 8.0);
        self.0 = Some(mean);
        mean
    }
}

/// Streams in a row without an answer that make a node degraded.
const DOUBTS: u32 = 3;

impl Health {
    /// A new node: it takes streams.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            state: State::Healthy,
            dial_failures: 0,
            probe_failures: 0,
            successes: 0,
            doubts: 0,
            is_slow: false,
            is_reachable: true,
            dial: Mean::default(),
            answer: Mean::default(),
            trial_at: None,
            is_on_trial: false,
            backoff: 1,
            recovered_at: None,
        }
    }

    /// The current state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The moving averages of dials and of answers to probes, added. Answers to streams
    /// are not used, since their time depends on the targets that clients choose.
    pub fn latency(&self) -> Option<Duration> {
        let answer = self.answer.0.unwrap_or_default();
        self.dial.0.map(|dial| Duration::from_secs_f64(dial + answer))
    }

    /// Whether the last dial reached the node. A node that is down and reachable is used
    /// when there is no other: the fault may be the probe's target.
    pub fn is_reachable(&self) -> bool {
        self.is_reachable
    }

    /// Whether a stream may use the node: while it is down, only as a trial where no probes run.
    pub fn is_eligible(&self, now: Instant) -> bool {
        self.state != State::Down || (!self.thresholds.has_probes && self.is_trial_due(now))
    }

    fn is_trial_due(&self, now: Instant) -> bool {
        !self.is_on_trial && self.trial_at.is_none_or(|at| at <= now)
    }

    /// Asks to use the node for a stream.
    pub fn try_pass(&mut self, now: Instant) -> Option<Pass> {
        if !self.is_eligible(now) {
            return None;
        }
        if self.state != State::Down {
            return Some(Pass::Open);
        }
        self.is_on_trial = true;
        Some(Pass::Trial)
    }

    /// Asks to probe the node. Always granted while it is up, at the end of a cool-down while it is
    /// down.
    pub fn try_probe(&mut self, now: Instant) -> Option<Pass> {
        if self.state != State::Down {
            return Some(Pass::Open);
        }
        self.is_trial_due(now).then(|| {
            self.is_on_trial = true;
            Pass::Trial
        })
    }

    /// When a node that is down may be tried next.
    pub fn trial_at(&self) -> Option<Instant> {
        self.trial_at.filter(|_| self.state == State::Down)
    }

    /// Records that an attempt ended without a result.
    pub fn give_back(&mut self, pass: Pass) {
        if pass == Pass::Trial {
            self.is_on_trial = false;
        }
    }

    /// Records that a shortage of this host ended the attempt, which is no evidence about the node. The next trial waits
    /// as long as the last one did, since the shortage may last.
    pub fn postpone(&mut self, now: Instant, pass: Pass) {
        self.give_back(pass);
        if pass == Pass::Trial && self.state == State::Down {
            self.cool_down(now, false);
        }
    }

    /// Records that a stream or probe connected to the node within `latency`.
    pub fn handle_dialed(&mut self, now: Instant, latency: Duration) {
        let mean = self.dial.add(latency);
        let slow = self.thresholds.slow.as_secs_f64();
        let bound = if self.is_slow { slow * 0.75 } else { slow };
        self.is_slow = slow > 0.0 && mean > bound;
        self.is_reachable = true;
        self.dial_failures = 0;
        if self.is_slow && self.state == State::Healthy {
            self.degrade();
        }
        if !self.thresholds.has_probes {
            self.handle_good(now);
        }
    }

    /// Records the time of an answer to a probe.
    pub fn handle_answer_time(&mut self, time: Duration) {
        self.answer.add(time);
    }

    /// Records that a dial did not reach the node.
    pub fn handle_dial_failed(&mut self, now: Instant) {
        self.is_reachable = false;
        self.dial_failures = self.dial_failures.saturating_add(1);
        self.handle_bad(now, self.dial_failures);
    }

    /// Records a successful probe.
    pub fn handle_probed(&mut self, now: Instant) {
        self.doubts = 0;
        self.handle_good(now);
    }

    /// Records that a probe reached the node and failed.
    pub fn handle_probe_failed(&mut self, now: Instant) {
        self.probe_failures = self.probe_failures.saturating_add(1);
        self.handle_bad(now, self.probe_failures);
    }

    /// Records that a stream got an answer: the key and the egress of the node work.
    pub fn handle_answer(&mut self, now: Instant) {
        self.doubts = 0;
        self.handle_good(now);
    }

    /// Records that a stream got no answer. True when a probe should run at once.
    pub fn handle_doubt(&mut self) -> bool {
        self.doubts = self.doubts.saturating_add(1);
        let is_doubtful = self.doubts >= DOUBTS;
        if is_doubtful && self.state == State::Healthy {
            self.degrade();
        }
        is_doubtful
    }

    fn degrade(&mut self) {
        self.state = State::Degraded;
        self.successes = 0;
    }

    fn handle_good(&mut self, now: Instant) {
        self.dial_failures = 0;
        self.probe_failures = 0;
        self.successes = self.successes.saturating_add(1);
        if self.state == State::Down {
            self.state = State::Degraded;
            self.is_on_trial = false;
            self.trial_at = None;
            self.recovered_at = Some(now);
            self.successes = 1;
        }
        let is_sound = !self.is_slow && self.doubts < DOUBTS;
        if is_sound && self.successes >= self.thresholds.recover_successes {
            self.state = State::Healthy;
        }
        let calm = self.thresholds.cooldown * Thresholds::MAX_BACKOFF;
        if self.recovered_at.is_some_and(|at| now.saturating_duration_since(at) >= calm) {
            self.recovered_at = None;
            self.backoff = 1;
        }
    }

    fn handle_bad(&mut self, now: Instant, in_a_row: u32) {
        self.successes = 0;
        if self.state == State::Down {
            // Attempts that were under way when it went down say nothing new.
            if std::mem::take(&mut self.is_on_trial) {
                self.cool_down(now, true);
            }
        } else if in_a_row >= self.thresholds.down_failures {
            self.state = State::Down;
            // Up for a short while only: the next trial is as far off as if it had stayed down.
            self.cool_down(now, self.recovered_at.is_some());
        } else {
            self.state = State::Degraded;
        }
    }

    fn cool_down(&mut self, now: Instant, is_longer: bool) {
        if is_longer {
            self.backoff = (self.backoff * 2).min(Thresholds::MAX_BACKOFF);
        }
        self.trial_at = Some(now + self.thresholds.cooldown * self.backoff);
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
