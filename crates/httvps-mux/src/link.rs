//! A WebSocket with keep-alive and a write deadline.

use httvps_proto::v2::HEADER;
use httvps_proto::{KeepAlive, KeepAliveAction, Outbox};
use httvps_tls::SEGMENT_PLAIN;
use httvps_transport::ws::{self, CloseCode, Event, Kind, WebSocket};
use std::cell::RefCell;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// Payload of the largest DATA frame that we send: with its headers it fills one segment, and so does the payload by
/// itself on its next hop. The protocol allows more.
pub const CHUNK: usize = SEGMENT_PLAIN - MESSAGE_HEADER - HEADER;

/// The header of a masked WebSocket message of less than 64 KiB (RFC 6455 section 5.2).
const MESSAGE_HEADER: usize = 8;

/// Bytes queued for the peer from which on they are sent before further streams have a turn: a few large writes for
/// the kernel, of whole segments, and a buffer that the pool takes back.
pub const FLUSH_AT: usize = 2 * CHUNK;

/// The reason when a message of the peer was not complete in time.
const MESSAGE_LATE: &str = "a message was not complete in time";

/// The time-outs of a link.
#[derive(Debug, Clone, Copy)]
pub struct LinkTiming {
    /// Silence after which a ping is sent; zero switches keep-alive off.
    pub keepalive_interval: Duration,
    /// Unanswered pings that end the link.
    pub keepalive_max_missed: u32,
    /// How long queued bytes may wait without progress; zero = no limit.
    pub write_timeout: Duration,
}

/// Why a link ended.
#[derive(Debug)]
pub enum LinkError {
    /// The WebSocket or what lies below it failed.
    WebSocket(ws::Error),
    /// The peer answered none of the pings.
    KeepAlive,
    /// The peer accepted no byte for the write time-out.
    WriteTimeout,
    /// A message of the peer was not complete in time. A Close is queued; flush and end.
    MessageTimeout,
}

impl From<ws::Error> for LinkError {
    fn from(error: ws::Error) -> Self {
        Self::WebSocket(error)
    }
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::WebSocket(error) => error.fmt(f),
            Self::KeepAlive => f.write_str("the peer answers no pings"),
            Self::WriteTimeout => f.write_str("the peer takes no data"),
            Self::MessageTimeout => f.write_str(MESSAGE_LATE),
        }
    }
}

impl std::error::Error for LinkError {}

/// One message transport with keep-alive and a write deadline.
///
/// The owner polls [`Self::poll_recv`] and [`Self::poll_flush`] and calls
/// [`Self::handle_timeout`] no later than [`Self::poll_timeout`] says. All state is kept in the link,
/// so polls are cancellation-safe.
pub struct Link<T> {
    ws: WebSocket<T>,
    timing: LinkTiming,
    keepalive: KeepAlive,
    /// Bytes that had come in when last looked at.
    received: u64,
    /// Bytes that had been handed to the kernel when the write deadline last started.
    written: u64,
    write_deadline: Option<Instant>,
    was_blocked: bool,
    /// The number of signs of life of the peer.
    signs: u32,
    /// How long a message of the peer may take; zero = for ever.
    message_timeout: Duration,
    /// When the message that has begun must have ended.
    message_deadline: Option<Instant>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Link<T> {
    /// Takes over a WebSocket.
    pub fn new(ws: WebSocket<T>, timing: LinkTiming, now: Instant) -> Self {
        let keepalive = KeepAlive::new(timing.keepalive_interval, timing.keepalive_max_missed, now);
        Self {
            ws,
            timing,
            keepalive,
            received: 0,
            written: 0,
            write_deadline: None,
            was_blocked: false,
            signs: 0,
            message_timeout: Duration::ZERO,
            message_deadline: None,
        }
    }

    /// Lets [`Self::poll_recv`] receive about `bytes` before it gives way to other tasks; see [`WebSocket::begin_turn`].
    pub fn begin_turn(&mut self, bytes: usize) {
        self.ws.begin_turn(bytes);
    }

    /// Bounds how long a message of the peer may take from its first byte to its last; zero is no bound. Time in which
    /// the owner does not receive does not count.
    pub fn limit_message_time(&mut self, timeout: Duration) {
        self.message_timeout = timeout;
    }

    /// Whether all of that was received: there may be more.
    pub fn is_turn_over(&self) -> bool {
        self.ws.is_turn_over()
    }

    /// The next event of the peer. Messages are read with [`Self::message`].
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Result<Event, LinkError>> {
        let event = self.ws.poll_recv(cx);
        // Bytes count, not messages: a large message over a slow path takes longer than a ping.
        let received = self.ws.received();
        if received != self.received {
            self.received = received;
            self.signs = self.signs.wrapping_add(1);
            self.keepalive.handle_received(now);
        }
        match event {
            Poll::Ready(Ok(Event::Message(_))) => self.message_deadline = None,
            Poll::Pending if self.message_deadline.is_none() => self.watch_message(now),
            _ => {}
        }
        event.map_err(LinkError::from)
    }

    /// Starts the time of a message that has begun.
    fn watch_message(&mut self, now: Instant) {
        if !self.message_timeout.is_zero() && self.ws.is_inside_message() {
            self.message_deadline = Some(now + self.message_timeout);
        }
    }

    /// The payload of the last message, and where answers to it go.
    pub fn message(&mut self) -> (&mut [u8], LinkOutbox<'_>) {
        let (message, outgoing) = self.ws.message_and_outgoing();
        (message, LinkOutbox(outgoing))
    }

    /// Where frames for the peer go.
    pub fn outbox(&mut self) -> LinkOutbox<'_> {
        LinkOutbox(self.ws.outgoing())
    }

    /// Queues a close frame; further messages are dropped. A code that may not stand in a frame
    /// becomes 1000.
    pub fn queue_close(&mut self, code: u16, reason: &str) {
        self.ws.queue_close(CloseCode::new(code).unwrap_or(CloseCode::NORMAL), reason);
    }

    /// Bytes queued and not yet accepted by the kernel.
    pub fn queued(&self) -> usize {
        self.ws.queued()
    }

    /// Hands queued bytes to the kernel; ready when all of them are.
    pub fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Result<(), LinkError>> {
        let flushed = self.ws.poll_flush(cx)?;
        let written = self.ws.written();
        if self.was_blocked && written > self.written {
            // Room after none: the peer has taken bytes. Our ping may still wait behind others.
            self.signs = self.signs.wrapping_add(1);
            self.keepalive.handle_received(now);
        }
        self.was_blocked = flushed.is_pending();
        if flushed.is_ready() || self.timing.write_timeout.is_zero() {
            self.write_deadline = None;
        } else if self.write_deadline.is_none() || written > self.written {
            self.write_deadline = Some(now + self.timing.write_timeout);
        }
        self.written = written;
        flushed.map(Ok)
    }

    /// Flushes, then ends the connection below.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.ws.poll_shutdown(cx).map_err(LinkError::from)
    }

    /// Records that the owner received only a part of what may be there, so that this does not count as silence.
    /// The time of a message that has begun runs on.
    pub fn hold_silence(&mut self, now: Instant) {
        self.keepalive.handle_received(now);
    }

    /// Records that the owner does not receive for now, so that this does not count as silence.
    pub fn hold_keepalive(&mut self, now: Instant) {
        self.hold_silence(now);
        if self.message_deadline.take().is_some() {
            self.watch_message(now);
        }
    }

    /// A count that changes when the peer shows that it is there: bytes of it have come, or it has
    /// taken some of ours that waited.
    pub fn signs_of_life(&self) -> u32 {
        self.signs
    }

    /// Queues a ping beside those of the keep-alive.
    pub fn queue_ping(&mut self) {
        self.ws.queue_ping(b"");
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [self.keepalive.poll_timeout(), self.write_deadline, self.message_deadline];
        times.into_iter().flatten().min()
    }

    /// Pings a quiet peer (flush afterwards), or returns that the link has ended.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError> {
        if self.write_deadline.is_some_and(|deadline| now >= deadline) {
            return Err(LinkError::WriteTimeout);
        }
        if self.message_deadline.is_some_and(|deadline| now >= deadline) {
            self.ws.queue_close(CloseCode::POLICY, MESSAGE_LATE);
            return Err(LinkError::MessageTimeout);
        }
        match self.keepalive.handle_timeout(now) {
            KeepAliveAction::Wait => Ok(()),
            KeepAliveAction::Ping => {
                self.ws.queue_ping(b"");
                Ok(())
            }
            KeepAliveAction::GiveUp => Err(LinkError::KeepAlive),
        }
    }

    /// The WebSocket below, for its limits and counters.
    pub fn get_mut(&mut self) -> &mut WebSocket<T> {
        &mut self.ws
    }
}

thread_local! {
    /// Where small frames are put together; used within one call only, so one per worker is enough.
    static FRAMES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Frames for the peer of a [`Link`].
pub struct LinkOutbox<'a>(ws::Outgoing<'a>);

impl LinkOutbox<'_> {
    /// Queues one binary message of exactly `len` bytes, which `fill` appends.
    pub fn binary(&mut self, len: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        self.0.queue_message(Kind::Binary, len, fill);
    }

    /// Queues one binary message of at most `max` bytes, which `fill` appends; nothing if it appends
    /// nothing.
    pub fn measured<R>(&mut self, max: usize, fill: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        self.0.queue_measured(Kind::Binary, max, fill)
    }

    /// Bytes queued and not yet accepted by the kernel.
    pub fn queued(&self) -> usize {
        self.0.queued()
    }

    /// Runs a command that appends frames of the second wire format, and queues what it appended
    /// as one binary message; nothing if that is nothing. Meant for small frames: they are copied.
    pub fn frames<R>(&mut self, command: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let mut frames = FRAMES.take();
        frames.clear();
        let result = command(&mut frames);
        if !frames.is_empty() {
            self.binary(frames.len(), |message| message.extend_from_slice(&frames));
        }
        FRAMES.set(frames);
        result
    }
}

impl Outbox for LinkOutbox<'_> {
    fn text(&mut self, len: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        self.0.queue_message(Kind::Text, len, fill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use httvps_transport::ws::{Limits, Role};
    use std::task::Waker;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    const TIMING: LinkTiming = LinkTiming {
        keepalive_interval: Duration::ZERO,
        keepalive_max_missed: 2,
        write_timeout: Duration::ZERO,
    };
    const SECOND: Duration = Duration::from_secs(1);

    /// A server's link that gives a message ten seconds, and what its peer writes to.
    fn link() -> (Link<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(1000);
        let ws = WebSocket::new(near, Role::Server, Limits::default(), &[]);
        let mut link = Link::new(ws, TIMING, Instant::now());
        link.limit_message_time(10 * SECOND);
        (link, far)
    }

    /// A masked text frame of ten bytes; its mask is zeros.
    fn frame(is_final: bool) -> Vec<u8> {
        let first = if is_final { 0x81 } else { 0x01 };
        [&[first, 0x8A, 0, 0, 0, 0][..], b"0123456789"].concat()
    }

    fn receive(link: &mut Link<DuplexStream>, now: Instant) -> Poll<Result<Event, LinkError>> {
        link.poll_recv(&mut Context::from_waker(Waker::noop()), now)
    }

    #[tokio::test]
    async fn a_message_that_has_begun_must_end_in_time_whatever_comes_between() {
        let (mut link, mut peer) = link();
        let start = Instant::now();
        assert!(receive(&mut link, start).is_pending());
        assert_eq!(link.poll_timeout(), None, "no message has begun");
        peer.write_all(&frame(false)).await.unwrap();
        assert!(receive(&mut link, start).is_pending());
        assert_eq!(link.poll_timeout(), Some(start + 10 * SECOND));
        // A ping, and more of the message, do not extend it.
        peer.write_all(&[0x89, 0x80, 0, 0, 0, 0, 0x00, 0x81, 0, 0, 0, 0, b'x']).await.unwrap();
        let later = start + 9 * SECOND;
        assert!(matches!(receive(&mut link, later), Poll::Ready(Ok(Event::Ping))));
        assert!(receive(&mut link, later).is_pending());
        assert!(link.handle_timeout(later).is_ok());
        let end = start + 10 * SECOND;
        assert!(matches!(link.handle_timeout(end), Err(LinkError::MessageTimeout)));
        assert!(link.get_mut().is_closing(), "the peer is told");
    }

    #[tokio::test]
    async fn each_message_has_its_own_time_and_none_while_it_is_not_read() {
        let (mut link, mut peer) = link();
        let start = Instant::now();
        let begun = frame(true);
        peer.write_all(&begun[..9]).await.unwrap();
        assert!(receive(&mut link, start).is_pending());
        peer.write_all(&begun[9..]).await.unwrap();
        peer.write_all(&begun[..9]).await.unwrap();
        let later = start + 8 * SECOND;
        assert!(matches!(receive(&mut link, later), Poll::Ready(Ok(Event::Message(_)))));
        assert!(receive(&mut link, later).is_pending());
        assert_eq!(link.poll_timeout(), Some(later + 10 * SECOND));
        // A busy owner receives on and on: a peer that keeps it busy gains no time.
        link.hold_silence(later + 9 * SECOND);
        assert_eq!(link.poll_timeout(), Some(later + 10 * SECOND));
        link.hold_keepalive(later + 9 * SECOND);
        assert_eq!(link.poll_timeout(), Some(later + 19 * SECOND));
        peer.write_all(&begun[9..]).await.unwrap();
        let _ = receive(&mut link, later);
        assert_eq!(link.poll_timeout(), None);
    }
}
