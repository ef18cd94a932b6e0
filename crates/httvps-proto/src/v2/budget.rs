//! What all sessions of a process may promise beyond their first credit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes from which sessions take before they let their windows grow.
///
/// Cheap to clone; clones share it. What a session took comes back when its windows shrink or it is
/// dropped. With nothing left, windows stay as they are: slower, never refused.
#[derive(Debug, Clone)]
pub struct Budget {
    left: Arc<AtomicUsize>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// Bytes that nobody has taken.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    pub(super) fn try_take(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}
