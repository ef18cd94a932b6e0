//! Flows of datagrams that hold places of a client's sessions.

use httvps_mux::{Displacer, StreamFailure};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What the owner of a flow that lost its place is told.
const DISPLACED: &str = "another stream took the place of this UDP flow, which was the quietest";

/// Datagrams to and from one target, opened by
/// [`Client::open_datagrams`](crate::Client::open_datagrams).
///
/// See [`httvps_mux::Datagrams`]. While the client is short of places, the flow that has been quiet
/// for longest loses its own: the next [`Self::recv`] fails. Dropping the value closes the flow.
#[derive(Debug)]
pub struct Datagrams {
    inner: httvps_mux::Datagrams,
    place: Arc<Place>,
    flows: Arc<FlowPlaces>,
    id: u64,
}

impl Datagrams {
    /// Sends one datagram of at most 65,507 bytes; a longer one is dropped, as is any once the flow
    /// is over.
    pub fn send(&self, datagram: &[u8]) {
        self.flows.touch(&self.place);
        self.inner.send(datagram);
    }

    /// Waits for the next datagram; an error says why there will be none. Cancel safe.
    pub async fn recv(&mut self) -> Result<Box<[u8]>, StreamFailure> {
        let datagram = self.inner.recv().await?;
        self.flows.touch(&self.place);
        Ok(datagram)
    }

    /// Datagrams that were dropped here, in both directions.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped()
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.flows.table().remove(&self.id);
    }
}

/// The flows of a client, so that newcomers can displace the quietest. No more than there are
/// places for streams.
#[derive(Debug)]
pub(crate) struct FlowPlaces {
    begin: Instant,
    table: Mutex<HashMap<u64, Arc<Place>>>,
    next_id: AtomicU64,
    displaced: AtomicU64,
}

#[derive(Debug)]
struct Place {
    displacer: Displacer,
    /// Milliseconds after `begin`.
    used: AtomicU64,
}

impl FlowPlaces {
    pub(crate) fn new() -> Self {
        Self {
            begin: Instant::now(),
            table: Mutex::default(),
            next_id: AtomicU64::new(0),
            displaced: AtomicU64::new(0),
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<u64, Arc<Place>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clock(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn touch(&self, place: &Place) {
        place.used.store(self.clock(), Ordering::Relaxed);
    }

    /// Counts a flow that has got a place.
    pub(crate) fn enter(self: &Arc<Self>, inner: httvps_mux::Datagrams) -> Datagrams {
        let used = AtomicU64::new(self.clock());
        let place = Arc::new(Place { displacer: inner.displacer(), used });
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.table().insert(id, place.clone());
        Datagrams { inner, place, flows: self.clone(), id }
    }

    /// Flows that hold a place.
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }

    /// Takes the place of the flow that has been quiet for longest, if for as long as `quiet`;
    /// says whether there was one.
    pub(crate) fn displace(&self, quiet: Duration) -> bool {
        let now = self.clock();
        let mut table = self.table();
        let used = |place: &Place| place.used.load(Ordering::Relaxed);
        let Some((&id, place)) = table.iter().min_by_key(|&(id, place)| (used(place), *id)) else {
            return false;
        };
        if u128::from(now.saturating_sub(used(place))) < quiet.as_millis() {
            return false;
        }
        let place = table.remove(&id);
        drop(table);
        self.displaced.fetch_add(1, Ordering::Relaxed);
        place.inspect(|place| place.displacer.displace(DISPLACED)).is_some()
    }

    /// Flows that have been displaced so far.
    pub(crate) fn displaced(&self) -> u64 {
        self.displaced.load(Ordering::Relaxed)
    }
}
