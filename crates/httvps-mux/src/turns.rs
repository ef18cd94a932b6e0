//! The order in which the streams of a session have their turns.

use crate::Ready;
use httvps_proto::StreamKey;
use std::collections::VecDeque;

/// Bytes of one read from which on a stream counts as bulk.
const BULK_READ: usize = 4 * 1024;

/// Turns of interactive streams after which a bulk stream that waits has one.
const IN_A_ROW: u8 = 16;

/// The traffic class of a stream, derived from its last read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pace {
    /// Small pieces now and then; latency matters.
    #[default]
    Interactive,
    /// Bulk transfer; throughput matters.
    Bulk,
}

impl Pace {
    /// The class after a read of `bytes`.
    pub const fn of_read(bytes: usize) -> Self {
        if bytes < BULK_READ { Self::Interactive } else { Self::Bulk }
    }
}

/// Streams that wait, in the order of their turns: interactive ones first, but for one bulk stream
/// after every 16 of them. Within its class each stream waits only for those before it.
#[derive(Debug, Default)]
pub struct Turns {
    interactive: VecDeque<StreamKey>,
    bulk: VecDeque<StreamKey>,
    in_a_row: u8,
}

impl Turns {
    /// Appends a stream to the line of its class. It must not wait already: a stream that is here twice would have
    /// twice its share.
    pub fn push(&mut self, stream: StreamKey, pace: Pace) {
        debug_assert!(!self.interactive.contains(&stream) && !self.bulk.contains(&stream));
        match pace {
            Pace::Interactive => self.interactive.push_back(stream),
            Pace::Bulk => self.bulk.push_back(stream),
        }
    }

    /// Takes the stream whose turn it is.
    pub fn pop(&mut self) -> Option<StreamKey> {
        if self.in_a_row < IN_A_ROW
            && let Some(stream) = self.interactive.pop_front()
        {
            self.in_a_row += 1;
            return Some(stream);
        }
        self.in_a_row = 0;
        self.bulk.pop_front().or_else(|| self.interactive.pop_front())
    }

    /// Appends the streams that woke up.
    pub fn take_ready(&mut self, ready: &Ready, mut pace: impl FnMut(StreamKey) -> Pace) {
        ready.take(|stream| self.push(stream, pace(stream)));
    }

    /// Forgets the streams that `keep` does not name.
    pub fn retain(&mut self, mut keep: impl FnMut(StreamKey) -> bool) {
        self.interactive.retain(|stream| keep(*stream));
        self.bulk.retain(|stream| keep(*stream));
    }

    /// Streams that wait.
    pub fn len(&self) -> usize {
        self.interactive.len() + self.bulk.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turns(pairs: &[(u32, Pace)]) -> Turns {
        let mut turns = Turns::default();
        for (key, pace) in pairs {
            turns.push(StreamKey(*key), *pace);
        }
        turns
    }

    fn order(turns: &mut Turns) -> Vec<u32> {
        std::iter::from_fn(|| turns.pop()).map(|key| key.0).collect()
    }

    #[test]
    fn interactive_streams_come_first_and_all_in_order() {
        use Pace::{Bulk, Interactive};
        let mut turns =
            turns(&[(1, Bulk), (2, Interactive), (3, Bulk), (4, Interactive), (5, Bulk)]);
        assert_eq!(turns.len(), 5);
        turns.retain(|stream| stream != StreamKey(3));
        assert_eq!(order(&mut turns), [2, 4, 1, 5]);
        assert!(turns.is_empty());
    }

    #[test]
    fn many_interactive_streams_do_not_shut_out_a_bulk_one() {
        let mut turns = turns(&[(1000, Pace::Bulk), (1001, Pace::Bulk)]);
        for key in 0..50 {
            turns.push(StreamKey(key), Pace::Interactive);
        }
        let order = order(&mut turns);
        assert_eq!(order.iter().position(|key| *key == 1000), Some(usize::from(IN_A_ROW)));
        assert_eq!(order.iter().position(|key| *key == 1001), Some(2 * usize::from(IN_A_ROW) + 1));
        assert_eq!(order.len(), 52);
    }

    #[test]
    fn a_read_shows_the_pace() {
        assert_eq!(Pace::of_read(BULK_READ - 1), Pace::Interactive);
        assert_eq!(Pace::of_read(BULK_READ), Pace::Bulk);
    }

    proptest! {
        #[test]
        fn every_waiting_stream_has_a_turn(bulks in 1usize..20, rounds in 1usize..200) {
            // One interactive stream that always wants another turn, and bulk streams likewise.
            let mut turns = turns(&[(0, Pace::Interactive)]);
            for key in 1..=bulks {
                turns.push(StreamKey(key as u32), Pace::Bulk);
            }
            let mut had = vec![0usize; bulks + 1];
            for _ in 0..rounds * bulks * (usize::from(IN_A_ROW) + 1) {
                let stream = turns.pop().unwrap();
                had[stream.0 as usize] += 1;
                let pace = if stream.0 == 0 { Pace::Interactive } else { Pace::Bulk };
                turns.push(stream, pace);
            }
            prop_assert!(had[1..].iter().all(|turns| *turns == rounds), "{had:?}");
        }
    }
}
