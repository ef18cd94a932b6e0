//! A queue of datagrams.

use std::collections::VecDeque;

/// Most datagrams that wait in one queue.
pub const MAX_QUEUED_DATAGRAMS: usize = 64;

/// A queue of whole datagrams. A new datagram evicts the oldest, since recent datagrams are the useful ones.
#[derive(Debug, Default)]
pub struct DatagramQueue {
    datagrams: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl DatagramQueue {
    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Payload bytes in the queue.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a datagram, and drops as many of the oldest as it takes to stay within [`MAX_QUEUED_DATAGRAMS`]
    /// and `max_bytes`; returns how many. The new datagram is always kept.
    pub fn push(&mut self, datagram: &[u8], max_bytes: usize) -> u64 {
        let mut dropped = 0;
        while self.datagrams.len() >= MAX_QUEUED_DATAGRAMS
            || self.bytes + datagram.len() > max_bytes
        {
            if self.pop().is_none() {
                break;
            }
            dropped += 1;
        }
        self.bytes += datagram.len();
        self.datagrams.push_back(datagram.into());
        dropped
    }

    /// The oldest datagram.
    pub fn front(&self) -> Option<&[u8]> {
        self.datagrams.front().map(|datagram| &**datagram)
    }

    /// Takes the oldest datagram out.
    pub fn pop(&mut self) -> Option<Box<[u8]>> {
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.len();
        if self.datagrams.is_empty() {
            // A peak is no reason to hold the table for ever.
            self.datagrams = VecDeque::new();
        }
        Some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(mut queue: DatagramQueue) -> Vec<Box<[u8]>> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn the_oldest_give_way_to_the_65th() {
        let mut queue = DatagramQueue::default();
        let dropped: u64 = (0..70_u8).map(|i| queue.push(&[i], 1000)).sum();
        assert_eq!((dropped, queue.bytes()), (6, 64));
        assert_eq!(queue.front(), Some(&[6][..]));
        let left: Vec<u8> = drained(queue).iter().map(|datagram| datagram[0]).collect();
        assert_eq!(left, (6..70).collect::<Vec<u8>>());
    }

    #[test]
    fn the_oldest_give_way_to_what_is_larger_than_the_room() {
        let mut queue = DatagramQueue::default();
        for length in [400, 300, 0, 300] {
            assert_eq!(queue.push(&vec![0; length], 1000), 0);
        }
        assert_eq!((queue.push(&[0; 1], 1000), queue.bytes()), (1, 601));
        assert_eq!((queue.push(&[0; 1000], 1000), queue.bytes()), (4, 1000));
        assert_eq!(drained(queue).len(), 1);
    }

    #[test]
    fn a_smaller_bound_holds_from_the_next_datagram_and_never_for_the_only_one() {
        let mut queue = DatagramQueue::default();
        for _ in 0..10 {
            queue.push(&[0; 100], 1000);
        }
        assert_eq!((queue.push(&[0; 100], 300), queue.bytes()), (8, 300));
        assert_eq!((queue.push(&[0; 500], 300), queue.bytes()), (3, 500));
        assert_eq!(drained(queue).len(), 1);
    }
}
