//! A connection in memory.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Its peer says all that it says in pieces of at most so many bytes, then closes; what is sent to it
/// is counted and swallowed.
pub(super) struct Pieces {
    data: Vec<u8>,
    at: usize,
    piece: usize,
    sent: usize,
}

impl Pieces {
    pub(super) fn new(data: Vec<u8>, piece: usize) -> Self {
        Self { data, at: 0, piece, sent: 0 }
    }

    /// Bytes that were read.
    pub(super) fn taken(&self) -> usize {
        self.at
    }

    /// Bytes that were sent to the peer.
    pub(super) fn sent(&self) -> usize {
        self.sent
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
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.sent += data.len();
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

/// Reads to the end, with a look at the stream after each read; what came, and the words of the error unless the peer
/// has finished. An error is final.
pub(super) fn read_all<S: AsyncRead + Unpin>(
    stream: &mut S,
    room: usize,
    look: impl Fn(&S),
) -> (Vec<u8>, Option<String>) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut space = vec![0; room];
    let mut received = Vec::new();
    loop {
        let mut buf = ReadBuf::new(&mut space);
        let result = Pin::new(&mut *stream).poll_read(&mut cx, &mut buf);
        look(stream);
        match result {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return (received, None),
            Poll::Ready(Ok(())) => received.extend_from_slice(buf.filled()),
            Poll::Ready(Err(error)) => {
                let mut buf = ReadBuf::new(&mut space);
                let again = Pin::new(&mut *stream).poll_read(&mut cx, &mut buf);
                assert!(
                    matches!(&again, Poll::Ready(Err(same)) if same.kind() == error.kind()),
                    "{error} is not final: {again:?}"
                );
                return (received, Some(error.to_string()));
            }
            Poll::Pending => panic!("it waits although there is something to read"),
        }
    }
}
