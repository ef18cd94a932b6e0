//! The set of streams of a session that are ready to be polled.

use futures_util::task::AtomicWaker;
use httvps_proto::StreamKey;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// Collects the streams whose next hop woke up, and wakes the session's task.
///
/// All next hops of a session are polled by the session's one task; each gets a waker of its own so
/// that the task knows which of them to look at. A stream is listed once until it is polled, so the
/// list is no longer than the session has streams, but for those that ended meanwhile.
#[derive(Debug, Default)]
pub struct Ready {
    streams: Mutex<Vec<StreamKey>>,
    session: AtomicWaker,
}

impl Ready {
    /// Registers the session's task; call before [`Self::take`], so that no wake-up is missed.
    pub fn register(&self, waker: &Waker) {
        self.session.register(waker);
    }

    /// Hands over the streams that woke up.
    pub fn take(&self, into: impl FnMut(StreamKey)) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.drain(..).for_each(into);
        if streams.capacity() > 64 {
            streams.shrink_to(0);
        }
    }

    /// Forgets a stream that has ended, when its key may name another one soon.
    pub fn forget(&self, stream: StreamKey) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|woken| *woken != stream);
    }

    fn push(&self, stream: StreamKey) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        self.session.wake();
    }

    /// Wakes the session's task without naming a stream.
    pub fn wake_session(&self) {
        self.session.wake();
    }
}

/// The waker of one stream.
#[derive(Debug)]
pub struct StreamWaker {
    ready: Arc<Ready>,
    stream: StreamKey,
    /// Whether the stream waits for its turn: listed in `ready`, or among the session's turns.
    is_queued: AtomicBool,
}

impl StreamWaker {
    /// A waker that lists `stream` in `ready`.
    pub fn new(ready: &Arc<Ready>, stream: StreamKey) -> Arc<Self> {
        Arc::new(Self { ready: ready.clone(), stream, is_queued: AtomicBool::new(false) })
    }

    /// Marks that the stream is about to be polled: the next wake-up lists it again.
    pub fn clear(&self) {
        self.is_queued.store(false, Ordering::Release);
    }

    /// Marks that the stream waits for its turn. True when it did not wait yet: the caller lists it. Until
    /// it is polled no other caller lists it, so that no stream has two turns in a round.
    pub fn claim(&self) -> bool {
        !self.is_queued.swap(true, Ordering::AcqRel)
    }

    /// Whether the stream waits for its turn.
    pub fn is_queued(&self) -> bool {
        self.is_queued.load(Ordering::Acquire)
    }

    /// Puts the stream in the list unless it waits for its turn already.
    pub fn schedule(&self) {
        if self.claim() {
            self.ready.push(self.stream);
        }
    }
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.schedule();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.schedule();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_listed_once_until_it_is_polled() {
        let ready = Arc::new(Ready::default());
        let waker = StreamWaker::new(&ready, StreamKey(3));
        let as_waker = Waker::from(waker.clone());
        as_waker.wake_by_ref();
        as_waker.wake_by_ref();
        let mut list = Vec::new();
        ready.take(|stream| list.push(stream));
        assert_eq!(list, [StreamKey(3)]);
        as_waker.wake_by_ref();
        ready.take(|stream| list.push(stream));
        assert_eq!(list.len(), 1, "still queued: not polled since");
        waker.clear();
        as_waker.wake();
        ready.take(|stream| list.push(stream));
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn a_stream_that_waits_for_its_turn_is_not_listed_a_second_time() {
        let ready = Arc::new(Ready::default());
        let waker = StreamWaker::new(&ready, StreamKey(3));
        assert!(!waker.is_queued() && waker.claim());
        waker.schedule();
        assert!(waker.is_queued());
        let mut list = Vec::new();
        ready.take(|stream| list.push(stream));
        assert_eq!(list, [], "the caller that claimed it lists it");
        waker.clear();
        waker.schedule();
        assert!(!waker.claim(), "it is listed already");
        ready.take(|stream| list.push(stream));
        assert_eq!(list, [StreamKey(3)]);
    }

    #[test]
    fn a_stream_that_has_ended_is_forgotten() {
        let ready = Arc::new(Ready::default());
        for key in [3, 4] {
            StreamWaker::new(&ready, StreamKey(key)).schedule();
        }
        ready.forget(StreamKey(3));
        let mut list = Vec::new();
        ready.take(|stream| list.push(stream));
        assert_eq!(list, [StreamKey(4)]);
    }
}
