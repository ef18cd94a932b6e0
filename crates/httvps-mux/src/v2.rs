//! What a connection does with the frames of the second wire format.

use crate::connection::ConnectionEnd;
use crate::state::State;
use crate::stream::{StreamFailure, plain};
use crate::table::Progress;
use crate::wire::Wire;
use crate::work::Work;
use httvps_proto::v2::{Event, Frames, ResetCode, Side, Violation};
use httvps_proto::{StreamEnd, StreamKey};
use std::time::Instant;

impl State {
    /// Handles the frames of the received message from `at` on, within the turn; a violation of the protocol by the gateway
    /// ends the connection.
    pub(crate) fn handle_frames(&mut self, at: usize, work: &mut Work, now: Instant) {
        match self.try_handle_frames(at, work, now) {
            Ok(unread) => self.unread = unread,
            Err(violation) => self.break_off(violation, now),
        }
    }

    pub(crate) fn break_off(&mut self, violation: Violation, now: Instant) {
        if let Some(carrier) = &mut self.carrier {
            carrier.queue_close(1002, violation.words());
        }
        let words = format!("the gateway broke the protocol: {violation}");
        self.begin_closing(ConnectionEnd::Lost(words.into()), false, now);
    }

    /// Returns the position to continue from when the turn ends, or when too many answers are queued.
    fn try_handle_frames(
        &mut self,
        at: usize,
        work: &mut Work,
        now: Instant,
    ) -> Result<Option<usize>, Violation> {
        let max_queued = self.max_queued();
        let (Some(carrier), Wire::V2(v2)) = (&mut self.carrier, &mut self.wire) else {
            return Ok(None);
        };
        let (message, mut out) = carrier.message();
        let (table, wakes) = (&mut self.table, &mut self.effects.wakes);
        let mut frames = Frames::new(&message[at..], Side::Gateway);
        loop {
            if work.is_spent() || out.queued() > max_queued {
                return Ok(Some(message.len() - frames.rest().len()));
            }
            let Some(frame) = frames.next() else { return Ok(None) };
            let event = out.frames(|frames| v2.session.handle_frame(now, frame?, frames))?;
            work.spend_frame(&event);
            match event {
                Event::Opened(stream) => table.opened(StreamKey(stream), wakes),
                Event::Data { stream, data } if table.holds(StreamKey(stream)) => {
                    let taken = table.deliver(StreamKey(stream), data, wakes);
                    if taken > 0 {
                        out.frames(|frames| v2.session.consumed(stream, taken, now, frames));
                    }
                }
                // The stream was dropped, and its target has more to say.
                Event::Data { stream, .. } => out.frames(|frames| {
                    v2.session.reset(stream, ResetCode::Cancelled, "", frames);
                }),
                Event::Finish(stream) => {
                    let key = StreamKey(stream);
                    if v2.session.is_open(stream) {
                        table.finish(key, wakes);
                    } else {
                        table.end(key, Progress::Eof, wakes);
                    }
                    self.effects.has_changed = true;
                }
                Event::Reset { stream, code, words } => {
                    let key = StreamKey(stream);
                    let progress = ended(code, words, table.is_opening(key));
                    table.end(key, progress, wakes);
                    self.effects.has_changed = true;
                }
                Event::Credit(0) => table.all_credited(wakes),
                Event::Credit(stream) => table.credited(StreamKey(stream), wakes),
                Event::GoAway(gone) => {
                    self.is_draining = true;
                    self.effects.has_changed = true;
                    if gone.code != ResetCode::GoingAway {
                        self.last_error = Some(plain(gone.words));
                    }
                }
                Event::Datagram { stream, data } => {
                    table.deliver_datagram(StreamKey(stream), data, wakes);
                }
                Event::Nothing | Event::Refused(_) | Event::Open { .. } | Event::RoundTrip(_) => {}
            }
        }
    }

    /// Measures the round trip periodically, since the windows depend on it.
    pub(crate) fn measure(&mut self, now: Instant) {
        if let (Some(carrier), Wire::V2(v2)) = (&mut self.carrier, &mut self.wire) {
            carrier.outbox().frames(|frames| v2.session.ping_when_due(now, frames));
        }
    }
}

/// The end of a stream for its owner, from the code of a RESET.
fn ended(code: ResetCode, words: &str, is_opening: bool) -> Progress {
    if is_opening && matches!(code, ResetCode::Limit | ResetCode::GoingAway) {
        return Progress::NoPlace;
    }
    let end = code.to_end();
    let words = match end {
        Some(StreamEnd::NoTarget) | None if !words.is_empty() => words,
        Some(end) => end.words(),
        None => "the gateway ended the stream",
    };
    Progress::Failed(StreamFailure::new(end, words))
}
