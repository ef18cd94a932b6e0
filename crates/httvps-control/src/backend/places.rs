//! Places for running calls, shared by source.

use crate::source::{Source, SourceCounts};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// A bounded number of places. While one is free, the next caller gets it; when all are taken, the
/// one that is given back first goes to the source that holds the fewest. So a source with many
/// calls delays others by the wait for one place.
///
/// A window ([`super::pace`]) may be smaller than the bound. It holds for sources that have a place:
/// the first call of each is under the bound alone, so that a source that fills the window, or keeps it
/// small with calls that the backend cannot answer, does not exclude others.
///
/// Memory: one entry for each caller that waits, and a few for each source that waits or holds a
/// place. The next one is looked for among the sources that wait. Callers are handshakes and sessions, which have bounds of their own.
pub(super) struct Places {
    state: Mutex<State>,
}

/// Invariant: no call waits while a place is free for it.
struct State {
    max: usize,
    window: usize,
    taken: usize,
    held: SourceCounts,
    last_ticket: u64,
    /// In the order of their tickets; no queue is empty.
    waiting: HashMap<Source, VecDeque<(u64, oneshot::Sender<()>)>>,
}

/// A place, or the wait for one; dropping it gives up either.
pub(super) struct Place {
    places: Arc<Places>,
    source: Source,
    ticket: Option<u64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state();
        if !self.ticket.is_some_and(|ticket| state.withdraw(self.source, ticket)) {
            state.give_back(self.source);
        }
    }
}

impl Places {
    pub(super) fn new(max: usize) -> Arc<Self> {
        let state = State {
            max,
            window: max,
            taken: 0,
            held: SourceCounts::default(),
            last_ticket: 0,
            waiting: HashMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place if one is free.
    pub(super) fn try_enter(self: &Arc<Self>, source: Source) -> Option<Place> {
        let mut state = self.state();
        if !state.is_free_for(source) {
            return None;
        }
        state.take(source);
        Some(Place { places: self.clone(), source, ticket: None })
    }

    /// Sets how many calls of sources with more than one may be under way.
    pub(super) fn set_window(&self, window: usize) {
        let mut state = self.state();
        state.window = window.min(state.max);
        state.serve();
    }

    /// Waits for a place. Cancel safe.
    pub(super) async fn enter(self: &Arc<Self>, source: Source) -> Place {
        let (ticket, granted) = {
            let mut state = self.state();
            if state.is_free_for(source) {
                state.take(source);
                (None, None)
            } else {
                let (ticket, granted) = state.wait(source);
                (Some(ticket), Some(granted))
            }
        };
        let place = Place { places: self.clone(), source, ticket };
        if let Some(granted) = granted {
            // The sender leaves the state only to send.
            let _ = granted.await;
        }
        place
    }
}

impl State {
    fn is_free_for(&self, source: Source) -> bool {
        let bound = if self.held.load(source) == 0 { self.max } else { self.window };
        self.taken < bound
    }

    fn take(&mut self, source: Source) {
        self.taken += 1;
        self.held.add(source);
    }

    fn wait(&mut self, source: Source) -> (u64, oneshot::Receiver<()>) {
        let (sender, granted) = oneshot::channel();
        self.last_ticket += 1;
        self.waiting.entry(source).or_default().push_back((self.last_ticket, sender));
        (self.last_ticket, granted)
    }

    /// Gives up a wait; false when it is over because a place was given.
    fn withdraw(&mut self, source: Source, ticket: u64) -> bool {
        let Some(queue) = self.waiting.get_mut(&source) else { return false };
        let found = queue.binary_search_by_key(&ticket, |(ticket, _)| *ticket);
        let is_withdrawn = found.is_ok_and(|at| queue.remove(at).is_some());
        if queue.is_empty() {
            self.waiting.remove(&source);
        }
        is_withdrawn
    }

    fn give_back(&mut self, source: Source) {
        self.taken -= 1;
        self.held.remove(source);
        self.serve();
    }

    /// Gives what is free to those that wait.
    fn serve(&mut self) {
        while self.taken < self.max
            && let Some(next) = self.next()
            && self.is_free_for(next)
        {
            let Some(queue) = self.waiting.get_mut(&next) else { return };
            let granted = queue.pop_front();
            if queue.is_empty() {
                self.waiting.remove(&next);
            }
            self.take(next);
            if let Some((_, granted)) = granted {
                // One that is being dropped does not find its ticket, and gives the place back.
                let _ = granted.send(());
            }
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to_fit();
        }
    }

    /// The source that waits and holds the fewest places; of equals the one that waits longest.
    fn next(&self) -> Option<Source> {
        let rank = |(source, queue): &(&Source, &VecDeque<(u64, oneshot::Sender<()>)>)| {
            (self.held.load(**source), queue.front().map(|(ticket, _)| *ticket))
        };
        self.waiting.iter().min_by_key(rank).map(|(source, _)| *source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn ip(last: u8) -> Source {
        Source::of([192, 0, 2, last].into())
    }

    #[tokio::test]
    async fn a_newcomer_comes_before_the_queue_of_a_source_that_holds_places() {
        let places = Places::new(4);
        let mut held: Vec<_> = (0..4).map(|_| places.try_enter(ip(1)).unwrap()).collect();
        assert!(places.try_enter(ip(2)).is_none());
        let mut busy: Vec<_> = (0..50).map(|_| Box::pin(places.enter(ip(1)))).collect();
        for waiting in &mut busy {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        let mut newcomer = Box::pin(places.enter(ip(2)));
        assert!(newcomer.as_mut().now_or_never().is_none());
        held.pop();
        let newcomer = newcomer.now_or_never().expect("the first place that is free is its");
        drop(newcomer);
        let next = busy[0].as_mut().now_or_never();
        assert!(next.is_some(), "and then the others go on in order");
        assert!(busy[1].as_mut().now_or_never().is_none());
    }

    #[tokio::test]
    async fn one_source_has_all_places_while_no_other_wants_one() {
        let places = Places::new(3);
        let held: Vec<_> = (0..3).filter_map(|_| places.try_enter(ip(1))).collect();
        assert_eq!(held.len(), 3);
    }

    #[tokio::test]
    async fn a_small_window_is_for_sources_that_have_a_place() {
        let places = Places::new(4);
        places.set_window(1);
        let _first = places.try_enter(ip(1)).unwrap();
        assert!(places.try_enter(ip(1)).is_none());
        let mut waiting = Box::pin(places.enter(ip(1)));
        assert!(waiting.as_mut().now_or_never().is_none());
        let _others = [places.try_enter(ip(2)).unwrap(), places.try_enter(ip(3)).unwrap()];
        places.set_window(9);
        assert!(waiting.now_or_never().is_some(), "it goes on when the window is larger again");
    }

    #[tokio::test]
    async fn a_network_of_ipv6_is_not_as_many_sources_as_it_has_64s() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        let places = Places::new(2);
        let _kept = places.try_enter(of("2001:db8:0:1::1")).unwrap();
        let held = places.try_enter(of("2001:db8:0:2::1")).unwrap();
        let mut same = Box::pin(places.enter(of("2001:db8:0:3::1")));
        let mut other = Box::pin(places.enter(of("2001:db8:7:1::1")));
        assert!(same.as_mut().now_or_never().is_none());
        assert!(other.as_mut().now_or_never().is_none());
        drop(held);
        assert!(other.now_or_never().is_some());
    }

    #[tokio::test]
    async fn places_and_waits_that_are_given_up_leave_nothing() {
        let places = Places::new(1);
        let held = places.try_enter(ip(1)).unwrap();
        let mut first = Box::pin(places.enter(ip(2)));
        let mut second = Box::pin(places.enter(ip(2)));
        let mut third = Box::pin(places.enter(ip(3)));
        for waiting in [&mut first, &mut second, &mut third] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        drop(first);
        drop(held);
        // The place is the second's now, which goes before it has seen it.
        drop(second);
        let place = third.now_or_never().expect("a place that was given and not taken goes on");
        drop(place);
        let state = places.state();
        assert!(state.taken == 0 && state.held.load(ip(2)) == 0 && state.waiting.is_empty());
    }
}
