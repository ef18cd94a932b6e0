//! Bytes that an upstream has not taken yet.

use std::collections::VecDeque;

/// A queue of payloads in the order in which they came.
///
/// The owner bounds it by [`Self::cost`]. Small payloads for a byte stream are merged, so that a
/// client that sends single bytes cannot make the bookkeeping larger than the data.
#[derive(Default)]
pub(super) struct Pending {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that were taken already.
    taken: usize,
    bytes: usize,
}

/// What a chunk costs beyond its bytes: its allocation and its place in the queue.
const CHUNK_COST: usize = 64;
/// Payloads are merged up to this size.
const MERGE_MAX: usize = 16 * 1024;

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// What the queue costs in memory, about.
    pub(super) fn cost(&self) -> usize {
        self.bytes + self.chunks.len() * CHUNK_COST
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a payload; `merge` says that its boundaries mean nothing.
    pub(super) fn push(&mut self, data: &[u8], merge: bool) {
        self.bytes += data.len();
        match self.chunks.back_mut() {
            Some(last) if merge && last.len() + data.len() <= MERGE_MAX => {
                last.extend_from_slice(data);
            }
            _ => self.chunks.push_back(data.to_vec()),
        }
    }

    /// The bytes to hand on next; empty when there are none (or an empty payload is at the front).
    pub(super) fn front(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| &chunk[self.taken..])
    }

    /// Notes that `count` bytes of the front were taken.
    pub(super) fn advance(&mut self, count: usize) {
        self.taken += count;
        self.bytes -= count;
        if self.chunks.front().is_some_and(|chunk| self.taken >= chunk.len()) {
            self.chunks.pop_front();
            self.taken = 0;
            if self.chunks.is_empty() {
                self.chunks = VecDeque::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_in_pieces_of_any_size() {
        let mut pending = Pending::default();
        pending.push(b"abc", false);
        pending.push(b"", false);
        pending.push(b"defg", false);
        assert_eq!(pending.cost(), 7 + 3 * CHUNK_COST);
        assert_eq!(pending.front(), b"abc");
        pending.advance(2);
        assert_eq!(pending.front(), b"c");
        pending.advance(1);
        assert_eq!(pending.front(), b"");
        pending.advance(0);
        assert_eq!(pending.front(), b"defg");
        pending.advance(4);
        assert!(pending.is_empty());
        assert_eq!(pending.cost(), 0);
    }

    #[test]
    fn single_bytes_are_merged_for_a_byte_stream() {
        let mut pending = Pending::default();
        for _ in 0..MERGE_MAX {
            pending.push(b"x", true);
        }
        assert_eq!(pending.cost(), MERGE_MAX + CHUNK_COST);
        pending.push(b"x", true);
        assert_eq!(pending.chunks.len(), 2);
    }
}
