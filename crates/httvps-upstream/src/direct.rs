//! Straight out to the target by TCP or UDP, as far as the destination policy lets it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use httvps_proto::{Host, Target};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::datagrams::ConnectedUdp;
use crate::race::{dial_order, race};
use crate::{
    BoxFuture, ConnectError, Connector, DatagramDial, DatagramSocket, DatagramUpstream,
    EgressPolicy, LookupShare, NoDatagrams, OpenRequest, Resolve, ResolveError, Source, Upstream,
};

/// How long opening an upstream may take when nobody says otherwise.
pub const DEFAULT_DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// A dead target that is not on this host is noticed about two minutes after its last sign of life, however idle the
/// stream is.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// The connector that opens a TCP connection, or for datagrams a UDP socket, from this host to the target.
///
/// A name is resolved once. If the policy refuses any one of its addresses the target is refused as a whole, since a
/// name that points both outside and inside is not to be trusted about either. Only the addresses that were checked are
/// dialled, at most six of them, and never the name again, so an answer that changes in between changes nothing.
///
/// A UDP socket goes to the first of these addresses to which this host has a way. Whether somebody listens there shows
/// only when datagrams are sent, so no other address is tried then.
///
/// Both leave from the [`Source`] that was chosen. Questions to name servers do not.
pub struct Direct {
    shared: Arc<Shared>,
    /// The names of nodes are the operator's, and one share is enough for all of them.
    for_nodes: LookupShare,
}

struct Shared {
    policy: EgressPolicy,
    resolver: Arc<dyn Resolve>,
    source: Source,
}

impl Direct {
    /// Makes a connector with the given policy and way to resolve names, which leaves from wherever the system likes.
    pub fn new(policy: EgressPolicy, resolver: Arc<dyn Resolve>) -> Self {
        Self::from_source(policy, resolver, Source::default())
    }

    /// Makes a connector that leaves from `source`.
    pub fn from_source(policy: EgressPolicy, resolver: Arc<dyn Resolve>, source: Source) -> Self {
        let shared = Arc::new(Shared { policy, resolver, source });
        Self { shared, for_nodes: LookupShare::default() }
    }

    /// Opens the connection itself, for a connector that goes to its targets by way of a node. Whoever calls bounds
    /// the time; dropping the future frees the sockets.
    pub async fn dial(&self, node: &Target) -> Result<TcpStream, ConnectError> {
        self.shared.open(node, &self.for_nodes).await
    }

    /// Opens a UDP socket that is connected to a node, by the same rules; nothing is sent.
    pub async fn dial_datagrams(
        &self,
        node: &Target,
    ) -> Result<Box<dyn DatagramSocket>, ConnectError> {
        Ok(Box::new(self.shared.open_datagrams(node, &self.for_nodes).await?))
    }
}

impl Connector for Direct {
    fn connect(&self, request: OpenRequest) -> BoxFuture<'static, Result<Upstream, ConnectError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let target = request.target.ok_or(ConnectError::NoTarget)?;
            let opened =
                tokio::time::timeout(request.deadline, shared.open(&target, &request.lookups));
            let stream = opened.await.unwrap_or(Err(ConnectError::TimedOut))?;
            Ok(Upstream::Stream(Box::new(stream)))
        })
    }

    fn connect_datagrams(&self, request: OpenRequest) -> Result<DatagramDial, NoDatagrams> {
        let shared = Arc::clone(&self.shared);
        Ok(Box::pin(async move {
            let target = request.target.ok_or(ConnectError::NoTarget)?;
            let opening = shared.open_datagrams(&target, &request.lookups);
            let opened = tokio::time::timeout(request.deadline, opening);
            let socket = opened.await.unwrap_or(Err(ConnectError::TimedOut))?;
            Ok(DatagramUpstream::Socket(Box::new(socket)))
        }))
    }

    fn name(&self) -> &'static str {
        "direct"
    }
}

impl Shared {
    async fn open(
        &self,
        target: &Target,
        lookups: &LookupShare,
    ) -> Result<TcpStream, ConnectError> {
        let addresses = self.permitted(&target.host, lookups).await?;
        let order = dial_order(&addresses)
            .into_iter()
            .map(|address| SocketAddr::new(address, target.port))
            .collect();
        race(order, |address| async move {
            dial(address, &self.source).await.map_err(|error| ConnectError::from(&error))
        })
        .await
    }

    async fn open_datagrams(
        &self,
        target: &Target,
        lookups: &LookupShare,
    ) -> Result<ConnectedUdp, ConnectError> {
        let addresses = self.permitted(&target.host, lookups).await?;
        let mut telling = ConnectError::Unreachable;
        for address in dial_order(&addresses) {
            // It fails here only for want of a route or of descriptors: nothing is sent yet.
            match ConnectedUdp::open(SocketAddr::new(address, target.port), &self.source) {
                Ok(socket) => return Ok(socket),
                Err(error) => {
                    let error = ConnectError::from(&error);
                    telling = if error.weight() > telling.weight() { error } else { telling };
                }
            }
        }
        Err(telling)
    }

    /// The addresses of a host, each of them judged and at least one. They are in their canonical form, so that what
    /// is dialled is what was judged.
    async fn permitted(
        &self,
        host: &Host,
        lookups: &LookupShare,
    ) -> Result<Vec<IpAddr>, ConnectError> {
        let mut addresses = match host {
            Host::Ip(address) => vec![*address],
            Host::Name(name) if is_localhost(name) => return self.permitted_loopback(),
            Host::Name(name) => self.resolver.resolve(name, lookups).await?,
        };
        if addresses.is_empty() {
            return Err(ResolveError::NoAddress.into());
        }
        for address in &mut addresses {
            self.policy.check(*address)?;
            *address = address.to_canonical();
        }
        Ok(addresses)
    }

    /// The loopback addresses that the policy lets through. These two do not come from somebody's name server, so one
    /// that is refused does not taint the other: an operator who allows 127.0.0.0/8 can use the name.
    fn permitted_loopback(&self) -> Result<Vec<IpAddr>, ConnectError> {
        let four = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
        match (self.policy.check(six), self.policy.check(four)) {
            (Ok(()), Ok(())) => Ok(vec![six, four]),
            (Ok(()), Err(_)) => Ok(vec![six]),
            (Err(_), Ok(())) => Ok(vec![four]),
            (Err(_), Err(denied)) => Err(denied.into()),
        }
    }
}

/// Whether a name is `localhost` or ends in it. Such a name means this host and is never asked for (RFC 6761 section
/// 6.3).
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or(name);
    last.eq_ignore_ascii_case("localhost")
}

async fn dial(address: SocketAddr, source: &Source) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    suit(&SockRef::from(&socket), address.ip())?;
    source.apply(&SockRef::from(&socket), address.ip())?;
    socket.connect(address).await
}

/// Sets what the path to a target asks for.
///
/// Between two programs of one host nothing is lost that probes could notice, and no path is spared by
/// pacing, which costs a timer for nearly every write (as in `suit_peer` of the transport). Where the host forwards a
/// loopback address to another, a target that vanishes holds its stream until the stream's idle time-out.
fn suit(socket: &SockRef<'_>, target: IpAddr) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if target.is_loopback() {
        // It only costs speed where it cannot be had.
        let _ = socket.set_tcp_congestion(b"reno");
        return Ok(());
    }
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemResolver;

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
    async fn a_mapped_address_is_dialled_as_the_ipv4_address_that_was_judged() {
        let policy = EgressPolicy::new(vec!["127.0.0.1/32".parse().unwrap()]);
        let resolver = Arc::new(SystemResolver::from_system());
        let direct = Direct::new(policy, resolver);
        let host = Host::parse("[::ffff:127.0.0.1]").unwrap();
        let four = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(direct.shared.permitted(&host, &LookupShare::default()).await, Ok(vec![four]));
    }

    #[tokio::test]
    async fn the_socket_sends_at_once_and_is_not_paced_within_the_host() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = dial(listener.local_addr().unwrap(), &Source::default()).await.unwrap();
        assert!(stream.nodelay().unwrap());
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_congestion().unwrap().starts_with(b"reno"));
        assert!(!socket.keepalive().unwrap(), "four calls for nothing");
    }

    #[tokio::test]
    async fn the_socket_sends_at_once_and_notices_a_dead_target() {
        let socket = TcpSocket::new_v4().unwrap();
        let socket = SockRef::from(&socket);
        let before = socket.tcp_congestion().unwrap();
        suit(&socket, "192.0.2.1".parse().unwrap()).unwrap();
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_congestion().unwrap(), before);
    }

    #[tokio::test]
    async fn a_connection_leaves_from_the_chosen_address_and_interface() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let source = Source::new(&["127.0.0.9".parse().unwrap()], Some("lo"));
        let stream = dial(listener.local_addr().unwrap(), &source).await.unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
        assert_eq!(peer.ip().to_string(), "127.0.0.9");
        assert_eq!(SockRef::from(&stream).device().unwrap().unwrap(), b"lo");
        let error = dial("[::1]:1".parse().unwrap(), &source).await.unwrap_err();
        assert_eq!(ConnectError::from(&error), ConnectError::Unreachable);
    }
}
