//! One stream's state on either side.

use super::window::{SendCredit, Window};
use super::{INITIAL_STREAM_CREDIT, Kind};
use std::time::{Duration, Instant};

/// The shortest round trip that counts: on a shorter path the turns of the two ends take longer.
const MIN_ROUND_TRIP: Duration = Duration::from_micros(250);

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

    /// The size that the window should have; asked when bytes were consumed.
    ///
    /// Twice what the next hop took within one round trip: a peer that is held back by the window
    /// sends one window in that time, so the window doubles until something else is the limit.
    /// Then it stays, and more credit would only fill queues on the way, in which small messages
    /// of other streams would wait.
    pub(super) fn wanted_window(&mut self, now: Instant, round_trip: Option<Duration>) -> u32 {
        let size = self.window.size();
        let period = round_trip.unwrap_or_default().max(MIN_ROUND_TRIP);
        let elapsed = now.saturating_duration_since(self.measured_at);
        if elapsed < period.max(MIN_ELAPSED) {
            return size;
        }
        let in_flight = u128::from(self.drained) * period.as_nanos() / elapsed.as_nanos();
        self.drained = 0;
        self.measured_at = now;
        size.max(u32::try_from(in_flight * 2).unwrap_or(u32::MAX))
    }
}
