//! The streams of datagrams of a session.

use super::super::ClientLink;
use super::super::datagrams::{Datagrams, Way, idle_timeout};
use super::super::wire::Wire;
use super::Active;
use httvps_egress::OpenRequest;
use httvps_proto::StreamKey;
use httvps_proto::v2::ResetCode;
use httvps_telemetry::metrics::{Direction, Limit, Metrics, SessionEnd};
use std::time::Instant;

impl Active {
    pub(super) fn open_datagrams(
        &mut self,
        stream: StreamKey,
        target: Option<&str>,
        now: Instant,
    ) -> Result<(), SessionEnd> {
        let target = match self.parse_target(target) {
            Ok(target) => target,
            Err(error) => return self.refuse_target(stream, error, now),
        };
        let Some(place) = self.place_for(stream, now)? else { return Ok(()) };
        let config = &self.gateway.config;
        let idle = idle_timeout(config.datagram_idle_timeout, target.as_ref());
        let lookups = self.place.device.lookups.clone();
        let request = OpenRequest { target, deadline: config.dial_timeout, lookups };
        let dial = match self.connector.connect_datagrams(request) {
            Ok(dial) => dial,
            Err(error) => {
                let words = error.to_string();
                return self.turn_away(stream.0, ResetCode::Unsupported, &words, now);
            }
        };
        let datagrams = Datagrams::new(dial, idle, &self.ready, stream, now);
        self.relays.insert_datagrams(stream, datagrams, place);
        self.traffic.streams += 1;
        self.gateway.metrics.stream_opened();
        self.sweep_by(Some(now + idle));
        self.take_turn(stream, now)
    }

    pub(super) fn handle_datagram(&mut self, stream: StreamKey, data: &[u8], now: Instant) {
        self.traffic.bytes_in += data.len() as u64;
        self.gateway.metrics.bytes_in.inc_by(data.len() as u64);
        self.with_datagrams(stream, |datagrams, way| datagrams.handle_datagram(data, now, way));
    }

    /// Lends a stream out together with the way to the client, and keeps the count of waiting bytes right.
    pub(super) fn with_datagrams<R>(
        &mut self,
        stream: StreamKey,
        f: impl FnOnce(&mut Datagrams, &mut ClientWay<'_>) -> R,
    ) -> Option<R> {
        let limit = self.gateway.config.max_session_queue_bytes;
        let held = self.relays.datagram_bytes;
        let datagrams = self.relays.datagrams_mut(stream)?;
        let before = datagrams.waiting_bytes();
        let mut way = ClientWay {
            stream,
            limit,
            link: &mut self.link,
            wire: &mut self.wire,
            metrics: &self.gateway.metrics,
            max_waiting_bytes: limit.saturating_sub(held - before),
            sent: 0,
        };
        let result = f(datagrams, &mut way);
        let sent = way.sent;
        self.relays.datagram_bytes = held - before + datagrams.waiting_bytes();
        self.work.spend(sent as usize);
        self.traffic.bytes_out += sent;
        self.gateway.metrics.bytes_out.inc_by(sent);
        Some(result)
    }

    /// Puts a stream aside that has datagrams for the client until there is room. Credit does not matter to it.
    pub(super) fn list_datagrams(&mut self, stream: StreamKey) {
        let Some(datagrams) = self.relays.datagrams_mut(stream) else { return };
        if !std::mem::replace(&mut datagrams.is_listed, true) {
            if self.datagrams_without_room.is_empty() {
                self.gateway.metrics.limit_hit(Limit::SessionQueue);
            }
            self.datagrams_without_room.push_back(stream);
        }
    }

    /// Gives the streams of datagrams that waited for room a turn.
    pub(super) fn readmit_datagrams(&mut self) -> bool {
        let has_moved = !self.datagrams_without_room.is_empty();
        while let Some(stream) = self.datagrams_without_room.pop_front() {
            if let Some(datagrams) = self.relays.datagrams_mut(stream) {
                datagrams.is_listed = false;
            }
            self.give_turn(stream);
        }
        has_moved
    }

    /// Forgets a stream that was taken out of the table.
    pub(super) fn unlist(&mut self, stream: StreamKey, datagrams: &Datagrams) {
        if datagrams.is_listed {
            self.datagrams_without_room.retain(|waiting| *waiting != stream);
        }
    }
}

/// The way of one stream's datagrams to the client.
pub(super) struct ClientWay<'a> {
    stream: StreamKey,
    limit: usize,
    link: &'a mut ClientLink,
    wire: &'a mut Wire,
    metrics: &'a Metrics,
    max_waiting_bytes: usize,
    sent: u64,
}

impl Way for ClientWay<'_> {
    fn has_room(&self) -> bool {
        self.link.queued() < self.limit
    }

    fn send(&mut self, datagram: &[u8]) {
        if self.wire.write_datagram(self.stream, datagram, &mut self.link.outbox()) {
            self.sent += datagram.len() as u64;
        }
    }

    fn opened(&mut self) {
        self.wire.opened(self.stream, &mut self.link.outbox());
    }

    fn max_waiting_bytes(&self) -> usize {
        self.max_waiting_bytes
    }

    fn dropped(&mut self, direction: Direction, count: u64) {
        self.metrics.datagrams_dropped(direction, count);
    }
}
