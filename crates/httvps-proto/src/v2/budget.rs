//! What all sessions of a process may promise beyond their first credit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes from which sessions take before they let their windows grow.
///
/// Cheap to clone; clones share it. What a session took comes back when its windows shrink or it is
/// dropped. With nothing left, windows stay as they are: slower, never refused.
///
/// **Sharing.** In a [shared](Self::shared) budget a session may take as long as it then has no more
/// than a quarter of what is left. So one that comes late, or whose peer uses little, finds some; and
/// peers that let windows grow and leave them unused, which nobody can take back, need more sessions
/// for each further byte.
#[derive(Debug, Clone)]
pub struct Budget {
    left: Arc<AtomicUsize>,
    is_shared: bool,
}

/// The part of what is left that one session of a shared budget may have.
const SHARE: usize = 4;

impl Budget {
    /// A budget of so many bytes, all of which one session may have.
    pub fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)), is_shared: false }
    }

    /// A budget of so many bytes for the sessions of a process.
    pub fn shared(bytes: usize) -> Self {
        Self { is_shared: true, ..Self::new(bytes) }
    }

    /// Bytes that nobody has taken.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Bytes by which the windows of a session that has taken `taken` may grow.
    pub(super) fn share(&self, taken: usize) -> usize {
        let left = self.left();
        if self.is_shared { (left.saturating_sub(SHARE * taken)) / (SHARE + 1) } else { left }
    }

    pub(super) fn try_take(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    pub(super) fn give_back(&self, bytes: usize) {
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
            let share = budget.share(taken);
            assert_eq!(share, expected);
            assert!(budget.try_take(share));
            taken += share;
        }
        assert_eq!((taken, budget.left()), (20, SHARE * 20));
        // The next one has the same part of the rest; the first one none, until there is more again.
        assert_eq!((budget.share(0), budget.share(taken)), (16, 0));
        budget.give_back(5);
        assert_eq!(budget.share(taken), 1);
        assert_eq!(Budget::new(100).share(60), 100, "a budget of one session's own");
    }
}
