//! The table of a session's relays.

use super::super::datagrams::Datagrams;
use super::super::relay::{Load, Relay};
use crate::metrics::{Limit, Metrics};
use httvps_mux::{Pace, StreamWaker};
use httvps_proto::{StreamEnd, StreamKey};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The streams' relays, by key, and what waits in them.
pub(super) struct Relays {
    metrics: Metrics,
    table: HashMap<StreamKey, Entry>,
    /// Cost of everything that waits for an upstream.
    pub(super) pending: usize,
    /// Streams at or above their own bound.
    pub(super) full: usize,
    /// Payload bytes of datagrams that wait, in both directions.
    pub(super) datagram_bytes: usize,
}

/// A stream by its kind.
pub(super) enum Entry {
    Bytes(Box<Relay>),
    Datagrams(Box<Datagrams>),
}

impl Entry {
    pub(super) fn waker(&self) -> &StreamWaker {
        match self {
            Self::Bytes(relay) => relay.waker(),
            Self::Datagrams(datagrams) => datagrams.waker(),
        }
    }

    fn pace(&self) -> Pace {
        match self {
            Self::Bytes(relay) => relay.pace,
            Self::Datagrams(_) => Pace::Interactive,
        }
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        for _ in self.keys() {
            self.metrics.stream_ended(StreamEnd::SessionEnded);
        }
    }
}

impl Relays {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, table: HashMap::new(), pending: 0, full: 0, datagram_bytes: 0 }
    }

    pub(super) fn insert(&mut self, stream: StreamKey, relay: Relay) {
        self.table.insert(stream, Entry::Bytes(Box::new(relay)));
    }

    pub(super) fn insert_datagrams(&mut self, stream: StreamKey, datagrams: Datagrams) {
        self.table.insert(stream, Entry::Datagrams(Box::new(datagrams)));
    }

    pub(super) fn contains(&self, stream: StreamKey) -> bool {
        self.table.contains_key(&stream)
    }

    /// The relay of a stream of bytes.
    pub(super) fn get_mut(&mut self, stream: StreamKey) -> Option<&mut Relay> {
        match self.table.get_mut(&stream)? {
            Entry::Bytes(relay) => Some(relay),
            Entry::Datagrams(_) => None,
        }
    }

    /// The relay of a stream of datagrams.
    pub(super) fn datagrams_mut(&mut self, stream: StreamKey) -> Option<&mut Datagrams> {
        match self.table.get_mut(&stream)? {
            Entry::Datagrams(datagrams) => Some(datagrams),
            Entry::Bytes(_) => None,
        }
    }

    pub(super) fn is_datagrams(&self, stream: StreamKey) -> bool {
        matches!(self.table.get(&stream), Some(Entry::Datagrams(_)))
    }

    /// Says that a stream waits for its turn from now on; None when it does already, or is gone.
    pub(super) fn claim_turn(&self, stream: StreamKey) -> Option<Pace> {
        let entry = self.table.get(&stream)?;
        entry.waker().claim().then(|| entry.pace())
    }

    /// How a stream uses the session.
    pub(super) fn pace(&self, stream: StreamKey) -> Pace {
        self.table.get(&stream).map_or(Pace::Interactive, Entry::pace)
    }

    /// When a stream is ended for moving nothing, and as what; the two times are those of streams of bytes.
    pub(super) fn deadline(
        &self,
        stream: StreamKey,
        stall: Duration,
        idle: Duration,
    ) -> Option<(Instant, StreamEnd)> {
        match self.table.get(&stream)? {
            Entry::Bytes(relay) => relay.deadline(stall, idle),
            Entry::Datagrams(datagrams) => Some((datagrams.idle_at(), StreamEnd::Idle)),
        }
    }

    pub(super) fn remove(&mut self, stream: StreamKey, max_stream: usize) -> Option<Entry> {
        let entry = self.table.remove(&stream)?;
        match &entry {
            Entry::Bytes(relay) => self.recount(relay.load(max_stream), Load::default()),
            Entry::Datagrams(datagrams) => self.datagram_bytes -= datagrams.waiting_bytes(),
        }
        if self.table.is_empty() {
            // A peak of streams is no reason to hold its table for ever.
            self.table = HashMap::new();
        }
        Some(entry)
    }

    pub(super) fn recount(&mut self, before: Load, after: Load) {
        self.pending = self.pending + after.cost - before.cost;
        self.full = self.full + usize::from(after.is_full) - usize::from(before.is_full);
        if after.is_full && !before.is_full {
            self.metrics.limit_hit(Limit::StreamQueue);
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = StreamKey> {
        self.table.keys().copied()
    }
}
