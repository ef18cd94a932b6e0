//! PINGs of this side, and the round trip that their answers measure.

use super::{Frame, MAX_PINGS};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The longest round trip that a window is to fit; a satellite's is 0.6 s.
const LONGEST: Duration = Duration::from_secs(1);

/// How soon the round trip is measured a second time; the pause doubles each time up to [`MAX_PAUSE`].
///
/// The first PING meets two ends that have just started, and what it measures may be several times the
/// path.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// How often the round trip is measured in the end.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// PINGs are numbered and answered in order.
#[derive(Debug, Default)]
pub(super) struct Pings {
    /// When those were sent that are not answered, at most [`MAX_PINGS`].
    unanswered: VecDeque<Instant>,
    next: u64,
    shortest: Option<Duration>,
    latest: Duration,
    /// When the next is due, and the pause after it; None before the first.
    due: Option<(Instant, Duration)>,
}

impl Pings {
    /// Sends one; false when too many are unanswered.
    pub(super) fn send(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        if self.unanswered.len() >= MAX_PINGS {
            return false;
        }
        Frame::Ping { opaque: self.next.to_be_bytes() }.encode(out);
        self.next += 1;
        self.unanswered.push_back(now);
        true
    }

    /// Whether it is time to measure the round trip; sets the time of the next.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let pause = match self.due {
            Some((at, _)) if now < at => return false,
            Some((_, pause)) => pause,
            None => MIN_PAUSE,
        };
        self.due = Some((now + pause, (pause * 2).min(MAX_PAUSE)));
        true
    }

    /// The round trip that an answer has measured; None when it answers nothing.
    pub(super) fn answered(&mut self, now: Instant, opaque: [u8; 8]) -> Option<Duration> {
        let first = self.next - self.unanswered.len() as u64;
        let at = usize::try_from(u64::from_be_bytes(opaque).checked_sub(first)?).ok()?;
        // An answer to none of ours means nothing; one that overtook others is theirs too.
        let sent = *self.unanswered.get(at)?;
        self.unanswered.drain(..=at);
        let measured = now.saturating_duration_since(sent);
        self.latest = measured;
        self.shortest = Some(self.shortest.map_or(measured, |known| known.min(measured)));
        Some(measured)
    }

    /// The shortest round trip that was measured.
    pub(super) fn shortest(&self) -> Option<Duration> {
        self.shortest
    }

    /// The round trip that windows are to fit: the latest, as a path may be slower than at its best,
    /// but no more than twice the shortest, as the rest is queues that the windows themselves fill,
    /// and no more than a second, as a peer that answers late would have windows for nothing.
    pub(super) fn to_fill(&self) -> Option<Duration> {
        self.shortest.map(|shortest| self.latest.min(shortest * 2).min(LONGEST))
    }
}
