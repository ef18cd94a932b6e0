//! Messages of a client that speaks the second wire format.

use super::super::relay::Waits;
use super::super::wire::Wire;
use super::Active;
use crate::metrics::{ClientErrorCode, Limit, SessionEnd};
use httvps_proto::v2::{Event, Frame, Frames, Kind, ResetCode, Side, Violation};
use httvps_proto::{ErrorCode, StreamKey};
use httvps_transport::ws::CloseCode;
use std::time::{Duration, Instant};

/// How often the round trip is measured while the session is busy.
const PING_INTERVAL: Duration = Duration::from_secs(10);

impl Active {
    /// Takes the frames of one binary message, in order.
    pub(super) fn handle_frames(&mut self, message: &[u8], now: Instant) -> Result<(), SessionEnd> {
        for frame in Frames::new(message, Side::Client) {
            match frame {
                Ok(frame) => self.handle_frame(frame, now)?,
                Err(bad) => return Err(self.break_off(bad.into())),
            }
        }
        Ok(())
    }

    fn handle_frame(&mut self, frame: Frame<'_>, now: Instant) -> Result<(), SessionEnd> {
        let Wire::V2(session) = &mut self.wire else {
            return Ok(());
        };
        let mut out = self.link.outbox();
        let event = out.frames(|frames| session.handle_frame(now, frame, frames));
        let event = event.map_err(|violation| self.break_off(violation))?;
        match event {
            Event::Open { stream, kind, target } => {
                let (stream, target) = (StreamKey(stream), Some(target).filter(|t| !t.is_empty()));
                match kind {
                    Kind::Bytes => self.open_stream(stream, target, now)?,
                    Kind::Datagrams => self.open_datagrams(stream, target, now)?,
                }
            }
            Event::Refused(code) => self.note_refused(code, now)?,
            Event::Data { stream, data } => self.handle_data(StreamKey(stream), data, now),
            Event::Datagram { stream, data } => self.handle_datagram(StreamKey(stream), data, now),
            Event::Finish(stream) => {
                if let Some(relay) = self.relays.get_mut(StreamKey(stream)) {
                    relay.handle_finish();
                }
            }
            Event::Reset { stream, .. } => self.close_stream(StreamKey(stream), false),
            Event::Credit(stream) => self.credited(StreamKey(stream)),
            Event::Nothing | Event::RoundTrip(_) | Event::Opened(_) | Event::GoAway(_) => {}
        }
        Ok(())
    }

    /// Asks for the round trip now and then, while there is traffic: the windows grow by it.
    pub(super) fn measure(&mut self, now: Instant) {
        if now < self.ping_at {
            return;
        }
        if let Wire::V2(session) = &mut self.wire {
            self.ping_at = now + PING_INTERVAL;
            self.link.outbox().frames(|frames| session.ping(now, frames));
        }
    }

    /// Gives a stream that had used up its credit a turn.
    fn credited(&mut self, stream: StreamKey) {
        if let Some(relay) = self.relays.get_mut(stream)
            && relay.waits == Waits::Credit
        {
            relay.waits = Waits::No;
            self.turns.push_back(stream);
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

    /// Counts an OPEN that was answered with a reset; a client that only causes those is closed.
    fn note_refused(&mut self, code: ResetCode, now: Instant) -> Result<(), SessionEnd> {
        self.gateway.metrics.client_error(ClientErrorCode::from(ErrorCode::StreamError));
        if code == ResetCode::Limit {
            let is_full = self.wire.stream_count() >= self.gateway.config.max_streams_per_session;
            let limit = if is_full { Limit::Streams } else { Limit::StreamOpens };
            self.gateway.metrics.limit_hit(limit);
        }
        self.log_error(ErrorCode::StreamError, None, Some(code.as_str()));
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
