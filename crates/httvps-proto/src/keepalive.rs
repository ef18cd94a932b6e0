//! Finding out that a peer is gone, in virtual time.

use std::time::{Duration, Instant};

/// Decides when to ping a quiet peer and when to give it up.
///
/// ```text
///            quiet for `interval`            `max_missed` pings unanswered
///  Alive ───────────────────────▶ Ping sent ───────────────────────────────▶ Dead
///    ▲                               │
///    └────── anything received ──────┘
/// ```
/// Anything that arrives counts as a sign of life, not only a pong: a client in the middle of a
/// long upload answers pings late. An interval of zero switches it off.
#[derive(Debug, Clone)]
pub struct KeepAlive {
    interval: Duration,
    max_missed: u32,
    missed: u32,
    due: Instant,
}

/// The action that [`KeepAlive::handle_timeout`] requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAliveAction {
    /// Nothing yet; ask again at [`KeepAlive::poll_timeout`].
    Wait,
    /// Send a ping.
    Ping,
    /// The peer answered none of the allowed pings: end the session.
    GiveUp,
}

impl KeepAlive {
    /// A keep-alive whose first ping is due one interval from `now`.
    pub fn new(interval: Duration, max_missed: u32, now: Instant) -> Self {
        Self { interval, max_missed: max_missed.max(1), missed: 0, due: now + interval }
    }

    /// Notes a sign of life.
    pub fn handle_received(&mut self, now: Instant) {
        self.missed = 0;
        self.due = now + self.interval;
    }

    /// When [`Self::handle_timeout`] wants to be called next; None when switched off.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.interval.is_zero()).then_some(self.due)
    }

    /// Returns the action that is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) -> KeepAliveAction {
        if self.interval.is_zero() || now < self.due {
            return KeepAliveAction::Wait;
        }
        if self.missed >= self.max_missed {
            return KeepAliveAction::GiveUp;
        }
        self.missed += 1;
        self.due = now + self.interval;
        KeepAliveAction::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(25);

    #[test]
    fn two_unanswered_pings_end_it_one_interval_later() {
        let start = Instant::now();
        let mut keepalive = KeepAlive::new(EVERY, 2, start);
        assert_eq!(keepalive.handle_timeout(start + EVERY / 2), KeepAliveAction::Wait);
        assert_eq!(keepalive.handle_timeout(start + EVERY), KeepAliveAction::Ping);
        assert_eq!(keepalive.handle_timeout(start + EVERY * 2), KeepAliveAction::Ping);
        assert_eq!(keepalive.poll_timeout(), Some(start + EVERY * 3));
        assert_eq!(keepalive.handle_timeout(start + EVERY * 3), KeepAliveAction::GiveUp);
    }

    #[test]
    fn a_sign_of_life_starts_over() {
        let start = Instant::now();
        let mut keepalive = KeepAlive::new(EVERY, 1, start);
        assert_eq!(keepalive.handle_timeout(start + EVERY), KeepAliveAction::Ping);
        keepalive.handle_received(start + EVERY + Duration::from_secs(1));
        assert_eq!(keepalive.handle_timeout(start + EVERY * 2), KeepAliveAction::Wait);
        assert_eq!(
            keepalive.handle_timeout(start + EVERY * 2 + Duration::from_secs(1)),
            KeepAliveAction::Ping
        );
    }

    #[test]
    fn not_even_a_limit_of_zero_gives_up_without_a_ping() {
        let start = Instant::now();
        let mut keepalive = KeepAlive::new(EVERY, 0, start);
        assert_eq!(keepalive.handle_timeout(start + EVERY), KeepAliveAction::Ping);
        assert_eq!(keepalive.handle_timeout(start + EVERY * 2), KeepAliveAction::GiveUp);
    }

    #[test]
    fn an_interval_of_zero_is_off() {
        let mut keepalive = KeepAlive::new(Duration::ZERO, 2, Instant::now());
        assert_eq!(keepalive.poll_timeout(), None);
        assert_eq!(keepalive.handle_timeout(Instant::now()), KeepAliveAction::Wait);
    }
}
