//! The table of a session's relays.

use super::super::datagrams::Datagrams;
use super::super::relay::{Load, Relay};
use crate::device::StreamPlace;
use httvps_mux::{Pace, StreamWaker};
use httvps_proto::{StreamEnd, StreamKey};
use httvps_telemetry::metrics::{Limit, Metrics};
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

/// A stream by its kind, with its place among those of its device.
pub(super) enum Entry {
    Bytes(Box<Relay>, StreamPlace),
    Datagrams(Box<Datagrams>, StreamPlace),
}

impl Entry {
    pub(super) fn waker(&self) -> &StreamWaker {
        match self {
            Self::Bytes(relay, _) => relay.waker(),
            Self::Datagrams(datagrams, _) => datagrams.waker(),
        }
    }

    fn pace(&self) -> Pace {
        match self {
            Self::Bytes(relay, _) => relay.pace,
            Self::Datagrams(..) => Pace::Interactive,
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

    pub(super) fn insert(&mut self, stream: StreamKey, relay: Relay, place: StreamPlace) {
        self.table.insert(stream, Entry::Bytes(Box::new(relay), place));
    }

    pub(super) fn insert_datagrams(
        &mut self,
        stream: StreamKey,
        datagrams: Datagrams,
        place: StreamPlace,
    ) {
        self.table.insert(stream, Entry::Datagrams(Box::new(datagrams), place));
    }

    pub(super) fn contains(&self, stream: StreamKey) -> bool {
        self.table.contains_key(&stream)
    }

    /// The relay of a stream of bytes.
    pub(super) fn get_mut(&mut self, stream: StreamKey) -> Option<&mut Relay> {
        match self.table.get_mut(&stream)? {
            Entry::Bytes(relay, _) => Some(relay),
            Entry::Datagrams(..) => None,
        }
    }

    /// The relay of a stream of datagrams.
    pub(super) fn datagrams_mut(&mut self, stream: StreamKey) -> Option<&mut Datagrams> {
        match self.table.get_mut(&stream)? {
            Entry::Datagrams(datagrams, _) => Some(datagrams),
            Entry::Bytes(..) => None,
        }
    }

    pub(super) fn is_datagrams(&self, stream: StreamKey) -> bool {
        matches!(self.table.get(&stream), Some(Entry::Datagrams(..)))
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
            Entry::Bytes(relay, _) => relay.deadline(stall, idle),
            Entry::Datagrams(datagrams, _) => Some((datagrams.idle_at(), StreamEnd::Idle)),
        }
    }

    pub(super) fn remove(&mut self, stream: StreamKey, max_stream: usize) -> Option<Entry> {
        let entry = self.table.remove(&stream)?;
        match &entry {
            Entry::Bytes(relay, _) => self.recount(relay.load(max_stream), Load::default()),
            Entry::Datagrams(datagrams, _) => self.datagram_bytes -= datagrams.waiting_bytes(),
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
