//! The budget of window growth that all sessions of a process share, beyond their initial credit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes from which sessions take before they let their windows grow.
///
/// Cheap to clone; clones share it. What a session took comes back when its windows shrink, when it has been idle, or
/// when it is dropped. With nothing left, windows stay as they are: slower, never refused.
///
/// **Sharing.** In a [shared](Self::shared) budget a session may take as long as it then has no more
/// than a quarter of what is left. So one that comes late, or whose peer uses little, finds some. The sessions of one
/// device together have a [share](Self::for_device) with a bound of its own, and no more than half of what is left.
#[derive(Debug, Clone)]
pub struct Budget {
    left: Arc<AtomicUsize>,
    is_shared: bool,
    device: Option<Arc<Share>>,
}

/// The share of one device in a budget.
#[derive(Debug)]
struct Share {
    max: usize,
    taken: AtomicUsize,
}

/// The bound that let a window grow by less than it wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// The bound of all sessions together.
    Process,
    /// The bound of the sessions of one device.
    Device,
}

/// The fraction of the rest that one session of a shared budget may have.
const SHARE: usize = 4;

/// The same of the sessions of one device.
const DEVICE_SHARE: usize = 2;

impl Budget {
    /// A budget of so many bytes, all of which one session may have.
    pub fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)), is_shared: false, device: None }
    }

    /// A budget of so many bytes for the sessions of a process.
    pub fn shared(bytes: usize) -> Self {
        Self { is_shared: true, ..Self::new(bytes) }
    }

    /// The same budget for the sessions of one device, which have at most `max` bytes of it; 0 is no bound. Clones share
    /// the share.
    pub fn for_device(&self, max: usize) -> Self {
        let max = if max == 0 { usize::MAX } else { max };
        let share = Share { max, taken: AtomicUsize::new(0) };
        Self { device: Some(Arc::new(share)), ..self.clone() }
    }

    /// Bytes that are not taken.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Bytes by which the windows of a session that has taken `taken` may grow, and what bounds it.
    pub(super) fn share(&self, taken: usize) -> (usize, Scarce) {
        let left = self.left();
        if !self.is_shared {
            return (left, Scarce::Process);
        }
        let of_process = left.saturating_sub(SHARE * taken) / (SHARE + 1);
        let of_device = self.device.as_ref().map_or(usize::MAX, |device| {
            let taken = device.taken.load(Ordering::Relaxed);
            let of_left = left.saturating_sub(DEVICE_SHARE * taken) / (DEVICE_SHARE + 1);
            device.max.saturating_sub(taken).min(of_left)
        });
        if of_device < of_process {
            (of_device, Scarce::Device)
        } else {
            (of_process, Scarce::Process)
        }
    }

    pub(super) fn try_take(&self, bytes: usize) -> Result<(), Scarce> {
        let less = |left: usize| left.checked_sub(bytes);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .map_err(|_| Scarce::Process)?;
        let Some(device) = &self.device else { return Ok(()) };
        let more = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= device.max);
        let taken = device.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if taken.is_err() {
            self.left.fetch_add(bytes, Ordering::Relaxed);
            return Err(Scarce::Device);
        }
        Ok(())
    }

    pub(super) fn give_back(&self, bytes: usize) {
        if let Some(device) = &self.device {
            device.taken.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_a_shared_budget_has_at_most_a_quarter_of_what_it_leaves() {
        let budget = Budget::shared(100);
        let mut taken = 0;
        for expected in [20, 0] {
            let (share, _) = budget.share(taken);
            assert_eq!(share, expected);
            budget.try_take(share).unwrap();
            taken += share;
        }
        assert_eq!((taken, budget.left()), (20, SHARE * 20));
        // The next one has the same part of the rest; the first one none, until there is more again.
        assert_eq!((budget.share(0).0, budget.share(taken).0), (16, 0));
        budget.give_back(5);
        assert_eq!(budget.share(taken).0, 1);
        assert_eq!(Budget::new(100).share(60).0, 100, "a budget of one session's own");
    }

    #[test]
    fn the_sessions_of_a_device_have_their_bound_and_leave_twice_what_they_have() {
        let budget = Budget::shared(1000);
        let (device, other) = (budget.for_device(150), budget.for_device(0));
        device.clone().try_take(100).unwrap();
        // Sessions without anything so far: what they may have is bounded by their device.
        assert_eq!(device.share(0), (50, Scarce::Device));
        assert_eq!(device.try_take(51), Err(Scarce::Device));
        assert_eq!((budget.left(), device.share(0).0), (900, 50), "nothing is lost");
        assert_eq!(other.share(0), (180, Scarce::Process));
        other.try_take(290).unwrap();
        assert_eq!(other.share(0), (10, Scarce::Device), "(610 - 2 * 290) / 3");
        other.give_back(290);
        device.give_back(100);
        assert_eq!((budget.left(), device.share(0).0), (1000, 150));
    }
}
