//! The limit on concurrent calls to a slow backend.

use std::time::{Duration, Instant};

/// A window on the running calls, in virtual time.
///
/// It is as large as it may be until calls time out. Then it is set to half of what the backend
/// answered within one time-out, so that the next ones are answered in half of it, and grows again
/// with the answers: by one each up to where it was sound, then by one for each window of them.
#[derive(Debug)]
pub(super) struct Pace {
    max: f64,
    timeout: Duration,
    window: f64,
    /// The size from which growth is slow.
    sound: f64,
    /// Answers of the time-out that runs since `period`, and of the one before.
    period: Instant,
    answers: u32,
    answers_before: u32,
    /// Calls that began before this time are no evidence about the current window.
    set_at: Option<Instant>,
}

/// The smallest window.
const MIN: f64 = 8.0;

impl Pace {
    pub(super) fn new(max: usize, timeout: Duration, now: Instant) -> Self {
        let max = max as f64;
        Self {
            max,
            timeout,
            window: max,
            sound: max,
            period: now,
            answers: 0,
            answers_before: 0,
            set_at: None,
        }
    }

    /// The largest number of running calls.
    pub(super) fn window(&self) -> usize {
        self.window as usize
    }

    fn turn_over(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.period);
        if elapsed >= self.timeout {
            let is_next = elapsed < self.timeout * 2;
            self.answers_before = if is_next { self.answers } else { 0 };
            (self.answers, self.period) = (0, now);
        }
    }

    pub(super) fn handle_answer(&mut self, now: Instant) {
        self.turn_over(now);
        self.answers = self.answers.saturating_add(1);
        let step = if self.window < self.sound { 1.0 } else { 1.0 / self.window };
        self.window = (self.window + step).min(self.max);
    }

    /// Records the time-out of a call that began at `begun`; true when the window shrank.
    pub(super) fn handle_timeout(&mut self, begun: Instant, now: Instant) -> bool {
        self.turn_over(now);
        if self.set_at.is_some_and(|at| begun < at) {
            return false;
        }
        self.set_at = Some(now);
        let before = self.window();
        let kept_up = f64::from(self.answers.max(self.answers_before)) / 2.0;
        self.window = kept_up.max(MIN).min(self.window);
        // A backend that answered nothing does not say how much it can do.
        self.sound = if kept_up < MIN { self.max / 4.0 } else { self.window };
        self.window() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[test]
    fn a_backend_that_keeps_up_gets_all_calls() {
        let start = Instant::now();
        let mut pace = Pace::new(256, TIMEOUT, start);
        for second in 0..100 {
            pace.handle_answer(start + Duration::from_secs(second));
        }
        assert_eq!(pace.window(), 256);
    }

    #[test]
    fn one_that_does_not_gets_what_it_answers_in_half_of_the_time_out() {
        let start = Instant::now();
        let mut pace = Pace::new(256, TIMEOUT, start);
        // 40 a second.
        for answer in 0..200 {
            pace.handle_answer(start + Duration::from_millis(25) * answer);
        }
        let began_before = start + TIMEOUT / 2;
        let late = start + TIMEOUT;
        assert!(pace.handle_timeout(start, late));
        assert_eq!(pace.window(), 100);
        assert!(
            !pace.handle_timeout(began_before, late + TIMEOUT),
            "that was the window of before"
        );
        for _ in 0..300 {
            pace.handle_answer(late + TIMEOUT);
        }
        assert!((101..104).contains(&pace.window()), "{}", pace.window());
    }

    #[test]
    fn one_that_hung_is_soon_given_more_again() {
        let start = Instant::now();
        let mut pace = Pace::new(256, TIMEOUT, start);
        assert!(pace.handle_timeout(start, start + TIMEOUT));
        assert_eq!(pace.window(), 8);
        for _ in 0..56 {
            pace.handle_answer(start + TIMEOUT);
        }
        assert_eq!(pace.window(), 64);
    }

    #[test]
    fn a_small_bound_stays_as_it_is() {
        let start = Instant::now();
        let mut pace = Pace::new(2, TIMEOUT, start);
        assert!(!pace.handle_timeout(start, start + TIMEOUT));
        assert_eq!(pace.window(), 2);
    }
}
