//! The protocol of a session: the founding JSON frames, or the second wire format.

use httvps_mux::{CHUNK, LinkOutbox};
use httvps_proto::v2::{self, HEADER, MAX_DATAGRAM, ResetCode, Violation};
use httvps_proto::{Session, StreamEnd, StreamKey};
use std::borrow::Cow;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Payload bytes of one `stream_data` towards the client: small enough that another stream's frame
/// gets in between, large enough that the frame's own cost does not show.
const JSON_CHUNK: usize = 16 * 1024;

thread_local! {
    /// Where targets are read into before base64; used within one poll only, so one per worker is
    /// enough.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A session's state in the format that both sides named.
///
/// In the second format a [`StreamKey`] is the stream's id on the wire.
pub(super) enum Wire {
    Json(Session),
    V2(Box<v2::Session>),
}

impl Wire {
    /// Says that the stream's upstream stands.
    pub(super) fn opened(&mut self, stream: StreamKey, out: &mut LinkOutbox<'_>) {
        match self {
            Self::Json(session) => session.opened(stream, out),
            Self::V2(session) => out.frames(|frames| session.opened(stream.0, frames)),
        }
    }

    /// Bytes of payload that the client's credit allows. The JSON protocol has none, and a message
    /// of an echo comes back whole.
    pub(super) fn credit(&self, stream: StreamKey) -> usize {
        match self {
            Self::Json(_) => usize::MAX,
            Self::V2(session) => session.sendable(stream.0).min(CHUNK),
        }
    }

    /// Whether any stream may send at all.
    pub(super) fn has_session_credit(&self) -> bool {
        match self {
            Self::Json(_) => true,
            Self::V2(session) => session.session_sendable() > 0,
        }
    }

    /// Sends payload, within [`Self::credit`]; false when there is no such stream.
    pub(super) fn write(
        &mut self,
        stream: StreamKey,
        data: &[u8],
        out: &mut LinkOutbox<'_>,
    ) -> bool {
        match self {
            Self::Json(session) => session.write(stream, data, out),
            Self::V2(session) => {
                debug_assert!(
                    data.len() <= session.sendable(stream.0),
                    "the relay obeys the credit"
                );
                if !session.is_open(stream.0) || data.is_empty() {
                    return false;
                }
                out.binary(HEADER + data.len(), |frames| {
                    session.write(stream.0, data, frames);
                });
                true
            }
        }
    }

    /// Sends a datagram; false when there is no such stream.
    pub(super) fn write_datagram(
        &mut self,
        stream: StreamKey,
        datagram: &[u8],
        out: &mut LinkOutbox<'_>,
    ) -> bool {
        match self {
            Self::V2(session) if session.is_open(stream.0) => {
                debug_assert!(datagram.len() <= MAX_DATAGRAM, "the stream drops what is longer");
                out.binary(HEADER + datagram.len(), |frames| {
                    session.write_datagram(stream.0, datagram, frames);
                });
                true
            }
            _ => false,
        }
    }

    /// Sends payload that `read` appends to the message, at most as many bytes as it is told and the
    /// credit allows; returns how many that were.
    pub(super) fn fill<R>(
        &mut self,
        stream: StreamKey,
        out: &mut LinkOutbox<'_>,
        read: impl FnOnce(&mut Vec<u8>, usize) -> R,
    ) -> (usize, R) {
        match self {
            Self::Json(session) => READ.with_borrow_mut(|payload| {
                payload.clear();
                payload.reserve(JSON_CHUNK);
                let result = read(payload, JSON_CHUNK);
                let is_sent = !payload.is_empty() && session.write(stream, payload, out);
                (if is_sent { payload.len() } else { 0 }, result)
            }),
            Self::V2(session) => out.measured(HEADER + CHUNK, |message| {
                session.write_with(stream.0, CHUNK, message, read)
            }),
        }
    }

    /// Says that the target sends no more; false when the protocol cannot say so without ending the
    /// stream.
    pub(super) fn finish(&mut self, stream: StreamKey, out: &mut LinkOutbox<'_>) -> bool {
        match self {
            Self::Json(_) => false,
            Self::V2(session) => {
                out.frames(|frames| session.finish(stream.0, frames));
                true
            }
        }
    }

    /// Ends a stream from our side and tells the client how.
    pub(super) fn end(&mut self, stream: StreamKey, end: StreamEnd, out: &mut LinkOutbox<'_>) {
        match self {
            Self::Json(session) => {
                session.end(stream, end, out);
            }
            Self::V2(session) => out.frames(|frames| match ResetCode::try_from(end) {
                Ok(code) => session.reset(stream.0, code, end.words(), frames),
                Err(()) => session.finish(stream.0, frames),
            }),
        }
    }

    /// Notes that a stream's upstream took bytes of the client.
    pub(super) fn consumed(
        &mut self,
        stream: StreamKey,
        bytes: usize,
        now: Instant,
        out: &mut LinkOutbox<'_>,
    ) {
        if let Self::V2(session) = self {
            out.frames(|frames| session.consumed(stream.0, bytes, now, frames));
        }
    }

    /// Announces a drain to a client that can be told.
    pub(super) fn go_away(&mut self, deadline: Duration, out: &mut LinkOutbox<'_>) {
        match self {
            Self::Json(session) => {
                session.go_away(deadline, out);
            }
            Self::V2(session) => out.frames(|frames| {
                session.go_away(ResetCode::GoingAway, deadline, "draining", frames);
            }),
        }
    }

    /// Whether the client receives `GO_AWAY` and can move to another session by itself.
    pub(super) fn may_outlive_drain(&self) -> bool {
        match self {
            Self::Json(session) => session.may_outlive_drain(),
            Self::V2(_) => true,
        }
    }

    /// Whether a stream that ends so refuses its OPEN for what the client asked for. What befalls a
    /// target is not the client's error, and the JSON protocol counts its own.
    pub(super) fn is_refusal(&self, stream: StreamKey, end: StreamEnd) -> bool {
        let Self::V2(session) = self else { return false };
        let is_error = matches!(end, StreamEnd::NoTarget | StreamEnd::NotOffered);
        is_error && !session.is_opened(stream.0)
    }

    pub(super) fn stream_count(&self) -> usize {
        match self {
            Self::Json(session) => session.stream_count(),
            Self::V2(session) => session.stream_count(),
        }
    }

    /// The id of a stream as the client chose it.
    pub(super) fn stream_id(&self, stream: StreamKey) -> Option<Cow<'_, str>> {
        match self {
            Self::Json(session) => session.stream_id(stream).map(Cow::Borrowed),
            Self::V2(_) => Some(stream.0.to_string().into()),
        }
    }

    /// Tells a client of the second format how it broke the protocol.
    pub(super) fn break_off(&mut self, violation: Violation, out: &mut LinkOutbox<'_>) {
        if let Self::V2(session) = self {
            out.frames(|frames| session.break_off(violation, frames));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use httvps_proto::v2::{Budget, Frame, Kind, Limits, Side};

    #[test]
    fn only_a_stream_that_never_stood_is_refused_for_what_the_client_asked() {
        let now = Instant::now();
        let mut session =
            v2::Session::new(Side::Gateway, Limits::default(), Budget::new(1 << 20), now);
        for stream in [1, 2] {
            let open = Frame::Open { stream, kind: Kind::Bytes, target: "" };
            session.handle_frame(now, open, &mut Vec::new()).unwrap();
        }
        session.opened(2, &mut Vec::new());
        let wire = Wire::V2(Box::new(session));
        for end in [StreamEnd::NoTarget, StreamEnd::NotOffered] {
            assert!(wire.is_refusal(StreamKey(1), end), "{end:?}");
            assert!(!wire.is_refusal(StreamKey(2), end), "{end:?} behind OPENED");
        }
        for end in [StreamEnd::Eof, StreamEnd::Timeout, StreamEnd::Idle] {
            assert!(!wire.is_refusal(StreamKey(1), end), "{end:?}");
        }
    }
}
