//! One stream's state on either side.

use super::window::{SendCredit, Window};
use super::{INITIAL_STREAM_CREDIT, Kind};
use std::time::{Duration, Instant};

/// The shortest round trip that counts. On a shorter path the turns of the two ends take longer, and with a few frames in
/// flight one of them often waits for the other: on the loopback interface eight streams are a third faster than with
/// [`MIN_ROUND_TRIP_BESIDE_SMALL`].
const MIN_ROUND_TRIP: Duration = Duration::from_millis(2);

/// The same while small messages of another stream may have to wait behind what is in flight.
const MIN_ROUND_TRIP_BESIDE_SMALL: Duration = Duration::from_micros(250);

/// The shortest round trip from which on nothing shrinks beside small messages: a path that is no host or
/// local network may often be several times slower than at its best, without a queue of ours.
const MIN_UNSHRUNK: Duration = Duration::from_millis(1);

/// A stream whose next hop takes everything, and no more than this between two looks (10 ms or more), carries small messages.
const SMALL_MAX: u64 = 10 * 1024;

/// Rates are measured over a round trip, but over no less than this: a burst out of full buffers is
/// faster than what the path and the next hop can keep up.
const MIN_ELAPSED: Duration = Duration::from_millis(10);

/// ```text
///            FINISH sent                  FINISH received
///  open ──────────────▶ half-closed(local) ──────────────▶ over, once all bytes are consumed
///    └── FINISH received ▶ half-closed(remote) ── FINISH sent ──▶ over, likewise
///  RESET in any state and either direction ──▶ over
/// ```
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) kind: Kind,
    /// OPENED was sent or received.
    pub(super) is_opened: bool,
    pub(super) has_sent_finish: bool,
    pub(super) has_received_finish: bool,
    pub(super) send: SendCredit,
    pub(super) window: Window,
    /// Bytes that the next hop took since `measured_at`.
    drained: u64,
    measured_at: Instant,
    /// What the window should at most have; it gets there as bytes are consumed.
    ceiling: u32,
}

impl Stream {
    pub(super) fn new(kind: Kind, now: Instant) -> Self {
        Self {
            kind,
            is_opened: false,
            has_sent_finish: false,
            has_received_finish: false,
            send: SendCredit::new(INITIAL_STREAM_CREDIT),
            window: Window::new(INITIAL_STREAM_CREDIT),
            drained: 0,
            measured_at: now,
            ceiling: u32::MAX,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.has_sent_finish && self.has_received_finish && self.window.held() == 0
    }

    pub(super) fn consume(&mut self, bytes: usize) -> u32 {
        let consumed = self.window.consume(bytes);
        self.drained += u64::from(consumed);
        consumed
    }

    /// Looks at what the next hop took since the last time, if that is long enough ago; asked when bytes were consumed.
    ///
    /// The window should be twice what the next hop took within one round trip: a peer that is held
    /// back by the window sends one window in that time, so the window doubles until something
    /// else is the limit. Then it stays, and more credit would only fill queues on the way, in
    /// which small messages of other streams would wait. On a short path, where a window is larger
    /// than the path needs, it becomes smaller as soon as there are some (`is_beside_small`), but
    /// never smaller than a stream's first credit.
    pub(super) fn measure(&mut self, now: Instant, path: Path) -> Option<Measured> {
        // On so short a path what is above its shortest round trip is queues, most of them our own.
        let is_shallow = path.is_beside_small && path.shortest < MIN_UNSHRUNK;
        let period = if is_shallow {
            path.shortest.max(MIN_ROUND_TRIP_BESIDE_SMALL)
        } else {
            path.to_fill.max(MIN_ROUND_TRIP)
        };
        let elapsed = now.saturating_duration_since(self.measured_at);
        if elapsed < period.max(MIN_ELAPSED) {
            return None;
        }
        let drained = std::mem::take(&mut self.drained);
        self.measured_at = now;
        let in_flight = u128::from(drained) * period.as_nanos() / elapsed.as_nanos();
        let wanted = u32::try_from(in_flight * 2).unwrap_or(u32::MAX);
        self.ceiling = if is_shallow { wanted.max(INITIAL_STREAM_CREDIT) } else { u32::MAX };
        Some(Measured { wanted, is_small: drained <= SMALL_MAX && self.window.held() == 0 })
    }

    /// Lets the window shrink to the first credit as it is used.
    pub(super) fn fall_back(&mut self) {
        self.ceiling = INITIAL_STREAM_CREDIT;
    }

    /// Gives up what of the window is above what the last measurement allows; returns how much.
    pub(super) fn shrink(&mut self) -> u32 {
        let before = self.window.size();
        self.window.resize(before.min(self.ceiling));
        before - self.window.size()
    }
}

/// The conditions that a window has to fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    /// The shortest round trip that was measured.
    pub(super) shortest: Duration,
    /// That which windows are to fit.
    pub(super) to_fill: Duration,
    /// Another stream of the session has carried small messages of late.
    pub(super) is_beside_small: bool,
}

/// The result of [`Stream::measure`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// The size that the window should at least have.
    pub(super) wanted: u32,
    /// The stream carries small messages.
    pub(super) is_small: bool,
}
