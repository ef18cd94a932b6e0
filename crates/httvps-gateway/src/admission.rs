//! Who may begin a handshake.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts handshakes under way: in all and for each source.
///
/// A source is an IPv4 address or the /64 of an IPv6 address, which is what one subscriber gets.
/// Memory: one entry for each source with a handshake under way, so at most the bound in all.
pub(crate) struct Admission {
    max: usize,
    max_per_source: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    per_source: HashMap<IpAddr, usize>,
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
    source: IpAddr,
}

impl Admission {
    /// Bounds of 0 are none.
    pub(crate) fn new(max: usize, max_per_source: usize) -> Self {
        Self { max, max_per_source, counts: Mutex::default() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a handshake of `address`.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<HalfOpen, TurnedAway> {
        let source = source(address);
        let mut counts = self.counts();
        if self.max > 0 && counts.total >= self.max {
            return Err(TurnedAway::Handshakes);
        }
        let of_source = counts.per_source.entry(source).or_insert(0);
        if self.max_per_source > 0 && *of_source >= self.max_per_source {
            return Err(TurnedAway::HandshakesOfSource);
        }
        *of_source += 1;
        counts.total += 1;
        Ok(HalfOpen { admission: self.clone(), source })
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.total -= 1;
        if let Some(count) = counts.per_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.per_source.remove(&self.source);
            }
        }
        if counts.total == 0 {
            counts.per_source.shrink_to_fit();
        }
    }
}

fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
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
        let admission = Arc::new(Admission::new(3, 2));
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
    fn an_ipv6_subscriber_is_one_source() {
        let admission = Arc::new(Admission::new(0, 1));
        let first = admission.enter(ip("2001:db8:0:1::1")).ok();
        assert_eq!(
            admission.enter(ip("2001:db8:0:1:ffff::9")).err(),
            Some(TurnedAway::HandshakesOfSource)
        );
        assert!(admission.enter(ip("2001:db8:0:2::1")).is_ok());
        drop(first);
        assert!(admission.counts().per_source.is_empty());
    }
}
