//! Sparing a backend that is down.

use std::time::{Duration, Instant};

/// A circuit breaker, in virtual time.
///
/// ```text
///           `threshold` failures in a row            cool-down over
///  Closed ───────────────────────────────▶ Open ─────────────────────▶ one trial
///    ▲                                       ▲                            │
///    └──────────────── success ──────────────┼────────────────────────────┤
///                                            └────────── failure ─────────┘
/// ```
/// While it is open, devices are refused at once instead of each waiting for the time-out; they are
/// never let in. A threshold of 0 switches it off.
#[derive(Debug)]
pub(super) struct Breaker {
    threshold: u32,
    cooldown: Duration,
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(threshold: u32, cooldown: Duration) -> Self {
        Self { threshold, cooldown, failures: 0, open_until: None }
    }

    /// Whether a call may go out. At the end of a cool-down one caller is let through as the
    /// trial; the others wait another cool-down for what it finds.
    pub(super) fn try_pass(&mut self, now: Instant) -> bool {
        match self.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.open_until = Some(now + self.cooldown);
                true
            }
        }
    }

    pub(super) fn handle_success(&mut self) {
        self.failures = 0;
        self.open_until = None;
    }

    /// Notes a failure; true when it opens the breaker.
    pub(super) fn handle_failure(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.threshold == 0 || self.failures < self.threshold {
            return false;
        }
        let was_closed = self.open_until.is_none();
        self.open_until = Some(now + self.cooldown);
        was_closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(1);

    #[test]
    fn it_opens_after_the_threshold_and_closes_after_a_good_trial() {
        let start = Instant::now();
        let mut breaker = Breaker::new(3, COOLDOWN);
        assert!(!breaker.handle_failure(start));
        assert!(!breaker.handle_failure(start));
        assert!(breaker.try_pass(start));
        assert!(breaker.handle_failure(start), "the third failure opens it");
        assert!(!breaker.try_pass(start + COOLDOWN / 2));
        assert!(breaker.try_pass(start + COOLDOWN), "one trial");
        assert!(!breaker.try_pass(start + COOLDOWN), "only one");
        breaker.handle_success();
        assert!(breaker.try_pass(start + COOLDOWN));
    }

    #[test]
    fn a_failed_trial_keeps_it_open() {
        let start = Instant::now();
        let mut breaker = Breaker::new(1, COOLDOWN);
        assert!(breaker.handle_failure(start));
        assert!(breaker.try_pass(start + COOLDOWN));
        assert!(!breaker.handle_failure(start + COOLDOWN), "it was open already");
        assert!(!breaker.try_pass(start + COOLDOWN + COOLDOWN / 2));
        assert!(breaker.try_pass(start + COOLDOWN * 2));
    }

    #[test]
    fn a_success_between_failures_starts_the_count_over() {
        let start = Instant::now();
        let mut breaker = Breaker::new(2, COOLDOWN);
        breaker.handle_failure(start);
        breaker.handle_success();
        assert!(!breaker.handle_failure(start));
        assert!(breaker.try_pass(start));
    }

    #[test]
    fn a_threshold_of_zero_never_opens() {
        let start = Instant::now();
        let mut breaker = Breaker::new(0, COOLDOWN);
        assert!((0..100).all(|_| !breaker.handle_failure(start) && breaker.try_pass(start)));
    }
}
