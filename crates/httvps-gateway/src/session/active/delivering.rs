//! Closed streams of a session whose last bytes are still on their way.

use httvps_mux::Ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much of a session outlives its streams.
#[derive(Default)]
pub(super) struct Delivering {
    bytes: AtomicUsize,
    streams: AtomicUsize,
}

impl Delivering {
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire)
    }
}

/// One of them; counted until it is dropped, also when its task is cancelled or panics.
pub(super) struct Delivery {
    delivering: Arc<Delivering>,
    ready: Arc<Ready>,
    cost: usize,
}

impl Delivery {
    pub(super) fn new(delivering: &Arc<Delivering>, ready: &Arc<Ready>, cost: usize) -> Self {
        delivering.bytes.fetch_add(cost, Ordering::AcqRel);
        delivering.streams.fetch_add(1, Ordering::AcqRel);
        Self { delivering: delivering.clone(), ready: ready.clone(), cost }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.delivering.bytes.fetch_sub(self.cost, Ordering::AcqRel);
        self.delivering.streams.fetch_sub(1, Ordering::AcqRel);
        // The session may be waiting for just this before it reads on.
        self.ready.wake_session();
    }
}
