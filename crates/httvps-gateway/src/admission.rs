//! Admission of connections to a handshake, and displacement at the limits.

use futures_util::future::{AbortHandle, AbortRegistration};
use httvps_control::{Source, SourceCounts};
use httvps_telemetry::metrics::{Limit, Metrics};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a connection in its handshake holds besides the bytes that are counted: its task, its socket and the state of
/// TLS.
pub(crate) const BASE_BYTES: usize = 16 * 1024;

/// Shortest time between two log lines about the same limit.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The connections that are not sessions yet: how many there are, in all and for each source, and what they hold.
///
/// A new connection without a place displaces another: the oldest of its own source if that source is at its
/// limit, otherwise the oldest of the source with the most. Idle connections therefore do not exclude new ones. Connections that
/// wait for the backend keep their places, because their clients have nothing left to do.
///
/// Memory: an entry for each handshake, and three for each of their sources.
pub(crate) struct Admission {
    bounds: Bounds,
    metrics: Metrics,
    table: Mutex<Table>,
}

/// Bounds of [`Admission`]; 0 is none.
pub(crate) struct Bounds {
    /// Handshakes in all.
    pub(crate) places: usize,
    /// Handshakes of one source.
    pub(crate) places_of_source: usize,
    /// Networks whose sources have no bound of their own.
    pub(crate) exempt: Vec<IpNet>,
    /// Bytes that all handshakes hold together.
    pub(crate) bytes: usize,
}

struct Table {
    /// By age, the oldest first.
    entries: BTreeMap<u64, Entry>,
    next_ticket: u64,
    all: SourceCounts,
    /// Connections that wait for their peer.
    waiting: SourceCounts,
    bytes: usize,
    /// Bytes that the memory of the process has left for them, [`Admission::set_room`].
    room: usize,
    warned: Option<Instant>,
}

struct Entry {
    source: Source,
    bytes: usize,
    is_waiting: bool,
    abort: AbortHandle,
}

/// A place among the handshakes; given up when dropped.
pub(crate) struct HalfOpen {
    admission: Arc<Admission>,
    ticket: u64,
    source: Source,
}

impl Admission {
    pub(crate) fn new(bounds: Bounds, metrics: Metrics) -> Self {
        let table = Table {
            entries: BTreeMap::new(),
            next_ticket: 0,
            all: SourceCounts::default(),
            waiting: SourceCounts::default(),
            bytes: 0,
            room: usize::MAX,
            warned: None,
        };
        Self { bounds, metrics, table: Mutex::new(table) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a handshake of `address`, if need be from another. The task of the handshake ends when the
    /// registration says so. An error is the limit for which the new connection is refused.
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
    ) -> Result<(HalfOpen, AbortRegistration), Limit> {
        let source = Source::of(address);
        let mut table = self.table();
        self.make_room(&mut table, BASE_BYTES)?;
        if self.bounds.places_of_source > 0 && !source.is_in(&self.bounds.exempt) {
            while let Some(network) = table.all.full_network(source, self.bounds.places_of_source) {
                self.warn(&mut table, source);
                let victim = table.oldest(|entry| entry.source.is_of(&network));
                self.displace(&mut table, victim, Limit::HandshakesPerSource)?;
            }
        }
        if self.bounds.places > 0 && table.entries.len() >= self.bounds.places {
            let victim = table.oldest_of_busiest();
            self.displace(&mut table, victim, Limit::Handshakes)?;
        }
        let ticket = table.next_ticket;
        table.next_ticket += 1;
        let (abort, registration) = AbortHandle::new_pair();
        let entry = Entry { source, bytes: BASE_BYTES, is_waiting: true, abort };
        table.bytes += entry.bytes;
        table.all.add(source);
        table.waiting.add(source);
        table.entries.insert(ticket, entry);
        drop(table);
        Ok((HalfOpen { admission: self.clone(), ticket, source }, registration))
    }

    /// Sets what the memory of the process has left: `spare` bytes beyond what the handshakes hold now, or so much
    /// less. The largest go until the rest fits.
    pub(crate) fn set_room(&self, spare: i64) {
        let mut table = self.table();
        let held = i64::try_from(table.bytes).unwrap_or(i64::MAX);
        table.room = usize::try_from(held.saturating_add(spare)).unwrap_or(0);
        // Without any that could go, newcomers are refused until memory comes back.
        let _ = self.make_room(&mut table, 0);
    }

    /// Makes room for `more` bytes within the bound on bytes and the memory of the process.
    fn make_room(&self, table: &mut Table, more: usize) -> Result<(), Limit> {
        loop {
            let wanted = table.bytes + more;
            let (limit, is_memory) = if wanted > table.room {
                (Limit::Memory, true)
            } else if self.bounds.bytes > 0 && wanted > self.bounds.bytes {
                (Limit::HandshakeBytes, false)
            } else {
                return Ok(());
            };
            let victim = match table.largest() {
                // For want of memory a newcomer does not take the place of a handshake of ordinary size.
                Some((ticket, bytes))
                    if bytes > BASE_BYTES && (!is_memory || bytes - BASE_BYTES >= more) =>
                {
                    Some(ticket)
                }
                // Short of memory, and no connection holds more than a new one does: the newcomer is refused.
                _ if is_memory && more > 0 => None,
                _ => table.oldest_of_busiest(),
            };
            self.displace(table, victim, limit)?;
        }
    }

    fn displace(&self, table: &mut Table, victim: Option<u64>, limit: Limit) -> Result<(), Limit> {
        let entry = victim.and_then(|ticket| table.remove(ticket)).ok_or(limit)?;
        entry.abort.abort();
        self.metrics.limit_hit(limit);
        Ok(())
    }

    fn warn(&self, table: &mut Table, source: Source) {
        if table.warned.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
            return;
        }
        table.warned = Some(Instant::now());
        let (source, limit) = (source.to_string(), self.bounds.places_of_source);
        let hint = "a proxy in front belongs into max_handshakes_per_source_exempt";
        tracing::warn!(source, max_handshakes_per_source = limit, hint, "source_limited");
    }
}

impl Table {
    fn remove(&mut self, ticket: u64) -> Option<Entry> {
        let entry = self.entries.remove(&ticket)?;
        self.bytes -= entry.bytes;
        self.all.remove(entry.source);
        if entry.is_waiting {
            self.waiting.remove(entry.source);
        }
        Some(entry)
    }

    fn oldest(&self, belongs: impl Fn(&Entry) -> bool) -> Option<u64> {
        let mut entries = self.entries.iter();
        entries.find(|(_, entry)| entry.is_waiting && belongs(entry)).map(|(ticket, _)| *ticket)
    }

    fn oldest_of_busiest(&self) -> Option<u64> {
        let heaviest = self.waiting.heaviest();
        self.oldest(|entry| self.waiting.load(entry.source) == heaviest)
    }

    /// The connection that holds the most bytes, the oldest among equals, and their number.
    fn largest(&self) -> Option<(u64, usize)> {
        let waiting = self.entries.iter().rev().filter(|(_, entry)| entry.is_waiting);
        waiting.map(|(ticket, entry)| (*ticket, entry.bytes)).max_by_key(|(_, bytes)| *bytes)
    }
}

impl HalfOpen {
    /// Where the connection comes from.
    pub(crate) fn source(&self) -> Source {
        self.source
    }

    /// Reports the bytes that the connection holds beyond [`BASE_BYTES`]. Above the bounds the largest connections are closed,
    /// possibly this one.
    pub(crate) fn hold(&self, bytes: usize) {
        let mut table = self.admission.table();
        // Without an entry it has been displaced, and its task ends with the poll that it is in.
        let Some(entry) = table.entries.get_mut(&self.ticket) else { return };
        let old = std::mem::replace(&mut entry.bytes, BASE_BYTES + bytes);
        let has_grown = entry.bytes > old;
        table.bytes = table.bytes - old + BASE_BYTES + bytes;
        if has_grown {
            // Where none can go it is that they all wait for the backend, with no more than a `hello` each.
            let _ = self.admission.make_room(&mut table, 0);
        }
    }

    /// Marks that the connection waits for the backend: it keeps its place until the backend has answered.
    pub(crate) fn keep_place(&self) {
        let mut table = self.admission.table();
        let Some(entry) = table.entries.get_mut(&self.ticket) else { return };
        if std::mem::take(&mut entry.is_waiting) {
            table.waiting.remove(self.source);
        }
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.admission.table().remove(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::Abortable;

    fn admission(bounds: Bounds) -> Arc<Admission> {
        Arc::new(Admission::new(bounds, Metrics::new()))
    }

    fn bounds(places: usize, places_of_source: usize) -> Bounds {
        Bounds { places, places_of_source, exempt: Vec::new(), bytes: 0 }
    }

    /// A connection as its task sees it.
    struct Connection {
        half_open: HalfOpen,
        task: Abortable<std::future::Pending<()>>,
    }

    impl Connection {
        fn is_alive(&self) -> bool {
            !self.task.is_aborted()
        }
    }

    fn enter(admission: &Arc<Admission>, address: &str) -> Result<Connection, Limit> {
        let (half_open, registration) = admission.enter(address.parse().unwrap())?;
        Ok(Connection { half_open, task: Abortable::new(std::future::pending(), registration) })
    }

    fn alive(connections: &[Connection]) -> usize {
        connections.iter().filter(|connection| connection.is_alive()).count()
    }

    #[test]
    fn a_source_with_all_its_places_loses_its_own_oldest() {
        let admission = admission(bounds(0, 2));
        let other = enter(&admission, "192.0.2.2").unwrap();
        let mut ours = Vec::new();
        for address in ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"] {
            ours.push(enter(&admission, address).unwrap());
        }
        let is_alive: Vec<_> = ours.iter().map(Connection::is_alive).collect();
        assert_eq!(is_alive, [false, true, true]);
        assert!(other.is_alive());
        drop(ours);
        assert_eq!(admission.table().entries.len(), 1);
    }

    #[test]
    fn idle_connections_do_not_shut_a_newcomer_out_of_a_full_gateway() {
        let admission = admission(bounds(40, 16));
        let first = enter(&admission, "198.51.100.1").unwrap();
        let idle: Vec<_> =
            (0..60).map(|i| enter(&admission, &format!("192.0.2.{}", i % 3)).unwrap()).collect();
        assert_eq!(admission.table().entries.len(), 40);
        let honest: Vec<_> =
            (0..8).map(|i| enter(&admission, &format!("203.0.113.{i}")).unwrap()).collect();
        assert_eq!((alive(&honest), first.is_alive()), (8, true), "it is not of the busiest");
        assert_eq!(alive(&idle), 31);
        let newest = idle.iter().rev().take_while(|connection| connection.is_alive()).count();
        assert_eq!(newest, 31, "the oldest went first");
    }

    #[test]
    fn many_networks_of_one_ipv6_subscriber_are_the_busiest_source() {
        let admission = admission(bounds(20, 0));
        let honest: Vec<_> = (0..4)
            .flat_map(|i| [format!("192.0.2.{i}"), format!("192.0.2.{i}")])
            .map(|address| enter(&admission, &address).unwrap())
            .collect();
        let hostile: Vec<_> =
            (0..30).map(|i| enter(&admission, &format!("2001:db8:0:{i:x}::1")).unwrap()).collect();
        assert_eq!((alive(&honest), alive(&hostile)), (8, 12));
    }

    #[test]
    fn an_exempt_network_and_a_bound_of_0_have_no_bound_per_source() {
        let exempt = vec!["192.0.2.0/24".parse().unwrap()];
        let some = admission(Bounds { exempt, ..bounds(0, 1) });
        let held: Vec<_> = (0..9).map(|_| enter(&some, "192.0.2.7").unwrap()).collect();
        let other = enter(&some, "198.51.100.1").unwrap();
        let newer = enter(&some, "198.51.100.1").unwrap();
        assert_eq!((alive(&held), other.is_alive(), newer.is_alive()), (9, false, true));
        let none = admission(bounds(0, 0));
        let many: Vec<_> = (0..9).map(|_| enter(&none, "192.0.2.7").unwrap()).collect();
        assert_eq!(alive(&many), 9);
    }

    #[test]
    fn who_waits_for_the_backend_keeps_the_place() {
        let admission = admission(bounds(2, 0));
        let held: Vec<_> = (0..2).map(|_| enter(&admission, "192.0.2.1").unwrap()).collect();
        held[0].half_open.keep_place();
        let newcomer = enter(&admission, "192.0.2.1").unwrap();
        assert_eq!((held[0].is_alive(), held[1].is_alive()), (true, false));
        newcomer.half_open.keep_place();
        assert_eq!(enter(&admission, "192.0.2.9").err(), Some(Limit::Handshakes));
    }

    #[test]
    fn above_the_bound_on_bytes_the_largest_go_first_and_bytes_come_back() {
        let room = 4 * BASE_BYTES + 100;
        let admission = admission(Bounds { bytes: room, ..bounds(0, 0) });
        let held: Vec<_> = (0..4).map(|_| enter(&admission, "192.0.2.1").unwrap()).collect();
        held[1].half_open.hold(60);
        held[2].half_open.hold(30);
        assert_eq!(alive(&held), 4);
        held[3].half_open.hold(50);
        let is_alive: Vec<_> = held.iter().map(Connection::is_alive).collect();
        assert_eq!(is_alive, [true, false, true, true]);
        held[3].half_open.hold(0);
        held[1].half_open.hold(1 << 30);
        assert_eq!(
            admission.table().bytes,
            3 * BASE_BYTES + 30,
            "one that has gone counts nothing"
        );
        drop(held);
        assert_eq!(admission.table().bytes, 0);
    }

    #[test]
    fn a_process_short_of_memory_drops_the_largest_and_refuses_newcomers() {
        let admission = admission(bounds(0, 0));
        let held: Vec<_> = (0..3).map(|_| enter(&admission, "192.0.2.1").unwrap()).collect();
        held[1].half_open.hold(BASE_BYTES);
        admission.set_room(-1);
        let is_alive: Vec<_> = held.iter().map(Connection::is_alive).collect();
        assert_eq!(is_alive, [true, false, true]);
        admission.set_room(i64::try_from(BASE_BYTES).unwrap());
        let newcomer = enter(&admission, "192.0.2.2").unwrap();
        assert_eq!(enter(&admission, "192.0.2.3").err(), Some(Limit::Memory), "between two looks");
        assert!(newcomer.is_alive());
        admission.set_room(i64::try_from(BASE_BYTES).unwrap());
        newcomer.half_open.hold(BASE_BYTES / 2);
        assert_eq!(enter(&admission, "192.0.2.3").err(), Some(Limit::Memory));
        newcomer.half_open.hold(BASE_BYTES);
        assert!(enter(&admission, "192.0.2.3").is_ok(), "the largest goes for it");
        assert!(!newcomer.is_alive());
    }
}
