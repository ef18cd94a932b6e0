//! The table of a session's relays.

use super::super::relay::{Load, Relay};
use crate::metrics::{Limit, Metrics};
use httvps_proto::{StreamEnd, StreamKey};
use std::collections::HashMap;

/// The streams' relays, by key, and what waits in them.
pub(super) struct Relays {
    metrics: Metrics,
    table: HashMap<StreamKey, Box<Relay>>,
    /// Cost of everything that waits for an upstream.
    pub(super) pending: usize,
    /// Streams at or above their own bound.
    pub(super) full: usize,
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
        Self { metrics, table: HashMap::new(), pending: 0, full: 0 }
    }

    pub(super) fn insert(&mut self, stream: StreamKey, relay: Relay) {
        self.table.insert(stream, Box::new(relay));
    }

    pub(super) fn get(&self, stream: StreamKey) -> Option<&Relay> {
        self.table.get(&stream).map(|relay| &**relay)
    }

    pub(super) fn get_mut(&mut self, stream: StreamKey) -> Option<&mut Relay> {
        self.table.get_mut(&stream).map(|relay| &mut **relay)
    }

    pub(super) fn remove(&mut self, stream: StreamKey, max_stream: usize) -> Option<Relay> {
        let relay = self.table.remove(&stream)?;
        self.recount(relay.load(max_stream), Load::default());
        if self.table.is_empty() {
            // A peak of streams is no reason to hold its table for ever.
            self.table = HashMap::new();
        }
        Some(*relay)
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
