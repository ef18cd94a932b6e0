//! Direct TCP and UDP egress to targets that the destination policy allows.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use httvps_proto::{Host, Target};
use httvps_resolve::{
    Addresses, HEAD_START, Resolve, ResolveError, dial_order, is_localhost, race,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::datagrams::ConnectedUdp;
use crate::{
    BoxFuture, ConnectError, Connector, DatagramDial, DatagramSocket, DatagramUpstream,
    EgressPolicy, LookupShare, NoDatagrams, OpenRequest, Source, Upstream,
};

/// Most addresses of one target that are dialled, and so the most sockets that one stream holds while it opens; as many again
/// of a family that came late.
const MAX_ADDRESSES: usize = 6;

/// How long opening an upstream may take by default.
pub const DEFAULT_DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// A dead target that is not on this host is noticed about two minutes after its last sign of life, however idle the
/// stream is.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// The connector that opens a TCP connection, or for datagrams a UDP socket, from this host to the target.
///
/// A name is resolved once. If the policy refuses one of its addresses, the target is refused as a whole, since a
/// name that points both to public and to private addresses is not trustworthy. Only the addresses that were checked are
/// dialled, at most six of them, and never the name again, so an answer that changes in between changes nothing. A family
/// whose answer arrives late is checked on its own: it is dropped as a whole, or dialled in parallel.
///
/// A UDP socket is connected to the first of these addresses to which this host has a route. Whether a program listens there shows
/// only when datagrams are sent, so no other address is tried then.
///
/// Both leave from the configured [`Source`]; queries to name servers do not.
pub struct Direct {
    shared: Arc<Shared>,
}

struct Shared {
    policy: EgressPolicy,
    resolver: Arc<dyn Resolve>,
    source: Source,
}

impl Direct {
    /// A connector with the given policy and resolver, whose source address is chosen by the system.
    pub fn new(policy: EgressPolicy, resolver: Arc<dyn Resolve>) -> Self {
        Self::from_source(policy, resolver, Source::default())
    }

    /// The same connector with `source` as its source.
    pub fn from_source(policy: EgressPolicy, resolver: Arc<dyn Resolve>, source: Source) -> Self {
        let shared = Arc::new(Shared { policy, resolver, source });
        Self { shared }
    }

    /// Opens the connection itself, for a connector that goes to its targets through a node. The caller bounds
    /// the time; dropping the future frees the sockets.
    pub async fn dial(&self, node: &Target) -> Result<TcpStream, ConnectError> {
        self.shared.open(node, Names::Own).await
    }

    /// Opens a UDP socket that is connected to a node, by the same rules; nothing is sent.
    pub async fn dial_datagrams(
        &self,
        node: &Target,
    ) -> Result<Box<dyn DatagramSocket>, ConnectError> {
        Ok(Box::new(self.shared.open_datagrams(node, Names::Own).await?))
    }
}

impl Connector for Direct {
    fn connect(&self, request: OpenRequest) -> BoxFuture<'static, Result<Upstream, ConnectError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let target = request.target.ok_or(ConnectError::NoTarget)?;
            let opened = tokio::time::timeout(
                request.deadline,
                shared.open(&target, Names::Of(&request.lookups)),
            );
            let stream = opened.await.unwrap_or(Err(ConnectError::TimedOut))?;
            Ok(Upstream::Stream(Box::new(stream)))
        })
    }

    fn connect_datagrams(&self, request: OpenRequest) -> Result<DatagramDial, NoDatagrams> {
        let shared = Arc::clone(&self.shared);
        Ok(Box::pin(async move {
            let target = request.target.ok_or(ConnectError::NoTarget)?;
            let opening = shared.open_datagrams(&target, Names::Of(&request.lookups));
            let opened = tokio::time::timeout(request.deadline, opening);
            let socket = opened.await.unwrap_or(Err(ConnectError::TimedOut))?;
            Ok(DatagramUpstream::Socket(Box::new(socket)))
        }))
    }

    fn name(&self) -> &'static str {
        "direct"
    }
}

/// The party whose name is looked up.
#[derive(Clone, Copy)]
enum Names<'a> {
    /// A device's, within its share.
    Of(&'a LookupShare),
    /// The operator's: nodes.
    Own,
}

impl Shared {
    async fn open(&self, target: &Target, names: Names<'_>) -> Result<TcpStream, ConnectError> {
        let addresses = self.permitted(&target.host, names).await?;
        let in_order = |addresses: &[IpAddr]| -> Vec<SocketAddr> {
            let order = dial_order(addresses, MAX_ADDRESSES).into_iter();
            order.map(|address| SocketAddr::new(address, target.port)).collect()
        };
        let first = in_order(&addresses.first);
        let late = addresses.late.map(|late| -> BoxFuture<'_, _> {
            Box::pin(async move {
                // What is refused among these is as good as not there: nothing of them was dialled.
                in_order(&self.judged(late.addresses().await).unwrap_or_default())
            })
        });
        let connect = |address| async move {
            dial(address, &self.source).await.map_err(|error| ConnectError::from(&error))
        };
        race(first, late, HEAD_START, connect, |error| error.weight())
            .await
            .map_err(|error| error.unwrap_or(ConnectError::Unreachable))
    }

    async fn open_datagrams(
        &self,
        target: &Target,
        names: Names<'_>,
    ) -> Result<ConnectedUdp, ConnectError> {
        let addresses = self.permitted(&target.host, names).await?;
        let mut telling = match self.open_first(&addresses.first, target.port) {
            Ok(socket) => return Ok(socket),
            Err(error) => error,
        };
        if let Some(late) = addresses.late {
            let late = self.judged(late.addresses().await).unwrap_or_default();
            match self.open_first(&late, target.port) {
                Ok(socket) => return Ok(socket),
                Err(error) if error.weight() > telling.weight() => telling = error,
                Err(_) => {}
            }
        }
        Err(telling)
    }

    /// A socket to the first of the addresses to which there is a route.
    fn open_first(&self, addresses: &[IpAddr], port: u16) -> Result<ConnectedUdp, ConnectError> {
        let mut telling = ConnectError::Unreachable;
        for address in dial_order(addresses, MAX_ADDRESSES) {
            // It fails here only for want of a route or of descriptors: nothing is sent yet.
            match ConnectedUdp::open(SocketAddr::new(address, port), &self.source) {
                Ok(socket) => return Ok(socket),
                Err(error) => {
                    let error = ConnectError::from(&error);
                    telling = if error.weight() > telling.weight() { error } else { telling };
                }
            }
        }
        Err(telling)
    }

    /// The addresses of a host, at least one; those that are not late have passed the policy. They are in canonical form, so that
    /// the dialled address is the checked one.
    async fn permitted(&self, host: &Host, names: Names<'_>) -> Result<Addresses, ConnectError> {
        let mut addresses = match (host, names) {
            (Host::Ip(address), _) => vec![*address].into(),
            (Host::Name(name), Names::Of(_)) if is_localhost(name) => {
                return self.permitted_loopback().map(Addresses::from);
            }
            (Host::Name(name), Names::Of(share)) => self.resolver.resolve(name, share).await?,
            (Host::Name(name), Names::Own) => self.resolver.resolve_own(name).await?,
        };
        if addresses.first.is_empty() {
            return Err(ResolveError::NoAddress.into());
        }
        addresses.first = self.judged(addresses.first)?;
        Ok(addresses)
    }

    /// The addresses in their canonical form; an error if the policy refuses one of them.
    fn judged(&self, mut addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, ConnectError> {
        for address in &mut addresses {
            self.policy.check(*address)?;
            *address = address.to_canonical();
        }
        Ok(addresses)
    }

    /// The loopback addresses that the policy allows. These two do not come from a name server, so one
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

async fn dial(address: SocketAddr, source: &Source) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    suit(&SockRef::from(&socket), address.ip())?;
    source.apply(&SockRef::from(&socket), address.ip())?;
    socket.connect(address).await
}

/// Sets socket options for the path to a target.
///
/// Between two programs of one host keep-alive probes notice nothing and pacing spares no path; pacing costs a timer for nearly every write (as in `suit_peer` of the transport). Where the host forwards a
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

    #[tokio::test]
    async fn a_mapped_address_is_dialled_as_the_ipv4_address_that_was_judged() {
        let policy = EgressPolicy::new(vec!["127.0.0.1/32".parse().unwrap()]);
        let direct = Direct::new(policy, SystemResolver::shared());
        let host = Host::parse("[::ffff:127.0.0.1]").unwrap();
        let four = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let permitted = direct.shared.permitted(&host, Names::Own).await.unwrap();
        assert_eq!(permitted.first, [four]);
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
