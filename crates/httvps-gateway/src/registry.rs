//! Which sessions are there, and how to tell them something.

use futures_util::task::AtomicWaker;
use slab::Slab;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use httvps_upstream::LookupShare;

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
    devices: HashMap<Arc<str>, Sessions>,
}

/// The sessions of one device: how many there are, and what they share.
#[derive(Default)]
struct Sessions {
    count: usize,
    device: Weak<Device>,
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

/// What the sessions of one device share.
///
/// It lasts as long as one of them, and as the delivery of one of their closed streams, which may still look its target
/// up: a device that comes back finds the share that it left.
pub(crate) struct Device {
    registry: Arc<Registry>,
    id: Arc<str>,
    /// Bounds the names that are looked up for all of its streams at one time.
    pub(crate) lookups: LookupShare,
}

/// A session's place in the registry; given up when dropped.
pub(crate) struct Place {
    index: usize,
    pub(crate) control: Arc<Control>,
    pub(crate) device: Arc<Device>,
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
            && table.devices.get(device_id).is_some_and(|of| of.count >= max_per_device)
        {
            return Err(NoPlace::SessionsOfDevice);
        }
        let control = Arc::new(Control { order: AtomicU8::new(0), waker: AtomicWaker::new() });
        let index = table.sessions.insert(control.clone());
        let sessions = table.devices.entry(device_id.clone()).or_default();
        sessions.count += 1;
        let device = sessions.device.upgrade().unwrap_or_else(|| {
            let (registry, id) = (self.clone(), device_id.clone());
            Arc::new(Device { registry, id, lookups: LookupShare::default() })
        });
        sessions.device = Arc::downgrade(&device);
        Ok(Place { index, control, device })
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
        let mut table = self.device.registry.table();
        table.sessions.try_remove(self.index);
        if let Some(sessions) = table.devices.get_mut(&self.device.id) {
            sessions.count -= 1;
        }
        if table.sessions.is_empty() {
            // A peak of sessions is no reason to hold its table for ever.
            table.sessions.shrink_to_fit();
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut table = self.registry.table();
        // It may be there anew, in the hands of a session that came in between.
        if table.devices.get(&self.id).is_some_and(|of| of.device.strong_count() == 0) {
            table.devices.remove(&self.id);
        }
        if table.devices.is_empty() {
            table.devices.shrink_to_fit();
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
        assert!(registry.table().devices.is_empty());
    }

    fn enter(registry: &Arc<Registry>, device: &str) -> Place {
        registry.enter(&device.into(), 0, 0).unwrap_or_else(|_| panic!("no limit"))
    }

    #[test]
    fn what_a_device_has_is_of_all_its_sessions_and_goes_with_the_last_that_needs_it() {
        let registry = Arc::new(Registry::default());
        let (first, second, other) =
            (enter(&registry, "a"), enter(&registry, "a"), enter(&registry, "b"));
        assert!(Arc::ptr_eq(&first.device, &second.device));
        assert!(!Arc::ptr_eq(&first.device, &other.device));
        drop(first);
        let delivery = second.device.clone();
        drop(second);
        assert!(registry.table().devices.contains_key("a"), "it may still be looking up");
        assert!(Arc::ptr_eq(&delivery, &enter(&registry, "a").device), "it came back");
        drop((delivery, other));
        assert!(registry.table().devices.is_empty());
    }

    #[test]
    fn orders_only_get_stricter() {
        let registry = Arc::new(Registry::default());
        let place = enter(&registry, "a");
        let waker = Waker::noop();
        assert_eq!(place.control.poll_order(waker), Order::None);
        registry.order_all(Order::CloseNow);
        registry.order_all(Order::Announce);
        assert_eq!(place.control.poll_order(waker), Order::CloseNow);
    }

    #[tokio::test(start_paused = true)]
    async fn a_spread_takes_its_time_and_a_single_session_none() {
        let registry = Arc::new(Registry::default());
        let one = enter(&registry, "a");
        registry.order_spread(Order::Close, Duration::from_secs(10)).await;
        assert_eq!(one.control.poll_order(Waker::noop()), Order::Close);
    }
}
