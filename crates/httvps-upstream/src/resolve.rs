//! From a name to addresses: the seam for tests, and the resolver of the system.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use tokio::sync::Semaphore;

use crate::{BoxFuture, ConnectError, ResolveError};

/// Most lookups that run at one time; the rest wait within their own deadlines.
const MAX_LOOKUPS: usize = 128;

/// Most answers that are remembered, of all names together.
const CACHE_ANSWERS: u64 = 4096;

/// Longest time an answer is remembered, whatever its TTL says.
const MAX_POSITIVE_TTL: Duration = Duration::from_mins(5);

/// Longest time that a name is remembered not to exist.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);

/// Longest wait for one answer of one name server: two fit into the default dial deadline and leave time to dial.
const MAX_QUERY_TIME: Duration = Duration::from_secs(3);

/// Turns names into addresses.
pub trait Resolve: Send + Sync + 'static {
    /// Looks up every address of a name, IPv6 and IPv4, in the order in which they should be tried.
    ///
    /// It is asked once for each stream, and whoever asks dials nothing but these answers. Dropping the future
    /// cancels the lookup. The name is taken as absolute, with or without a dot at its end.
    fn resolve(&self, name: &str) -> BoxFuture<'static, Result<Vec<IpAddr>, ConnectError>>;
}

/// The system's own resolution: its hosts file first, then the name servers of its configuration.
///
/// Both files are read once. Search domains are not applied: a client's name means the same on every gateway, and
/// does not reach into the operator's own domain. DNSSEC is not validated. At most 128 lookups run at one time and
/// 4,096 answers are remembered, for as long as their TTL says and at most 5 minutes (30 s for a name that does not
/// exist).
pub struct SystemResolver {
    shared: Arc<Shared>,
}

struct Shared {
    hosts: Hosts,
    /// Absent when the system names no name server.
    dns: Option<TokioResolver>,
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
        let lookups = Semaphore::new(MAX_LOOKUPS);
        Self { shared: Arc::new(Shared { hosts, dns, lookups }) }
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str) -> BoxFuture<'static, Result<Vec<IpAddr>, ConnectError>> {
        let name = Name::from_ascii(name);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let mut name = name.map_err(|_| ResolveError::NoSuchName)?;
            name.set_fqdn(true);
            shared.resolve(name).await
        })
    }
}

impl Shared {
    async fn resolve(&self, name: Name) -> Result<Vec<IpAddr>, ConnectError> {
        // The hosts file speaks for both families, as in nsswitch's "files dns": the library would ask the name
        // server for the family that the file lacks.
        let known = self.in_hosts_file(&name);
        if !known.is_empty() {
            return Ok(known);
        }
        let dns = self.dns.as_ref().ok_or(ResolveError::NoNameServer)?;
        let _turn = self.lookups.acquire().await.map_err(|_| ConnectError::Overload)?;
        match dns.lookup_ip(name).await {
            Ok(answers) => Ok(answers.iter().collect()),
            Err(error) => Err(dns_error(&error)),
        }
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
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.cache_size = CACHE_ANSWERS;
    options.positive_max_ttl = Some(MAX_POSITIVE_TTL);
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    options.timeout = options.timeout.min(MAX_QUERY_TIME);
    // Each lookup asks for both families; below this the library would answer "busy".
    options.max_active_requests = 2 * MAX_LOOKUPS;
    options
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
    use hickory_resolver::proto::rr::{RData, Record};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::UdpSocket;

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
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let queries = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&queries);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                socket.send_to(&answer(&query).to_vec().unwrap(), peer).await.unwrap();
            }
        });
        (address, queries)
    }

    fn answer(query: &Message) -> Message {
        let question = query.queries[0].clone();
        let mut answer = Message::response(query.metadata.id, OpCode::Query);
        let name = question.name().to_ascii().to_ascii_lowercase();
        let data = match (name.as_str(), question.query_type()) {
            ("two.example.", RecordType::AAAA) => Some(RData::AAAA(Ipv6Addr::LOCALHOST.into())),
            ("two.example.", RecordType::A) => Some(RData::A(Ipv4Addr::new(192, 0, 2, 7).into())),
            ("four.example.", RecordType::A) => Some(RData::A(Ipv4Addr::new(192, 0, 2, 8).into())),
            _ => None,
        };
        answer.metadata.response_code = match name.as_str() {
            "two.example." | "four.example." | "none.example." => ResponseCode::NoError,
            "broken.example." => ResponseCode::ServFail,
            _ => ResponseCode::NXDomain,
        };
        let record = data.map(|data| Record::from_rdata(question.name().clone(), 60, data));
        answer.answers.extend(record);
        answer.queries.push(question);
        answer
    }

    #[tokio::test]
    async fn without_a_name_server_the_hosts_file_works_and_the_error_says_why() {
        let resolver = resolver(None);
        let both = resolver.resolve("both.example.").await.unwrap();
        assert_eq!(both, ["2001:db8::1", "192.0.2.2"].map(|a| a.parse::<IpAddr>().unwrap()));
        assert_eq!(resolver.resolve("FILES.example").await.unwrap().len(), 1);
        let error = resolver.resolve("example.com").await.unwrap_err();
        assert_eq!(error, ResolveError::NoNameServer.into());
        assert!(error.to_string().contains("names no name server"), "{error}");
    }

    #[tokio::test]
    async fn both_families_are_asked_for_and_remembered() {
        let (address, queries) = name_server().await;
        let resolver = resolver(Some(address));
        for _ in 0..3 {
            let two = resolver.resolve("two.example").await.unwrap();
            assert_eq!(two, ["::1", "192.0.2.7"].map(|a| a.parse::<IpAddr>().unwrap()));
        }
        assert_eq!(queries.load(Ordering::Relaxed), 2);
        assert_eq!(resolver.resolve("four.example.").await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_name_in_the_hosts_file_is_not_asked_for() {
        let (address, queries) = name_server().await;
        assert!(resolver(Some(address)).resolve("files.example").await.is_ok());
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
            assert_eq!(resolver.resolve(name).await, Err(error.into()), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_name_server_ends_in_time() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = resolver(Some(silent.local_addr().unwrap()));
        let outcome = tokio::time::timeout(Duration::from_mins(1), resolver.resolve("a.example"));
        assert_eq!(outcome.await, Ok(Err(ResolveError::TimedOut.into())));
    }

    #[test]
    fn the_system_resolver_is_built_outside_of_a_runtime() {
        let _ = SystemResolver::from_system();
    }
}
