//! A stream through a node, and what it tells of the node.

use super::assignment::Assignment;
use crate::ByteStream;
use httvps_tls::TlsStream;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// The stream itself, whatever the protocol of its node.
#[expect(
    clippy::large_enum_variant,
    reason = "it lies in the box of its NodeStream; a second one would cost each read"
)]
pub(super) enum NodeStreamIo {
    Shadowsocks(httvps_shadowsocks::Stream),
    Proxy(httvps_proxies::Stream<TcpStream>),
    TlsProxy(httvps_proxies::Stream<TlsStream<TcpStream>>),
}

/// Does the same with the stream, whatever the protocol.
macro_rules! with {
    ($protocol:expr, $stream:ident => $do:expr) => {
        match $protocol {
            NodeStreamIo::Shadowsocks($stream) => $do,
            NodeStreamIo::Proxy($stream) => $do,
            NodeStreamIo::TlsProxy($stream) => $do,
        }
    };
}

impl AsyncRead for NodeStreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for NodeStreamIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        with!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl ByteStream for NodeStreamIo {
    fn reset(&mut self) {
        match self {
            Self::Shadowsocks(stream) => stream.reset(),
            Self::Proxy(stream) => stream.get_mut().reset(),
            Self::TlsProxy(stream) => stream.get_mut().get_mut().reset(),
        }
    }
}

/// A stream that counts as active until it is dropped.
pub(super) struct NodeStream {
    inner: NodeStreamIo,
    assignment: Arc<Assignment>,
    /// Until the first byte comes back; an idle stream keeps nothing of it.
    waiting: Option<Box<Waiting>>,
}

/// The wait for the first byte.
struct Waiting {
    patience: Duration,
    sent: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl NodeStream {
    pub(super) fn new(
        inner: NodeStreamIo,
        assignment: Arc<Assignment>,
        patience: Duration,
    ) -> Self {
        assignment.node().metrics().active_streams.inc();
        Self { inner, assignment, waiting: Some(Box::new(Waiting { patience, sent: None })) }
    }

    fn note_read(&mut self, cx: &mut Context<'_>, read: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = read {
            self.assignment.node().metrics().bytes_out.inc_by(*count as u64);
        }
        let Some(waiting) = &mut self.waiting else { return };
        // A server that speaks first shows as well that the key works.
        if matches!(read, Poll::Ready(Ok(1..))) {
            if let Some((sent, _)) = &waiting.sent {
                let seconds = sent.elapsed().as_secs_f64();
                self.assignment.node().metrics().first_byte_duration.observe(seconds);
            }
            self.waiting = None;
            self.assignment.answered();
            return;
        }
        let Some((_, timer)) = &mut waiting.sent else { return };
        let is_over = read.is_ready() || timer.as_mut().poll(cx).is_ready();
        if is_over {
            self.waiting = None;
            self.assignment.unanswered();
        }
    }
}

impl AsyncRead for NodeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let read = read.map_ok(|()| buffer.filled().len() - before);
        self.note_read(cx, &read);
        read.map_ok(|_| ())
    }
}

impl AsyncWrite for NodeStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, data);
        if let Poll::Ready(Ok(count)) = written {
            self.assignment.node().metrics().bytes_in.inc_by(count as u64);
            if let Some(waiting) = &mut self.waiting
                && waiting.sent.is_none()
                && count > 0
            {
                let mut timer = Box::pin(tokio::time::sleep(waiting.patience));
                // Polled here, so that it wakes the stream's task even if nothing is read.
                let _ = timer.as_mut().poll(cx);
                waiting.sent = Some((Instant::now(), timer));
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl ByteStream for NodeStream {
    fn reset(&mut self) {
        self.inner.reset();
    }
}

impl Drop for NodeStream {
    fn drop(&mut self) {
        self.assignment.node().metrics().active_streams.dec();
    }
}
