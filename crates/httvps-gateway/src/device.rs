//! The limits of one device over all of its sessions.

use crate::registry::Registry;
use httvps_config::Config;
use httvps_egress::LookupShare;
use httvps_proto::{Bucket, StreamRefusal, v2};
use httvps_telemetry::metrics::Limit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The part of the process's descriptors that one device may have.
const DESCRIPTOR_SHARE: usize = 4;

/// Log lines about one device, a second and at once: it decides how often it connects and errs.
const LOG_RATE: u32 = 20;
const LOG_BURST: u32 = 100;

/// The rate limits that a device has used up. They outlast the device's sessions, so that a reconnect
/// does not reset them.
#[derive(Clone)]
pub(crate) struct Spent {
    opens: Bucket,
    log: Bucket,
}

/// The limits of one device; `usize::MAX` is no limit.
pub(crate) struct DeviceLimits {
    pub(crate) sessions: usize,
    pub(crate) streams: usize,
    pub(crate) descriptors: usize,
    pub(crate) deliveries: usize,
    /// Streams opened in a second, 0 = no limit, and at once.
    pub(crate) opens: (u32, u32),
    /// What all windows may grow by, and those of a device.
    pub(crate) windows: (v2::Budget, usize),
}

impl DeviceLimits {
    /// What the settings say, for a process that may have so many descriptors.
    pub(crate) fn new(config: &Config, windows: v2::Budget, descriptors: usize) -> Self {
        let bound = |setting: usize| if setting == 0 { usize::MAX } else { setting };
        Self {
            sessions: bound(config.max_sessions_per_device),
            streams: bound(config.max_streams_per_device),
            descriptors: bound(config.max_descriptors_per_device)
                .min(descriptors / DESCRIPTOR_SHARE),
            deliveries: bound(config.max_deliveries_per_device),
            opens: (config.max_device_opens_per_second, config.max_device_open_burst),
            windows: (windows, config.window_budget_per_device_bytes),
        }
    }

    /// What a device has spent that comes for the first time.
    pub(crate) fn unspent(&self, now: Instant) -> Spent {
        Spent {
            opens: Bucket::new(self.opens.0, self.opens.1, now),
            log: Bucket::new(LOG_RATE, LOG_BURST, now),
        }
    }

    /// How long it takes until a device that has spent everything has spent nothing.
    pub(crate) fn refill(&self) -> Duration {
        let (rate, burst) = self.opens;
        let opens = burst.checked_div(rate).unwrap_or(0);
        Duration::from_secs(opens.max(LOG_BURST / LOG_RATE).saturating_add(1).into())
    }
}

/// What every session of one device shares.
///
/// It lasts as long as one of them, and as the delivery of one of their closed streams: a device that comes back finds
/// the shares that it left. What it has opened of late is remembered for as long as that matters (see [`Registry`]).
pub(crate) struct Device {
    pub(crate) registry: Arc<Registry>,
    pub(crate) id: Arc<str>,
    /// Bounds the names that are looked up for all of its streams at one time.
    pub(crate) lookups: LookupShare,
    /// What the windows of its sessions may grow by.
    pub(crate) windows: v2::Budget,
    spent: Mutex<Spent>,
    streams: AtomicUsize,
    descriptors: AtomicUsize,
    deliveries: AtomicUsize,
}

/// The limit of a device that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceFull {
    Streams,
    Opens,
    Descriptors,
}

impl DeviceFull {
    pub(crate) const fn limit(self) -> Limit {
        match self {
            Self::Streams => Limit::StreamsPerDevice,
            Self::Opens => Limit::DeviceOpens,
            Self::Descriptors => Limit::DescriptorsPerDevice,
        }
    }

    /// How a stream is refused for it, and the words for the client.
    pub(crate) const fn refusal(self) -> (StreamRefusal, &'static str) {
        match self {
            Self::Opens => (StreamRefusal::OpenRate, "the device opens streams too fast"),
            _ => (StreamRefusal::Limit, "the device has as many streams as it may have"),
        }
    }
}

/// Takes one of `max`; false when all are taken.
fn try_take(taken: &AtomicUsize, max: usize) -> bool {
    let more = |taken: usize| (taken < max).then_some(taken + 1);
    taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

impl Device {
    pub(crate) fn new(registry: &Arc<Registry>, id: &Arc<str>, spent: Spent) -> Self {
        let (budget, bytes) = &registry.limits.windows;
        Self {
            registry: registry.clone(),
            id: id.clone(),
            lookups: LookupShare::default(),
            windows: budget.for_device(*bytes),
            spent: Mutex::new(spent),
            streams: AtomicUsize::new(0),
            descriptors: AtomicUsize::new(0),
            deliveries: AtomicUsize::new(0),
        }
    }

    /// Takes a descriptor; it is given back with the place.
    pub(crate) fn take_descriptor(self: &Arc<Self>) -> Result<Descriptor, DeviceFull> {
        if try_take(&self.descriptors, self.registry.limits.descriptors) {
            Ok(Descriptor(self.clone()))
        } else {
            Err(DeviceFull::Descriptors)
        }
    }

    /// Takes a place for a stream, and for its socket if it `has_socket`.
    pub(crate) fn open_stream(
        self: &Arc<Self>,
        has_socket: bool,
        now: Instant,
    ) -> Result<StreamPlace, DeviceFull> {
        if !try_take(&self.streams, self.registry.limits.streams) {
            return Err(DeviceFull::Streams);
        }
        let mut place = StreamPlace { _stream: Stream(self.clone()), descriptor: None };
        if has_socket {
            place.descriptor = Some(self.take_descriptor()?);
        }
        if self.spent().opens.try_take(now) { Ok(place) } else { Err(DeviceFull::Opens) }
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more line about the device may be logged. The metrics count what is not logged, too.
    pub(crate) fn may_log(&self, now: Instant) -> bool {
        self.spent().log.try_take(now)
    }

    /// Takes a place for the last bytes of a closed stream, of those that all devices share.
    pub(crate) fn deliver(self: &Arc<Self>, all: &Arc<Semaphore>) -> Result<DeliveryPlace, Limit> {
        if !try_take(&self.deliveries, self.registry.limits.deliveries) {
            return Err(Limit::DeliveriesPerDevice);
        }
        let of_device = Delivery(self.clone());
        let place = all.clone().try_acquire_owned().map_err(|_| Limit::Deliveries)?;
        Ok(DeliveryPlace { _place: place, _of_device: of_device })
    }
}

/// A descriptor of a device.
pub(crate) struct Descriptor(Arc<Device>);

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.descriptors.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Stream(Arc<Device>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream's place among those of its device.
pub(crate) struct StreamPlace {
    _stream: Stream,
    descriptor: Option<Descriptor>,
}

impl StreamPlace {
    /// The stream is closed; what is left of it has a socket still.
    pub(crate) fn close(self) -> Option<Descriptor> {
        self.descriptor
    }
}

struct Delivery(Arc<Device>);

impl Drop for Delivery {
    fn drop(&mut self) {
        self.0.deliveries.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place for the last bytes of a closed stream.
pub(crate) struct DeliveryPlace {
    _place: OwnedSemaphorePermit,
    _of_device: Delivery,
}

impl Drop for Device {
    fn drop(&mut self) {
        let spent = self.spent().clone();
        self.registry.forget(&self.id, spent, Instant::now());
    }
}

#[cfg(test)]
impl DeviceLimits {
    /// None.
    pub(crate) fn unlimited() -> Self {
        Self {
            sessions: usize::MAX,
            streams: usize::MAX,
            descriptors: usize::MAX,
            deliveries: usize::MAX,
            opens: (0, 1),
            windows: (v2::Budget::shared(1 << 30), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(limits: DeviceLimits) -> Arc<Device> {
        let registry = Arc::new(Registry::new(limits));
        let place = registry.enter(&"a".into(), 0).unwrap_or_else(|_| panic!("it is the first"));
        place.device.clone()
    }

    #[test]
    fn streams_and_descriptors_of_all_sessions_are_counted_and_come_back() {
        let now = Instant::now();
        let limits = DeviceLimits { streams: 3, descriptors: 3, ..DeviceLimits::unlimited() };
        let device = device(limits);
        // The descriptor of the session that is over came back.
        let first = device.open_stream(true, now).ok().unwrap();
        let second = device.open_stream(true, now).ok().unwrap();
        let _held = device.take_descriptor().ok().unwrap();
        assert_eq!(device.open_stream(true, now).err(), Some(DeviceFull::Descriptors));
        let _third = device.open_stream(false, now).ok().unwrap();
        assert_eq!(device.open_stream(false, now).err(), Some(DeviceFull::Streams));
        // A closed stream keeps its descriptor as long as its bytes are being delivered.
        let delivered = first.close();
        assert_eq!(device.open_stream(true, now).err(), Some(DeviceFull::Descriptors));
        drop(delivered);
        assert!(device.open_stream(true, now).is_ok());
        drop(second);
    }

    #[test]
    fn a_device_leaves_delivery_places_to_others() {
        let limits = DeviceLimits { deliveries: 2, ..DeviceLimits::unlimited() };
        let (device, all) = (device(limits), Arc::new(Semaphore::new(3)));
        let places = [device.deliver(&all).ok().unwrap(), device.deliver(&all).ok().unwrap()];
        assert_eq!(device.deliver(&all).err(), Some(Limit::DeliveriesPerDevice));
        let others = all.clone().try_acquire_owned().unwrap();
        drop(places);
        let _one = device.deliver(&all).ok().unwrap();
        let _two = all.clone().try_acquire_owned().unwrap();
        assert_eq!(device.deliver(&all).err(), Some(Limit::Deliveries));
        drop(others);
        assert!(device.deliver(&all).is_ok(), "a refusal took none of the device's");
    }
}
