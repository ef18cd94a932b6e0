//! The resolver against name servers on loopback, with files of the test's own.

use super::*;
use crate::is_localhost;
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::SOA;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

const HOSTS: &str =
    "192.0.2.1 files.example\n2001:db8::1 both.example\n192.0.2.2 both.example # x\n";

/// A name server on loopback that knows a few names.
struct NameServer {
    port: u16,
    /// The names and types of the queries that came.
    queries: Arc<Mutex<Vec<(String, RecordType)>>>,
    /// How many names it was asked for and is silent about.
    silent_about: watch::Receiver<usize>,
}

impl NameServer {
    async fn start() -> Self {
        Self::on(UdpSocket::bind("127.0.0.1:0").await.unwrap())
    }

    fn on(socket: UdpSocket) -> Self {
        let port = socket.local_addr().unwrap().port();
        let queries = Arc::new(Mutex::new(Vec::new()));
        let (hanging, silent_about) = watch::channel(0);
        let seen = queries.clone();
        tokio::spawn(async move {
            let (mut buffer, mut silent) = ([0_u8; 1500], HashSet::new());
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let (name, kind) = (query.queries[0].name().clone(), query.queries[0].query_type());
                let text = name.to_ascii().to_ascii_lowercase();
                seen.lock().unwrap().push((text.clone(), kind));
                let is_dropped = match text.split(['.', '-']).next() {
                    Some("drop6") => kind == RecordType::AAAA,
                    Some("drop4") => kind == RecordType::A,
                    Some(first) => first.starts_with("slow"),
                    None => false,
                };
                if is_dropped {
                    silent.insert(name);
                    hanging.send_replace(silent.len());
                } else {
                    socket.send_to(&answer(&query).to_vec().unwrap(), peer).await.unwrap();
                }
            }
        });
        Self { port, queries, silent_about }
    }

    fn count(&self) -> usize {
        self.queries.lock().unwrap().len()
    }
}

fn answer(query: &Message) -> Message {
    let question = query.queries[0].clone();
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    let name = question.name().to_ascii().to_ascii_lowercase();
    let family = question.query_type();
    let data = match (name.as_str(), family) {
        ("two.example." | "two.search.example.", RecordType::AAAA) => {
            Some(RData::AAAA(Ipv6Addr::LOCALHOST.into()))
        }
        ("two.example." | "two.search.example.", RecordType::A) => {
            Some(RData::A(Ipv4Addr::new(192, 0, 2, 7).into()))
        }
        ("four.example." | "half.example." | "drop6.example.", RecordType::A) => {
            Some(RData::A(Ipv4Addr::new(192, 0, 2, 8).into()))
        }
        ("drop4.example.", RecordType::AAAA) => Some(RData::AAAA(Ipv6Addr::LOCALHOST.into())),
        _ => None,
    };
    answer.metadata.response_code = match (name.as_str(), family) {
        ("half.example.", RecordType::AAAA) | ("broken.example.", _) => ResponseCode::ServFail,
        ("four.example." | "none.example.", _) => ResponseCode::NoError,
        _ if data.is_some() => ResponseCode::NoError,
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

/// A resolver and its files.
struct Rig {
    resolver: SystemResolver,
    dir: TempDir,
}

impl Rig {
    /// One whose waits are so long that a slow machine does not end them.
    fn new(conf: &str, port: u16) -> Self {
        Self::with_waits(conf, port, Duration::from_mins(1), Duration::from_mins(1))
    }

    fn with_waits(conf: &str, port: u16, resolution_delay: Duration, head_start: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hosts, conf_path) = (dir.path().join("hosts"), dir.path().join("resolv.conf"));
        let place = Place { hosts, conf: conf_path, port, resolution_delay, head_start };
        std::fs::write(&place.hosts, HOSTS).unwrap();
        std::fs::write(&place.conf, conf).unwrap();
        Self { resolver: SystemResolver::new(place), dir }
    }

    fn of(server: &NameServer) -> Self {
        Self::new("nameserver 127.0.0.1\nsearch search.example\n", server.port)
    }

    /// One that waits for a slower family as briefly as the system's.
    fn brief(server: &NameServer) -> Self {
        let Place { resolution_delay, .. } = Place::default();
        let conf = "nameserver 127.0.0.1\n";
        Self::with_waits(conf, server.port, resolution_delay, Duration::from_mins(1))
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.dir.path().join(file), text).unwrap();
    }

    /// Resolves a name of a device within a share of its own.
    async fn addresses(&self, name: &str) -> Result<Addresses, ResolveError> {
        self.resolver.resolve(name, &LookupShare::default()).await
    }

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.addresses(name).await.map(|addresses| addresses.first)
    }

    async fn resolve_own(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.resolver.resolve_own(name).await.map(|addresses| addresses.first)
    }

    /// Looks a name up until it is known, as it is soon after the files have changed.
    async fn until_it_is_known(&self, name: &str) {
        let known = async {
            while self.resolve(name).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), known).await.unwrap();
    }

    /// Whether a name is resolved while others hang.
    async fn resolves(&self, name: &str) -> bool {
        let outcome = tokio::time::timeout(Duration::from_secs(20), self.resolve(name));
        outcome.await.is_ok_and(|outcome| outcome.is_ok())
    }
}

fn ips<const N: usize>(texts: [&str; N]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A port of loopback where no name server listens.
async fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[test]
fn localhost_is_known_in_all_its_forms() {
    for name in ["localhost", "LocalHost.", "a.localhost", "a.b.localhost."] {
        assert!(is_localhost(name), "{name}");
    }
    for name in ["localhost.example", "notlocalhost", "localhost..", "local"] {
        assert!(!is_localhost(name), "{name}");
    }
}

#[tokio::test]
async fn without_a_name_server_the_hosts_file_works_and_the_error_says_why() {
    let rig = Rig::new("# none\n", free_port().await);
    assert_eq!(rig.resolve("both.example.").await.unwrap(), ips(["2001:db8::1", "192.0.2.2"]));
    assert_eq!(rig.resolve("FILES.example").await.unwrap().len(), 1);
    let error = rig.resolve("example.com").await.unwrap_err();
    assert_eq!(error, ResolveError::NoNameServer);
    assert!(error.to_string().contains("names no name server"), "{error}");
    let problems = rig.resolver.problems();
    assert!(problems.len() == 1 && problems[0].contains("names no name server"), "{problems:?}");
}

#[tokio::test]
async fn without_a_name_server_in_the_file_the_one_on_this_host_is_asked() {
    let server = NameServer::start().await;
    let rig = Rig::new("", server.port);
    assert!(rig.resolve("two.example").await.is_ok());
}

#[tokio::test]
async fn both_families_are_asked_for_and_remembered() {
    let server = NameServer::start().await;
    let rig = Rig::of(&server);
    for _ in 0..3 {
        assert_eq!(rig.resolve("two.example").await.unwrap(), ips(["::1", "192.0.2.7"]));
    }
    assert_eq!(server.count(), 2);
    for _ in 0..3 {
        assert_eq!(rig.resolve("four.example.").await.unwrap(), ips(["192.0.2.8"]));
    }
    assert_eq!(server.count(), 4);
}

#[tokio::test]
async fn that_there_is_no_such_name_or_family_is_remembered() {
    let server = NameServer::start().await;
    let rig = Rig::of(&server);
    for (name, is_remembered) in
        [("gone.example", true), ("nosuch.example", false), ("half.example", true)]
    {
        let first = rig.resolve(name).await;
        assert_eq!(first.is_ok(), name == "half.example");
        let asked = server.count();
        assert_eq!(rig.resolve(name).await, first, "{name}");
        assert_eq!(server.count() == asked, is_remembered, "{name}");
    }
}

#[tokio::test]
async fn a_family_that_is_not_answered_is_not_waited_for_and_then_not_asked_for() {
    let server = NameServer::start().await;
    let rig = Rig::brief(&server);
    let addresses = rig.addresses("drop6.example").await.unwrap();
    assert_eq!(addresses.first, ips(["192.0.2.8"]));
    // The name server's time is waited for behind; then it is known that the name has one family.
    assert!(addresses.late.unwrap().addresses().await.is_empty());
    let asked = server.count();
    let again = rig.addresses("drop6.example").await.unwrap();
    assert_eq!(again.first, ips(["192.0.2.8"]));
    assert!(again.late.is_none());
    assert_eq!(server.count(), asked);

    let addresses = rig.addresses("drop4.example").await.unwrap();
    assert_eq!(addresses.first, ips(["::1"]));
    assert!(addresses.late.is_some());
}

#[tokio::test]
async fn names_whose_slower_family_is_outstanding_hold_no_place() {
    let server = NameServer::start().await;
    let rig = Rig::brief(&server);
    let within = LookupShare::default();
    let mut late = Vec::new();
    for _ in 0..=MAX_LOOKUPS_OF_DEVICE {
        late.push(rig.resolver.resolve("drop6.example", &within).await.unwrap().late.unwrap());
    }
    assert_eq!(within.places.available_permits(), MAX_LOOKUPS_OF_DEVICE);
    assert_eq!(within.late.available_permits(), MAX_LATE_OF_DEVICE - late.len());
    assert_eq!(rig.resolver.shared.late.available_permits(), MAX_LATE - late.len());
}

#[tokio::test]
async fn without_a_place_for_what_is_late_the_lookup_waits_for_it_and_loses_nothing() {
    let server = NameServer::start().await;
    let rig = Rig::brief(&server);
    let within = LookupShare::default();
    let _all = within.late.clone().try_acquire_many_owned(MAX_LATE_OF_DEVICE as u32).unwrap();
    let addresses = rig.resolver.resolve("drop6.example", &within).await.unwrap();
    assert_eq!(addresses.first, ips(["192.0.2.8"]));
    assert!(addresses.late.is_none());
    // Other devices have places of their own.
    assert!(rig.addresses("drop4.example").await.unwrap().late.is_some());
}

#[tokio::test]
async fn a_dead_name_server_is_passed_by_and_stands_behind_from_then_on() {
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = dead.local_addr().unwrap().port();
    let server = NameServer::on(UdpSocket::bind(("127.0.0.2", port)).await.unwrap());
    let conf = "nameserver 127.0.0.1\nnameserver 127.0.0.2\n";
    let head_start = Duration::from_millis(1500);
    let rig = Rig::with_waits(conf, port, Duration::from_mins(1), head_start);
    let count_at_dead = || {
        let mut buffer = [0; 1500];
        std::iter::from_fn(|| dead.try_recv_from(&mut buffer).ok()).count()
    };
    assert!(rig.resolve("two.example").await.is_ok());
    dead.readable().await.unwrap();
    assert!(count_at_dead() > 0);
    for name in ["four.example", "nosuch.example", "gone.example"] {
        let _ = rig.resolve(name).await;
    }
    assert_eq!(count_at_dead(), 0);
    assert_eq!(server.count(), 8);
}

#[tokio::test]
async fn a_host_without_a_name_server_costs_no_time_out() {
    let server = NameServer::on(UdpSocket::bind("127.0.0.2:0").await.unwrap());
    // Nothing listens on that port of 127.0.0.1, which the kernel says at once.
    let alone = Rig::new("nameserver 127.0.0.1\n", server.port);
    assert_eq!(alone.resolve("two.example").await, Err(ResolveError::ServerFailed));
    let rig = Rig::new("nameserver 127.0.0.1\nnameserver 127.0.0.2\n", server.port);
    let dns = rig.resolver.shared.files.current().dns;
    let name = Name::from_ascii("nosuch.example.").unwrap();
    let _ = dns.servers.lookup(name, RecordType::A).await;
    assert_eq!(server.count(), 1);
    assert_eq!(dns.servers.standing_behind(), [true, false]);
}

#[tokio::test]
async fn the_first_name_server_is_asked_first_and_alone() {
    let first = NameServer::start().await;
    let second = NameServer::on(UdpSocket::bind(("127.0.0.2", first.port)).await.unwrap());
    let rig = Rig::new("nameserver 127.0.0.1\nnameserver 127.0.0.2\n", first.port);
    for name in ["two.example", "four.example", "gone.example"] {
        let _ = rig.resolve(name).await;
    }
    assert_eq!((first.count(), second.count()), (6, 0));
}

#[tokio::test]
async fn the_files_are_read_again_when_they_change() {
    let server = NameServer::start().await;
    let rig = Rig::new("", free_port().await);
    let port_of_server = server.port;
    assert_eq!(rig.resolve("two.example").await, Err(ResolveError::NoNameServer));
    // The port is the same for all name servers, so the one that comes is on another address.
    drop(rig);
    let silent = UdpSocket::bind(("127.0.0.3", port_of_server)).await.unwrap();
    let rig = Rig::new("nameserver 127.0.0.3\noptions timeout:1\n", port_of_server);
    assert_eq!(rig.resolve("two.example").await, Err(ResolveError::TimedOut));
    drop(silent);
    rig.write("resolv.conf", "nameserver 127.0.0.1\n");
    rig.write("hosts", "192.0.2.3 new.example\n");
    rig.until_it_is_known("new.example").await;
    assert_eq!(rig.resolve("new.example").await.unwrap(), ips(["192.0.2.3"]));
    assert!(rig.resolve("two.example").await.is_ok());
    assert_eq!(rig.resolve("files.example").await, Err(ResolveError::NoSuchName));
}

#[tokio::test]
async fn the_files_are_looked_at_once_a_second_at_most() {
    let server = NameServer::start().await;
    let rig = Rig::of(&server);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(rig.resolve("files.example").await.is_ok());
    rig.write("hosts", "192.0.2.3 new.example\n");
    assert!(rig.resolve("files.example").await.is_ok());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(rig.resolve("new.example").await.is_ok());
}

#[tokio::test]
async fn names_of_the_operator_have_search_domains_and_those_of_devices_do_not() {
    let server = NameServer::start().await;
    let rig = Rig::of(&server);
    assert_eq!(rig.resolve("two").await, Err(ResolveError::NoSuchName));
    assert_eq!(rig.resolve_own("two").await.unwrap(), ips(["::1", "192.0.2.7"]));
    assert_eq!(rig.resolve_own("two.example").await.unwrap(), ips(["::1", "192.0.2.7"]));
    let asked: Vec<String> =
        server.queries.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
    // With fewer dots than `ndots` the search domain comes first, else the name as it is.
    let order = ["two.", "two.", "two.search.example.", "two.search.example.", "two.example."];
    assert_eq!(asked[..5], order);
    assert!(rig.resolve_own("two.").await.is_err());
}

#[tokio::test]
async fn localhost_of_the_operator_is_this_host_whatever_the_files_say() {
    let server = NameServer::start().await;
    let rig = Rig::of(&server);
    assert_eq!(rig.resolve_own("localhost").await.unwrap(), ips(["::1", "127.0.0.1"]));
    rig.write("hosts", "127.0.0.9 localhost\n192.0.2.3 new.example\n");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(
        rig.resolve_own("LocalHost.").await.unwrap(),
        ips(["127.0.0.9", "::1", "127.0.0.1"])
    );
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_name_of_the_operator_that_no_name_server_knows_may_be_known_to_the_c_library() {
    let server = NameServer::start().await;
    let rig = Rig::of(&server);
    // The C library reads this as a number, and our own resolver as a name.
    assert_eq!(rig.resolve_own("127.9").await.unwrap(), ips(["127.0.0.9"]));
    assert_eq!(rig.resolve("127.9").await, Err(ResolveError::NoSuchName));
    assert_eq!(rig.resolve_own("broken.example").await, Err(ResolveError::ServerFailed));
}

/// Starts lookups that are not answered, so many of each of so many shares, and waits until as many hang as may.
async fn hang(
    rig: &Rig,
    server: &mut NameServer,
    (shares, of_each): (usize, usize),
    hanging: usize,
) -> JoinSet<()> {
    let mut lookups = JoinSet::new();
    for share in 0..shares {
        let within = LookupShare::default();
        for number in 0..of_each {
            let name = format!("slow{share}-{number}.example");
            let lookup = rig.resolver.resolve(&name, &within);
            lookups.spawn(async move { drop(lookup.await) });
        }
    }
    let all = server.silent_about.wait_for(|names| *names >= hanging);
    tokio::time::timeout(Duration::from_mins(1), all).await.unwrap().unwrap();
    lookups
}

#[tokio::test]
async fn a_name_that_is_known_waits_for_no_place() {
    let mut server = NameServer::start().await;
    let rig = Rig::of(&server);
    assert!(rig.resolves("two.example").await);
    let shares = (MAX_LOOKUPS / MAX_LOOKUPS_OF_DEVICE, MAX_LOOKUPS_OF_DEVICE);
    let _hanging = hang(&rig, &mut server, shares, MAX_LOOKUPS).await;
    assert!(rig.resolves("TWO.example.").await);
}

#[tokio::test]
async fn lookups_of_devices_do_not_hold_up_those_of_the_operator() {
    let mut server = NameServer::start().await;
    let rig = Rig::of(&server);
    let shares = (MAX_LOOKUPS / MAX_LOOKUPS_OF_DEVICE, MAX_LOOKUPS_OF_DEVICE);
    let _hanging = hang(&rig, &mut server, shares, MAX_LOOKUPS).await;
    let own = tokio::time::timeout(Duration::from_secs(20), rig.resolve_own("two.example"));
    assert!(own.await.unwrap().is_ok());
    assert_eq!(rig.resolver.shared.lookups.available_permits(), 0);
}

#[tokio::test]
async fn a_share_does_not_hold_all_lookups() {
    let mut server = NameServer::start().await;
    let rig = Rig::of(&server);
    let _hanging = hang(&rig, &mut server, (1, 2 * MAX_LOOKUPS), MAX_LOOKUPS_OF_DEVICE).await;
    assert!(rig.resolves("four.example").await);
    assert_eq!(*server.silent_about.borrow(), MAX_LOOKUPS_OF_DEVICE);
}

#[tokio::test]
async fn a_name_in_the_hosts_file_is_not_asked_for() {
    let server = NameServer::start().await;
    let rig = Rig::of(&server);
    assert!(rig.resolve("files.example").await.is_ok());
    assert!(rig.resolve_own("files.example").await.is_ok());
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn what_the_name_server_says_becomes_an_error_of_its_own() {
    let server = NameServer::start().await;
    let rig = Rig::of(&server);
    for (name, error) in [
        ("none.example", ResolveError::NoAddress),
        ("nosuch.example", ResolveError::NoSuchName),
        ("broken.example", ResolveError::ServerFailed),
    ] {
        assert_eq!(rig.resolve(name).await, Err(error), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_name_server_ends_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::new("nameserver 127.0.0.1\n", silent.local_addr().unwrap().port());
    let outcome = tokio::time::timeout(Duration::from_mins(1), rig.resolve("a.example"));
    assert_eq!(outcome.await, Ok(Err(ResolveError::TimedOut)));
}

#[test]
fn the_system_resolver_is_built_outside_of_a_runtime() {
    let _ = SystemResolver::shared();
}
