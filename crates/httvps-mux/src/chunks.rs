//! Bytes that have arrived and wait for their reader.

use std::collections::VecDeque;
use tokio::io::ReadBuf;

/// Bytes in the order of their arrival, in pieces of the size in which they came.
///
/// Small pieces share one allocation, so the memory is at most twice the bytes plus 4 KiB. The
/// owner keeps the length within its limit.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that have been read.
    at: usize,
    len: usize,
}

/// The smallest allocation; also what an interactive stream usually needs in all.
const GRAIN: usize = 4096;

impl Chunks {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        self.len += data.len();
        match self.queue.back_mut() {
            Some(last) if last.capacity() - last.len() >= data.len() => {
                last.extend_from_slice(data);
            }
            _ => {
                let mut chunk = Vec::with_capacity(data.len().max(GRAIN));
                chunk.extend_from_slice(data);
                self.queue.push_back(chunk);
            }
        }
    }

    /// The bytes at the front that lie together; None when there are none.
    pub(crate) fn front(&self) -> Option<&[u8]> {
        self.queue.front().map(|first| &first[self.at..])
    }

    /// Drops the first `count` bytes of [`Self::front`].
    pub(crate) fn advance(&mut self, count: usize) {
        self.at += count;
        self.len -= count;
        if self.queue.front().is_some_and(|first| self.at >= first.len()) {
            self.queue.pop_front();
            self.at = 0;
        }
    }

    /// Moves as much as there is and as `buf` takes; returns how much that was.
    pub(crate) fn read(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let before = self.len;
        while let Some(rest) = self.front()
            && buf.remaining() > 0
        {
            let taken = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..taken]);
            self.advance(taken);
        }
        before - self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            steps in prop::collection::vec(
                prop_oneof![
                    (any::<u8>(), 0_usize..6000).prop_map(|(byte, len)| Ok(vec![byte; len])),
                    (0_usize..9000).prop_map(Err),
                ],
                0..20,
            ),
        ) {
            let mut chunks = Chunks::default();
            let (mut wrote, mut read) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Ok(data) => {
                        chunks.push(&data);
                        wrote.extend(data);
                    }
                    Err(room) => {
                        let mut space = vec![0; room];
                        let mut buf = ReadBuf::new(&mut space);
                        let n = chunks.read(&mut buf);
                        prop_assert_eq!(n, room.min(wrote.len() - read.len()));
                        read.extend_from_slice(buf.filled());
                    }
                }
                prop_assert_eq!(chunks.len(), wrote.len() - read.len());
                prop_assert_eq!(&wrote[..read.len()], &read[..]);
                let held: usize = chunks.queue.iter().map(Vec::capacity).sum();
                prop_assert!(held <= 2 * chunks.len() + 2 * GRAIN + 6000);
            }
        }
    }
}
