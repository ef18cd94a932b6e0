//! The protocols of nodes (Shadowsocks, SOCKS5, HTTP CONNECT) behind one interface.

use super::datagrams::{NodeDatagramIo, NodeSocket, Socks5Datagrams};
use super::error::NodeError;
use super::stream::NodeStreamIo;
use crate::{ConnectError, DatagramSocket, Direct, EgressPolicy, Source, SystemResolver};
use httvps_https as authorities;
use httvps_proto::{Host, Target};
use httvps_proxies::{Kind, ProxyKey};
use httvps_shadowsocks::{AccessKey, Client};
use httvps_tls::{CertificateFault, ClientTls, TlsStream, server_name};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Connects to nodes.
pub(super) struct Dialer {
    direct: Direct,
    /// None without a trusted authority.
    tls: Option<ClientTls>,
    /// The policy for UDP relays of SOCKS5 proxies at addresses other than their own.
    relays: EgressPolicy,
}

/// The protocol of a node, with its key.
#[derive(Debug)]
pub(super) enum NodeProtocol {
    Shadowsocks(Client),
    Proxy(ProxyKey),
}

/// A connection to a node on which no target was requested yet.
pub(super) enum Link {
    Plain(TcpStream),
    Tls(TlsStream<TcpStream>),
}

impl Dialer {
    /// It goes anywhere: the operator and the backend name the nodes, not the clients. What a node
    /// names in turn is for `relays` to judge. `ca` is a PEM file of authorities to trust besides
    /// those of the system. Blocks while it reads files; the error names the file.
    pub(super) fn new(
        ca: Option<&Path>,
        relays: EgressPolicy,
        source: Source,
    ) -> Result<Self, String> {
        let everywhere = [IpAddr::from([0_u8; 4]), IpAddr::from([0_u16; 8])];
        let everywhere = everywhere.map(|address| IpNet::new_assert(address, 0)).to_vec();
        let direct =
            Direct::from_source(EgressPolicy::new(everywhere), SystemResolver::shared(), source);
        Ok(Self { direct, tls: authorities::client_tls(ca)?, relays })
    }

    /// Opens a UDP socket to the relay that the proxy at `proxy` names. Whatever it names, no failure
    /// is one of reaching the node, but for our own shortage.
    async fn open_relay(
        &self,
        proxy: IpAddr,
        (named, port): (Option<IpAddr>, u16),
    ) -> Result<Box<dyn DatagramSocket>, NodeError> {
        let proxy = proxy.to_canonical();
        let relay = named.unwrap_or(proxy).to_canonical();
        // A proxy that could name any address would have us send to hosts that only we can reach.
        if relay != proxy && self.relays.check(relay).is_err() {
            return Err(NodeError::Relay);
        }
        let opened = self.direct.dial_datagrams(&Target { host: Host::Ip(relay), port }).await;
        opened.map_err(|error| match error {
            ConnectError::Overload => NodeError::Unreachable(error),
            _ => NodeError::Relay,
        })
    }
}

impl NodeProtocol {
    /// The protocol of a Shadowsocks node.
    pub(super) fn of_key(key: AccessKey) -> Arc<Self> {
        Arc::new(Self::Shadowsocks(Client::new(key)))
    }

    /// The address of the node.
    fn node(&self) -> &Target {
        match self {
            Self::Shadowsocks(client) => client.key().node(),
            Self::Proxy(key) => key.node(),
        }
    }

    /// Whether the two have the same node, protocol and key.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Shadowsocks(one), Self::Shadowsocks(other)) => one.key() == other.key(),
            (Self::Proxy(one), Self::Proxy(other)) => one == other,
            _ => false,
        }
    }

    /// The key without what is secret.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Shadowsocks(client) => client.key().to_string(),
            Self::Proxy(key) => key.to_string(),
        }
    }

    /// Whether the target must be known before the node is asked: only Shadowsocks nodes parse an address header
    /// in the first payload.
    pub(super) fn needs_target(&self) -> bool {
        matches!(self, Self::Proxy(_))
    }

    /// Connects to the node and performs the part of the protocol before a target: an error is a
    /// fault of the node or of its key. The caller bounds the time; dropping the future closes the
    /// connection.
    pub(super) async fn dial(&self, dialer: &Dialer) -> Result<Link, NodeError> {
        let tcp = dialer.direct.dial(self.node()).await.map_err(NodeError::Unreachable)?;
        let key = match self {
            Self::Shadowsocks(_) => return Ok(Link::Plain(tcp)),
            Self::Proxy(key) => key,
        };
        let mut link = match key.kind() {
            Kind::Https => {
                let no_authority = NodeError::Certificate(CertificateFault::UnknownIssuer);
                let tls = dialer.tls.as_ref().ok_or(no_authority)?;
                let name = server_name(&self.node().host.to_string());
                let name = name.map_err(|_| NodeError::Certificate(CertificateFault::WrongName))?;
                Link::Tls(tls.connect(name, tcp).await?)
            }
            Kind::Socks5 | Kind::Http => Link::Plain(tcp),
        };
        match &mut link {
            Link::Plain(io) => key.greet(io).await?,
            Link::Tls(io) => key.greet(io).await?,
        }
        Ok(link)
    }

    /// Starts a stream to `target` over such a connection. A proxy has connected to the target when this returns;
    /// an error of a Shadowsocks node shows when the stream is read. Only a Shadowsocks node needs
    /// no target.
    pub(super) async fn start(
        &self,
        link: Link,
        target: Option<&Target>,
    ) -> Result<NodeStreamIo, NodeError> {
        match (self, link) {
            (Self::Shadowsocks(client), Link::Plain(tcp)) => {
                let stream = client.start(tcp, target);
                stream.map(NodeStreamIo::Shadowsocks).map_err(|_| NodeError::Closed)
            }
            (Self::Proxy(key), link) => {
                let target = target.ok_or(NodeError::Target(ConnectError::NoTarget))?;
                Ok(match link {
                    Link::Plain(io) => NodeStreamIo::Proxy(key.open(io, target).await?),
                    Link::Tls(io) => NodeStreamIo::TlsProxy(key.open(io, target).await?),
                })
            }
            // No such connection is made to a Shadowsocks node.
            (Self::Shadowsocks(_), Link::Tls(_)) => Err(NodeError::OtherProtocol),
        }
    }

    /// Whether nodes of this kind support datagrams. A SOCKS5 proxy may still refuse them.
    pub(super) fn carries_datagrams(&self) -> bool {
        self.dials_for_datagrams().is_some()
    }

    /// Whether datagrams need a connection of [`Self::dial`]; none when the node does
    /// not support them.
    pub(super) fn dials_for_datagrams(&self) -> Option<bool> {
        match self {
            Self::Shadowsocks(_) => Some(false),
            Self::Proxy(key) => (key.kind() == Kind::Socks5).then_some(true),
        }
    }

    /// Starts datagrams to and from `target`. Without one, each datagram begins with its address
    /// header. `link` is a connection of [`Self::dial`] where [`Self::dials_for_datagrams`] says so.
    pub(super) async fn start_datagrams(
        &self,
        dialer: &Dialer,
        link: Option<Link>,
        target: Option<&Target>,
    ) -> Result<NodeDatagramIo, NodeError> {
        match (self, link) {
            (Self::Shadowsocks(client), _) => {
                let opened = dialer.direct.dial_datagrams(self.node()).await;
                let socket = NodeSocket(opened.map_err(NodeError::Unreachable)?);
                let datagrams = client.start_datagrams(socket, target);
                datagrams.map(NodeDatagramIo::Shadowsocks).map_err(|_| NodeError::Closed)
            }
            (Self::Proxy(key), Some(Link::Plain(mut control))) => {
                let relay = key.associate(&mut control).await?;
                let proxy = control.peer_addr().map_err(|_| NodeError::Closed)?.ip();
                let socket = dialer.open_relay(proxy, relay).await?;
                Ok(NodeDatagramIo::Socks5(Socks5Datagrams::new(control, socket, target)))
            }
            (Self::Proxy(_), _) => Err(NodeError::Unsupported),
        }
    }
}
