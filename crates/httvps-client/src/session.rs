//! One session with a gateway, from the name to the answer to `hello`.

use crate::{Config, ConnectError, Step};
use httvps_mux::{Connection, Greeting, Link, LinkTiming, Settings, Stream};
use httvps_proto::{Host, Target};
use httvps_resolve::{Addresses, Resolve, SystemResolver};
use httvps_tls::{ClientTls, TlsStream, server_name};
use httvps_transport::socket;
use httvps_transport::ws::{Limits, Role, WebSocket, connect};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

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
    let tls = config.tls()?;
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

    let tcp = timeout(
        timing.dial_timeout,
        httvps_resolve::connect(addresses, target.port, socket::connect),
    )
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
    let headers: Vec<_> = config.headers.iter().map(|one| (one.name(), one.value())).collect();
    let upgrade = connect::connect(stream, &authority, path, &headers);
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

async fn resolve(target: &Target, limit: Duration) -> Result<Addresses, ConnectError> {
    let name = match &target.host {
        Host::Ip(address) => return Ok(vec![*address].into()),
        Host::Name(name) => name.to_string(),
    };
    let failed = |words: String| ConnectError::Dns { host: name.clone(), words };
    timeout(limit, SystemResolver::shared().resolve_own(&name))
        .await
        .map_err(|_| failed("the resolver did not answer in time".into()))?
        .map_err(|error| failed(error.to_string()))
}
