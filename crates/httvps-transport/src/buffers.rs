//! Buffers that belong to a worker thread and are lent to connections while bytes move.
//!
//! Two kinds: a *scratch* area for TLS records, which never outlives one poll, and a *pool* of
//! growable buffers for WebSocket messages, which are held across polls only while they are not
//! empty. Bounds per thread: two scratch areas of [`SCRATCH_LEN`], and [`POOL_BUFFERS`] buffers
//! of at most [`POOLED_CAPACITY_MAX`] each.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};

/// Bytes moved by one read or one write at the most.
pub(crate) const BULK: usize = 64 * 1024;

/// Length of a scratch area: one bulk transfer, the overhead of its records, and one more
/// partial record of the largest size.
pub(crate) const SCRATCH_LEN: usize = BULK + 20 * 1024;

/// Capacity of a fresh pooled buffer.
pub(crate) const POOLED_CAPACITY: usize = BULK;

/// A returned buffer larger than this is freed instead of kept.
const POOLED_CAPACITY_MAX: usize = 256 * 1024;

/// Buffers kept per thread.
const POOL_BUFFERS: usize = 8;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The thread's scratch area for as long as this value lives; must not be held across a poll.
///
/// A stream inside a stream (TLS in TLS) finds the area taken and gets a fresh one.
pub(crate) struct Scratch(Option<Box<[u8]>>);

/// Borrows the scratch area of this thread. Its content is left over from earlier uses.
pub(crate) fn scratch() -> Scratch {
    let area = SCRATCH.try_with(Cell::take).ok().flatten();
    Scratch(Some(area.unwrap_or_else(|| vec![0; SCRATCH_LEN].into_boxed_slice())))
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let area = self.0.take();
        // While the thread ends its storage is gone; the area is then simply freed.
        let _ = SCRATCH.try_with(|slot| slot.set(area));
    }
}

/// Takes an empty buffer of at least [`POOLED_CAPACITY`].
pub(crate) fn take() -> Vec<u8> {
    POOL.try_with(|pool| pool.borrow_mut().pop())
        .ok()
        .flatten()
        .unwrap_or_else(|| Vec::with_capacity(POOLED_CAPACITY))
}

/// Gives a buffer back. One that is too small, too large or one too many is freed.
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    if !(POOLED_CAPACITY..=POOLED_CAPACITY_MAX).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < POOL_BUFFERS {
            pool.push(buffer);
        }
    });
}

/// Empties `buffer` if it holds nothing from `start` on, or moves the little that it holds into
/// an allocation of exactly that size; either way a large buffer goes back to the pool.
///
/// Returns true if the content was moved to the front (`start` is then 0). A buffer that is at
/// least a quarter full is in use and stays as it is.
pub(crate) fn park(buffer: &mut Vec<u8>, start: usize) -> bool {
    let held = buffer.len() - start;
    if held * 4 >= buffer.capacity() && held > 0 {
        return false;
    }
    let small = buffer[start..].to_vec();
    give_back(std::mem::replace(buffer, small));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_returns_to_its_thread_and_nests() {
        let first = scratch();
        let address = first.as_ptr();
        let nested = scratch();
        assert_ne!(nested.as_ptr(), address);
        assert_eq!(nested.len(), SCRATCH_LEN);
        drop(nested);
        drop(first);
        assert_eq!(scratch().as_ptr(), address);
    }

    #[test]
    fn the_pool_keeps_few_buffers_of_bounded_size() {
        for _ in 0..POOL_BUFFERS * 2 {
            give_back(Vec::with_capacity(POOLED_CAPACITY));
        }
        give_back(Vec::with_capacity(POOLED_CAPACITY_MAX * 2));
        give_back(Vec::with_capacity(16));
        POOL.with(|pool| {
            let pool = pool.borrow();
            assert_eq!(pool.len(), POOL_BUFFERS);
            assert!(pool.iter().all(|b| b.capacity() <= POOLED_CAPACITY_MAX));
        });
    }

    #[test]
    fn parking_keeps_the_bytes_and_frees_the_room() {
        let mut buffer = take();
        buffer.extend_from_slice(b"0123456789");
        assert!(park(&mut buffer, 4));
        assert_eq!(buffer, b"456789");
        assert!(buffer.capacity() < 64);

        let mut full = take();
        full.resize(POOLED_CAPACITY / 2, 7);
        assert!(!park(&mut full, 0));
        assert_eq!(full.len(), POOLED_CAPACITY / 2);

        let mut empty = take();
        assert!(park(&mut empty, 0));
        assert_eq!(empty.capacity(), 0);
    }
}
