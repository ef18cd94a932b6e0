//! A WebSocket connection over a byte stream.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::codec::{CONTROL_MAX, CloseCode, Opcode, Violation};
use super::inbound::{Inbound, Incoming};
use super::outbound::Outbound;
use super::{Kind, Limits, Role, close};
use crate::buffers::BULK;
use crate::give_way;

/// Pings answered one by one per read of the transport; beyond, only the newest.
const PINGS_PER_READ: u8 = 16;

/// What a read of the transport takes of a turn at the least, in bytes: opening many small records costs as much.
const READ_COST: usize = 32 * 1024;
/// The same for a long run of fragments.
const FRAGMENTS_COST: usize = 16 * 1024;

/// What [`WebSocket::poll_recv`] reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A message is complete; its payload is in [`WebSocket::message`].
    Message(Kind),
    /// The peer has asked for a sign of life. The answer is already queued.
    Ping,
    /// The peer has given a sign of life.
    Pong,
    /// The peer has closed, with this code. The echo is already queued; flush and end.
    Close {
        /// The code that the peer gave, if it gave one.
        code: Option<u16>,
    },
}

/// Why a connection is over.
#[derive(Debug)]
pub enum Error {
    /// The transport has ended without a Close. Ordinary: devices vanish.
    Disconnected,
    /// The transport has failed.
    Io(io::Error),
    /// The peer has broken the protocol. A Close with `code` is queued; flush and end.
    Protocol {
        /// The code of the queued Close.
        code: CloseCode,
        /// What the peer has done.
        violation: Violation,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("the peer is gone"),
            Self::Io(error) => write!(f, "the connection failed: {error}"),
            Self::Protocol { code, violation } => {
                write!(f, "the peer broke the WebSocket protocol: {violation} (close code {code})")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Disconnected | Self::Protocol { .. } => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Disconnected,
            _ => Self::Io(error),
        }
    }
}

/// A WebSocket over `T`, after the HTTP upgrade (RFC 6455 sections 5 to 7).
///
/// Nothing happens by itself: the owner polls from one task. Its loop is
///
/// 1. while not [congested](Self::is_congested), [`poll_recv`](Self::poll_recv) and act on the
///    event;
/// 2. queue what there is to say;
/// 3. [`poll_flush`](Self::poll_flush) once before waiting, so that one write carries everything.
///
/// `poll_recv` draws on the task's tokio budget with every event, so that a peer with many small
/// messages cannot keep the worker to itself: when the budget is spent it returns `Pending` and
/// wakes the task. Bytes are bounded by [`begin_turn`](Self::begin_turn): beyond what it was given, `poll_recv` returns
/// `Pending` and [gives way](crate::give_way), also in the middle of a message. A loop that polls until `Pending` is
/// therefore fair.
///
/// **Buffers.** Received bytes and queued frames live in one buffer each, taken from a pool of its kind
/// of the worker thread and given back when empty; a connection that waits with little in its hands
/// (less than a quarter of the buffer) keeps an allocation of exactly that size. The receiving
/// buffer grows by doubling as bytes arrive, up to the limit of a message and 128 KiB; the sending
/// one holds what the owner queues, who keeps it in bounds by [`Limits::max_queued`].
///
/// **Deadlines** are the owner's: compare [`received`](Self::received) for silence and
/// [`written`](Self::written) for a peer that does not take what is [`queued`](Self::queued).
///
/// Dropping the value closes the transport without a Close frame.
pub struct WebSocket<T> {
    io: T,
    inbound: Inbound,
    outbound: Outbound,
    received: u64,
    /// Bytes that may still be received in this turn.
    turn: usize,
    pings_left: u8,
    phase: Phase,
}

/// The receiving direction: `Open → Discarding → Ended`, or `Open → Ended`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// A Close or a violation has been reported; whatever else arrives is thrown away, so that
    /// the kernel does not answer it with a reset that would overtake our Close.
    Discarding,
    Ended,
}

impl<T> WebSocket<T> {
    /// Wraps a transport on which the upgrade is complete. `early` is what had been read past it.
    pub fn new(io: T, role: Role, limits: Limits, early: &[u8]) -> Self {
        Self {
            io,
            inbound: Inbound::new(role, limits, early),
            outbound: Outbound::new(role),
            received: early.len() as u64,
            turn: usize::MAX,
            pings_left: PINGS_PER_READ,
            phase: Phase::Open,
        }
    }

    /// Replaces the limits. They hold from the next frame on; a message that is arriving is
    /// judged by the new ones.
    pub fn set_limits(&mut self, limits: Limits) {
        self.inbound.set_limits(limits);
    }

    /// Lets [`poll_recv`](Self::poll_recv) receive about `bytes` from now on, before it gives way to other tasks. Call it
    /// at the begin of each poll of the task; without, there is no bound.
    pub fn begin_turn(&mut self, bytes: usize) {
        self.turn = bytes;
    }

    /// Whether all of it was received, so that there may be more.
    pub fn is_turn_over(&self) -> bool {
        self.turn == 0
    }

    /// The payload of the last [`Event::Message`], to be read or decoded in place. Valid until the
    /// next `poll_recv`; empty if the last event was another.
    pub fn message(&mut self) -> &mut [u8] {
        self.inbound.message()
    }

    /// The payload of the last message together with the way out, for a caller that answers while
    /// it still reads the message.
    pub fn message_and_outgoing(&mut self) -> (&mut [u8], Outgoing<'_>) {
        (self.inbound.message(), Outgoing(&mut self.outbound))
    }

    /// The way out alone.
    pub fn outgoing(&mut self) -> Outgoing<'_> {
        Outgoing(&mut self.outbound)
    }

    /// Queues one unfragmented message of exactly `len` bytes, appended to the given buffer by
    /// `fill`, which must not touch what is there already.
    ///
    /// A wrong length is a bug (asserted in debug builds); the message then goes out with the
    /// length it has. After a Close has been queued the message is thrown away.
    pub fn queue_message<R>(
        &mut self,
        kind: Kind,
        len: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> R {
        self.outbound.push(Opcode::Data(kind), len, fill)
    }

    /// Queues a ping. The payload is cut to 125 bytes.
    pub fn queue_ping(&mut self, payload: &[u8]) {
        let payload = &payload[..payload.len().min(CONTROL_MAX)];
        self.outbound.push(Opcode::Ping, payload.len(), |out| out.extend_from_slice(payload));
    }

    /// Queues a Close. The reason is cut to 123 bytes. Only the first call has an effect, and
    /// nothing can be queued after it. Keep receiving until the peer's Close or an error; have a
    /// deadline for that.
    pub fn queue_close(&mut self, code: CloseCode, reason: &str) {
        self.push_close(Some(code), reason);
    }

    /// Whether a message has begun to arrive and is not complete.
    pub fn is_inside_message(&self) -> bool {
        self.inbound.is_inside_message()
    }

    /// Whether a Close has been queued, by the owner or as an answer.
    pub fn is_closing(&self) -> bool {
        self.outbound.is_closed()
    }

    /// Bytes that are queued and that the transport has not taken.
    pub fn queued(&self) -> usize {
        self.outbound.len()
    }

    /// Whether [`Limits::max_queued`] is reached. The owner then stops receiving until a flush
    /// has made room, or the peer decides how much memory we use.
    pub fn is_congested(&self) -> bool {
        self.outbound.len() >= self.inbound.limits().max_queued
    }

    /// Bytes that the transport has taken so far. Grows while the peer reads.
    pub fn written(&self) -> u64 {
        self.outbound.written()
    }

    /// Bytes that have come from the transport so far. Grows while the peer sends.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes of buffers that this connection holds; 0 when idle.
    pub fn buffered_capacity(&self) -> usize {
        self.inbound.capacity() + self.outbound.capacity()
    }

    /// The transport.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// The transport. Reading from it or writing to it breaks the connection.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// Gives up the connection and returns the transport. What is buffered is lost.
    pub fn into_inner(self) -> T {
        self.io
    }

    fn push_close(&mut self, code: Option<CloseCode>, reason: &str) {
        let body = close::body(code, reason);
        self.outbound.push(Opcode::Close, body.len(), |out| out.extend_from_slice(&body));
    }

    fn end(&mut self, error: Error) -> Poll<Result<Event, Error>> {
        self.phase = Phase::Ended;
        self.inbound.discard();
        Poll::Ready(Err(error))
    }
}

/// The sending side of a [`WebSocket`], borrowed apart from the receiving side.
pub struct Outgoing<'a>(&'a mut Outbound);

impl Outgoing<'_> {
    /// As [`WebSocket::queue_message`].
    pub fn queue_message<R>(
        &mut self,
        kind: Kind,
        len: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> R {
        self.0.push(Opcode::Data(kind), len, fill)
    }

    /// Queues one unfragmented message of at most `max` bytes, for a caller that learns only while
    /// it reads how much there is: `fill` appends the payload to the given buffer, whose capacity
    /// has room for `max`. Nothing is queued if it appends nothing.
    pub fn queue_measured<R>(
        &mut self,
        kind: Kind,
        max: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> R {
        self.0.push_measured(kind, max, fill)
    }

    /// As [`WebSocket::queued`].
    pub fn queued(&self) -> usize {
        self.0.len()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> WebSocket<T> {
    /// Receives the next event.
    ///
    /// After [`Event::Close`] or [`Error::Protocol`], further calls throw away what arrives until
    /// the peer has closed the transport, which is [`Error::Disconnected`]; after any other error
    /// they repeat `Disconnected`. Cancel safe.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Error>> {
        let budget = ready!(tokio::task::coop::poll_proceed(cx));
        let result = match self.phase {
            Phase::Open => self.poll_event(cx),
            Phase::Discarding => self.poll_discard(cx),
            Phase::Ended => Poll::Ready(Err(Error::Disconnected)),
        };
        if result.is_ready() {
            budget.made_progress();
        }
        result
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Error>> {
        loop {
            if self.outbound.has_pong() && self.pings_left > 0 && self.inbound.has_raw() {
                // Another ping may follow; let the answer leave before that replaces it.
                self.pings_left -= 1;
                if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                    return self.end(error);
                }
            }
            match self.inbound.decode() {
                Ok(None) => {}
                Ok(Some(incoming)) => match self.react(incoming) {
                    Some(event) => return Poll::Ready(Ok(event)),
                    None if self.turn > 0 => continue,
                    None => {}
                },
                Err(violation) => {
                    let code = violation.code();
                    self.push_close(Some(code), violation.reason());
                    self.phase = Phase::Discarding;
                    self.inbound.discard();
                    return Poll::Ready(Err(Error::Protocol { code, violation }));
                }
            }
            if self.turn == 0 {
                give_way(cx);
                return Poll::Pending;
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return self.end(Error::Disconnected),
                Poll::Ready(Ok(_)) => self.pings_left = PINGS_PER_READ,
                Poll::Ready(Err(error)) => return self.end(error.into()),
                Poll::Pending => {
                    self.inbound.park();
                    return Poll::Pending;
                }
            }
        }
    }

    fn react(&mut self, incoming: Incoming) -> Option<Event> {
        Some(match incoming {
            Incoming::Pause => {
                self.spend(FRAGMENTS_COST);
                return None;
            }
            Incoming::Message(kind) => Event::Message(kind),
            Incoming::Ping => {
                self.outbound.set_pong(self.inbound.control());
                Event::Ping
            }
            Incoming::Pong => Event::Pong,
            Incoming::Close(code) => {
                self.push_close(code, "");
                self.phase = Phase::Discarding;
                self.inbound.discard();
                Event::Close { code: code.map(CloseCode::get) }
            }
        })
    }

    /// Reads once, up to 128 KiB.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let n = ready!(poll_read_into(&mut self.io, cx, self.inbound.room()))?;
        self.inbound.commit(n);
        self.received += n as u64;
        self.spend(n.max(READ_COST));
        Poll::Ready(Ok(n))
    }

    fn spend(&mut self, bytes: usize) {
        if self.turn < usize::MAX {
            self.turn = self.turn.saturating_sub(bytes);
        }
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Error>> {
        loop {
            if self.turn == 0 {
                give_way(cx);
                return Poll::Pending;
            }
            let result = poll_read_into(&mut self.io, cx, self.inbound.room());
            self.inbound.discard();
            match result {
                Poll::Ready(Ok(0)) => return self.end(Error::Disconnected),
                Poll::Ready(Ok(n)) => {
                    self.received += n as u64;
                    self.spend(n.max(READ_COST));
                }
                Poll::Ready(Err(error)) => return self.end(error.into()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Sends what is queued. Ready when the transport and the kernel below have taken all.
    ///
    /// An error is final. Cancel safe: what has not been taken stays queued.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let chunk = self.outbound.chunk();
            if chunk.is_empty() {
                return Pin::new(&mut self.io).poll_flush(cx).map_err(Error::from);
            }
            match Pin::new(&mut self.io).poll_write(cx, chunk) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Error::Io(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(n)) => self.outbound.advance(n),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {
                    self.outbound.park();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Sends what is queued, then closes the sending half of the transport.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx).map_err(Error::from)
    }
}

/// Reads into `room`. 0 is the end of the stream.
fn poll_read_into<T: AsyncRead + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    room: &mut [u8],
) -> Poll<io::Result<usize>> {
    debug_assert!(!room.is_empty() && room.len() <= BULK);
    let mut buffer = ReadBuf::new(room);
    ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

impl<T> fmt::Debug for WebSocket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("queued", &self.queued())
            .field("buffered_capacity", &self.buffered_capacity())
            .field("is_closing", &self.is_closing())
            .finish_non_exhaustive()
    }
}
