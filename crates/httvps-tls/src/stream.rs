//! A TLS connection that holds no buffer while it is idle.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use rustls::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::record::{OVERHEAD_MAX, Version};
use super::record_buf::RecordBuf;
use super::session::{Session, Step};
use crate::buffers::AREA_LEN;
use crate::give_way;

/// Bytes that fill one segment of the loopback interface once they are sealed: an MTU of 65,536, of which IPv6 and TCP
/// with its timestamps take 72, and four records of which each adds at most 29 bytes.
///
/// A byte more costs a record, a segment, its acknowledgement and a wake-up of the receiver more. Elsewhere segments
/// are so much smaller that it makes no difference.
pub const SEGMENT_PLAIN: usize = 65_536 - 72 - 4 * OVERHEAD_MAX;

/// Most bytes that one write seals.
const WRITE_MAX: usize = 2 * SEGMENT_PLAIN;

/// A TLS stream over `IO`, made by [`ServerTls::accept`](super::ServerTls::accept) or
/// [`ClientTls::connect`](super::ClientTls::connect).
///
/// The value itself is `IO` and one pointer (48 bytes over a tokio `TcpStream`). An idle server's
/// connection holds 2.4 KiB of heap in all, a client's 2.9 KiB, measured with a 1.3 handshake: the
/// boxed state, the keys inside the cryptography library, what rustls needs to derive the next
/// keys, and 0.6 KiB of tokio's socket. There is no read or write buffer: records are opened from,
/// and sealed into, an area of the worker thread. What is kept between two calls:
///
/// * cipher text of a record that has not arrived in full, or that the reader had no room for (at
///   most 130 KiB). While reads succeed, 4 KiB of it or more stay in their area of 130 KiB, without
///   a copy; less, and all of it once a read has to wait, gets an allocation of exactly its size;
/// * the rest of one opened record (16 KiB), if the caller's buffer is smaller than a record;
/// * cipher text that the kernel did not take (at most 130 KiB; again in its area if it is 4 KiB or
///   more); the next write sends it first;
/// * an incomplete message of the protocol itself (at most 128 KiB, of a hostile server).
///
/// **Copies.** A record is opened straight into the caller's buffer if the buffer has room for it
/// and, in 1.3, for at least one byte more, because the real type and the padding are encrypted as
/// well; else it is opened where it is and copied. Writes are sealed straight from the caller's
/// buffer. Behind the content that a read returns, the caller's buffer may be overwritten.
///
/// **Reads** end with `Ok` and no bytes after the peer's `close_notify`. If the connection ends
/// without it, the error kind is `UnexpectedEof`. On a TLS error the alert is sent to the peer as
/// far as the socket takes it, then the read fails with `InvalidData` and every later call too.
/// What was received before the error is delivered first.
///
/// **Writes** encrypt up to two times [`SEGMENT_PLAIN`] at once and report them written as soon as they are encrypted;
/// `poll_flush` completes when the kernel has everything. `poll_shutdown` sends `close_notify`,
/// then shuts down the write half. Answers that TLS itself owes the peer (a key update, RFC 8446
/// section 4.6.3) leave at once, or behind a write that waits for the socket. A server's TLS 1.3
/// ticket leaves with the next write or flush. A key of 1.3 is updated before the limit of its cipher (RFC 8446
/// section 5.5); 1.2 cannot, so that after 2^24 records (256 GiB) of AES-GCM `close_notify` is sent and writes fail with
/// `BrokenPipe`; reads go on.
///
/// All methods are cancel safe. Dropping the stream closes the socket without `close_notify`.
pub struct TlsStream<IO> {
    io: IO,
    state: Box<State>,
}

pub(super) struct State {
    pub(super) session: Session,
    /// Cipher text that has been read but not opened.
    pub(super) inbound: RecordBuf,
    /// Plain text that did not fit into the caller's buffer.
    plain: RecordBuf,
    /// Cipher text that waits for the socket.
    pub(super) outbound: RecordBuf,
    /// The socket will wake the reader, not a writer, when it takes bytes again.
    is_reader_flushing: bool,
    /// The writer that waits for the socket.
    writer: Option<Waker>,
    reading: Reading,
    is_close_sent: bool,
    error: Option<Box<Error>>,
}

/// The receiving direction: `Open → Closed | Truncated`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Open,
    /// `close_notify` has arrived.
    Closed,
    /// The bytes ended without it.
    Truncated,
}

impl<IO> TlsStream<IO> {
    /// The stream below.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The stream below. Reading from it or writing to it breaks the connection.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// Gives up TLS and returns the stream below. Nothing is sent.
    pub fn into_inner(self) -> IO {
        self.io
    }

    /// Whether the session was resumed from a ticket.
    pub fn is_resumed(&self) -> bool {
        self.state.session.is_resumed()
    }

    /// The negotiated version, `"1.2"` or `"1.3"`.
    pub fn version(&self) -> &'static str {
        match self.state.session.version() {
            Version::Tls12 => "1.2",
            Version::Tls13 => "1.3",
        }
    }

    /// The name of the negotiated suite, as IANA spells it.
    pub fn cipher_suite(&self) -> Option<&'static str> {
        self.state.session.suite().suite().as_str()
    }

    /// Bytes held on the heap for data in transit, in either direction; 0 when idle.
    pub fn buffered_capacity(&self) -> usize {
        let state = &self.state;
        state.inbound.capacity()
            + state.plain.capacity()
            + state.outbound.capacity()
            + state.session.buffered_capacity()
    }
}

impl<IO> TlsStream<IO> {
    /// A stream whose handshake is over, with what is left of it in either direction.
    pub(super) fn new(io: IO, session: Session, inbound: RecordBuf, outbound: RecordBuf) -> Self {
        let state = State {
            session,
            inbound,
            plain: RecordBuf::default(),
            outbound,
            is_reader_flushing: false,
            writer: None,
            reading: Reading::Open,
            is_close_sent: false,
            error: None,
        };
        Self { io, state: Box::new(state) }
    }

    #[cfg(feature = "fuzzing")]
    pub(super) fn into_session(self) -> Session {
        self.state.session
    }

    #[cfg(test)]
    pub(super) fn state(&mut self) -> &mut State {
        &mut self.state
    }
}

impl State {
    fn serve_plain(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.plain.is_empty() {
            return false;
        }
        let n = self.plain.len().min(buf.remaining());
        buf.put_slice(&self.plain.bytes()[..n]);
        self.plain.consume(n);
        if self.plain.is_empty() {
            self.plain.release();
        }
        true
    }

    fn poll_read<IO: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_reader_flushing {
            let _ = self.poll_drain_as_reader(io, cx);
        }
        if buf.remaining() == 0 || self.serve_plain(buf) {
            return Poll::Ready(Ok(()));
        }
        self.check_error()?;
        match self.reading {
            Reading::Open => {}
            Reading::Closed => return Poll::Ready(Ok(())),
            Reading::Truncated => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        }
        let waiting = self.outbound.len();
        let input = if self.is_record_begun() {
            ready!(self.poll_rest(io, cx, buf.remaining()))?
        } else {
            std::mem::take(&mut self.inbound).into_area()
        };
        let mut input = input;
        let result = self.poll_open(io, cx, buf, &mut input);
        if self.error.is_some() || self.reading != Reading::Open {
            input.release();
        } else if result.is_ready() {
            // The caller will soon be back for the rest of a record that has begun.
            input.settle();
        } else {
            input.shrink();
        }
        self.inbound = input;
        // What a read owes the peer leaves at once: the writer before it may have been given up.
        if self.outbound.len() > waiting {
            let _ = self.poll_drain_as_reader(io, cx);
        }
        result
    }

    /// Whether part of a record waits in an allocation of its size, so that nothing can be done without more.
    fn is_record_begun(&self) -> bool {
        let held = self.inbound.bytes();
        let is_partial = || match self.session.record_len(held) {
            Ok(length) => length.is_none_or(|length| held.len() < length),
            Err(_) => false,
        };
        !held.is_empty() && self.inbound.capacity() < AREA_LEN && is_partial()
    }

    /// Reads behind part of a record. While nothing comes, that part stays where it is: copying it there and back would
    /// cost each poll 16 KiB twice.
    fn poll_rest<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        room: usize,
    ) -> Poll<io::Result<RecordBuf>> {
        let begun = self.inbound.bytes();
        let wanted = self.session.wanted(begun, room, AREA_LEN - begun.len());
        let mut area = RecordBuf::area_behind(begun.len());
        let mut read = ReadBuf::new(&mut area.room()[..wanted]);
        ready!(Pin::new(io).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        area.commit(count);
        area.put_front(begun);
        self.inbound.release();
        if count == 0 {
            self.reading = Reading::Truncated;
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(area))
    }

    /// Opens what is held, then reads more until something has been opened.
    fn poll_open<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        input: &mut RecordBuf,
    ) -> Poll<io::Result<()>> {
        let base = buf.filled().len();
        loop {
            let reader = (&mut *buf, base);
            match self.session.open(input, reader, &mut self.plain, &mut self.outbound) {
                Err(error) => {
                    let error = self.fail(error);
                    // What was good before it is not lost; the next read reports the error.
                    let has_content = buf.filled().len() > base;
                    return Poll::Ready(if has_content { Ok(()) } else { Err(error) });
                }
                Ok(Step::NeedMore) if buf.filled().len() == base => {}
                // Records of the protocol itself: no content, and others want to be served.
                Ok(Step::Paused) if buf.filled().len() == base => {
                    give_way(cx);
                    return Poll::Pending;
                }
                Ok(Step::Closed) => {
                    self.reading = Reading::Closed;
                    return Poll::Ready(Ok(()));
                }
                Ok(_) => return Poll::Ready(Ok(())),
            }
            input.compact();
            let space = AREA_LEN - input.len();
            let wanted = self.session.wanted(input.bytes(), buf.remaining(), space);
            let mut area = ReadBuf::new(&mut input.room()[..wanted]);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut area))?;
            let count = area.filled().len();
            if count == 0 {
                self.reading = Reading::Truncated;
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            input.commit(count);
        }
    }

    fn poll_write<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(io, cx))?;
        self.check_error()?;
        if self.is_close_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let chunk = &data[..data.len().min(WRITE_MAX)];
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut cipher = RecordBuf::area();
        let (taken, length) = match self.session.seal(chunk, cipher.room()) {
            Ok(sealed) => sealed,
            Err(error) => return Poll::Ready(Err(self.fail(error))),
        };
        if taken == 0 {
            let error = self.end_of_key();
            // Best effort: what the socket does not take leaves with a later write or flush.
            let _ = self.poll_drain(io, cx);
            return Poll::Ready(Err(error));
        }
        cipher.commit(length);
        self.outbound = cipher;
        match self.poll_drain(io, cx)? {
            Poll::Ready(()) => {}
            Poll::Pending => self.outbound.settle(),
        }
        Poll::Ready(Ok(taken))
    }

    /// Ends the sending direction in order: a key of 1.2 has sealed all that it may.
    fn end_of_key(&mut self) -> io::Error {
        self.is_close_sent = true;
        match self.session.close(&mut self.outbound) {
            Ok(()) => {
                let words = "the key of this TLS 1.2 connection may seal no more; open another one";
                io::Error::new(io::ErrorKind::BrokenPipe, words)
            }
            Err(error) => self.fail(error),
        }
    }

    fn poll_close<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_close_sent && self.error.is_none() {
            self.is_close_sent = true;
            if let Err(error) = self.session.close(&mut self.outbound) {
                return Poll::Ready(Err(self.fail(error)));
            }
        }
        ready!(self.poll_drain(io, cx))?;
        Pin::new(io).poll_shutdown(cx)
    }

    /// Sends what waits for the socket, on behalf of a writer.
    fn poll_drain<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.is_reader_flushing = false;
        let result = self.poll_send(io, cx);
        match (&mut self.writer, result.is_pending()) {
            (Some(writer), true) => writer.clone_from(cx.waker()),
            (writer @ None, true) => *writer = Some(cx.waker().clone()),
            (writer, false) => *writer = None,
        }
        result
    }

    fn poll_send<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.outbound.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, self.outbound.bytes()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.outbound.consume(n),
            }
        }
        self.outbound.release();
        self.session.control_sent();
        Poll::Ready(Ok(()))
    }

    /// The same for records that a read has brought about. The socket keeps one waker: where a writer waits as well, it
    /// is one that wakes both.
    fn poll_drain_as_reader<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let both = match &self.writer {
            Some(writer) if !writer.will_wake(cx.waker()) => {
                Some(Waker::from(Arc::new(Both(cx.waker().clone(), writer.clone()))))
            }
            _ => None,
        };
        let cx = &mut Context::from_waker(both.as_ref().unwrap_or(cx.waker()));
        let result = self.poll_send(io, cx);
        self.is_reader_flushing = result.is_pending();
        ready!(result)?;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        Pin::new(io).poll_flush(cx)
    }

    /// Makes `error` final and queues its alert.
    fn fail(&mut self, error: Error) -> io::Error {
        self.session.refuse(&error, &mut self.outbound);
        let reported = invalid(error.clone());
        self.error = Some(Box::new(error));
        reported
    }

    fn check_error(&self) -> io::Result<()> {
        match &self.error {
            Some(error) => Err(invalid(error.as_ref().clone())),
            None => Ok(()),
        }
    }
}

/// Wakes a reader and a writer.
struct Both(Waker, Waker);

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.0.wake_by_ref();
        self.1.wake_by_ref();
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.state.poll_read(&mut this.io, cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.state.poll_write(&mut this.io, cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.state.poll_drain(&mut this.io, cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.state.poll_close(&mut this.io, cx)
    }
}

impl<IO> std::fmt::Debug for TlsStream<IO> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream")
            .field("version", &self.version())
            .field("buffered_capacity", &self.buffered_capacity())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn the_stream_is_a_pointer_beside_its_socket() {
        let pointer = size_of::<usize>();
        assert_eq!(size_of::<TlsStream<TcpStream>>(), size_of::<TcpStream>() + pointer);
        assert!(size_of::<State>() <= 928, "{}", size_of::<State>());
    }
}
