//! Bytes in transit that a connection keeps between two polls.

use zeroize::Zeroize;

use crate::buffers;

/// Fewer bytes than this are copied into an allocation of their own rather than that an area of
/// 130 KiB is kept for them.
const AREA_WORTH: usize = 4 * 1024;

/// A queue of bytes in a borrowed area or in an allocation of exactly its size.
///
/// The area goes back to its thread when the value is emptied by [`release`](Self::release) or
/// dropped.
#[derive(Default)]
pub(super) struct RecordBuf {
    /// Initialised throughout, so that it can be lent to a socket without unsafe code.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Where plain text may end that was opened in place: the area belongs to another connection next.
    plain_end: usize,
}

impl RecordBuf {
    /// Holds `bytes` where they are.
    pub(super) fn exact(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self { bytes, start: 0, end, plain_end: 0 }
    }

    /// Holds plain text where it is; it is wiped when it is given up.
    pub(super) fn plain(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self { bytes, start: 0, end, plain_end: end }
    }

    /// An empty queue with the room of an area.
    pub(super) fn area() -> Self {
        Self { bytes: buffers::take_area(), start: 0, end: 0, plain_end: 0 }
    }

    /// An empty queue in an area, behind room for `front` bytes.
    pub(super) fn area_behind(front: usize) -> Self {
        Self { bytes: buffers::take_area(), start: front, end: front, plain_end: 0 }
    }

    /// Puts `front` into the room that [`area_behind`](Self::area_behind) left for it.
    pub(super) fn put_front(&mut self, front: &[u8]) {
        self.start -= front.len();
        self.bytes[self.start..self.start + front.len()].copy_from_slice(front);
    }

    /// The same bytes at the front of an area. The bytes must fit.
    pub(super) fn into_area(mut self) -> Self {
        if self.bytes.len() == buffers::AREA_LEN {
            self.compact();
            return self;
        }
        let mut area = Self::area();
        area.append(self.bytes());
        area
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The bytes, in which plain text is about to stand.
    pub(super) fn plain_mut(&mut self) -> &mut [u8] {
        self.plain_end = self.plain_end.max(self.end);
        &mut self.bytes[self.start..self.end]
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes of memory it holds.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// The room behind the bytes; what is written there counts after [`commit`](Self::commit).
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
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
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Adds `bytes`, if need be in a new allocation of exactly the size.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if self.bytes.len() - self.end < bytes.len() {
            let grown = [self.bytes(), bytes].concat();
            *self = Self::exact(grown);
            return;
        }
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Gives up the bytes and the storage. What was opened there is wiped; cipher text is not.
    pub(super) fn release(&mut self) {
        self.bytes[..self.plain_end].zeroize();
        self.plain_end = 0;
        buffers::give_back_area(std::mem::take(&mut self.bytes));
        (self.start, self.end) = (0, 0);
    }

    /// Keeps only what is held: for a connection that will wait.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            self.release();
        } else if self.len() < self.bytes.len() {
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

impl Drop for RecordBuf {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_copied_and_much_stays_in_its_area() {
        let mut held = RecordBuf::area();
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
        let held = RecordBuf::area();
        let address = held.bytes.as_ptr();
        drop(held);
        let area = buffers::take_area();
        assert_eq!(area.as_ptr(), address);
    }
}
