//! How long to wait before the next attempt.

use std::time::Duration;

/// Exponential back-off with full jitter: each delay is drawn from zero up to a ceiling that
/// doubles from 0.5 s to 30 s, so that the clients of a gateway that went down do not return all
/// at once. After a refusal the delays are drawn from 30 s up to a ceiling that doubles from 60 s
/// to 5 min: a subscription is not renewed within seconds.
///
/// Those delays are for a client that no program uses. While a program waits, a failure delays the next
/// attempt by 0.25 to 2 s, after twenty of them by 4 to 8 s; not so a refusal.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
    refusals: u32,
}

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
const HASTENED: Duration = Duration::from_secs(2);
const HASTENED_LATER: Duration = Duration::from_secs(8);
const MANY_ATTEMPTS: u32 = 20;
const REFUSED_SHORTEST: Duration = Duration::from_secs(30);
const REFUSED_LONGEST: Duration = Duration::from_mins(5);

impl Backoff {
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The delay after a failure; `random` is any number, each as likely as every other.
    pub(crate) fn after_failure(&mut self, random: u64) -> Duration {
        let ceiling = doubled(FIRST, self.attempts).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(fraction(random))
    }

    /// The longest that a failure delays the next attempt while a program waits for it: half of it
    /// at least, so that a gateway that is down is not asked all the time.
    pub(crate) fn hastened(&self, random: u64) -> Duration {
        let longest = if self.attempts <= MANY_ATTEMPTS { HASTENED } else { HASTENED_LATER };
        let ceiling = doubled(FIRST, self.attempts.saturating_sub(1)).min(longest);
        ceiling / 2 + (ceiling / 2).mul_f64(fraction(random))
    }

    /// The delay after the gateway or its backend refused the device.
    pub(crate) fn after_refusal(&mut self, random: u64) -> Duration {
        self.refusals = self.refusals.saturating_add(1);
        let ceiling = doubled(REFUSED_SHORTEST, self.refusals).min(REFUSED_LONGEST);
        REFUSED_SHORTEST + ceiling.saturating_sub(REFUSED_SHORTEST).mul_f64(fraction(random))
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX))
}

fn fraction(random: u64) -> f64 {
    random as f64 / u64::MAX as f64
}

/// Any number; without a source of randomness the delays are merely not spread.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_up_to_thirty_seconds() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<f64> =
            (0..9).map(|_| backoff.after_failure(u64::MAX).as_secs_f64()).collect();
        assert_eq!(ceilings, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        assert!((0..200).all(|_| backoff.after_failure(u64::MAX) == LONGEST));
        backoff.reset();
        assert_eq!(backoff.after_failure(u64::MAX), FIRST);
    }

    #[test]
    fn a_program_that_waits_shortens_the_delay_within_bounds() {
        let mut backoff = Backoff::default();
        let mut bounds = Vec::new();
        for _ in 0..22 {
            backoff.after_failure(u64::MAX);
            let (least, most) = (backoff.hastened(0), backoff.hastened(u64::MAX));
            bounds.push((least.as_millis(), most.as_millis()));
        }
        assert_eq!(bounds[..4], [(250, 500), (500, 1000), (1000, 2000), (1000, 2000)]);
        assert_eq!(bounds[19..], [(1000, 2000), (4000, 8000), (4000, 8000)]);
    }

    #[test]
    fn the_jitter_is_full() {
        let mut backoff = Backoff { attempts: 3, refusals: 0 };
        assert_eq!(backoff.after_failure(0), Duration::ZERO);
        backoff.attempts = 3;
        assert!((backoff.after_failure(u64::MAX / 2).as_secs_f64() - 2.0).abs() < 0.01);
    }

    #[test]
    fn refusals_are_retried_slowly() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after_refusal(0), REFUSED_SHORTEST);
        let longest: Vec<u64> = (0..5).map(|_| backoff.after_refusal(u64::MAX).as_secs()).collect();
        assert_eq!(longest, [120, 240, 300, 300, 300]);
    }
}
