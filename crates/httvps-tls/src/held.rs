//! Bytes in transit that a connection keeps between two polls.

use crate::buffers;

/// Fewer bytes than this are copied into an allocation of their own rather than that an area of
/// 130 KiB is kept for them.
const AREA_WORTH: usize = 4 * 1024;

/// A queue of bytes in a borrowed area or in an allocation of exactly its size.
///
/// The area goes back to its thread when the value is emptied by [`release`](Self::release) or
/// dropped.
#[derive(Default)]
pub(super) struct Held {
    /// Initialised throughout, so that it can be lent to a socket without unsafe code.
    store: Vec<u8>,
    start: usize,
    end: usize,
}

impl Held {
    /// Holds `bytes` where they are.
    pub(super) fn exact(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self { store: bytes, start: 0, end }
    }

    /// An empty queue with the room of an area.
    pub(super) fn area() -> Self {
        Self { store: buffers::take_area(), start: 0, end: 0 }
    }

    /// The same bytes at the front of an area. The bytes must fit.
    pub(super) fn into_area(mut self) -> Self {
        if self.store.len() == buffers::AREA_LEN {
            self.compact();
            return self;
        }
        let mut area = Self::area();
        area.append(self.bytes());
        area
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.store[self.start..self.end]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.store[self.start..self.end]
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes of memory it holds.
    pub(super) fn capacity(&self) -> usize {
        self.store.len()
    }

    /// The room behind the bytes; what is written there counts after [`commit`](Self::commit).
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.store[self.end..]
    }

    pub(super) fn commit(&mut self, count: usize) {
        self.end += count;
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Moves the bytes to the front.
    pub(super) fn compact(&mut self) {
        if self.start > 0 {
            self.store.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Adds `bytes`, if need be in a new allocation of exactly the size.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if self.store.len() - self.end < bytes.len() {
            let grown = [self.bytes(), bytes].concat();
            *self = Self::exact(grown);
            return;
        }
        self.store[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Gives up the bytes and the storage.
    pub(super) fn release(&mut self) {
        buffers::give_back_area(std::mem::take(&mut self.store));
        (self.start, self.end) = (0, 0);
    }

    /// Keeps only what is held: for a connection that will wait.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            self.release();
        } else if self.len() < self.store.len() {
            let exact = self.bytes().to_vec();
            *self = Self::exact(exact);
        }
    }

    /// Keeps what is held at the least cost: for a connection that will soon go on.
    pub(super) fn settle(&mut self) {
        if self.len() < AREA_WORTH {
            self.shrink();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_copied_and_much_stays_in_its_area() {
        let mut held = Held::area();
        held.append(&[7; AREA_WORTH]);
        held.settle();
        assert_eq!(held.capacity(), buffers::AREA_LEN);
        held.consume(1);
        held.settle();
        assert_eq!((held.len(), held.capacity()), (AREA_WORTH - 1, AREA_WORTH - 1));
        held.append(b"more");
        assert_eq!((held.len(), held.capacity()), (AREA_WORTH + 3, AREA_WORTH + 3));
        assert!(held.bytes().ends_with(b"\x07more"));
        let mut held = held.into_area();
        held.consume(AREA_WORTH - 1);
        held.compact();
        assert_eq!(held.bytes(), b"more");
        held.consume(4);
        held.shrink();
        assert_eq!(held.capacity(), 0);
    }

    #[test]
    fn a_dropped_queue_gives_its_area_back() {
        let held = Held::area();
        let address = held.store.as_ptr();
        drop(held);
        let area = buffers::take_area();
        assert_eq!(area.as_ptr(), address);
    }
}
