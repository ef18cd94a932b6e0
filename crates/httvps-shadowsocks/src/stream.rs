//! A stream to a target through a node.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httvps_proto::Target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::area::{self, Waiting};
use crate::inbound::Inbound;
use crate::outbound::{Outbound, Sealed};
use crate::{AccessKey, Error};

/// How long the address header waits for a first payload, once the stream is read; Outline's clients wait as long.
pub const HEADER_WAIT: Duration = Duration::from_millis(10);

/// A stream to a target through a node.
///
/// Salt, address and the first payload leave in one packet: nothing is sent before the first write. When the stream
/// is read and nothing is written for [`HEADER_WAIT`], the header goes alone, so that a target which speaks first
/// can answer. `poll_shutdown` sends it too; `poll_flush` does not, since it is not a byte of the caller.
///
/// A write takes up to 64 KiB and seals them; what the connection does not take at once waits in the stream, and goes
/// out with the next write, flush, shutdown or read. So there is never more than one such batch, and a caller that stops
/// writing and reading must flush. `poll_shutdown` finishes our half; the other half can still be read.
///
/// The node's finish is an end of file if it comes between chunks, and [`Error::Truncated`] otherwise. An end of file
/// before any byte may also mean that the node rejected the key: see [`is_proven`](Self::is_proven). [`Error::of`] gives
/// the cause of an error; only authentic bytes are returned.
///
/// An idle stream has no buffer. Up to 66 KiB are held while a chunk is incomplete or not read, and as many while
/// sealed bytes wait.
///
/// Reads and writes are cancellation-safe.
pub struct Stream<S = TcpStream> {
    io: S,
    key: Arc<AccessKey>,
    outbound: Outbound,
    inbound: Inbound,
    /// Sealed bytes that are not written yet.
    sealed: Waiting,
    /// Runs while the header waits and the stream is read.
    header_wait: Option<Pin<Box<Sleep>>>,
    /// The last call that writes is pending and has left its waker with the connection. A reader then must not replace
    /// it by its own.
    is_writer_waiting: bool,
}

impl<S> Stream<S> {
    /// Starts a stream over a connection to the node. It fails only when the system has no random bytes.
    pub(crate) fn new(io: S, key: Arc<AccessKey>, target: Option<&Target>) -> io::Result<Self> {
        Ok(Self {
            outbound: Outbound::new(&key, target)?,
            io,
            key,
            inbound: Inbound::default(),
            sealed: Waiting::default(),
            header_wait: None,
            is_writer_waiting: false,
        })
    }

    /// Whether the node has shown that it has the key: at least one of its chunks was authentic.
    ///
    /// A node that rejects the key does not say so: it stays silent, or closes or resets the connection, as
    /// a target may too.
    pub fn is_proven(&self) -> bool {
        self.inbound.is_proven()
    }

    /// The salt of the request.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn request_salt(&self) -> &[u8] {
        self.outbound.salt(&self.key)
    }

    /// The connection to the node, for a fuzzer to put another one in its place.
    #[cfg(feature = "fuzzing")]
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.io
    }

    /// The connection to the node.
    pub fn get_ref(&self) -> &S {
        &self.io
    }
}

impl Stream<TcpStream> {
    /// Makes the drop reset the connection to the node. Unsent bytes are lost.
    pub fn reset(&mut self) {
        // It fails only on a socket that is already dead, and such a socket sends nothing any more.
        let _ = self.io.set_zero_linger();
    }
}

impl<S: AsyncWrite + Unpin> Stream<S> {
    /// Seals `data`, or a held header alone when there is none, and sends as much of it as the connection takes.
    fn poll_seal(&mut self, cx: &mut Context<'_>, data: &[u8]) -> io::Result<usize> {
        let mut area = area::take();
        let sealed = self.outbound.seal(&self.key, data, unix_now(), &mut area);
        let Sealed { taken, len } = match sealed {
            Ok(sealed) => sealed,
            Err(error) => {
                area::give_back(area);
                return Err(error);
            }
        };
        self.header_wait = None;
        self.sealed = Waiting::whole(area, len);
        if let Poll::Ready(Err(error)) = self.poll_sealed(cx) {
            return Err(error);
        }
        Ok(taken)
    }

    /// Writes the sealed bytes. An error discards them.
    fn poll_sealed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.sealed.is_empty() {
            let sent = match Pin::new(&mut self.io).poll_write(cx, self.sealed.filled()) {
                Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(sent) => sent,
                Poll::Pending => {
                    self.sealed.park();
                    return Poll::Pending;
                }
            };
            match sent {
                Ok(count) => self.sealed.consume(count),
                Err(error) => {
                    self.sealed = Waiting::default();
                    return Poll::Ready(Err(error));
                }
            }
        }
        self.sealed.park();
        Poll::Ready(Ok(()))
    }

    /// Writes sealed bytes and a due header during a read. Errors show at the next write; bytes that the node has sent before can
    /// still be read.
    fn poll_write_beside_read(&mut self, cx: &mut Context<'_>) {
        if self.outbound.holds_header() {
            let wait = self.header_wait.get_or_insert_with(|| Box::pin(sleep(HEADER_WAIT)));
            if wait.as_mut().poll(cx).is_ready() {
                let _ = self.poll_seal(cx, &[]);
            }
        } else if !self.sealed.is_empty() && !self.is_writer_waiting {
            let _ = self.poll_sealed(cx);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_write_beside_read(cx);
        let before = out.filled().len();
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let opened = this.inbound.open(&this.key, this.outbound.salt(&this.key), unix_now, out);
            if out.filled().len() > before {
                if this.inbound.is_empty() {
                    this.inbound.park();
                }
                return Poll::Ready(Ok(()));
            }
            opened?;
            let mut room = ReadBuf::new(this.inbound.room(&this.key));
            let Poll::Ready(read) = Pin::new(&mut this.io).poll_read(cx, &mut room) else {
                this.inbound.park();
                return Poll::Pending;
            };
            let count = room.filled().len();
            read?;
            if count == 0 {
                this.inbound.park();
                return Poll::Ready(this.inbound.finish().map_err(io::Error::from));
            }
            this.inbound.fill(count);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let sent = this.poll_sealed(cx);
        this.is_writer_waiting = sent.is_pending();
        ready!(sent)?;
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(this.poll_seal(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let sent = this.poll_sealed(cx);
        this.is_writer_waiting = sent.is_pending();
        ready!(sent)?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.outbound.lacks_address() {
            return Poll::Ready(Err(Error::NoAddress.into()));
        }
        if this.outbound.holds_header() {
            this.poll_seal(cx, &[])?;
        }
        let sent = this.poll_sealed(cx);
        this.is_writer_waiting = sent.is_pending();
        ready!(sent)?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl<S> fmt::Debug for Stream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_proven = self.is_proven();
        f.debug_struct("Stream")
            .field("key", &self.key)
            .field("is_proven", &is_proven)
            .finish_non_exhaustive()
    }
}

/// Seconds since 1970. A clock before that is as wrong as one at it.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
