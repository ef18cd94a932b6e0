//! Credit in both directions of a stream.

use super::MAX_CREDIT;

/// Bytes that may still be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct SendCredit(u32);

impl SendCredit {
    pub(super) const fn new(bytes: u32) -> Self {
        Self(bytes)
    }

    pub(super) const fn left(self) -> usize {
        self.0 as usize
    }

    /// Adds what the peer granted; false when it is more than may be outstanding.
    pub(super) fn add(&mut self, increment: u32) -> bool {
        let sum = self.0.saturating_add(increment);
        let is_allowed = sum <= MAX_CREDIT;
        if is_allowed {
            self.0 = sum;
        }
        is_allowed
    }

    /// Spends `bytes`, which must be left.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.0 -= bytes as u32;
    }
}

/// What the peer may send and what has arrived: `outstanding + held <= size`, always.
///
/// `size` is what is promised in all; `outstanding` the credit that the peer has left; `held` what
/// arrived and the next hop has not taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    size: u32,
    outstanding: u32,
    held: u32,
}

impl Window {
    pub(super) const fn new(size: u32) -> Self {
        Self { size, outstanding: size, held: 0 }
    }

    pub(super) const fn size(&self) -> u32 {
        self.size
    }

    pub(super) const fn outstanding(&self) -> u32 {
        self.outstanding
    }

    pub(super) const fn held(&self) -> u32 {
        self.held
    }

    /// Notes arrived bytes; false when the peer had no credit for them.
    pub(super) fn receive(&mut self, bytes: usize) -> bool {
        let is_allowed = bytes <= self.outstanding as usize;
        if is_allowed {
            self.outstanding -= bytes as u32;
            self.held += bytes as u32;
        }
        is_allowed
    }

    /// Notes that the next hop took bytes. More than are held count as those held.
    pub(super) fn consume(&mut self, bytes: usize) -> u32 {
        let bytes = bytes.min(self.held as usize) as u32;
        self.held -= bytes;
        bytes
    }

    /// The credit to grant now: none before a quarter of the window is free, so that a grant is
    /// worth its frame; with less than `low` outstanding, half of `low` is enough. A session needs
    /// that: stuck streams may hold most of its window, and the others must go on.
    pub(super) fn grant(&mut self, low: u32) -> Option<u32> {
        let free = self.size - self.outstanding - self.held;
        let is_low = self.outstanding < low && free >= low / 2;
        if free == 0 || (free < self.size / 4 && !is_low) {
            return None;
        }
        self.outstanding += free;
        Some(free)
    }

    /// Moves the size towards `wanted`. What is already promised cannot be taken back, so a
    /// smaller one may take effect in steps: call again after bytes were consumed.
    pub(super) fn resize(&mut self, wanted: u32) {
        self.size = wanted.max(self.outstanding + self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_grant_waits_for_a_quarter_of_the_window_or_for_a_low_credit() {
        let mut window = Window::new(100);
        assert!(window.receive(90) && window.grant(0).is_none());
        window.consume(24);
        assert_eq!(window.grant(0), None);
        assert_eq!(window.grant(10), None, "ten are outstanding");
        assert_eq!(window.grant(11), Some(24));
        window.consume(25);
        assert_eq!(window.grant(0), Some(25));
        assert!(!window.receive(60) && window.receive(59));
    }

    #[test]
    fn a_window_shrinks_no_faster_than_its_promises_are_used() {
        let mut window = Window::new(100);
        window.resize(40);
        assert_eq!(window.size(), 100);
        window.receive(80);
        window.consume(80);
        window.resize(40);
        assert_eq!((window.size(), window.grant(0)), (40, Some(20)));
    }

    #[test]
    fn credit_has_a_ceiling() {
        let mut credit = SendCredit::new(1);
        assert!(credit.add(MAX_CREDIT - 1));
        assert!(!credit.add(1));
        assert_eq!(credit.left(), MAX_CREDIT as usize);
    }

    proptest! {
        #[test]
        fn what_was_promised_is_never_more_than_the_size(
            steps in proptest::collection::vec((0u8..4, 0usize..200), 0..200)
        ) {
            let mut window = Window::new(100);
            let (mut granted, mut received, mut consumed) = (100u64, 0u64, 0u64);
            for (step, n) in steps {
                match step {
                    0 => if window.receive(n) { received += n as u64 },
                    1 => consumed += u64::from(window.consume(n)),
                    2 => granted += u64::from(window.grant(0).unwrap_or(0)),
                    _ => window.resize(50 + n as u32),
                }
                prop_assert!(window.outstanding + window.held <= window.size);
                prop_assert_eq!(u64::from(window.outstanding), granted - received);
                prop_assert_eq!(u64::from(window.held), received - consumed);
            }
        }
    }
}
