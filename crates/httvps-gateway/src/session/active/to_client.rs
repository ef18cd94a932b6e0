//! The way of a relay's payload to the client.

use super::super::relay::{Relay, Sink};
use super::super::wire::Wire;
use super::relays::Relays;
use httvps_mux::LinkOutbox;
use httvps_proto::StreamKey;
use std::time::Instant;

/// Bounds on what one relay may queue, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Queued for the client.
    pub(super) max_queued: usize,
    /// Waiting for the relay's upstream.
    pub(super) max_stream: usize,
    /// Of those that waited, handed to the upstream in this turn.
    pub(super) upstream_limit: usize,
}

/// What a relay did with its turn.
#[derive(Clone, Copy)]
pub(super) struct Moved {
    /// Payload bytes sent to the client.
    pub(super) sent: u64,
    /// Payload bytes that waited for the upstream and that it has taken.
    pub(super) written: usize,
    /// Whether something still waits for the upstream.
    pub(super) has_more: bool,
}

/// The parts of a session that a relay needs, so that it can be lent out while a message of the
/// client is being read.
pub(super) struct ToClient<'a> {
    pub(super) relays: &'a mut Relays,
    pub(super) wire: &'a mut Wire,
    pub(super) out: LinkOutbox<'a>,
    pub(super) bounds: Bounds,
}

impl ToClient<'_> {
    /// Lends a stream's relay out. `arrived` is what the client has just sent; what of it and of
    /// earlier bytes no longer waits afterwards was taken by the upstream, and is credited again.
    pub(super) fn with_relay<R>(
        mut self,
        stream: StreamKey,
        arrived: usize,
        now: Instant,
        f: impl FnOnce(&mut Relay, &mut ClientSink<'_, '_>) -> R,
    ) -> Option<(R, Moved)> {
        let Bounds { max_queued, max_stream, upstream_limit } = self.bounds;
        let relay = self.relays.get_mut(stream)?;
        let before = relay.load(max_stream);
        let waited = relay.waiting_bytes() + arrived;
        let mut sink = ClientSink {
            stream,
            has_room: self.out.queued() < max_queued,
            max_queued,
            upstream_limit,
            out: &mut self.out,
            wire: self.wire,
            sent: 0,
        };
        let result = f(relay, &mut sink);
        let sent = sink.sent;
        let after = relay.load(max_stream);
        let has_more = relay.has_unsent();
        let taken = waited.saturating_sub(relay.waiting_bytes());
        if taken > 0 {
            self.wire.consumed(stream, taken, now, &mut self.out);
        }
        self.relays.recount(before, after);
        Some((result, Moved { sent, written: taken.saturating_sub(arrived), has_more }))
    }
}

/// The way of one stream's payload to the client.
pub(super) struct ClientSink<'a, 'b> {
    stream: StreamKey,
    has_room: bool,
    max_queued: usize,
    upstream_limit: usize,
    out: &'a mut LinkOutbox<'b>,
    wire: &'a mut Wire,
    sent: u64,
}

impl Sink for ClientSink<'_, '_> {
    fn room(&self) -> usize {
        if self.has_room { self.wire.credit(self.stream) } else { 0 }
    }

    fn upstream_limit(&self) -> usize {
        self.upstream_limit
    }

    fn keeps_boundaries(&self) -> bool {
        matches!(self.wire, Wire::Json(_))
    }

    fn send(&mut self, payload: &[u8]) {
        if self.wire.write(self.stream, payload, self.out) {
            self.sent += payload.len() as u64;
        }
        self.has_room = self.out.queued() < self.max_queued;
    }

    fn fill<R>(&mut self, read: impl FnOnce(&mut Vec<u8>, usize) -> R) -> R {
        let (sent, result) = self.wire.fill(self.stream, self.out, read);
        self.sent += sent as u64;
        self.has_room = self.out.queued() < self.max_queued;
        result
    }

    fn finish(&mut self) -> bool {
        self.wire.finish(self.stream, self.out)
    }

    fn opened(&mut self) {
        self.wire.opened(self.stream, self.out);
    }
}
