//! Where arriving bytes are put.

use std::ops::{Deref, DerefMut};

use crate::buffers;

/// Room of a read of which nothing is known, in bytes.
const STEP: usize = 32 * 1024;

/// Content of the largest TLS record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;

/// A buffer for reads, which write over bytes that are initialised already.
///
/// A `Vec` forgets what was initialised when it is emptied, and reading into it without unsafe code
/// then writes every byte twice. This one keeps it, also across its users: see
/// [`take_store`](buffers::take_store). It dereferences to the filled bytes.
pub(super) struct Store {
    initialised: Vec<u8>,
    filled: usize,
    /// What the next read is worth: twice the room of one that filled it to less than a TLS record.
    step: usize,
    /// The room of the read that is under way.
    offered: usize,
}

impl Store {
    /// Holds `bytes` in an allocation of exactly their size.
    pub(super) fn exact(bytes: &[u8]) -> Self {
        Self { initialised: bytes.to_vec(), filled: bytes.len(), step: STEP, offered: 0 }
    }

    /// A borrowed store that holds `bytes`.
    pub(super) fn borrowed(bytes: &[u8]) -> Self {
        let mut store = Self { initialised: buffers::take_store(), ..Self::exact(&[]) };
        store.initialise(bytes.len());
        store.initialised[..bytes.len()].copy_from_slice(bytes);
        store.filled = bytes.len();
        store
    }

    pub(super) fn capacity(&self) -> usize {
        self.initialised.capacity()
    }

    /// Makes the capacity at least `capacity`, and no larger if it has to grow.
    pub(super) fn reserve(&mut self, capacity: usize) {
        self.initialised.reserve_exact(capacity.saturating_sub(self.initialised.len()));
    }

    /// Room for a read of at most `most` bytes, which must be within the capacity: as much as is
    /// held, or what the last read suggests, so that memory is touched in proportion to what comes;
    /// more where it has been touched already.
    pub(super) fn room(&mut self, most: usize) -> &mut [u8] {
        debug_assert!(self.filled + most <= self.capacity());
        self.initialise(self.filled + most.min(self.step.max(self.filled)));
        let end = self.initialised.len().min(self.filled + most);
        self.offered = end - self.filled;
        &mut self.initialised[self.filled..end]
    }

    /// Counts `n` bytes at the front of the room as filled.
    pub(super) fn commit(&mut self, n: usize) {
        debug_assert!(n <= self.offered);
        self.filled += n;
        let is_full = self.offered - n < RECORD;
        self.step = if is_full { self.offered * 2 } else { STEP };
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.filled = self.filled.min(len);
    }

    /// Drops the first `n` bytes.
    pub(super) fn shift_down(&mut self, n: usize) {
        self.initialised.copy_within(n..self.filled, 0);
        self.filled -= n;
    }

    /// Gives the room back unless much of it is held from `start` on; true if what is held is now
    /// at the front.
    pub(super) fn park(&mut self, start: usize) -> bool {
        if buffers::is_in_use(self.filled - start, self.capacity()) {
            return false;
        }
        let held = Self::exact(&self[start..]);
        // It may be half of a token, which shall not live on where the next connection reads.
        self[start..].fill(0);
        *self = held;
        true
    }

    fn initialise(&mut self, len: usize) {
        if self.initialised.len() < len {
            self.initialised.resize(len, 0);
        }
    }
}

impl Deref for Store {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.initialised[..self.filled]
    }
}

impl DerefMut for Store {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.initialised[..self.filled]
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        buffers::give_back_store(std::mem::take(&mut self.initialised));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffers::BULK;

    fn read(store: &mut Store, bytes: usize) -> usize {
        let room = store.room(BULK);
        let count = bytes.min(room.len());
        room[..count].fill(7);
        let room = room.len();
        store.commit(count);
        room
    }

    #[test]
    fn memory_is_touched_in_proportion_to_what_comes() {
        let mut store = Store::borrowed(b"");
        store.initialised.clear();
        read(&mut store, STEP);
        read(&mut store, STEP);
        store.room(BULK);
        assert_eq!(store.initialised.len(), 4 * STEP, "a sender that stops after two");
        store.truncate(0);
        store.initialised.clear();
        for _ in 0..3 {
            assert_eq!(read(&mut store, 100), STEP);
            store.truncate(0);
        }
        assert_eq!(store.initialised.len(), STEP);
        for room in [STEP, 2 * STEP, 4 * STEP] {
            assert_eq!(read(&mut store, BULK), room);
            assert!(store.initialised.len() <= 3 * store.len().max(STEP));
            store.truncate(0);
        }
        assert_eq!(read(&mut store, 100), BULK, "it is initialised now");
        store.initialised.truncate(STEP);
        assert_eq!(read(&mut store, 100), STEP, "and a small read makes small ones");
    }

    #[test]
    fn what_is_initialised_outlives_its_user() {
        let mut store = Store::borrowed(b"");
        for _ in 0..3 {
            read(&mut store, BULK);
            store.truncate(0);
        }
        assert!(store.park(0));
        assert_eq!((store.len(), store.capacity()), (0, 0));
        let mut next = Store::borrowed(b"abc");
        assert_eq!(*next, *b"abc");
        assert!(next.initialised.len() >= BULK);
        assert_eq!(read(&mut next, 1), BULK - 3);
    }

    #[test]
    fn parking_keeps_the_bytes() {
        let mut store = Store::borrowed(b"0123456789");
        assert!(store.park(4));
        assert_eq!(*store, *b"456789");
        assert!(store.capacity() < 64);
        assert_eq!(Store::borrowed(b"").initialised[..10], *b"0123\0\0\0\0\0\0");
        let mut full = Store::borrowed(&vec![7; buffers::POOLED_FILL / 4]);
        assert!(!full.park(0));
        assert!(full.park(1));
        assert_eq!((full.len(), full[0]), (buffers::POOLED_FILL / 4 - 1, 7));
    }
}
