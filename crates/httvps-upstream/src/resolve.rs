//! From a name to addresses: the seam for tests, and the resolver of the system.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::answers::Answers;
use crate::{BoxFuture, ConnectError, ResolveError};

/// Most lookups that run at one time; the rest wait within their own deadlines.
const MAX_LOOKUPS: usize = 128;

/// Most lookups of one device that run or wait for one of these places.
const MAX_LOOKUPS_OF_DEVICE: usize = 16;

/// Longest wait for one answer of one name server: two fit into the default dial deadline and leave time to dial.
const MAX_QUERY_TIME: Duration = Duration::from_secs(3);

/// A device's share of the lookups that run at one time: 16 for all of its sessions, so that none holds all of them with
/// names whose servers do not answer. Clones are of the same share.
#[derive(Clone, Debug)]
pub struct LookupShare(Arc<Semaphore>);

impl Default for LookupShare {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKUPS_OF_DEVICE)))
    }
}

impl LookupShare {
    /// Waits for a place of the share, behind those who wait already; dropping it gives it back. Cancel safe.
    pub async fn place(&self) -> Result<SemaphorePermit<'_>, ConnectError> {
        self.0.acquire().await.map_err(|_| ConnectError::Overload)
    }
}

/// Turns names into addresses.
pub trait Resolve: Send + Sync + 'static {
    /// Looks up every address of a name, IPv6 and IPv4, in the order in which they should be tried.
    ///
    /// It is asked once for each stream, and whoever asks dials nothing but these answers. A lookup that has to be made
    /// waits for a place within `share`. Dropping the future cancels the lookup. The name is taken as absolute, with or
    /// without a dot at its end.
    fn resolve(
        &self,
        name: &str,
        share: &LookupShare,
    ) -> BoxFuture<'static, Result<Vec<IpAddr>, ConnectError>>;
}

/// The system's own resolution: its hosts file first, then the name servers of its configuration.
///
/// Both files are read once. Search domains are not applied: a client's name means the same on every gateway, and
/// does not reach into the operator's own domain. DNSSEC is not validated. At most 128 lookups run at one time, 16 of one
/// [`LookupShare`]. The answers for 4,096 names are remembered, for as long as their TTL says and at most 5 minutes (30 s
/// for a name that does not exist or has no address); a name that is known waits for no place.
pub struct SystemResolver {
    shared: Arc<Shared>,
}

struct Shared {
    hosts: Hosts,
    /// Absent when the system names no name server.
    dns: Option<TokioResolver>,
    /// In front of the places: the library has a cache, and no call that asks just that.
    answers: Answers,
    lookups: Semaphore,
}

impl SystemResolver {
    /// Reads the system's files (`/etc/hosts`, `/etc/resolv.conf`). A missing, empty or unusable one is taken as
    /// empty: then only the names in the other one work, and the errors of all other names say why.
    pub fn from_system() -> Self {
        let hosts = Hosts::from_system().unwrap_or_default();
        Self::new(hosts, system_conf::read_system_conf().ok())
    }

    fn new(hosts: Hosts, system: Option<(ResolverConfig, ResolverOpts)>) -> Self {
        let dns = system.and_then(|(config, options)| {
            let provider = TokioRuntimeProvider::default();
            let mut builder = TokioResolver::builder_with_config(config, provider);
            *builder.options_mut() = bounded(options);
            builder.build().ok()
        });
        let (answers, lookups) = (Answers::new(), Semaphore::new(MAX_LOOKUPS));
        Self { shared: Arc::new(Shared { hosts, dns, answers, lookups }) }
    }
}

impl Resolve for SystemResolver {
    fn resolve(
        &self,
        name: &str,
        share: &LookupShare,
    ) -> BoxFuture<'static, Result<Vec<IpAddr>, ConnectError>> {
        let name = Name::from_ascii(name);
        let (shared, share) = (Arc::clone(&self.shared), share.clone());
        Box::pin(async move {
            let mut name = name.map_err(|_| ResolveError::NoSuchName)?;
            name.set_fqdn(true);
            shared.resolve(name, &share).await
        })
    }
}

impl Shared {
    async fn resolve(&self, name: Name, share: &LookupShare) -> Result<Vec<IpAddr>, ConnectError> {
        // The hosts file speaks for both families, as in nsswitch's "files dns": the library would ask the name
        // server for the family that the file lacks.
        let known = self.in_hosts_file(&name);
        if !known.is_empty() {
            return Ok(known);
        }
        let dns = self.dns.as_ref().ok_or(ResolveError::NoNameServer)?;
        if let Some(known) = self.answers.get(&name, Instant::now()) {
            return Ok(known?);
        }
        // The device's own place first: whoever waits for it takes none from the others.
        let _place = share.place().await?;
        let _turn = self.lookups.acquire().await.map_err(|_| ConnectError::Overload)?;
        // Somebody may have asked for it meanwhile.
        if let Some(known) = self.answers.get(&name, Instant::now()) {
            return Ok(known?);
        }
        self.ask(dns, name).await
    }

    /// Asks the name servers for both families, and remembers what they say if that is the whole truth: when one
    /// family's answer did not come, the next stream asks again.
    async fn ask(&self, dns: &TokioResolver, name: Name) -> Result<Vec<IpAddr>, ConnectError> {
        let (six, four) = tokio::join!(
            dns.lookup(name.clone(), RecordType::AAAA),
            dns.lookup(name.clone(), RecordType::A),
        );
        let now = Instant::now();
        let (six, four) = (Family::new(six, now), Family::new(four, now));
        let valid_until = match (&six, &four) {
            // That there are none in the other family has no time of its own: it may not even say for how long.
            (Family::Addresses(_, until), Family::Nothing(..))
            | (Family::Nothing(..), Family::Addresses(_, until)) => Some(*until),
            (
                Family::Addresses(_, six) | Family::Nothing(_, six),
                Family::Addresses(_, four) | Family::Nothing(_, four),
            ) => Some((*six).min(*four)),
            (Family::Failed(_), _) | (_, Family::Failed(_)) => None,
        };
        let mut addresses = Vec::new();
        let mut error = None;
        for family in [six, four] {
            match family {
                Family::Addresses(found, _) => addresses.extend(found),
                Family::Nothing(reason, _) => error = error.or(Some(reason.into())),
                Family::Failed(reason) => error = error.or(Some(reason)),
            }
        }
        let answer = match error {
            Some(error) if addresses.is_empty() => Err(error),
            _ => Ok(addresses),
        };
        if let Some(valid_until) = valid_until {
            match &answer {
                Ok(addresses) => self.answers.remember(name, Ok(addresses), valid_until, now),
                Err(ConnectError::ResolveFailed(reason)) => {
                    self.answers.remember(name, Err(*reason), valid_until, now);
                }
                Err(_) => {}
            }
        }
        answer
    }

    fn in_hosts_file(&self, name: &Name) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for family in [RecordType::AAAA, RecordType::A] {
            let query = Query::query(name.clone(), family);
            let Some(lookup) = self.hosts.lookup_static_host(&query) else { continue };
            addresses.extend(lookup.answers().iter().filter_map(|record| record.data.ip_addr()));
        }
        addresses
    }
}

/// Puts our bounds on what the system's configuration asks for.
fn bounded(mut options: ResolverOpts) -> ResolverOpts {
    options.use_hosts_file = ResolveHosts::Never;
    // What is known is in front, see [`Answers`].
    options.cache_size = 0;
    options.timeout = options.timeout.min(MAX_QUERY_TIME);
    // Each lookup asks for both families; below this the library would answer "busy".
    options.max_active_requests = 2 * MAX_LOOKUPS;
    options
}

/// What the name servers said of one family of addresses.
enum Family {
    /// Addresses, and until when that holds. None if the name leads somewhere and there is nothing.
    Addresses(Vec<IpAddr>, Instant),
    /// That there are none, and until when that holds.
    Nothing(ResolveError, Instant),
    /// Nothing that would be worth remembering.
    Failed(ConnectError),
}

impl Family {
    fn new(outcome: Result<Lookup, NetError>, now: Instant) -> Self {
        match outcome {
            Ok(lookup) => {
                let addresses = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
                Self::Addresses(addresses.collect(), lookup.valid_until())
            }
            Err(error) => match (dns_error(&error), error) {
                (
                    ConnectError::ResolveFailed(
                        reason @ (ResolveError::NoSuchName | ResolveError::NoAddress),
                    ),
                    NetError::Dns(DnsError::NoRecordsFound(none)),
                ) => {
                    let seconds = u64::from(none.negative_ttl.unwrap_or(0));
                    Self::Nothing(reason, now + Duration::from_secs(seconds))
                }
                (reason, _) => Self::Failed(reason),
            },
        }
    }
}

fn dns_error(error: &NetError) -> ConnectError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => ResolveError::NoSuchName.into(),
            ResponseCode::NoError => ResolveError::NoAddress.into(),
            _ => ResolveError::ServerFailed.into(),
        },
        NetError::Timeout => ResolveError::TimedOut.into(),
        NetError::Busy => ConnectError::Overload,
        NetError::Io(error) => match ConnectError::from(error.as_ref()) {
            ConnectError::Overload => ConnectError::Overload,
            _ => ResolveError::ServerFailed.into(),
        },
        _ => ResolveError::ServerFailed.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
    use hickory_resolver::proto::op::{Message, OpCode};
    use hickory_resolver::proto::rr::rdata::SOA;
    use hickory_resolver::proto::rr::{RData, Record};
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::UdpSocket;
    use tokio::sync::watch;
    use tokio::task::JoinSet;

    const HOSTS: &str =
        "192.0.2.1 files.example\n2001:db8::1 both.example\n192.0.2.2 both.example # x\n";

    fn resolver(name_server: Option<SocketAddr>) -> SystemResolver {
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(HOSTS.as_bytes()).unwrap();
        let system = name_server.map(|address| {
            let mut server = NameServerConfig::udp(address.ip());
            let mut connection = ConnectionConfig::udp();
            connection.port = address.port();
            server.connections = vec![connection];
            let search = vec![Name::from_ascii("search.example.").unwrap()];
            (ResolverConfig::from_parts(None, search, vec![server]), ResolverOpts::default())
        });
        SystemResolver::new(hosts, system)
    }

    /// A name server on loopback that knows a few names; gives its address and its count of queries.
    async fn name_server() -> (SocketAddr, Arc<AtomicUsize>) {
        let (address, queries, _) = slow_name_server().await;
        (address, queries)
    }

    /// The same, with the number of names that it was asked for and is silent about.
    async fn slow_name_server() -> (SocketAddr, Arc<AtomicUsize>, watch::Receiver<usize>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let queries = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&queries);
        let (hanging, names) = watch::channel(0);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            let mut slow = HashSet::new();
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                let name = query.queries[0].name().clone();
                if name.to_ascii().starts_with("slow") {
                    slow.insert(name);
                    hanging.send_replace(slow.len());
                    continue;
                }
                socket.send_to(&answer(&query).to_vec().unwrap(), peer).await.unwrap();
            }
        });
        (address, queries, names)
    }

    fn answer(query: &Message) -> Message {
        let question = query.queries[0].clone();
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        let name = question.name().to_ascii().to_ascii_lowercase();
        let data = match (name.as_str(), question.query_type()) {
            ("two.example.", RecordType::AAAA) => Some(RData::AAAA(Ipv6Addr::LOCALHOST.into())),
            ("two.example.", RecordType::A) => Some(RData::A(Ipv4Addr::new(192, 0, 2, 7).into())),
            ("four.example." | "half.example.", RecordType::A) => {
                Some(RData::A(Ipv4Addr::new(192, 0, 2, 8).into()))
            }
            _ => None,
        };
        let family = question.query_type();
        answer.metadata.response_code = match (name.as_str(), family) {
            ("half.example.", RecordType::AAAA) | ("broken.example.", _) => ResponseCode::ServFail,
            ("two.example." | "four.example." | "none.example." | "half.example.", _) => {
                ResponseCode::NoError
            }
            _ => ResponseCode::NXDomain,
        };
        if name == "gone.example." {
            let zone = Name::from_ascii("example.").unwrap();
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, 60);
            answer.authorities.push(Record::from_rdata(zone, 60, RData::SOA(soa)));
        }
        let record = data.map(|data| Record::from_rdata(question.name().clone(), 60, data));
        answer.answers.extend(record);
        answer.queries.push(question);
        answer
    }

    /// Resolves a name within a share of its own.
    async fn resolve(resolver: &SystemResolver, name: &str) -> Result<Vec<IpAddr>, ConnectError> {
        resolver.resolve(name, &LookupShare::default()).await
    }

    #[tokio::test]
    async fn without_a_name_server_the_hosts_file_works_and_the_error_says_why() {
        let resolver = resolver(None);
        let both = resolve(&resolver, "both.example.").await.unwrap();
        assert_eq!(both, ["2001:db8::1", "192.0.2.2"].map(|a| a.parse::<IpAddr>().unwrap()));
        assert_eq!(resolve(&resolver, "FILES.example").await.unwrap().len(), 1);
        let error = resolve(&resolver, "example.com").await.unwrap_err();
        assert_eq!(error, ResolveError::NoNameServer.into());
        assert!(error.to_string().contains("names no name server"), "{error}");
    }

    #[tokio::test]
    async fn both_families_are_asked_for_and_remembered() {
        let (address, queries) = name_server().await;
        let resolver = resolver(Some(address));
        for _ in 0..3 {
            let two = resolve(&resolver, "two.example").await.unwrap();
            assert_eq!(two, ["::1", "192.0.2.7"].map(|a| a.parse::<IpAddr>().unwrap()));
        }
        assert_eq!(queries.load(Ordering::Relaxed), 2);
        for _ in 0..3 {
            let four = resolve(&resolver, "four.example.").await.unwrap();
            assert_eq!(four, ["192.0.2.8".parse::<IpAddr>().unwrap()]);
        }
        assert_eq!(queries.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn that_there_is_no_such_name_is_remembered_and_half_an_answer_is_not() {
        let (address, queries) = name_server().await;
        let resolver = resolver(Some(address));
        for (name, is_remembered) in
            [("gone.example", true), ("nosuch.example", false), ("half.example", false)]
        {
            let first = resolve(&resolver, name).await;
            assert_eq!(first.is_ok(), name == "half.example");
            let asked = queries.load(Ordering::Relaxed);
            let second = resolve(&resolver, name).await;
            assert_eq!(second, first, "{name}");
            assert_eq!(queries.load(Ordering::Relaxed) == asked, is_remembered, "{name}");
        }
    }

    /// Starts lookups that nobody answers, so many of each of so many shares, and waits until as many hang as may.
    async fn hang(
        resolver: &SystemResolver,
        (shares, of_each): (usize, usize),
        names: &mut watch::Receiver<usize>,
        hanging: usize,
    ) -> JoinSet<()> {
        let mut lookups = JoinSet::new();
        for share in 0..shares {
            let within = LookupShare::default();
            for number in 0..of_each {
                let name = format!("slow{share}-{number}.example");
                let lookup = resolver.resolve(&name, &within);
                lookups.spawn(async move { drop(lookup.await) });
            }
        }
        let all = names.wait_for(|names| *names >= hanging);
        tokio::time::timeout(Duration::from_mins(1), all).await.unwrap().unwrap();
        lookups
    }

    /// Whether a name is resolved while others hang.
    async fn resolves(resolver: &SystemResolver, name: &str) -> bool {
        let outcome = tokio::time::timeout(Duration::from_secs(2), resolve(resolver, name));
        outcome.await.is_ok_and(|outcome| outcome.is_ok())
    }

    #[tokio::test]
    async fn a_name_that_is_known_waits_for_nobody() {
        let (address, _, mut names) = slow_name_server().await;
        let resolver = resolver(Some(address));
        assert!(resolves(&resolver, "two.example").await);
        let shares = (MAX_LOOKUPS / MAX_LOOKUPS_OF_DEVICE, MAX_LOOKUPS_OF_DEVICE);
        let _hanging = hang(&resolver, shares, &mut names, MAX_LOOKUPS).await;
        assert!(resolves(&resolver, "TWO.example.").await);
    }

    #[tokio::test]
    async fn a_share_does_not_hold_all_lookups() {
        let (address, _, mut names) = slow_name_server().await;
        let resolver = resolver(Some(address));
        let flood = (1, 2 * MAX_LOOKUPS);
        let _hanging = hang(&resolver, flood, &mut names, MAX_LOOKUPS_OF_DEVICE).await;
        assert!(resolves(&resolver, "four.example").await);
        assert_eq!(*names.borrow(), MAX_LOOKUPS_OF_DEVICE);
    }

    #[tokio::test]
    async fn a_name_in_the_hosts_file_is_not_asked_for() {
        let (address, queries) = name_server().await;
        assert!(resolve(&resolver(Some(address)), "files.example").await.is_ok());
        assert_eq!(queries.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_the_name_server_says_becomes_an_error_of_its_own() {
        let (address, _) = name_server().await;
        let resolver = resolver(Some(address));
        for (name, error) in [
            ("none.example", ResolveError::NoAddress),
            ("nosuch.example", ResolveError::NoSuchName),
            ("two", ResolveError::NoSuchName), // the search domain is not applied
            ("broken.example", ResolveError::ServerFailed),
        ] {
            assert_eq!(resolve(&resolver, name).await, Err(error.into()), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_name_server_ends_in_time() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = resolver(Some(silent.local_addr().unwrap()));
        let outcome = tokio::time::timeout(Duration::from_mins(1), resolve(&resolver, "a.example"));
        assert_eq!(outcome.await, Ok(Err(ResolveError::TimedOut.into())));
    }

    #[test]
    fn the_system_resolver_is_built_outside_of_a_runtime() {
        let _ = SystemResolver::from_system();
    }
}
