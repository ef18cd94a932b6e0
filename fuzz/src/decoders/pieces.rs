//! A connection in memory.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Its peer says all that it says in pieces of at most so many bytes, then closes; what is sent to it
/// is swallowed.
pub(super) struct Pieces {
    data: Vec<u8>,
    at: usize,
    piece: usize,
}

impl Pieces {
    pub(super) fn new(data: Vec<u8>, piece: usize) -> Self {
        Self { data, at: 0, piece }
    }

    fn next_piece(&mut self, room: usize) -> &[u8] {
        let start = self.at;
        self.at += (self.data.len() - start).min(self.piece).min(room);
        &self.data[start..self.at]
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        buf.put_slice(self.next_piece(room));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let part = self.next_piece(buf.len());
        buf[..part.len()].copy_from_slice(part);
        Ok(part.len())
    }
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
