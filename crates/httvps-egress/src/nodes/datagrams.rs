//! Datagrams through a node.

use super::assignment::Assignment;
use crate::DatagramSocket;
use httvps_proto::Target;
use httvps_proxies::Packets;
use httvps_shadowsocks::{Datagrams, PacketSocket};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// The socket to the node, as a socket of the Shadowsocks client.
pub(super) struct NodeSocket(pub(super) Box<dyn DatagramSocket>);

impl PacketSocket for NodeSocket {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_recv(cx, buffer)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, packet: &[u8]) -> Poll<io::Result<()>> {
        self.0.poll_send(cx, packet)
    }
}

/// Datagrams through a SOCKS5 proxy.
pub(super) struct Socks5Datagrams {
    /// The control connection: the association lasts while it is open.
    control: TcpStream,
    socket: Box<dyn DatagramSocket>,
    packets: Packets,
}

thread_local! {
    /// Buffer for building a packet; at most 64 KiB for each worker.
    static PACKET: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Socks5Datagrams {
    pub(super) fn new(
        control: TcpStream,
        socket: Box<dyn DatagramSocket>,
        target: Option<&Target>,
    ) -> Self {
        Self { control, socket, packets: Packets::new(target) }
    }

    /// Ready when the proxy has ended the association. Other bytes from it are ignored.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let mut room = [0; 64];
            let mut ignored = ReadBuf::new(&mut room);
            match ready!(Pin::new(&mut self.control).poll_read(cx, &mut ignored)) {
                Err(error) => return Poll::Ready(error),
                Ok(()) if ignored.filled().is_empty() => {
                    return Poll::Ready(io::ErrorKind::ConnectionReset.into());
                }
                Ok(()) => {}
            }
        }
    }
}

impl DatagramSocket for Socks5Datagrams {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Not endless with a proxy that sends garbage all the time: the runtime's budget makes it
        // pending.
        let start = buffer.filled().len();
        loop {
            if let Poll::Ready(result) = self.socket.poll_recv(cx, buffer) {
                result?;
            } else {
                return self.poll_end(cx).map(Err);
            }
            // What fills the buffer may be a part, and without its header that could not be told.
            let is_whole = buffer.remaining() > 0;
            let payload = self.packets.unwrap(&buffer.filled()[start..]).filter(|_| is_whole);
            let Some(payload) = payload else {
                buffer.set_filled(start);
                continue;
            };
            let length = payload.len();
            buffer.filled_mut().copy_within(start + payload.start..start + payload.end, start);
            buffer.set_filled(start + length);
            return Poll::Ready(Ok(()));
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<()>> {
        PACKET.with_borrow_mut(|packet| {
            self.packets.wrap(datagram, packet)?;
            self.socket.poll_send(cx, packet)
        })
    }
}

/// The datagrams of a node, whatever its protocol.
pub(super) enum NodeDatagramIo {
    Shadowsocks(Datagrams<NodeSocket>),
    Socks5(Socks5Datagrams),
}

impl DatagramSocket for NodeDatagramIo {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Shadowsocks(datagrams) => datagrams.poll_recv(cx, buffer),
            Self::Socks5(datagrams) => datagrams.poll_recv(cx, buffer),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<()>> {
        match self {
            Self::Shadowsocks(datagrams) => datagrams.poll_send(cx, datagram),
            Self::Socks5(datagrams) => datagrams.poll_send(cx, datagram),
        }
    }
}

/// Datagrams that count as an active stream of the node until they are dropped.
///
/// They do not affect the health of the node: a datagram without an answer is normal.
pub(super) struct NodeDatagrams {
    inner: NodeDatagramIo,
    assignment: Arc<Assignment>,
}

impl NodeDatagrams {
    pub(super) fn new(inner: NodeDatagramIo, assignment: Arc<Assignment>) -> Self {
        assignment.node().metrics().active_streams.inc();
        Self { inner, assignment }
    }
}

impl DatagramSocket for NodeDatagrams {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let received = self.inner.poll_recv(cx, buffer);
        if let Poll::Ready(Ok(())) = received {
            let count = buffer.filled().len() - before;
            self.assignment.node().metrics().bytes_out.inc_by(count as u64);
        }
        received
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<()>> {
        let sent = self.inner.poll_send(cx, datagram);
        if let Poll::Ready(Ok(())) = sent {
            self.assignment.node().metrics().bytes_in.inc_by(datagram.len() as u64);
        }
        sent
    }
}

impl Drop for NodeDatagrams {
    fn drop(&mut self) {
        self.assignment.node().metrics().active_streams.dec();
    }
}
