//! A connection of which some bytes have been read already.

use httvps_mux::Local;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives the bytes first that had been read, then those of the connection.
pub(super) struct Prefixed<L> {
    /// In reverse, so that they are taken from the end; without an allocation when used up.
    prefix: Vec<u8>,
    inner: L,
}

impl<L> Prefixed<L> {
    pub(super) fn new(prefix: &[u8], inner: L) -> Self {
        let mut held = Vec::new();
        held.extend(prefix.iter().rev());
        Self { prefix: held, inner }
    }

    /// Puts bytes back in front of everything.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        self.prefix.extend(bytes.iter().rev());
    }
}

impl<L: Local> Local for Prefixed<L> {
    fn reset_on_drop(&self) {
        self.inner.reset_on_drop();
    }

    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.inner.addresses()
    }
}

impl<L: Local> AsyncRead for Prefixed<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        while buf.remaining() > 0
            && let Some(byte) = self.prefix.pop()
        {
            buf.put_slice(&[byte]);
        }
        if self.prefix.is_empty() {
            self.prefix = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<L: Local> AsyncWrite for Prefixed<L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
