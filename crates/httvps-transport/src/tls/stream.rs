//! A TLS connection that holds no buffer while it is idle.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::engine::{Engine, Job, Step};
use crate::buffers::{self, BULK, SCRATCH_LEN};

/// What a read asks the socket for beyond the room of its caller: the overhead of the records
/// and one record more, so that small reads do not leave long leftovers.
const READ_SLACK: usize = 18 * 1024;

/// A TLS stream over `IO`, made by [`ServerTls::accept`](super::ServerTls::accept) or
/// [`ClientTls::connect`](super::ClientTls::connect).
///
/// The value itself is `IO` and one pointer (48 bytes over a tokio `TcpStream`). An idle server's
/// connection holds 3.6 to 3.9 KiB of heap in all, measured with a 1.3 handshake: the boxed state,
/// the keys inside the cryptography library, and 0.6 KiB of tokio's socket. There is no read or
/// write buffer: records are decrypted and encrypted in a scratch area of the worker thread. What
/// is kept between two calls, each in an allocation of exactly its size that is freed when empty:
///
/// * cipher text of a record that has not arrived in full, or that the reader had no room for
///   (at most 84 KiB, only while the caller's read buffers are smaller than what has arrived);
/// * the rest of one decrypted record (16 KiB), if the caller's buffer is smaller than a record;
/// * cipher text that the kernel did not take (at most 65 KiB); the next write sends it first.
///
/// **Reads** end with `Ok` and no bytes after the peer's `close_notify`. If the connection ends
/// without it, the error kind is `UnexpectedEof`. On a TLS error the alert is sent to the peer as
/// far as the socket takes it, then the read fails with `InvalidData` and every later call too.
///
/// **Writes** encrypt up to 64 KiB at once and report them written as soon as they are encrypted;
/// `poll_flush` completes when the kernel has everything. `poll_shutdown` sends `close_notify`,
/// then shuts down the write half. Answers that TLS itself owes the peer (a key update, RFC 8446
/// section 4.6.3) and a server's TLS 1.3 ticket leave with the next write or flush.
///
/// All methods are cancel safe. Dropping the stream closes the socket without `close_notify`.
pub struct TlsStream<IO> {
    io: IO,
    state: Box<State>,
}

struct State {
    engine: Engine,
    /// Cipher text that has been read but not consumed. rustls may already have decrypted part
    /// of it in place, so that it must be presented again exactly as it is.
    inbound: Vec<u8>,
    /// Plain text that did not fit into the caller's buffer, from `plain_at` on.
    plain: Vec<u8>,
    plain_at: usize,
    /// Cipher text that waits for the socket, from `outbound_at` on.
    outbound: Vec<u8>,
    outbound_at: usize,
    /// The socket will wake the reader, not a writer, when it takes bytes again.
    is_reader_flushing: bool,
    reading: Reading,
    is_close_sent: bool,
    error: Option<Error>,
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
        self.state.engine.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// The negotiated version, `"1.2"` or `"1.3"`.
    pub fn version(&self) -> &'static str {
        match self.state.engine.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
            _ => "1.3",
        }
    }

    /// The name of the negotiated suite, as IANA spells it.
    pub fn cipher_suite(&self) -> Option<&'static str> {
        self.state.engine.cipher_suite()?.suite().as_str()
    }

    /// Bytes held on the heap for data in transit, in either direction; 0 when idle.
    pub fn buffered_capacity(&self) -> usize {
        let state = &self.state;
        state.inbound.capacity() + state.plain.capacity() + state.outbound.capacity()
    }
}

impl<IO> TlsStream<IO> {
    /// A stream whose handshake is over, with what is left of it in either direction.
    pub(super) fn new(io: IO, engine: Engine, inbound: Vec<u8>, outbound: Vec<u8>) -> Self {
        let state = State { inbound, outbound, ..State::new(engine) };
        Self { io, state: Box::new(state) }
    }
}

impl State {
    fn new(engine: Engine) -> Self {
        Self {
            engine,
            inbound: Vec::new(),
            plain: Vec::new(),
            plain_at: 0,
            outbound: Vec::new(),
            outbound_at: 0,
            is_reader_flushing: false,
            reading: Reading::Open,
            is_close_sent: false,
            error: None,
        }
    }

    fn serve_plain(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.plain.is_empty() {
            return false;
        }
        let rest = &self.plain[self.plain_at..];
        let n = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..n]);
        self.plain_at += n;
        if self.plain_at == self.plain.len() {
            self.plain = Vec::new();
            self.plain_at = 0;
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
        let had_outbound = !self.outbound.is_empty();
        let mut scratch = buffers::scratch();
        let result = self.poll_decrypt(io, cx, buf, &mut scratch);
        drop(scratch);
        // With bytes already waiting, somebody is registered to send them; do not steal his waker.
        if !had_outbound && !self.outbound.is_empty() {
            let _ = self.poll_drain_as_reader(io, cx);
        }
        result
    }

    /// Decrypts what is held, then reads more until something has been decrypted.
    fn poll_decrypt<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        scratch: &mut [u8],
    ) -> Poll<io::Result<()>> {
        let base = buf.filled().len();
        let mut end = self.inbound.len();
        scratch[..end].copy_from_slice(&self.inbound);
        self.inbound = Vec::new();
        let mut start = 0;
        let result = loop {
            let (discard, step) = self.decrypt(&mut scratch[start..end], buf, base);
            start += discard;
            match step {
                Err(error) => break Poll::Ready(Err(self.fail(error))),
                Ok(Step::NeedMore) if buf.filled().len() == base => {}
                Ok(Step::PeerClosed | Step::Closed) => {
                    self.reading = Reading::Closed;
                    break Poll::Ready(Ok(()));
                }
                Ok(_) => break Poll::Ready(Ok(())),
            }
            scratch.copy_within(start..end, 0);
            end -= start;
            start = 0;
            let room = (buf.remaining() + READ_SLACK).min(BULK).min(SCRATCH_LEN - end);
            if room == 0 {
                break Poll::Ready(Err(invalid("a TLS message is too long")));
            }
            let mut area = ReadBuf::new(&mut scratch[end..end + room]);
            match Pin::new(&mut *io).poll_read(cx, &mut area) {
                Poll::Ready(Ok(())) if area.filled().is_empty() => {
                    self.reading = Reading::Truncated;
                    break Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(())) => end += area.filled().len(),
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.inbound = scratch[start..end].to_vec();
        result
    }

    fn decrypt(
        &mut self,
        input: &mut [u8],
        buf: &mut ReadBuf<'_>,
        base: usize,
    ) -> (usize, Result<Step, Error>) {
        let mut start = 0;
        loop {
            let mut job = Job::Read { into: buf, base, rest: &mut self.plain };
            let (discard, step) =
                self.engine.step(&mut input[start..], &mut self.outbound, &mut job);
            start += discard;
            if step != Ok(Step::Progress) {
                return (start, step);
            }
        }
    }

    /// Encrypts `plain`, or a `close_notify` if there is none, into `cipher` and returns the
    /// length. Application data that is in the way moves to `self.plain`.
    fn seal(&mut self, plain: Option<&[u8]>, cipher: &mut [u8]) -> io::Result<usize> {
        loop {
            let rest = &mut self.plain;
            let mut job = match plain {
                Some(plain) => Job::Write { plain, cipher: &mut *cipher, rest },
                None => Job::Close { cipher: &mut *cipher, rest },
            };
            let (discard, step) = self.engine.step(&mut self.inbound, &mut self.outbound, &mut job);
            self.inbound.drain(..discard);
            if self.inbound.is_empty() {
                self.inbound = Vec::new();
            }
            match step {
                Ok(Step::Sealed(length)) => return Ok(length),
                Ok(Step::Progress) => {}
                Ok(Step::PeerClosed) => self.reading = Reading::Closed,
                Ok(Step::NeedMore | Step::Full | Step::Closed) => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Err(error) => return Err(self.fail(error)),
            }
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
        let chunk = &data[..data.len().min(BULK)];
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut cipher = buffers::scratch();
        let length = self.seal(Some(chunk), &mut cipher)?;
        self.poll_send(io, cx, &cipher[..length])?;
        Poll::Ready(Ok(chunk.len()))
    }

    /// Sends `cipher` as far as the socket takes it and keeps the rest.
    fn poll_send<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        mut cipher: &[u8],
    ) -> io::Result<()> {
        if !self.outbound.is_empty() {
            // Records of the protocol itself came first.
            self.outbound.extend_from_slice(cipher);
            return match self.poll_drain(io, cx) {
                Poll::Ready(result) => result,
                Poll::Pending => Ok(()),
            };
        }
        while !cipher.is_empty() {
            match Pin::new(&mut *io).poll_write(cx, cipher) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => cipher = &cipher[n..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.outbound = cipher.to_vec();
                    break;
                }
            }
        }
        Ok(())
    }

    fn poll_close<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_close_sent && self.error.is_none() {
            self.is_close_sent = true;
            let mut cipher = buffers::scratch();
            let length = self.seal(None, &mut cipher)?;
            self.outbound.extend_from_slice(&cipher[..length]);
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
        while self.outbound_at < self.outbound.len() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &self.outbound[self.outbound_at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.outbound_at += n,
            }
        }
        self.outbound = Vec::new();
        self.outbound_at = 0;
        Poll::Ready(Ok(()))
    }

    /// The same for records that a read has brought about, while no writer waits.
    fn poll_drain_as_reader<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let result = self.poll_drain(io, cx);
        self.is_reader_flushing = result.is_pending();
        ready!(result)?;
        Pin::new(io).poll_flush(cx)
    }

    /// Makes `error` final and queues its alert.
    fn fail(&mut self, error: Error) -> io::Error {
        self.engine.collect_alert(&mut self.outbound);
        let reported = invalid(error.clone());
        self.error = Some(error);
        reported
    }

    fn check_error(&self) -> io::Result<()> {
        match &self.error {
            Some(error) => Err(invalid(error.clone())),
            None => Ok(()),
        }
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
        assert!(size_of::<State>() <= 1280, "{}", size_of::<State>());
    }
}
