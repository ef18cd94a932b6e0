//! Which sessions are there, and how to tell them something.

use futures_util::task::AtomicWaker;
use slab::Slab;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// All authenticated sessions of the gateway.
///
/// One lock, taken when a session begins, ends, or all are told something: never per message.
#[derive(Default)]
pub(crate) struct Registry {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    sessions: Slab<Arc<Control>>,
    per_device: HashMap<Arc<str>, usize>,
}

/// What every session of the gateway can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    /// Carry on.
    None,
    /// The gateway drains: announce it; a session that can move may live on until told to close.
    Announce,
    /// Close at the session's turn: at once unless it can move and still has streams.
    Close,
    /// Close now, whatever is open.
    CloseNow,
}

/// The line from the gateway to one session.
pub(crate) struct Control {
    order: AtomicU8,
    waker: AtomicWaker,
}

impl Control {
    /// The strictest order given so far. Registers the waker first, so no order is missed.
    pub(crate) fn poll_order(&self, waker: &Waker) -> Order {
        self.waker.register(waker);
        match self.order.load(Ordering::Acquire) {
            0 => Order::None,
            1 => Order::Announce,
            2 => Order::Close,
            _ => Order::CloseNow,
        }
    }

    pub(crate) fn give(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }
}

/// Why a session gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The gateway has as many sessions as it may.
    Sessions,
    /// The device has as many sessions as it may.
    SessionsOfDevice,
}

/// A session's place in the registry; given up when dropped.
pub(crate) struct Place {
    registry: Arc<Registry>,
    index: usize,
    device_id: Arc<str>,
    pub(crate) control: Arc<Control>,
}

impl Registry {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a session of the device. A limit of 0 is none.
    pub(crate) fn enter(
        self: &Arc<Self>,
        device_id: &Arc<str>,
        max_sessions: usize,
        max_per_device: usize,
    ) -> Result<Place, NoPlace> {
        let mut table = self.table();
        if max_sessions > 0 && table.sessions.len() >= max_sessions {
            return Err(NoPlace::Sessions);
        }
        if max_per_device > 0
            && table.per_device.get(device_id).is_some_and(|count| *count >= max_per_device)
        {
            return Err(NoPlace::SessionsOfDevice);
        }
        let control = Arc::new(Control { order: AtomicU8::new(0), waker: AtomicWaker::new() });
        let index = table.sessions.insert(control.clone());
        *table.per_device.entry(device_id.clone()).or_insert(0) += 1;
        Ok(Place { registry: self.clone(), index, device_id: device_id.clone(), control })
    }

    /// Sessions there now.
    pub(crate) fn len(&self) -> usize {
        self.table().sessions.len()
    }

    /// Tells every session.
    pub(crate) fn order_all(&self, order: Order) {
        for control in self.controls() {
            control.give(order);
        }
    }

    /// Tells one session after the other, evenly over `spread`, so that their clients do not all
    /// come back at once. Cancelling it leaves the rest untold.
    pub(crate) async fn order_spread(&self, order: Order, spread: Duration) {
        let controls = self.controls();
        let start = Instant::now();
        let count = controls.len().max(1) as u32;
        for (turn, control) in (0u32..).zip(controls) {
            // The last one is told at the end of the spread, a single one at once.
            let at = start + spread.mul_f64(f64::from(turn) / f64::from(count));
            tokio::time::sleep_until(at.into()).await;
            control.give(order);
        }
    }

    fn controls(&self) -> Vec<Arc<Control>> {
        self.table().sessions.iter().map(|(_, control)| control.clone()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.registry.table();
        table.sessions.try_remove(self.index);
        if let Some(count) = table.per_device.get_mut(&self.device_id) {
            *count -= 1;
            if *count == 0 {
                table.per_device.remove(&self.device_id);
            }
        }
        if table.sessions.is_empty() {
            // A peak of sessions is no reason to hold its table for ever.
            table.sessions.shrink_to_fit();
            table.per_device.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_places_come_back() {
        let registry = Arc::new(Registry::default());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let first = registry.enter(&a, 2, 1).unwrap_or_else(|_| panic!("the first has a place"));
        assert_eq!(registry.enter(&a, 2, 1).err(), Some(NoPlace::SessionsOfDevice));
        let second = registry.enter(&b, 2, 1).unwrap_or_else(|_| panic!("another device has one"));
        assert_eq!(registry.enter(&"c".into(), 2, 1).err(), Some(NoPlace::Sessions));
        drop(first);
        assert_eq!(registry.len(), 1);
        assert!(registry.enter(&a, 2, 1).is_ok());
        drop(second);
        assert_eq!(registry.len(), 0);
        assert!(registry.table().per_device.is_empty());
    }

    #[test]
    fn orders_only_get_stricter() {
        let registry = Arc::new(Registry::default());
        let place = registry.enter(&"a".into(), 0, 0).unwrap_or_else(|_| panic!("no limit"));
        let waker = Waker::noop();
        assert_eq!(place.control.poll_order(waker), Order::None);
        registry.order_all(Order::CloseNow);
        registry.order_all(Order::Announce);
        assert_eq!(place.control.poll_order(waker), Order::CloseNow);
    }

    #[tokio::test(start_paused = true)]
    async fn a_spread_takes_its_time_and_a_single_session_none() {
        let registry = Arc::new(Registry::default());
        let one = registry.enter(&"a".into(), 0, 0).unwrap_or_else(|_| panic!("no limit"));
        registry.order_spread(Order::Close, Duration::from_secs(10)).await;
        assert_eq!(one.control.poll_order(Waker::noop()), Order::Close);
    }
}
