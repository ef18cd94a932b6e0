//! Opens streams and datagrams to one node.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use httvps_proto::Target;
use tokio::net::{TcpStream, UdpSocket};

use crate::packets::Packets;
use crate::{AccessKey, Datagrams, Error, Stream};

/// A client of one node. Cheap to clone; it holds no connection.
#[derive(Clone, Debug)]
pub struct Client {
    key: Arc<AccessKey>,
}

impl Client {
    /// A client for the node of this key.
    pub fn new(key: AccessKey) -> Self {
        Self { key: Arc::new(key) }
    }

    /// The node's key.
    pub fn key(&self) -> &AccessKey {
        &self.key
    }

    /// Dials the node and starts a stream to `target` through it.
    ///
    /// `node` is an address of [`AccessKey::node`], which the caller has resolved. `deadline` bounds the dial alone:
    /// nothing is sent before the first write (see [`Stream`]), so whether the node accepts the key and reaches the
    /// target shows at the first read. Without a target, the first bytes that are written must be an address header
    /// (SOCKS5 format); the ciphers of 2022 parse it, and an invalid one is the [`Error::Address`] of that write;
    /// the others do not parse it.
    ///
    /// Dropping the future closes the socket. The socket has `TCP_NODELAY` set and no keep-alive; for other
    /// options dial and call [`start`](Self::start).
    pub async fn connect(
        &self,
        node: SocketAddr,
        target: Option<&Target>,
        deadline: Duration,
    ) -> Result<Stream, Error> {
        let dialled = tokio::time::timeout(deadline, TcpStream::connect(node)).await;
        let io = dialled.map_err(|_| Error::TimedOut)?.map_err(Error::Dial)?;
        io.set_nodelay(true).map_err(Error::Dial)?;
        self.start(io, target).map_err(Error::Dial)
    }

    /// Starts a stream over an existing connection to the node; see [`connect`](Self::connect). It fails only
    /// when the system has no random bytes.
    pub fn start<S>(&self, io: S, target: Option<&Target>) -> io::Result<Stream<S>> {
        Stream::new(io, Arc::clone(&self.key), target)
    }

    /// Opens a UDP socket to the node for datagrams to and from `target`. Nothing is sent.
    ///
    /// `node` is an address of [`AccessKey::node`].
    pub async fn connect_datagrams(
        &self,
        node: SocketAddr,
        target: &Target,
    ) -> io::Result<Datagrams> {
        let any = match node {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(node).await?;
        self.start_datagrams(socket, Some(target))
    }

    /// Starts datagrams to and from `target` over a socket that is connected to the node. It fails only when the system
    /// has no random bytes. Without a target each datagram begins with an address header (SOCKS5 format), which says
    /// where it goes, or where it came from.
    pub fn start_datagrams<S>(
        &self,
        socket: S,
        target: Option<&Target>,
    ) -> io::Result<Datagrams<S>> {
        Ok(Datagrams::new(socket, Packets::new(Arc::clone(&self.key), target)?))
    }
}
