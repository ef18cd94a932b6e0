//! Who may begin a handshake.

use crate::source::{Source, SourceCounts};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts handshakes under way: in all and for each source.
///
/// Memory: three entries for each source with a handshake under way, so at most three times the
/// bound in all.
pub(crate) struct Admission {
    max: usize,
    max_per_source: usize,
    /// Networks whose sources have no bound of their own.
    exempt: Vec<IpNet>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    sources: SourceCounts,
}

/// Why a connection is turned away before its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    /// Too many handshakes are under way.
    Handshakes,
    /// Too many of this source are.
    HandshakesOfSource,
}

/// A place among the handshakes; given up when dropped.
pub(crate) struct HalfOpen {
    admission: Arc<Admission>,
    source: Source,
}

impl Admission {
    /// Bounds of 0 are none.
    pub(crate) fn new(max: usize, max_per_source: usize, exempt: Vec<IpNet>) -> Self {
        Self { max, max_per_source, exempt, counts: Mutex::default() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a handshake of `address`.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<HalfOpen, TurnedAway> {
        let source = Source::of(address);
        let mut counts = self.counts();
        if self.max > 0 && counts.total >= self.max {
            return Err(TurnedAway::Handshakes);
        }
        if self.max_per_source > 0
            && !source.is_in(&self.exempt)
            && counts.sources.full_network(source, self.max_per_source).is_some()
        {
            return Err(TurnedAway::HandshakesOfSource);
        }
        counts.sources.add(source);
        counts.total += 1;
        Ok(HalfOpen { admission: self.clone(), source })
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.total -= 1;
        counts.sources.remove(self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_bounds_hold_and_places_come_back() {
        let admission = Arc::new(Admission::new(3, 2, Vec::new()));
        let a1 = admission.enter(ip("192.0.2.1")).ok().unwrap();
        let _a2 = admission.enter(ip("::ffff:192.0.2.1")).ok().unwrap();
        assert_eq!(
            admission.enter(ip("192.0.2.1")).err(),
            Some(TurnedAway::HandshakesOfSource),
            "a mapped address is the same source"
        );
        let _b = admission.enter(ip("192.0.2.2")).ok().unwrap();
        assert_eq!(admission.enter(ip("192.0.2.3")).err(), Some(TurnedAway::Handshakes));
        drop(a1);
        assert!(admission.enter(ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn an_exempt_network_and_a_bound_of_0_have_no_bound_per_source() {
        let exempt = vec!["192.0.2.0/24".parse().unwrap()];
        let admission = Arc::new(Admission::new(0, 1, exempt));
        let held: Vec<_> = (0..9).map(|_| admission.enter(ip("192.0.2.7")).ok().unwrap()).collect();
        let _other = admission.enter(ip("198.51.100.1")).ok().unwrap();
        assert!(admission.enter(ip("198.51.100.1")).is_err());
        let none = Arc::new(Admission::new(0, 0, Vec::new()));
        let many: Vec<_> = (0..9).map(|_| none.enter(ip("192.0.2.7")).ok().unwrap()).collect();
        assert_eq!((held.len(), many.len()), (9, 9));
    }
}
