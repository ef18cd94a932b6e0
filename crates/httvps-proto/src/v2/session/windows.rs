//! How the windows of a session grow, shrink and are granted.

use super::super::stream::Path;
use super::super::{Frame, INITIAL_SESSION_CREDIT, INITIAL_STREAM_CREDIT, Kind, Scarce};
use super::Session;
use std::time::{Duration, Instant};

/// So long after small messages their like is expected to come.
const SMALL_FOR: Duration = Duration::from_secs(1);

/// After so long without a byte, what windows have grown by is there for other sessions.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// How often a session that must not be read asks the budget again.
const OVERDRAWN: Duration = Duration::from_secs(1);

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
        if self.returned > 0 {
            known.fall_back();
        }
        let less = u64::from(known.shrink());
        self.promised -= less;
        self.grown -= less;
        if let Some(measured) = measured {
            if measured.is_small {
                self.small = Some((now, stream));
            }
            if self.returned == 0 {
                self.grow(stream, measured.wanted);
            }
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
        let Some(before) = self.streams.get(&stream).map(|known| known.window.size()) else {
            return;
        };
        // One more stream must find its first credit even when all windows are full.
        let taken = self.promised + u64::from(INITIAL_STREAM_CREDIT);
        let room = u64::from(max_session).saturating_sub(taken);
        let more = wanted.min(max_stream).saturating_sub(before);
        let taken = self.window.size().saturating_sub(INITIAL_SESSION_CREDIT);
        let (share, scarce) = self.budget.share(taken as usize);
        let wanted = u64::from(more).min(room);
        let more = wanted.min(share as u64);
        if more < wanted {
            self.lack(scarce);
        } else if more > 0 {
            self.is_lacking = false;
        }
        if more == 0 {
            return;
        }
        let size = before + more as u32;
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
        if wanted < before {
            self.window.resize(wanted);
            let less = before - self.window.size();
            let returned = less.min(self.returned);
            self.returned -= returned;
            self.budget.give_back((less - returned) as usize);
            return true;
        }
        if wanted > before {
            if let Err(scarce) = self.budget.try_take((wanted - before) as usize) {
                self.lack(scarce);
                return false;
            }
            self.window.resize(wanted);
        }
        true
    }

    fn lack(&mut self, scarce: Scarce) {
        if !std::mem::replace(&mut self.is_lacking, true) {
            self.lacked = Some(scarce);
        }
    }

    /// What kept windows from growing as far as the path needs, once for each time that it begins to.
    pub fn take_lack(&mut self) -> Option<Scarce> {
        self.lacked.take()
    }

    /// Gives the budget back what windows have grown by, when nothing has come for `IDLE` and nothing waits. Gives when
    /// to call it again; None while no window is larger than its first credit.
    ///
    /// The peer keeps its credit, which cannot be taken back. When it uses it the budget is asked for the same again; while
    /// that has none, windows shrink, and the owner [must not read](Self::is_overdrawn) what it could not account for.
    pub fn rest(&mut self, now: Instant) -> Option<Instant> {
        if self.is_overdrawn() {
            // Nothing more is read that would ask the budget, and it tells no one when there is some again.
            self.resume();
            if self.is_overdrawn() {
                return Some(now + OVERDRAWN);
            }
        }
        let grown = self.window.size() - INITIAL_SESSION_CREDIT;
        if grown == self.returned {
            return None;
        }
        let at = self.consumed_at? + IDLE;
        if now < at || self.window.held() > 0 {
            return Some(at.max(now + IDLE / 2));
        }
        self.budget.give_back((grown - self.returned) as usize);
        self.returned = grown;
        None
    }

    /// Takes again what [`Self::rest`] has returned, since bytes come; without success windows shrink as they are used.
    pub(super) fn resume(&mut self) {
        match self.budget.try_take(self.returned as usize) {
            Ok(()) => self.returned = 0,
            Err(scarce) => self.lack(scarce),
        }
    }

    /// Whether more is held than what the budget has for this session. The owner must not read the peer then: it goes on
    /// when next hops have taken bytes, or others have given some back.
    pub fn is_overdrawn(&self) -> bool {
        self.returned > 0 && self.window.held() > self.window.size() - self.returned
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
        let taken = self.window.size() - INITIAL_SESSION_CREDIT - self.returned;
        self.budget.give_back(taken as usize);
    }
}
