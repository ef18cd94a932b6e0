//! Detection of a path that died while it is in use.

use std::time::{Duration, Instant};

/// Distinguishes a gateway that does not answer from one that has nothing to send.
///
/// ```text
///         used              `after` without a byte          `patience` without a byte
///  Quiet ──────▶ Waiting ──────────────────────────▶ Asked ───────────────────────────▶ Silent
///    ▲              │                (ping)            │                                  │
///    └──────────────┴────── anything received ─────────┴──────────────────────────────────┘
/// ```
/// Keep-alive needs more than a minute to detect a dead peer, and then ends the connection. This is
/// faster and reversible: a silent connection is only not used for new
/// streams. An interval of zero switches it off.
#[derive(Debug)]
pub(crate) struct Silence {
    after: Duration,
    patience: Duration,
    phase: Phase,
    heard: Instant,
    /// The link's count of signs of life when last looked at.
    signs: u32,
    /// Something was sent that needs an answer.
    is_used: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Quiet,
    Waiting(Instant),
    Asked(Instant),
    Silent,
}

/// The result of [`Silence::step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    Nothing,
    /// A ping is to be sent.
    Ask,
    /// The gateway has not answered it.
    Silent,
    /// Bytes of a silent gateway were received again.
    Heard,
}

impl Silence {
    pub(crate) fn new(after: Duration, patience: Duration, now: Instant) -> Self {
        let phase = Phase::Quiet;
        Self { after, patience, phase, heard: now, signs: 0, is_used: false }
    }

    /// Notes that an open or payload was sent.
    pub(crate) fn used(&mut self) {
        self.is_used = true;
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.phase == Phase::Silent
    }

    /// When [`Self::step`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting(due) | Phase::Asked(due) => Some(due),
            Phase::Quiet | Phase::Silent => None,
        }
    }

    /// Looks at what has come in; `signs` is the link's count, and `is_read` false when what comes
    /// in is left in the kernel.
    pub(crate) fn step(&mut self, now: Instant, signs: u32, is_read: bool) -> Finding {
        let is_used = std::mem::take(&mut self.is_used) && !self.after.is_zero();
        if signs != self.signs || !is_read {
            self.signs = signs;
            self.heard = now;
            // What was sent in this round may have left after the sign of life.
            let next = if is_used { Phase::Waiting(now + self.after) } else { Phase::Quiet };
            let was_silent = std::mem::replace(&mut self.phase, next) == Phase::Silent;
            return if was_silent { Finding::Heard } else { Finding::Nothing };
        }
        if is_used && self.phase == Phase::Quiet {
            self.phase = Phase::Waiting((self.heard + self.after).max(now));
        }
        match self.phase {
            Phase::Waiting(due) if now >= due => {
                self.phase = Phase::Asked(now + self.patience);
                Finding::Ask
            }
            Phase::Asked(due) if now >= due => {
                self.phase = Phase::Silent;
                Finding::Silent
            }
            _ => Finding::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(4);
    const PATIENCE: Duration = Duration::from_secs(3);

    #[test]
    fn a_use_without_an_answer_asks_once_and_then_knows() {
        let start = Instant::now();
        let mut silence = Silence::new(AFTER, PATIENCE, start);
        silence.used();
        assert_eq!(silence.step(start, 0, true), Finding::Nothing);
        let asked = silence.poll_timeout().unwrap();
        assert_eq!(asked, start + AFTER);
        silence.used();
        assert_eq!(silence.step(asked, 0, true), Finding::Ask);
        assert_eq!(silence.poll_timeout(), Some(asked + PATIENCE));
        assert_eq!(silence.step(asked + PATIENCE, 0, true), Finding::Silent);
        assert!(silence.is_silent());
        silence.used();
        assert_eq!(silence.step(asked + PATIENCE * 9, 0, true), Finding::Nothing);
        assert_eq!(silence.step(asked + PATIENCE * 9, 1, true), Finding::Heard);
        assert!(!silence.is_silent());
    }

    #[test]
    fn after_a_long_quiet_time_the_first_use_asks_at_once() {
        let start = Instant::now();
        let mut silence = Silence::new(AFTER, PATIENCE, start);
        let later = start + AFTER * 10;
        assert_eq!(silence.step(later, 0, true), Finding::Nothing);
        assert_eq!(silence.poll_timeout(), None);
        silence.used();
        assert_eq!(silence.step(later, 0, true), Finding::Ask);
    }

    #[test]
    fn what_is_received_starts_it_over() {
        let start = Instant::now();
        let mut silence = Silence::new(AFTER, PATIENCE, start);
        for second in 0..100_u32 {
            silence.used();
            let now = start + Duration::from_secs(second.into());
            assert_eq!(silence.step(now, second, true), Finding::Nothing);
        }
        let last = start + Duration::from_secs(99);
        assert_eq!(silence.poll_timeout(), Some(last + AFTER));
        assert_eq!(silence.step(last, 100, true), Finding::Nothing);
        assert_eq!(silence.poll_timeout(), None);
    }

    #[test]
    fn what_is_not_read_is_no_silence() {
        let start = Instant::now();
        let mut silence = Silence::new(AFTER, PATIENCE, start);
        silence.used();
        assert_eq!(silence.step(start, 0, true), Finding::Nothing);
        assert_eq!(silence.step(start + AFTER, 0, false), Finding::Nothing);
        assert_eq!(silence.poll_timeout(), None);
    }

    #[test]
    fn an_interval_of_zero_is_off() {
        let start = Instant::now();
        let mut silence = Silence::new(Duration::ZERO, PATIENCE, start);
        silence.used();
        assert_eq!(silence.step(start + AFTER, 0, true), Finding::Nothing);
        assert_eq!(silence.poll_timeout(), None);
    }
}
