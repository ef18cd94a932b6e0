//! A token bucket in virtual time.

use std::time::{Duration, Instant};

/// A token bucket: `rate` tokens a second, at most `burst` of them saved up.
///
/// A rate of 0 means "no limit". Memory: 32 bytes; no timer, the refill is computed when asked.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: u32,
    burst: u32,
    tokens: u32,
    refilled: Instant,
}

impl Bucket {
    /// A full bucket. A burst of 0 is taken as 1, since a bucket that holds nothing admits nothing.
    pub fn new(rate: u32, burst: u32, now: Instant) -> Self {
        let burst = burst.max(1);
        Self { rate, burst, tokens: burst, refilled: now }
    }

    /// Takes one token; false when there is none.
    pub fn try_take(&mut self, now: Instant) -> bool {
        if self.rate == 0 {
            return true;
        }
        self.refill(now);
        let has_token = self.tokens > 0;
        self.tokens -= u32::from(has_token);
        has_token
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled);
        let earned = passed.as_nanos() * u128::from(self.rate) / 1_000_000_000;
        if earned >= u128::from(self.burst - self.tokens) {
            self.tokens = self.burst;
            self.refilled = now;
        } else if earned > 0 {
            self.tokens += earned as u32;
            // Only the time that became whole tokens is used up; the rest keeps earning.
            self.refilled += Duration::from_nanos(
                u64::try_from(earned * 1_000_000_000 / u128::from(self.rate)).unwrap_or(u64::MAX),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_is_spent_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 3, start);
        assert_eq!((0..5).filter(|_| bucket.try_take(start)).count(), 3);
        assert!(!bucket.try_take(start + Duration::from_millis(99)));
        assert!(bucket.try_take(start + Duration::from_millis(100)));
        assert!(!bucket.try_take(start + Duration::from_millis(199)));
        assert!(bucket.try_take(start + Duration::from_millis(200)));
    }

    #[test]
    fn a_long_pause_saves_no_more_than_the_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, 5, start);
        while bucket.try_take(start) {}
        let later = start + Duration::from_hours(1);
        assert_eq!((0..50).filter(|_| bucket.try_take(later)).count(), 5);
    }

    #[test]
    fn no_part_of_a_token_is_lost_however_often_it_is_asked() {
        let start = Instant::now();
        for step in [1, 7, 33, 99, 143] {
            let mut bucket = Bucket::new(10, 3, start);
            let asked = (0..=10_000 / step).map(|i| start + Duration::from_millis(i * step));
            let taken = asked.filter(|now| bucket.try_take(*now)).count() as u64;
            // Three saved up and one every 100 ms; asked less often, as often as asked.
            let last = 10_000 / step * step;
            assert_eq!(taken, (3 + last / 100).min(10_000 / step + 1), "every {step} ms");
        }
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let long_ago = Instant::now();
        let start = long_ago + Duration::from_hours(1);
        let mut bucket = Bucket::new(10, 1, start);
        assert!(bucket.try_take(start));
        assert!(!bucket.try_take(long_ago));
        assert!(!bucket.try_take(start));
    }

    #[test]
    fn a_burst_of_zero_is_one() {
        let now = Instant::now();
        let mut bucket = Bucket::new(1, 0, now);
        assert!(bucket.try_take(now));
        assert!(!bucket.try_take(now));
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let now = Instant::now();
        let mut bucket = Bucket::new(0, 1, now);
        assert!((0..10_000).all(|_| bucket.try_take(now)));
    }
}
