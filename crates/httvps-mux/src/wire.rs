//! The protocol of a connection: the founding JSON frames, or the second wire format.

use crate::link::{CHUNK, LinkOutbox};
use httvps_proto::v2::{self, Budget, HEADER, Kind, ResetCode, Side};
use httvps_proto::{ClientSession, StreamKey};
use std::time::Instant;

/// The client's state in the format that both sides named.
///
/// In the second format a [`StreamKey`] is the stream's id on the wire.
pub(crate) enum Wire {
    Json(Box<ClientSession>),
    V2(Box<V2>),
}

/// A session in the second format, and the places that the gateway announced.
pub(crate) struct V2 {
    pub(crate) session: v2::Session,
    max_streams: usize,
}

/// Why the session cannot open a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotOpened {
    NoPlace,
    Draining,
    /// The JSON protocol has none.
    NoDatagrams,
}

impl V2 {
    /// Sends payload that `read` appends to the message, at most as many bytes as it is told.
    pub(crate) fn read_into<R>(
        &mut self,
        stream: StreamKey,
        out: &mut LinkOutbox<'_>,
        read: impl FnOnce(&mut Vec<u8>, usize) -> R,
    ) -> R {
        out.measured(HEADER + CHUNK, |message| {
            self.session.write_with(stream.0, CHUNK, message, read).1
        })
    }
}

impl Wire {
    /// Takes over from an authenticated session. A window in the second format may grow to
    /// `max_stream` bytes, all of them to `max_session`.
    pub(crate) fn new(
        session: ClientSession,
        (max_stream, max_session): (usize, usize),
        now: Instant,
    ) -> Self {
        if !session.has_v2() {
            return Self::Json(Box::new(session));
        }
        let bounded = |bytes: usize| u32::try_from(bytes).unwrap_or(v2::MAX_CREDIT);
        let limits = v2::Limits {
            max_streams: session.max_streams(),
            max_opens_per_second: 0,
            max_stream_window: bounded(max_stream),
            max_session_window: bounded(max_session),
            ..v2::Limits::default()
        };
        let budget = Budget::new(max_session);
        let max_streams = session.max_streams();
        Self::V2(Box::new(V2 {
            session: v2::Session::new(Side::Client, limits, budget, now),
            max_streams,
        }))
    }

    pub(crate) fn stream_count(&self) -> usize {
        match self {
            Self::Json(session) => session.stream_count(),
            Self::V2(v2) => v2.session.stream_count(),
        }
    }

    pub(crate) fn max_streams(&self) -> usize {
        match self {
            Self::Json(session) => session.max_streams(),
            Self::V2(v2) => v2.max_streams,
        }
    }

    /// Whether the gateway says when a stream's target has answered.
    pub(crate) fn has_open_ack(&self) -> bool {
        match self {
            Self::Json(session) => session.has_open_ack(),
            Self::V2(_) => true,
        }
    }

    /// Whether one half of a stream can end before the other.
    pub(crate) fn has_half_close(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    pub(crate) fn open(
        &mut self,
        kind: Kind,
        target: &str,
        now: Instant,
        out: &mut LinkOutbox<'_>,
    ) -> Result<StreamKey, NotOpened> {
        match self {
            Self::Json(_) if kind == Kind::Datagrams => Err(NotOpened::NoDatagrams),
            Self::Json(session) => session.open(Some(target), out).map_err(|_| NotOpened::NoPlace),
            Self::V2(v2) => out
                .frames(|frames| v2.session.open(now, kind, target, frames))
                .map(StreamKey)
                .map_err(|error| match error {
                    v2::OpenError::GoingAway | v2::OpenError::NoMoreIds => NotOpened::Draining,
                    v2::OpenError::NoPlace | v2::OpenError::TargetTooLong => NotOpened::NoPlace,
                }),
        }
    }

    /// Bytes that may be written to a stream now.
    pub(crate) fn credit(&self, stream: StreamKey) -> usize {
        match self {
            Self::Json(_) => usize::MAX,
            Self::V2(v2) => v2.session.sendable(stream.0).min(CHUNK),
        }
    }

    /// Sends payload within [`Self::credit`].
    pub(crate) fn write(&mut self, stream: StreamKey, data: &[u8], out: &mut LinkOutbox<'_>) {
        match self {
            Self::Json(session) => {
                session.write(stream, data, out);
            }
            Self::V2(v2) => out.binary(HEADER + data.len(), |frames| {
                v2.session.write(stream.0, data, frames);
            }),
        }
    }

    /// Sends no more on a stream; without half-close the target does not learn of it.
    pub(crate) fn finish(&mut self, stream: StreamKey, out: &mut LinkOutbox<'_>) {
        if let Self::V2(v2) = self {
            out.frames(|frames| v2.session.finish(stream.0, frames));
        }
    }

    /// Closes a stream whose owner dropped it. What was written is delivered.
    pub(crate) fn close(&mut self, stream: StreamKey, out: &mut LinkOutbox<'_>) {
        match self {
            Self::Json(session) => {
                session.close(stream, out);
            }
            // A reset would overtake what the gateway has not delivered. Should the target have
            // more to say, that is answered with a reset.
            Self::V2(_) => self.finish(stream, out),
        }
    }

    /// Ends a stream at once in both directions.
    pub(crate) fn reset(&mut self, stream: StreamKey, code: ResetCode, out: &mut LinkOutbox<'_>) {
        match self {
            Self::Json(session) => {
                session.close(stream, out);
            }
            Self::V2(v2) => out.frames(|frames| v2.session.reset(stream.0, code, "", frames)),
        }
    }

    /// Records that the reader of a stream consumed bytes.
    pub(crate) fn consumed(
        &mut self,
        stream: StreamKey,
        bytes: usize,
        now: Instant,
        out: &mut LinkOutbox<'_>,
    ) {
        if let Self::V2(v2) = self {
            out.frames(|frames| v2.session.consumed(stream.0, bytes, now, frames));
        }
    }
}
