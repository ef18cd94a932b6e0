//! How the windows of a session grow, shrink and are granted.

use super::super::stream::Path;
use super::super::{Frame, INITIAL_SESSION_CREDIT, INITIAL_STREAM_CREDIT, Kind};
use super::Session;
use std::time::{Duration, Instant};

/// So long after small messages their like is expected to come.
const SMALL_FOR: Duration = Duration::from_secs(1);

impl Session {
    /// Fits a stream's window to its path and to what else the session carries; asked when bytes
    /// of it were consumed.
    pub(super) fn fit_stream(&mut self, stream: u32, now: Instant) {
        let Some(known) = self.streams.get_mut(&stream) else {
            return;
        };
        let path = Path {
            shortest: self.pings.shortest().unwrap_or_default(),
            to_fill: self.pings.to_fill().unwrap_or_default(),
            is_beside_small: self.small.is_some_and(|(at, by)| {
                by != stream && now.saturating_duration_since(at) < SMALL_FOR
            }),
        };
        let measured = known.measure(now, path);
        let less = u64::from(known.shrink());
        self.promised -= less;
        self.grown -= less;
        if let Some(measured) = measured {
            if measured.is_small {
                self.small = Some((now, stream));
            }
            self.grow(stream, measured.wanted);
            debug_assert!(self.is_balanced(), "the sums are those of the windows");
        }
    }

    /// Whether what is promised and what of it has grown are the sums over the streams.
    pub(super) fn is_balanced(&self) -> bool {
        let windows = self.streams.values().filter(|stream| stream.kind == Kind::Bytes);
        let (count, promised) = windows.fold((0, 0), |(count, sum), stream| {
            (count + 1, sum + u64::from(stream.window.size()))
        });
        self.promised == promised
            && self.grown == promised - count * u64::from(INITIAL_STREAM_CREDIT)
    }

    /// Lets a stream's window grow to `wanted`, if the session and the process have the room.
    pub(super) fn grow(&mut self, stream: u32, wanted: u32) {
        let (max_stream, max_session) =
            (self.limits.max_stream_window, self.limits.max_session_window);
        let Some(known) = self.streams.get_mut(&stream) else {
            return;
        };
        // One more stream must find its first credit even when all windows are full.
        let taken = self.promised + u64::from(INITIAL_STREAM_CREDIT);
        let room = u64::from(max_session).saturating_sub(taken);
        let more = wanted.min(max_stream).saturating_sub(known.window.size());
        let taken = self.window.size().saturating_sub(INITIAL_SESSION_CREDIT);
        let share = self.budget.share(taken as usize) as u64;
        let more = u64::from(more).min(room).min(share);
        if more == 0 {
            return;
        }
        let size = known.window.size() + more as u32;
        self.grown += more;
        if self.fit() {
            self.promised += more;
            if let Some(known) = self.streams.get_mut(&stream) {
                known.window.resize(size);
            }
        } else {
            self.grown -= more;
        }
    }

    /// Fits the session's window to what it needs now; false when the process's budget has no room
    /// for that.
    pub(super) fn fit(&mut self) -> bool {
        let before = self.window.size();
        let wanted = u64::from(INITIAL_SESSION_CREDIT) + self.grown + u64::from(self.window.held());
        let wanted = wanted.min(u64::from(self.limits.max_session_window)) as u32;
        let wanted = wanted.max(INITIAL_SESSION_CREDIT);
        let may_grow = wanted <= before || self.budget.try_take((wanted - before) as usize);
        if wanted < before {
            self.window.resize(wanted);
            self.budget.give_back((before - self.window.size()) as usize);
        } else if may_grow {
            self.window.resize(wanted);
        }
        may_grow
    }

    /// Notes on the session's window that bytes were taken.
    pub(super) fn release(&mut self, bytes: usize, out: &mut Vec<u8>) {
        self.window.consume(bytes);
        self.fit();
        self.grant_session(out);
    }

    pub(super) fn grant_session(&mut self, out: &mut Vec<u8>) {
        if let Some(increment) = self.window.grant(INITIAL_STREAM_CREDIT) {
            Frame::Credit { stream: 0, increment }.encode(out);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.budget.give_back((self.window.size() - INITIAL_SESSION_CREDIT) as usize);
    }
}
