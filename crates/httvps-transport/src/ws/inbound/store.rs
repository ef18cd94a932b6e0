//! Where arriving bytes are put.

use std::ops::{Deref, DerefMut};

use crate::buffers;

/// Bytes that are initialised at a time while reads are small.
const STEP: usize = 32 * 1024;

/// A buffer for reads, which write over bytes that are initialised already.
///
/// A `Vec` forgets what was initialised when it is emptied, and reading into it without unsafe code
/// then writes every byte twice. This one keeps it, also across its users: see
/// [`take_store`](buffers::take_store). It is the bytes that are filled.
#[derive(Default)]
pub(super) struct Store {
    initialised: Vec<u8>,
    filled: usize,
    /// The last read filled its room, or nearly so.
    is_flowing: bool,
}

impl Store {
    /// Holds `bytes` in an allocation of exactly their size.
    pub(super) fn exact(bytes: &[u8]) -> Self {
        Self { initialised: bytes.to_vec(), filled: bytes.len(), is_flowing: false }
    }

    /// A borrowed store that holds `bytes`.
    pub(super) fn borrowed(bytes: &[u8]) -> Self {
        let mut store = Self { initialised: buffers::take_store(), ..Self::default() };
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

    /// Room for a read of at most `most` bytes, which must be within the capacity: less as long as
    /// small reads do not need more, so that memory is touched only for bytes that come.
    pub(super) fn room(&mut self, most: usize) -> &mut [u8] {
        debug_assert!(self.filled + most <= self.capacity());
        let least = if self.is_flowing { most } else { most.min(STEP) };
        self.initialise(self.filled + least);
        let end = self.initialised.len().min(self.filled + most);
        &mut self.initialised[self.filled..end]
    }

    /// Counts `n` bytes at the front of a room of `room` bytes as filled.
    pub(super) fn commit(&mut self, n: usize, room: usize) {
        debug_assert!(self.filled + n <= self.initialised.len());
        self.filled += n;
        self.is_flowing = n * 2 >= room;
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
        *self = Self::exact(&self[start..]);
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
        let room = store.room(BULK).len();
        store.commit(bytes.min(room), room);
        room
    }

    #[test]
    fn memory_is_touched_for_bytes_that_come() {
        let mut store = Store::borrowed(b"");
        store.initialised.clear();
        for _ in 0..3 {
            assert_eq!(read(&mut store, 100), STEP);
            store.truncate(0);
        }
        assert_eq!(store.initialised.len(), STEP);
        assert_eq!(read(&mut store, STEP), STEP);
        store.truncate(0);
        assert_eq!(read(&mut store, STEP), BULK, "it flows");
        store.truncate(0);
        assert_eq!(read(&mut store, 100), BULK, "it is initialised now");
    }

    #[test]
    fn what_is_initialised_outlives_its_user() {
        let mut store = Store::borrowed(b"");
        read(&mut store, STEP);
        read(&mut store, BULK);
        assert!(store.park(store.len()));
        assert_eq!((store.len(), store.capacity()), (0, 0));
        let mut next = Store::borrowed(b"abc");
        assert_eq!(*next, *b"abc");
        assert!(next.initialised.len() >= BULK);
        assert_eq!(read(&mut next, 1), BULK);
    }

    #[test]
    fn parking_keeps_the_bytes() {
        let mut store = Store::borrowed(b"0123456789");
        assert!(store.park(4));
        assert_eq!(*store, *b"456789");
        assert!(store.capacity() < 64);
        let mut full = Store::borrowed(&vec![7; buffers::POOLED_FILL / 4]);
        assert!(!full.park(0));
        assert!(full.park(1));
        assert_eq!((full.len(), full[0]), (buffers::POOLED_FILL / 4 - 1, 7));
    }
}
