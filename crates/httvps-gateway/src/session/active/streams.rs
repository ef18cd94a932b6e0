//! The streams of a session: opening, turns, ending.

use super::super::relay::{Relay, Turn, Waits};
use super::super::wire::Wire;
use super::Active;
use super::delivering::Delivery;
use super::relays::Entry;
use super::to_client::{Bounds, ClientSink, Moved, ToClient};
use crate::device::StreamPlace;
use httvps_egress::OpenRequest;
use httvps_mux::{FLUSH_AT, Work};
use httvps_proto::v2::{INITIAL_SESSION_CREDIT, ResetCode, Scarce};
use httvps_proto::{ErrorCode, Input, StreamEnd, StreamKey, Target, TargetError};
use httvps_telemetry::metrics::Limit;
use httvps_telemetry::metrics::SessionEnd;
use std::borrow::Cow;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How often a session whose windows have grown is looked at.
const REST: Duration = Duration::from_secs(5);

impl Active {
    /// Gives the streams that waited for room a turn, once there is some again.
    pub(super) fn readmit(&mut self) -> bool {
        if self.link.queued() > self.gateway.config.max_session_queue_bytes / 2 {
            return false;
        }
        let has_moved = self.readmit_datagrams();
        if !self.wire.has_session_credit() || self.without_room.is_empty() {
            return has_moved;
        }
        while let Some(stream) = self.without_room.pop() {
            if let Some(relay) = self.relays.get_mut(stream) {
                relay.waits = Waits::No;
                self.give_turn(stream);
            }
        }
        true
    }

    /// Puts a stream among those that wait for a turn, unless it is one of them already.
    pub(super) fn give_turn(&mut self, stream: StreamKey) {
        if let Some(pace) = self.relays.claim_turn(stream) {
            self.turns.push(stream, pace);
        }
    }

    /// Puts a stream aside that has something for the client: until there is room in the queue or
    /// credit of the session, or until the client grants credit to just this stream.
    pub(super) fn wait_for_room(&mut self, stream: StreamKey) {
        let has_room = self.link.queued() < self.gateway.config.max_session_queue_bytes;
        if has_room && self.wire.has_session_credit() {
            if let Some(relay) = self.relays.get_mut(stream) {
                relay.waits = Waits::Credit;
            }
            return;
        }
        if let Some(relay) = self.relays.get_mut(stream)
            && std::mem::replace(&mut relay.waits, Waits::Room) != Waits::Room
        {
            if self.without_room.is_empty() {
                self.gateway.metrics.limit_hit(Limit::SessionQueue);
            }
            self.without_room.push(stream, relay.pace);
        }
    }

    /// Gives streams their turns. True when there were any.
    pub(super) fn poll_streams(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Result<bool, SessionEnd> {
        let relays = &self.relays;
        self.turns.take_ready(&self.ready, |stream| relays.pace(stream));
        let (mut has_moved, mut is_blocked) = (false, false);
        let begun = self.work;
        for _ in 0..self.turns.len() {
            // No more than half of a turn at once, so that the client is heard in between.
            if self.work.is_spent() || !self.work.is_within_half_since(begun) {
                break;
            }
            if self.link.queued() >= FLUSH_AT && !is_blocked {
                is_blocked = match self.link.poll_flush(cx, now) {
                    Poll::Ready(Ok(())) => false,
                    Poll::Ready(Err(error)) => return Err(self.end_of_link(&error)),
                    // The others may still have something for their upstreams; what they have for
                    // the client is bounded by the session's queue.
                    Poll::Pending => true,
                };
            }
            let Some(stream) = self.turns.pop() else { break };
            self.work.spend(Work::CALL);
            self.take_turn(stream, now)?;
            has_moved = true;
        }
        Ok(has_moved)
    }

    /// Gives a stream a turn.
    pub(super) fn take_turn(&mut self, stream: StreamKey, now: Instant) -> Result<(), SessionEnd> {
        let is_datagrams = self.relays.is_datagrams(stream);
        let turn = if is_datagrams {
            self.work.spend(Work::DATAGRAMS);
            self.with_datagrams(stream, |datagrams, way| datagrams.poll(now, way))
        } else {
            self.with_relay(stream, now, |relay, sink| relay.poll(now, sink))
        };
        match turn {
            None | Some(Turn::Waiting) => {}
            Some(Turn::More) => self.give_turn(stream),
            Some(Turn::NoRoom) if is_datagrams => self.list_datagrams(stream),
            Some(Turn::NoRoom) => self.wait_for_room(stream),
            Some(Turn::Ended(end)) => return self.end_stream(stream, end, now),
        }
        Ok(())
    }

    /// Lends a stream's relay out together with the way to the client, and keeps the count of
    /// waiting bytes right.
    pub(super) fn with_relay<R>(
        &mut self,
        stream: StreamKey,
        now: Instant,
        f: impl FnOnce(&mut Relay, &mut ClientSink<'_, '_>) -> R,
    ) -> Option<R> {
        let bounds = self.bounds();
        let out = self.link.outbox();
        let way = ToClient { relays: &mut self.relays, wire: &mut self.wire, out, bounds };
        let (result, moved) = way.with_relay(stream, 0, now, f)?;
        self.account(moved, now);
        Some(result)
    }

    /// Counts what a relay has moved, and has it looked at again if something of it waits.
    pub(super) fn account(&mut self, moved: Moved, now: Instant) {
        self.work.spend(moved.sent as usize + moved.written);
        self.account_windows(now);
        if moved.sent > 0 {
            self.traffic.bytes_out += moved.sent;
            self.gateway.metrics.bytes_out.inc_by(moved.sent);
        }
        if moved.has_more {
            let stall = self.gateway.config.stream_stall_timeout;
            self.sweep_by((!stall.is_zero()).then(|| now + stall));
        }
    }

    /// Counts windows that the budget keeps small, and has those that have grown looked at again.
    fn account_windows(&mut self, now: Instant) {
        let Wire::V2(session) = &mut self.wire else { return };
        let has_grown = session.window() > INITIAL_SESSION_CREDIT as usize;
        match session.take_lack() {
            None => {}
            Some(Scarce::Process) => self.gateway.metrics.limit_hit(Limit::WindowBudget),
            Some(Scarce::Device) => self.gateway.metrics.limit_hit(Limit::WindowBudgetPerDevice),
        }
        self.sweep_by(has_grown.then(|| now + REST));
    }

    /// The bounds on what one relay may queue.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            max_queued: self.gateway.config.max_session_queue_bytes,
            max_stream: self.max_stream_queue(),
            upstream_limit: self.work.step_limit(),
        }
    }

    pub(super) fn open_stream(
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
        let deadline = self.gateway.config.dial_timeout;
        let lookups = self.place.device.lookups.clone();
        let dial = self.connector.connect(OpenRequest { target, deadline, lookups });
        self.relays.insert(stream, Relay::new(dial, &self.ready, stream, now), place);
        self.traffic.streams += 1;
        self.gateway.metrics.stream_opened();
        let idle = self.gateway.config.stream_idle_timeout;
        self.sweep_by((!idle.is_zero()).then(|| now + idle));
        // The test upstreams stand at once; a dial has to be polled once to begin.
        self.take_turn(stream, now)
    }

    /// Takes a place for a stream among those of its device; without one, the client is told.
    pub(super) fn place_for(
        &mut self,
        stream: StreamKey,
        now: Instant,
    ) -> Result<Option<StreamPlace>, SessionEnd> {
        let full = match self.place.device.open_stream(self.connector.uses_target(), now) {
            Ok(place) => return Ok(Some(place)),
            Err(full) => full,
        };
        self.gateway.metrics.limit_hit(full.limit());
        let (refusal, words) = full.refusal();
        let Wire::Json(session) = &mut self.wire else {
            self.turn_away(stream.0, ResetCode::Limit, words, now)?;
            return Ok(None);
        };
        let refused = session.refuse_open(now, stream, refusal, words, &mut self.link.outbox());
        if let Input::Fatal(cause) = refused {
            return Err(self.end_of_flood(cause));
        }
        self.count_error(refusal.code(), Some(refusal));
        Ok(None)
    }

    /// The target that a client named, for a connector that wants to know it.
    pub(super) fn parse_target(&self, text: Option<&str>) -> Result<Option<Target>, TargetError> {
        let text = text.filter(|_| self.connector.uses_target());
        text.map(Target::parse).transpose()
    }

    /// Refuses a stream whose target makes no sense.
    pub(super) fn refuse_target(
        &mut self,
        stream: StreamKey,
        error: TargetError,
        now: Instant,
    ) -> Result<(), SessionEnd> {
        let words = error.to_string();
        let Wire::Json(session) = &mut self.wire else {
            return self.turn_away(stream.0, ResetCode::BadTarget, &words, now);
        };
        let mut out = self.link.outbox();
        let refused = session.refuse_target(now, stream, &words, &mut out);
        if let Input::Fatal(cause) = refused {
            return Err(self.end_of_flood(cause));
        }
        self.note_refusal(ErrorCode::BadStream, None);
        Ok(())
    }

    /// Ends a stream from our side and tells the client.
    fn end_stream(
        &mut self,
        stream: StreamKey,
        end: StreamEnd,
        now: Instant,
    ) -> Result<(), SessionEnd> {
        let is_refusal = self.wire.is_refusal(stream, end);
        if end != StreamEnd::Eof {
            let id = self.wire.stream_id(stream).map(Cow::into_owned);
            self.log_error(ErrorCode::StreamError, id.as_deref(), Some(end.as_str()));
        }
        self.wire.end(stream, end, &mut self.link.outbox());
        self.gateway.metrics.stream_ended(end);
        match end {
            StreamEnd::Stalled => self.gateway.metrics.limit_hit(Limit::StreamStall),
            StreamEnd::Idle if self.relays.is_datagrams(stream) => {
                self.gateway.metrics.limit_hit(Limit::DatagramIdle);
            }
            StreamEnd::Idle => self.gateway.metrics.limit_hit(Limit::StreamIdle),
            StreamEnd::Timeout => self.gateway.metrics.limit_hit(Limit::Dial),
            StreamEnd::Overload => self.gateway.metrics.limit_hit(Limit::Descriptors),
            _ => {}
        }
        // What the client sent before the target finished is still the target's.
        self.free(stream, end == StreamEnd::Eof);
        if is_refusal { self.count_refused(now) } else { Ok(()) }
    }

    /// Bytes of one stream that may wait for its upstream before the client is not read any more;
    /// with credit for each stream it never comes to that.
    fn max_stream_queue(&self) -> usize {
        match self.wire {
            Wire::Json(_) => self.gateway.config.max_stream_queue_bytes,
            Wire::V2(_) => usize::MAX,
        }
    }

    /// Frees a stream that the client closed.
    pub(super) fn close_stream(&mut self, stream: StreamKey, deliver: bool) {
        if !self.relays.contains(stream) {
            return;
        }
        self.gateway.metrics.stream_ended(StreamEnd::ClientClosed);
        self.free(stream, deliver);
    }

    /// Takes a stream's relay out of the table; bytes that its upstream has not taken yet are
    /// delivered by a task of their own, which counts against the session until it is done.
    pub(super) fn free(&mut self, stream: StreamKey, deliver: bool) {
        let max_stream = self.max_stream_queue();
        let Some(entry) = self.relays.remove(stream, max_stream) else { return };
        // JSON uses a key again, and the next stream of that key is to have its own turns only.
        if matches!(self.wire, Wire::Json(_)) && entry.waker().is_queued() {
            self.turns.retain(|waiting| waiting != stream);
            self.ready.forget(stream);
        }
        let (mut relay, place) = match entry {
            Entry::Bytes(relay, place) => (relay, place),
            Entry::Datagrams(datagrams, place) => {
                drop(place);
                return self.unlist(stream, &datagrams);
            }
        };
        let descriptor = place.close();
        let config = &self.gateway.config;
        if relay.waits == Waits::Room {
            self.without_room.retain(|waiting| waiting != stream);
        }
        if deliver && relay.is_shut() {
            return;
        }
        if !deliver || self.is_too_much_to_deliver(relay.waiting_bytes()) {
            relay.reset();
            return;
        }
        let is_needed = relay.has_unsent();
        let may_linger = self.delivering.streams() < config.max_streams_per_session;
        let is_wanted = may_linger && relay.has_sent_lately(Instant::now());
        if !is_needed && !is_wanted {
            relay.end_in_order();
            return;
        }
        // What an upstream holds costs memory that is counted nowhere else.
        if relay.holds_taken() && !may_linger {
            relay.reset();
            return;
        }
        let device = &self.place.device;
        let place = match device.deliver(&self.gateway.deliveries) {
            Ok(place) => place,
            Err(limit) => {
                self.gateway.metrics.limit_hit(limit);
                // What the system has taken it delivers by itself.
                return if is_needed { relay.reset() } else { relay.end_in_order() };
            }
        };
        let cost = relay.load(usize::MAX).cost;
        let delivery = Delivery::new(&self.delivering, &self.ready, cost);
        let stall = config.stream_stall_timeout;
        let limit = config.dial_timeout + stall;
        let device = device.clone();
        self.gateway.tasks.spawn(async move {
            relay.deliver(stall, limit).await;
            drop((delivery, place, descriptor, device));
        });
    }

    /// Whether a closed stream would leave more behind than a session may. With the second format a
    /// window can be larger than that, but it comes with the session's share of the budget, which
    /// ends with the session; and its client knows from the credit what has been taken.
    fn is_too_much_to_deliver(&self, bytes: usize) -> bool {
        let most = self.gateway.config.max_session_queue_bytes;
        let is_v2 = matches!(self.wire, Wire::V2(_));
        is_v2 && bytes > 0 && self.delivering.bytes() + bytes > most
    }

    /// The session is over: frees every stream.
    pub(super) fn end_streams(&mut self, deliver: bool) {
        let streams: Vec<_> = self.relays.keys().collect();
        for stream in streams {
            self.gateway.metrics.stream_ended(StreamEnd::SessionEnded);
            self.free(stream, deliver);
        }
    }

    pub(super) fn sweep_by(&mut self, at: Option<Instant>) {
        if let Some(at) = at
            && self.sweep_at.is_none_or(|sweep| at < sweep)
        {
            self.sweep_at = Some(at);
        }
    }

    /// Ends the streams that have been idle or stalled for too long.
    pub(super) fn sweep(&mut self, now: Instant) -> Result<(), SessionEnd> {
        let (stall, idle) =
            (self.gateway.config.stream_stall_timeout, self.gateway.config.stream_idle_timeout);
        self.sweep_at = None;
        if let Wire::V2(session) = &mut self.wire {
            let rest_at = session.rest(now);
            self.sweep_by(rest_at);
        }
        let streams: Vec<_> = self.relays.keys().collect();
        for stream in streams {
            match self.relays.deadline(stream, stall, idle) {
                Some((at, end)) if at <= now => self.end_stream(stream, end, now)?,
                Some((at, _)) => self.sweep_by(Some(at)),
                None => {}
            }
        }
        Ok(())
    }
}
