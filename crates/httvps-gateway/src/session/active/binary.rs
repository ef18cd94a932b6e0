//! Messages of a client that speaks the second wire format.

use super::super::relay::Waits;
use super::super::wire::Wire;
use super::to_client::ToClient;
use super::{Active, SCRATCH};
use httvps_proto::v2::{Event, Frames, Kind, ResetCode, Side, Violation};
use httvps_proto::{ErrorCode, StreamKey};
use httvps_telemetry::metrics::{ClientErrorCode, Limit, SessionEnd};
use httvps_transport::ws::CloseCode;
use std::time::Instant;

impl Active {
    /// Takes the frames of the binary message that has arrived, in order, from `at` on.
    ///
    /// A message may hold a hundred thousand of them: when the turn is over, or answers pile up, the rest waits in the
    /// link, and `unread` says where it begins.
    ///
    /// Payload goes to its upstream from where it lies: the message stays in the link, and the parts
    /// of the session that a relay needs are borrowed beside it.
    pub(super) fn handle_frames(&mut self, mut at: usize, now: Instant) -> Result<(), SessionEnd> {
        self.unread = None;
        loop {
            if self.work.is_spent() || !self.may_read() {
                self.unread = Some(at);
                return Ok(());
            }
            let bounds = self.bounds();
            let (message, mut out) = self.link.message();
            let Wire::V2(session) = &mut self.wire else { return Ok(()) };
            let mut frames = Frames::new(&message[at..], Side::Client);
            let frame = match frames.next() {
                None => return Ok(()),
                Some(Ok(frame)) => frame,
                Some(Err(bad)) => return Err(self.break_off(bad.into())),
            };
            at = message.len() - frames.rest().len();
            let event = match out.frames(|frames| session.handle_frame(now, frame, frames)) {
                Ok(event) => event,
                Err(violation) => return Err(self.break_off(violation)),
            };
            self.work.spend_frame(&event);
            match event {
                Event::Data { stream, data } => {
                    let (wire, relays) = (&mut self.wire, &mut self.relays);
                    let way = ToClient { relays, wire, out, bounds };
                    let (stream, len) = (StreamKey(stream), data.len());
                    let moved =
                        way.with_relay(stream, len, now, |r, sink| r.handle_data(data, now, sink));
                    self.count_in(len);
                    if let Some(((), moved)) = moved {
                        self.account(moved, now);
                    }
                }
                Event::Datagram { stream, data } => {
                    // Small as a rule: a copy is cheaper than what it would take to do without.
                    let mut datagram = SCRATCH.take();
                    datagram.clear();
                    datagram.extend_from_slice(data);
                    self.handle_datagram(StreamKey(stream), &datagram, now);
                    SCRATCH.set(datagram);
                }
                Event::Open { stream, kind, target } => {
                    let target = (!target.is_empty()).then(|| target.to_owned());
                    let (stream, target) = (StreamKey(stream), target.as_deref());
                    match kind {
                        Kind::Bytes => self.open_stream(stream, target, now)?,
                        Kind::Datagrams => self.open_datagrams(stream, target, now)?,
                    }
                }
                Event::Refused(code) => {
                    self.note_limit(code);
                    self.note_refused(code, now)?;
                }
                Event::Finish(stream) => {
                    if let Some(relay) = self.relays.get_mut(StreamKey(stream)) {
                        relay.handle_finish();
                    }
                }
                Event::Reset { stream, .. } => self.close_stream(StreamKey(stream), false),
                Event::Credit(stream) => self.credited(StreamKey(stream)),
                Event::Nothing | Event::RoundTrip(_) | Event::Opened(_) | Event::GoAway(_) => {}
            }
        }
    }

    /// Asks for the round trip now and then, while there is traffic: the windows grow by it.
    pub(super) fn measure(&mut self, now: Instant) {
        if let Wire::V2(session) = &mut self.wire {
            self.link.outbox().frames(|frames| session.ping_when_due(now, frames));
        }
    }

    /// Gives a stream that had used up its credit a turn.
    fn credited(&mut self, stream: StreamKey) {
        if let Some(relay) = self.relays.get_mut(stream)
            && relay.waits == Waits::Credit
        {
            relay.waits = Waits::No;
            self.give_turn(stream);
        }
    }

    /// Resets a stream that was opened but not begun.
    pub(super) fn turn_away(
        &mut self,
        stream: u32,
        code: ResetCode,
        words: &str,
        now: Instant,
    ) -> Result<(), SessionEnd> {
        if let Wire::V2(session) = &mut self.wire {
            let mut out = self.link.outbox();
            out.frames(|frames| session.reset(stream, code, words, frames));
        }
        self.note_refused(code, now)
    }

    /// Counts a limit of the session for which an OPEN was refused.
    fn note_limit(&self, code: ResetCode) {
        if code == ResetCode::Limit {
            let is_full = self.wire.stream_count() >= self.gateway.config.max_streams_per_session;
            let limit = if is_full { Limit::Streams } else { Limit::StreamOpens };
            self.gateway.metrics.limit_hit(limit);
        }
    }

    /// Notes an OPEN that was answered with a reset at once.
    fn note_refused(&mut self, code: ResetCode, now: Instant) -> Result<(), SessionEnd> {
        self.log_error(ErrorCode::StreamError, None, Some(code.as_str()));
        self.count_refused(now)
    }

    /// Counts an OPEN that was refused; a client that causes too many of those is closed.
    pub(super) fn count_refused(&mut self, now: Instant) -> Result<(), SessionEnd> {
        self.gateway.metrics.client_error(ClientErrorCode::from(ErrorCode::StreamError));
        if self.errors.try_take(now) {
            return Ok(());
        }
        self.gateway.metrics.limit_hit(Limit::Errors);
        Err(SessionEnd::ErrorFlood)
    }

    pub(super) fn break_off(&mut self, violation: Violation) -> SessionEnd {
        self.gateway.metrics.client_error(ClientErrorCode::from(ErrorCode::BadFrame));
        self.log_error(ErrorCode::BadFrame, None, Some(violation.words()));
        self.wire.break_off(violation, &mut self.link.outbox());
        self.link.queue_close(CloseCode::PROTOCOL.get(), violation.words());
        SessionEnd::ProtocolError
    }
}
