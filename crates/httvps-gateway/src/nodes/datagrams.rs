//! Datagrams by way of a node.

use super::assignment::Assignment;
use httvps_shadowsocks::{Datagrams, PacketSocket};
use httvps_upstream::DatagramSocket;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::ReadBuf;

/// The socket to the node, as the Shadowsocks client wants it.
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

/// Datagrams that count as an active stream of the node until they are dropped.
///
/// They tell nothing of the node's health: a datagram without an answer is nothing unusual.
pub(super) struct NodeDatagrams {
    inner: Datagrams<NodeSocket>,
    assignment: Arc<Assignment>,
}

impl NodeDatagrams {
    pub(super) fn new(inner: Datagrams<NodeSocket>, assignment: Arc<Assignment>) -> Self {
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
