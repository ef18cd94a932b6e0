//! The registry of sessions, and orders to them.

use futures_util::task::AtomicWaker;
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::device::{Descriptor, Device, DeviceLimits, Spent};

/// All authenticated sessions of the gateway.
///
/// One lock, taken when a session begins or ends and when orders are given; never for a message.
pub(crate) struct Registry {
    pub(crate) limits: DeviceLimits,
    table: Mutex<Table>,
}

/// Most devices without a session whose used-up rate limits are remembered; the oldest are forgotten first.
const MAX_LEFT: usize = 4096;

#[derive(Default)]
struct Table {
    sessions: Slab<Arc<Control>>,
    devices: HashMap<Arc<str>, Sessions>,
    /// The used-up rate limits of devices without a session, until they have refilled.
    left: HashMap<Arc<str>, (Instant, Spent)>,
    left_in_order: VecDeque<(Instant, Arc<str>)>,
}

impl Table {
    /// Forgets the devices that have spent nothing any more, and so many more that there is one place.
    fn forget_left(&mut self, now: Instant, refill: Duration) {
        while let Some((at, id)) = self.left_in_order.front() {
            let is_full = self.left_in_order.len() >= MAX_LEFT;
            if !is_full && now.saturating_duration_since(*at) < refill {
                return;
            }
            // It may have come and left again meanwhile.
            if self.left.get(id).is_some_and(|(left_at, _)| left_at == at) {
                self.left.remove(id);
            }
            self.left_in_order.pop_front();
        }
        (self.left, self.left_in_order) = Default::default();
    }
}

/// The sessions of one device: how many there are, and what they share.
#[derive(Default)]
struct Sessions {
    count: usize,
    device: Weak<Device>,
}

/// An order to a session. It can only become stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    /// No order.
    None,
    /// The gateway drains: announce it; a session that can move may live on until told to close.
    Announce,
    /// Close at the session's turn: at once unless it can move and still has streams.
    Close,
    /// Close now, whatever is open.
    CloseNow,
}

/// The control of one session.
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

/// The limit for which a session is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The gateway has as many sessions as it may.
    Sessions,
    /// The device has as many sessions as it may.
    SessionsOfDevice,
    /// The device has as many descriptors as it may.
    DescriptorsOfDevice,
}

/// A session's place in the registry; given up when dropped.
pub(crate) struct Place {
    index: usize,
    pub(crate) control: Arc<Control>,
    pub(crate) device: Arc<Device>,
    _descriptor: Descriptor,
}

impl Registry {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn new(limits: DeviceLimits) -> Self {
        Self { limits, table: Mutex::default() }
    }

    /// Takes a place for a session of the device. A limit of 0 is none.
    pub(crate) fn enter(
        self: &Arc<Self>,
        device_id: &Arc<str>,
        max_sessions: usize,
    ) -> Result<Place, NoPlace> {
        // Given back behind the lock: dropping the last of a device takes it again.
        let mut device = None;
        let result = self.enter_with(device_id, max_sessions, &mut device);
        drop(device);
        result
    }

    fn enter_with(
        self: &Arc<Self>,
        device_id: &Arc<str>,
        max_sessions: usize,
        of_device: &mut Option<Arc<Device>>,
    ) -> Result<Place, NoPlace> {
        let mut table = self.table();
        if max_sessions > 0 && table.sessions.len() >= max_sessions {
            return Err(NoPlace::Sessions);
        }
        let count = table.devices.get(device_id).map_or(0, |of| of.count);
        if count >= self.limits.sessions {
            return Err(NoPlace::SessionsOfDevice);
        }
        let sessions = table.devices.entry(device_id.clone()).or_default();
        let device = sessions.device.upgrade().unwrap_or_else(|| {
            let left = table.left.remove(device_id);
            let spent =
                left.map_or_else(|| self.limits.unspent(Instant::now()), |(_, spent)| spent);
            Arc::new(Device::new(self, device_id, spent))
        });
        *of_device = Some(device.clone());
        let descriptor = device.take_descriptor().map_err(|_| NoPlace::DescriptorsOfDevice)?;
        let control = Arc::new(Control { order: AtomicU8::new(0), waker: AtomicWaker::new() });
        let index = table.sessions.insert(control.clone());
        let sessions = table.devices.entry(device_id.clone()).or_default();
        sessions.count += 1;
        sessions.device = Arc::downgrade(&device);
        Ok(Place { index, control, device, _descriptor: descriptor })
    }

    /// Removes a device without sessions and deliveries, and remembers its used-up rate limits.
    pub(crate) fn forget(&self, device_id: &Arc<str>, spent: Spent, now: Instant) {
        let mut table = self.table();
        // It may be there anew, in the hands of a session that came in between.
        if table.devices.get(device_id).is_none_or(|of| of.device.strong_count() == 0) {
            table.devices.remove(device_id);
            table.forget_left(now, self.limits.refill());
            table.left.insert(device_id.clone(), (now, spent));
            table.left_in_order.push_back((now, device_id.clone()));
        }
        if table.devices.is_empty() {
            table.devices.shrink_to_fit();
        }
    }

    /// Sessions there now.
    pub(crate) fn len(&self) -> usize {
        self.table().sessions.len()
    }

    /// Gives the order to every session.
    pub(crate) fn order_all(&self, order: Order) {
        for control in self.controls() {
            control.give(order);
        }
    }

    /// Gives the order to one session after the other, so that their clients do not all reconnect at once: of `n`
    /// sessions number `i` gets it `i / n` of `spread` after the call, so the first one at once and the last one
    /// `spread / n` before the end. Cancelling it leaves the remaining sessions without the order.
    pub(crate) async fn order_spread(&self, order: Order, spread: Duration) {
        let controls = self.controls();
        let start = Instant::now();
        let count = controls.len().max(1) as u32;
        for (turn, control) in (0u32..).zip(controls) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn limits_hold_and_places_come_back() {
        let limits = DeviceLimits { sessions: 1, ..DeviceLimits::unlimited() };
        let registry = Arc::new(Registry::new(limits));
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let first = registry.enter(&a, 2).unwrap_or_else(|_| panic!("the first has a place"));
        assert_eq!(registry.enter(&a, 2).err(), Some(NoPlace::SessionsOfDevice));
        let second = registry.enter(&b, 2).unwrap_or_else(|_| panic!("another device has one"));
        assert_eq!(registry.enter(&"c".into(), 2).err(), Some(NoPlace::Sessions));
        drop(first);
        assert_eq!(registry.len(), 1);
        assert!(registry.enter(&a, 2).is_ok());
        drop(second);
        assert_eq!(registry.len(), 0);
        assert!(registry.table().devices.is_empty());
    }

    fn enter(registry: &Arc<Registry>, device: &str) -> Place {
        registry.enter(&device.into(), 0).unwrap_or_else(|_| panic!("no limit"))
    }

    #[test]
    fn what_a_device_has_is_of_all_its_sessions_and_goes_with_the_last_that_needs_it() {
        let registry = Arc::new(Registry::new(DeviceLimits::unlimited()));
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
        let registry = Arc::new(Registry::new(DeviceLimits::unlimited()));
        let place = enter(&registry, "a");
        let waker = Waker::noop();
        assert_eq!(place.control.poll_order(waker), Order::None);
        registry.order_all(Order::CloseNow);
        registry.order_all(Order::Announce);
        assert_eq!(place.control.poll_order(waker), Order::CloseNow);
    }

    #[tokio::test(start_paused = true)]
    async fn a_spread_gives_its_order_evenly_and_to_a_single_session_at_once() {
        let registry = Arc::new(Registry::new(DeviceLimits::unlimited()));
        let places = ["a", "b", "c"].map(|device| enter(&registry, device));
        let ordered = || {
            let has_order =
                |place: &&Place| place.control.poll_order(Waker::noop()) == Order::Close;
            places.iter().filter(has_order).count()
        };
        let start = tokio::time::Instant::now();
        let mut spreading = std::pin::pin!(registry.order_spread(Order::Close, 9 * SECOND));
        for (seconds, count) in [(1, 1), (2, 1), (4, 2), (5, 2)] {
            let until = tokio::time::timeout_at(start + seconds * SECOND, &mut spreading).await;
            assert!(until.is_err());
            assert_eq!(ordered(), count, "after {seconds} s");
        }
        spreading.await;
        assert_eq!((ordered(), start.elapsed().as_secs()), (3, 6));

        let registry = Arc::new(Registry::new(DeviceLimits::unlimited()));
        let one = enter(&registry, "a");
        let start = tokio::time::Instant::now();
        registry.order_spread(Order::Close, 10 * SECOND).await;
        assert_eq!(one.control.poll_order(Waker::noop()), Order::Close);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    fn opens(place: &Place, now: Instant) -> usize {
        std::iter::from_fn(|| place.device.open_stream(false, now).ok()).count()
    }

    #[test]
    fn what_a_device_may_open_is_no_more_for_coming_back() {
        let limits = DeviceLimits { opens: (10, 20), ..DeviceLimits::unlimited() };
        let registry = Arc::new(Registry::new(limits));
        let start = Instant::now();
        assert_eq!(opens(&enter(&registry, "a"), start), 20);
        assert_eq!(opens(&enter(&registry, "b"), start), 20, "another device");
        assert_eq!(opens(&enter(&registry, "a"), start), 0);
        assert_eq!(opens(&enter(&registry, "a"), start + Duration::from_secs(1)), 10);
        assert_eq!(opens(&enter(&registry, "a"), start + Duration::from_hours(1)), 20);
    }

    #[test]
    fn lines_about_a_device_are_bounded_over_its_reconnects() {
        let registry = Arc::new(Registry::new(DeviceLimits::unlimited()));
        let start = Instant::now();
        let lines = |now| (0..50).filter(|_| enter(&registry, "a").device.may_log(now)).count();
        let all: usize = (0..10).map(|_| lines(start)).sum();
        assert_eq!(all, 100);
        assert_eq!(lines(start + Duration::from_secs(1)), 20);
        assert!(enter(&registry, "b").device.may_log(start), "another device");
    }

    #[test]
    fn devices_that_left_are_remembered_up_to_a_bound_and_until_it_means_nothing() {
        let limits = DeviceLimits { opens: (10, 20), ..DeviceLimits::unlimited() };
        let registry = Arc::new(Registry::new(limits));
        let start = Instant::now();
        for number in 0..MAX_LEFT + 10 {
            let spent = registry.limits.unspent(start);
            registry.forget(&number.to_string().into(), spent, start);
        }
        {
            let table = registry.table();
            assert_eq!((table.left.len(), table.left_in_order.len()), (MAX_LEFT, MAX_LEFT));
            assert!(!table.left.contains_key("0") && table.left.contains_key("10"));
        }
        let later = start + registry.limits.refill();
        registry.forget(&"last".into(), registry.limits.unspent(later), later);
        let table = registry.table();
        assert_eq!((table.left.len(), table.left_in_order.len()), (1, 1));
    }
}
