//! The order and timing of queries to name servers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::Instant;

use crate::link::Link;
use crate::place::Place;
use crate::race::race;
use crate::resolv_conf::{ResolvConf, ServerAddress};

/// How long a name server that was silent while another one answered is queried after the others.
const SILENCE_REMEMBERED: Duration = Duration::from_mins(1);

/// Most queries at one time over one TCP connection to a name server.
const MAX_ACTIVE_REQUESTS: usize = 1024;

/// The name servers of a configuration.
///
/// They are asked in the order of the file, since one may know names that another does not. The next one is asked
/// at once when one fails, and in parallel when it has not answered for 500 ms. One that did not answer while another did
/// is asked after the others for a minute, so a dead one costs 500 ms a minute and not seconds a name.
pub(crate) struct Servers {
    in_order: Vec<Server>,
    head_start: Duration,
}

struct Server {
    resolver: Resolver<Link>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_answer: Option<Instant>,
    behind_until: Option<Instant>,
}

/// One query to a server.
struct Asked<'a> {
    server: &'a Server,
    since: Mutex<Option<Instant>>,
    is_done: AtomicBool,
}

impl Servers {
    /// Creates the servers; sends no query.
    pub(crate) fn new(conf: &ResolvConf, place: &Place) -> Self {
        let servers = conf.servers.iter();
        let in_order = servers.filter_map(|address| Server::new(address, place.port, conf));
        Self { in_order: in_order.collect(), head_start: place.head_start }
    }

    /// Queries the records of one name and type. Ends at the time-out of the last server, after at most 4 s.
    pub(crate) async fn lookup(&self, name: Name, kind: RecordType) -> Result<Lookup, NetError> {
        let start = Instant::now();
        let mut in_order: Vec<&Server> = self.in_order.iter().collect();
        in_order.sort_by_key(|server| server.is_behind(start));
        let asked: Vec<Asked<'_>> = in_order.into_iter().map(Asked::new).collect();
        let ask =
            async |at: usize| asked[at].ask(name.clone(), kind).await.map(|found| (at, found));
        let turns = (0..asked.len()).collect();
        let outcome = race(turns, None, self.head_start, ask, weight).await;
        match outcome {
            Ok((winner, found)) => {
                asked[..winner].iter().for_each(Asked::note_silence);
                found
            }
            Err(error) => Err(error.unwrap_or(NetError::NoConnections)),
        }
    }
}

#[cfg(test)]
impl Servers {
    /// Which servers are currently asked after the others.
    pub(crate) fn standing_behind(&self) -> Vec<bool> {
        self.in_order.iter().map(|server| server.is_behind(Instant::now())).collect()
    }
}

impl Server {
    fn new(address: &ServerAddress, port: u16, conf: &ResolvConf) -> Option<Self> {
        let mut server = NameServerConfig::udp_and_tcp(address.ip);
        for connection in &mut server.connections {
            connection.port = port;
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let link = Link::new(address.zone.as_deref());
        let mut builder = Resolver::builder_with_config(config, link);
        *builder.options_mut() = options(conf);
        let resolver = builder.build().ok()?;
        Some(Self { resolver, state: Mutex::default() })
    }

    fn is_behind(&self, now: Instant) -> bool {
        self.with(|state| state.behind_until.is_some_and(|until| now < until))
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stand_behind(&self, now: Instant) {
        self.with(|state| state.behind_until = Some(now + SILENCE_REMEMBERED));
    }
}

impl<'a> Asked<'a> {
    fn new(server: &'a Server) -> Self {
        Self { server, since: Mutex::default(), is_done: AtomicBool::new(false) }
    }

    /// The server's answer for the name (`Ok`, also that there is none), or that another server must be asked (`Err`).
    async fn ask(
        &self,
        name: Name,
        kind: RecordType,
    ) -> Result<Result<Lookup, NetError>, NetError> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let outcome = self.server.resolver.lookup(name, kind).await;
        self.is_done.store(!matches!(outcome, Err(NetError::Timeout)), Ordering::Relaxed);
        let now = Instant::now();
        match outcome {
            Err(error @ NetError::Dns(_)) => {
                self.server.with(|state| state.last_answer = Some(now));
                if is_said_of_the_name(&error) { Ok(Err(error)) } else { Err(error) }
            }
            Err(error) => {
                // Nothing listens there, or there is no way: no question needs to find that out again.
                if is_of_network(&error) {
                    self.server.stand_behind(now);
                }
                Err(error)
            }
            Ok(found) => {
                *self.server.state.lock().unwrap_or_else(PoisonError::into_inner) =
                    State { last_answer: Some(now), behind_until: None };
                Ok(Ok(found))
            }
        }
    }

    /// Another server has answered. One that has said nothing at all since it was asked is not likely to answer the next
    /// question either.
    fn note_silence(&self) {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = since
            && !self.is_done.load(Ordering::Relaxed)
            && self.server.with(|state| state.last_answer.is_none_or(|answer| answer < since))
        {
            self.server.stand_behind(Instant::now());
        }
    }
}

/// Whether an error is an answer: the name is not there, or has no such record.
fn is_said_of_the_name(error: &NetError) -> bool {
    matches!(
        error,
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
    )
}

/// Whether an error means that the server cannot be reached at all. The library makes "no connections" of most of those.
pub(crate) fn is_of_network(error: &NetError) -> bool {
    matches!(error, NetError::Io(_) | NetError::NoConnections)
}

/// The rank of an error when there are several: an answer of a server, then a time-out, then a network error.
fn weight(error: &NetError) -> u8 {
    match error {
        NetError::Dns(_) => 3,
        NetError::Timeout => 2,
        error if is_of_network(error) => 0,
        _ => 1,
    }
}

fn options(conf: &ResolvConf) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.use_hosts_file = ResolveHosts::Never;
    // What is known is in front, see [`Answers`](crate::answers::Answers).
    options.cache_size = 0;
    options.timeout = conf.timeout;
    // Within that time a question is repeated three times; a second round would only double the wait.
    options.attempts = 0;
    options.edns0 = conf.edns0;
    options.max_active_requests = MAX_ACTIVE_REQUESTS;
    options
}
