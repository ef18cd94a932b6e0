//! The streams of one connection as their owners see them.

use crate::carry::Carried;
use crate::chunks::Chunks;
use crate::datagrams::Mailbox;
use crate::stream::StreamFailure;
use crate::turns::Pace;
use httvps_proto::{StreamEnd, StreamKey};
use slab::Slab;
use std::collections::HashMap;
use std::task::Waker;
use tokio::io::ReadBuf;

/// Every [`Stream`](crate::Stream) that a task holds, with what has arrived for it.
///
/// A slot lives as long as its `Stream`; the key of the protocol session goes earlier, when the
/// gateway ends the stream, and may by then belong to another slot.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Slab<Slot>,
    by_key: HashMap<StreamKey, usize>,
    max_stream_buffered: usize,
    max_session_buffered: usize,
    pub(crate) buffered: usize,
    /// Slots that hold as much as one may.
    full: usize,
    pub(crate) are_writers_waiting: bool,
    /// How often credit came for all writers.
    credits: usize,
    /// Whether datagrams wait for room in the connection's queue.
    pub(crate) has_leaving: bool,
}

#[derive(Debug)]
pub(crate) struct Slot {
    /// None once the stream is over for the gateway.
    pub(crate) key: Option<StreamKey>,
    pub(crate) progress: Progress,
    pub(crate) is_write_shut: bool,
    /// Its owner aborted: the target must be able to tell that data is missing.
    pub(crate) is_broken_off: bool,
    pub(crate) chunks: Chunks,
    /// Of a flow of datagrams: what waits in it.
    pub(crate) mailbox: Option<Box<Mailbox>>,
    /// The local connection that the driver moves bytes to and from.
    pub(crate) carried: Option<Box<Carried>>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The waker of a writer without credit.
    indebted: Option<Waker>,
}

/// ```text
/// Opening ──▶ Open ──▶ Eof | Failed
///    └──▶ NoPlace | Failed
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    Opening,
    Open,
    Eof,
    Failed(StreamFailure),
    NoPlace,
}

impl Table {
    pub(crate) fn new(max_stream_buffered: usize, max_session_buffered: usize) -> Self {
        Self {
            slots: Slab::new(),
            by_key: HashMap::new(),
            max_stream_buffered,
            max_session_buffered,
            buffered: 0,
            full: 0,
            are_writers_waiting: false,
            credits: 0,
            has_leaving: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(crate) fn insert(&mut self, key: StreamKey, progress: Progress) -> usize {
        let id = self.slots.insert(Slot {
            key: Some(key),
            progress,
            is_write_shut: false,
            is_broken_off: false,
            chunks: Chunks::default(),
            mailbox: None,
            carried: None,
            reader: None,
            writer: None,
            indebted: None,
        });
        self.by_key.insert(key, id);
        id
    }

    /// The slot of a `Stream` that exists.
    pub(crate) fn slot(&mut self, id: usize) -> &mut Slot {
        &mut self.slots[id]
    }

    pub(crate) fn slot_of(&mut self, key: StreamKey) -> Option<&mut Slot> {
        let id = self.by_key.get(&key)?;
        self.slots.get_mut(*id)
    }

    /// The local connection of a stream that is in the driver's hands.
    pub(crate) fn carried(&mut self, key: StreamKey) -> Option<&mut Carried> {
        self.slot_of(key)?.carried.as_deref_mut()
    }

    /// The traffic class of a stream that the driver serves.
    pub(crate) fn pace(&mut self, key: StreamKey) -> Pace {
        self.carried(key).map_or(Pace::default(), |carried| carried.pace)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().map(|(_, slot)| slot)
    }

    /// Keeps a datagram for the owner of its flow.
    pub(crate) fn deliver_datagram(
        &mut self,
        key: StreamKey,
        datagram: &[u8],
        wakes: &mut Vec<Waker>,
    ) {
        if let Some(slot) = self.slot_of(key) {
            slot.mailbox().arrived(datagram);
            wakes.extend(slot.reader.take());
        }
    }

    /// Unread bytes of a stream.
    pub(crate) fn unread(&self, id: usize) -> usize {
        self.slots[id].chunks.len()
    }

    /// Takes the slot of a `Stream` that is being dropped; returns the key that is still open.
    pub(crate) fn remove(&mut self, id: usize) -> Option<StreamKey> {
        self.forget_bytes(id);
        let slot = self.slots.remove(id);
        if let Some(key) = slot.key {
            self.by_key.remove(&key);
        }
        slot.key
    }

    /// Whether a [`Stream`](crate::Stream) with this key still exists.
    pub(crate) fn holds(&self, key: StreamKey) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Whether the stream of this key waits for the gateway's answer.
    pub(crate) fn is_opening(&mut self, key: StreamKey) -> bool {
        self.slot_of(key).is_some_and(|slot| slot.progress == Progress::Opening)
    }

    /// Records that the gateway has finished its half of an open stream.
    pub(crate) fn finish(&mut self, key: StreamKey, wakes: &mut Vec<Waker>) {
        if let Some(slot) = self.slot_of(key) {
            slot.progress = Progress::Eof;
            slot.hand_back();
            wakes.extend(slot.reader.take());
        }
    }

    /// Whether there is room for another message from the gateway.
    pub(crate) fn has_room(&self) -> bool {
        self.full == 0 && self.buffered < self.max_session_buffered
    }

    pub(crate) fn opened(&mut self, key: StreamKey, wakes: &mut Vec<Waker>) {
        if let Some(slot) = self.slot_of(key)
            && slot.progress == Progress::Opening
        {
            slot.progress = Progress::Open;
            wakes.extend(slot.reader.take());
        }
    }

    /// Hands what has arrived to the local connection that is carried, if there is one and nothing
    /// waits for it already, and keeps the rest. Returns how much of it was taken.
    pub(crate) fn deliver(&mut self, key: StreamKey, data: &[u8], wakes: &mut Vec<Waker>) -> usize {
        let taken = match self.slot_of(key) {
            Some(slot) if slot.chunks.len() == 0 => match &mut slot.carried {
                Some(carried) => carried.deliver(data),
                None => 0,
            },
            _ => 0,
        };
        if taken < data.len() {
            self.push(key, &data[taken..], wakes);
        }
        taken
    }

    pub(crate) fn push(&mut self, key: StreamKey, data: &[u8], wakes: &mut Vec<Waker>) {
        // A gateway that sends data has opened the stream, whether it said so or not.
        self.opened(key, wakes);
        let max = self.max_stream_buffered;
        let Some(slot) = self.slot_of(key).filter(|_| !data.is_empty()) else {
            return;
        };
        let was_full = slot.chunks.len() >= max;
        slot.chunks.push(data);
        let is_full = slot.chunks.len() >= max;
        wakes.extend(slot.reader.take());
        self.full += usize::from(is_full && !was_full);
        self.buffered += data.len();
    }

    /// Moves bytes to a reader; returns how many.
    pub(crate) fn read(&mut self, id: usize, buf: &mut ReadBuf<'_>) -> usize {
        let chunks = &mut self.slots[id].chunks;
        let was_full = chunks.len() >= self.max_stream_buffered;
        let taken = chunks.read(buf);
        let is_full = chunks.len() >= self.max_stream_buffered;
        self.full -= usize::from(was_full && !is_full);
        self.buffered -= taken;
        taken
    }

    /// Wakes those who can do without the connection when it does not answer: they wait for the
    /// target's answer, or hold a flow of datagrams.
    pub(crate) fn wake_undecided(&mut self, wakes: &mut Vec<Waker>) {
        let undecided = self
            .slots
            .iter_mut()
            .filter(|(_, slot)| slot.progress == Progress::Opening || slot.mailbox.is_some());
        wakes.extend(undecided.filter_map(|(_, slot)| slot.reader.take()));
    }

    /// Records how a stream ended; what has arrived stays readable.
    pub(crate) fn end(&mut self, key: StreamKey, progress: Progress, wakes: &mut Vec<Waker>) {
        if let Some(slot) = self.slot_of(key) {
            slot.end(progress, wakes);
            self.by_key.remove(&key);
        }
    }

    /// Ends every stream that is still open.
    pub(crate) fn fail_all(&mut self, failure: &StreamFailure, wakes: &mut Vec<Waker>) {
        for (_, slot) in &mut self.slots {
            if slot.key.is_some() {
                slot.end(Progress::Failed(failure.clone()), wakes);
            }
        }
        self.by_key.clear();
    }

    /// Ends the streams whose readers hold up the connection and gives their bytes up: those
    /// that are full, or else the one that holds most. Their keys are put into `keys` while they
    /// were still open.
    pub(crate) fn end_stalled(&mut self, keys: &mut Vec<StreamKey>, wakes: &mut Vec<Waker>) {
        let max = self.max_stream_buffered;
        let full = self.slots.iter().filter(|(_, slot)| slot.chunks.len() >= max);
        let mut stalled: Vec<usize> = full.map(|(id, _)| id).collect();
        if stalled.is_empty() {
            let largest = self.slots.iter().max_by_key(|(_, slot)| slot.chunks.len());
            stalled.extend(largest.map(|(id, _)| id));
        }
        for id in stalled {
            self.forget_bytes(id);
            let slot = &mut self.slots[id];
            if let Some(key) = slot.key {
                self.by_key.remove(&key);
                keys.push(key);
            }
            let words = "the stream was not read while it held up the whole connection";
            slot.end(Progress::Failed(StreamFailure::new(Some(StreamEnd::Stalled), words)), wakes);
        }
    }

    fn forget_bytes(&mut self, id: usize) {
        let chunks = std::mem::take(&mut self.slots[id].chunks);
        self.full -= usize::from(chunks.len() >= self.max_stream_buffered);
        self.buffered -= chunks.len();
    }

    /// Remembers a writer that found the connection's queue full.
    pub(crate) fn await_room(&mut self, id: usize, waker: &Waker) {
        self.slots[id].await_room(waker);
        self.are_writers_waiting = true;
    }

    /// Remembers a writer that has used up its credit.
    pub(crate) fn await_credit(&mut self, id: usize, waker: &Waker) {
        self.slots[id].await_credit(waker);
    }

    /// Wakes the writer of a stream that was granted credit.
    pub(crate) fn credited(&mut self, key: StreamKey, wakes: &mut Vec<Waker>) {
        if let Some(slot) = self.slot_of(key) {
            wakes.extend(slot.indebted.take());
        }
    }

    /// Wakes every writer that has used up its credit. Each time another one comes first: what is
    /// granted to the session may not do for all.
    pub(crate) fn all_credited(&mut self, wakes: &mut Vec<Waker>) {
        let known = wakes.len();
        wakes.extend(self.slots.iter_mut().filter_map(|(_, slot)| slot.indebted.take()));
        let woken = &mut wakes[known..];
        if !woken.is_empty() {
            self.credits = self.credits.wrapping_add(1);
            woken.rotate_left(self.credits % woken.len());
        }
    }

    /// Wakes the writers that wait. All of them: one that is gone could not pass its turn on.
    pub(crate) fn wake_writers(&mut self, wakes: &mut Vec<Waker>) {
        if std::mem::take(&mut self.are_writers_waiting) {
            wakes.extend(self.slots.iter_mut().filter_map(|(_, slot)| slot.writer.take()));
        }
    }
}

impl Slot {
    pub(crate) fn await_arrival(&mut self, waker: &Waker) {
        register(&mut self.reader, waker);
    }

    /// The queues of a flow of datagrams.
    pub(crate) fn mailbox(&mut self) -> &mut Mailbox {
        self.mailbox.get_or_insert_default()
    }

    /// Whether both sides may still send.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.progress, Progress::Opening | Progress::Open)
    }

    pub(crate) fn await_room(&mut self, waker: &Waker) {
        register(&mut self.writer, waker);
    }

    pub(crate) fn await_credit(&mut self, waker: &Waker) {
        register(&mut self.indebted, waker);
    }

    /// Returns the local connection to its owner, which closes it.
    pub(crate) fn hand_back(&mut self) {
        if let Some(carried) = self.carried.take() {
            carried.hand_back(None);
        }
    }

    fn end(&mut self, progress: Progress, wakes: &mut Vec<Waker>) {
        self.key = None;
        self.progress = progress;
        self.hand_back();
        wakes.extend(self.reader.take());
        wakes.extend(self.writer.take());
        wakes.extend(self.indebted.take());
    }
}

fn register(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(known) => known.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(table: &mut Table, id: usize, room: usize) -> usize {
        let mut space = vec![0; room];
        table.read(id, &mut ReadBuf::new(&mut space))
    }

    #[test]
    fn a_full_stream_and_a_full_session_have_no_room() {
        let mut table = Table::new(100, 150);
        let (a, b) = (StreamKey(0), StreamKey(1));
        let first = table.insert(a, Progress::Open);
        let second = table.insert(b, Progress::Open);
        table.push(a, &[1; 100], &mut Vec::new());
        assert!(!table.has_room());
        assert_eq!(read(&mut table, first, 1), 1);
        assert!(table.has_room());
        table.push(b, &[2; 51], &mut Vec::new());
        assert!(!table.has_room());
        assert_eq!(read(&mut table, second, 500), 51);
        assert!(table.has_room());
    }

    #[test]
    fn a_dropped_stream_takes_its_bytes_along() {
        let mut table = Table::new(10, 1000);
        let id = table.insert(StreamKey(0), Progress::Open);
        table.push(StreamKey(0), &[0; 64], &mut Vec::new());
        assert_eq!(table.remove(id), Some(StreamKey(0)));
        assert!(table.has_room());
        assert_eq!((table.buffered, table.full), (0, 0));
    }

    #[test]
    fn a_key_that_is_used_again_does_not_reach_the_old_slot() {
        let mut table = Table::new(10, 1000);
        let old = table.insert(StreamKey(0), Progress::Open);
        table.push(StreamKey(0), b"old", &mut Vec::new());
        table.end(StreamKey(0), Progress::Eof, &mut Vec::new());
        let new = table.insert(StreamKey(0), Progress::Open);
        table.push(StreamKey(0), b"fresh", &mut Vec::new());
        assert_eq!(table.remove(old), None);
        assert_eq!(read(&mut table, new, 100), 5);
        assert_eq!(table.slot(new).progress, Progress::Open);
    }

    #[test]
    fn the_stream_that_holds_most_is_ended_when_none_is_full() {
        let mut table = Table::new(100, 100);
        let small = table.insert(StreamKey(0), Progress::Open);
        let large = table.insert(StreamKey(1), Progress::Open);
        table.push(StreamKey(0), &[0; 40], &mut Vec::new());
        table.push(StreamKey(1), &[0; 60], &mut Vec::new());
        assert!(!table.has_room());
        let mut keys = Vec::new();
        table.end_stalled(&mut keys, &mut Vec::new());
        assert_eq!(keys, [StreamKey(1)]);
        assert!(table.has_room());
        assert_eq!(table.slot(small).progress, Progress::Open);
        assert!(matches!(table.slot(large).progress, Progress::Failed(_)));
    }
}
