//! One session with a gateway, from the name to the answer to `hello`.

use crate::{Config, ConnectError, Step};
use httvps_mux::{Connection, Greeting, Link, LinkTiming, Settings, Stream};
use httvps_proto::{Host, Target};
use httvps_transport::socket;
use httvps_transport::tls::{ClientTls, TlsStream, server_name};
use httvps_transport::ws::{Limits, Role, WebSocket, handshake};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How long one address of the gateway is tried before the next is tried beside it (RFC 8305
/// section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Addresses of the gateway that are tried.
const MAX_ADDRESSES: usize = 16;

/// A session that the gateway has let in.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    peer: Option<SocketAddr>,
}

/// Connects once. For sessions that reconnect see [`Client`](crate::Client).
///
/// Every step has the deadline that [`Timing`](crate::Timing) gives it. Cancel safe: dropping the
/// future closes the connection.
pub async fn connect(config: &Config) -> Result<Session, ConnectError> {
    let tls = config.trust.tls()?;
    connect_with(config, &tls, watch::Sender::default()).await
}

/// Connects with a prepared TLS configuration, whose tickets it uses.
pub(crate) async fn connect_with(
    config: &Config,
    tls: &ClientTls,
    changes: watch::Sender<()>,
) -> Result<Session, ConnectError> {
    let target = config.gateway.target();
    let timing = &config.timing;
    let addresses = resolve(target, timing.dns_timeout).await?;
    let gateway = target.to_string();
    let timed_out = |step| ConnectError::TimedOut { gateway: gateway.clone(), step };

    let tcp = timeout(timing.dial_timeout, dial(addresses))
        .await
        .map_err(|_| timed_out(Step::Tcp))?
        .map_err(|error| ConnectError::from_dial(&gateway, &error))?;
    let peer = tcp.peer_addr().ok();

    let name = server_name(&config.gateway.host()).map_err(|_| {
        ConnectError::Config(format!("{} is no name that a certificate can have", target.host))
    })?;
    let stream = timeout(timing.handshake_timeout, tls.connect(name, tcp))
        .await
        .map_err(|_| timed_out(Step::Tls))?
        .map_err(|error| ConnectError::from_tls(&gateway, &error))?;

    let (authority, path) = (config.gateway.authority(), config.gateway.path());
    let upgrade = handshake::connect(stream, &authority, path, &[]);
    let (stream, early) = timeout(timing.handshake_timeout, upgrade)
        .await
        .map_err(|_| timed_out(Step::Upgrade))?
        .map_err(|error| ConnectError::from_upgrade(&gateway, &error))?;

    let connection = greet(config, stream, &early, changes)
        .await
        .map_err(|error| ConnectError::from_hello(&gateway, error))?;
    Ok(Session::new(connection, peer))
}

async fn greet(
    config: &Config,
    stream: TlsStream<TcpStream>,
    early: &[u8],
    changes: watch::Sender<()>,
) -> Result<Connection, httvps_mux::HelloError> {
    let timing = &config.timing;
    let ws = WebSocket::new(stream, Role::Client, Limits::default(), early);
    let times = LinkTiming {
        keepalive_interval: timing.keepalive_interval,
        keepalive_max_missed: timing.keepalive_max_missed,
        write_timeout: timing.write_timeout,
    };
    let greeting = Greeting {
        device_id: &config.device_id,
        token: config.token.expose(),
        client_version: concat!("httvps/", env!("CARGO_PKG_VERSION")),
        region: config.region.as_deref(),
        offers_v2: config.offers_v2,
    };
    let settings = Settings {
        hello_timeout: timing.hello_timeout,
        probe_after: timing.probe_after,
        probe_timeout: timing.probe_timeout,
        ..Settings::default()
    };
    let link = Link::new(ws, times, Instant::now().into_std());
    Connection::spawn(link, &greeting, settings, changes).await
}

impl Session {
    /// Wraps a connection that stands.
    pub(crate) fn new(connection: Connection, peer: Option<SocketAddr>) -> Self {
        Self { connection, peer }
    }

    /// Opens a stream to `target`; see [`Connection::open`].
    pub async fn open(&self, target: &Target) -> Result<Stream, httvps_mux::OpenError> {
        self.connection.open(&target.to_string()).await
    }

    /// The connection below: counts, state and end.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The address of the gateway.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Closes the session and waits until it is closed, a few seconds at most.
    pub async fn close(&self) {
        self.connection.close();
        self.connection.closed().await;
    }
}

async fn resolve(target: &Target, limit: Duration) -> Result<Vec<SocketAddr>, ConnectError> {
    let name = match &target.host {
        Host::Ip(address) => return Ok(vec![SocketAddr::new(*address, target.port)]),
        Host::Name(name) => name.to_string(),
    };
    let failed = |words: String| ConnectError::Dns { host: name.clone(), words };
    let answer = timeout(limit, tokio::net::lookup_host((name.as_str(), target.port)))
        .await
        .map_err(|_| failed("the resolver did not answer in time".into()))?
        .map_err(|error| failed(error.to_string()))?;
    let addresses = interleave(answer.take(MAX_ADDRESSES).collect());
    if addresses.is_empty() {
        return Err(failed("the name has no address".into()));
    }
    Ok(addresses)
}

/// Alternates between the families, the resolver's first one first (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_v6_first);
    let mut mixed = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let (a, b) = (first.next(), second.next());
        if a.is_none() && b.is_none() {
            return mixed;
        }
        mixed.extend(a.into_iter().chain(b));
    }
}

/// Connects to the first address that answers; each gets a head start over the next.
async fn dial(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut left = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    loop {
        match left.next() {
            Some(address) => {
                attempts.spawn(socket::connect(address));
            }
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let head_start = if left.len() > 0 { NEXT_ADDRESS_AFTER } else { Duration::from_hours(1) };
        match timeout(head_start, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => last = error,
            Ok(Some(Err(_)) | None) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let v6 = ["[::1]:1", "[::2]:1", "[::3]:1"].map(parse);
        let v4 = ["127.0.0.1:1", "127.0.0.2:1"].map(parse);
        let mixed = [v6[0], v4[0], v6[1], v4[1], v6[2]];
        assert_eq!(interleave([&v6[..], &v4[..]].concat()), mixed);
        assert_eq!(interleave(vec![v4[0], v6[0]]), [v4[0], v6[0]]);
        assert_eq!(interleave(vec![]), []);
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_living_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = gone.local_addr().unwrap();
        drop(gone);
        assert_eq!(dial(vec![dead, alive]).await.unwrap().peer_addr().unwrap(), alive);
        let error = dial(vec![dead]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
