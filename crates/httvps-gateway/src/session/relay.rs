//! One stream: what the client sends goes to its upstream, what the upstream sends to the client.

mod delivery;
#[cfg(test)]
mod tests;

use super::pending::Pending;
use bytes::BufMut as _;
use httvps_egress::{BoxFuture, ByteStream, ConnectError, Upstream, end_of_io_error};
use httvps_mux::{Pace, Ready, StreamWaker};
use httvps_proto::{StreamEnd, StreamKey};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWrite};

/// How long a closed stream's socket stays for the kernel to send what it has taken.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes of a target that are read and dropped when its stream ends without a delivery, and how often at most.
const LAST_READ: usize = 16 * 1024;
const LAST_READS: usize = 16;

/// A dial under way.
pub(super) type Dial = BoxFuture<'static, Result<Upstream, ConnectError>>;

/// One stream of a session.
///
/// ```text
///            dialled                 target finished, failed, idle or stalled
///  Dialing ──────────▶ Open(upstream) ──────────────────────────────────────▶ ended
///     └── failed ────────────────────────────────────────────────────────────▶ ended
/// ```
/// Inbound bytes that the upstream does not take wait in `pending`; the session stops reading its
/// connection while they cost more than it may hold.
pub(super) struct Relay {
    upstream: Outlet,
    pending: Pending,
    stream_waker: Arc<StreamWaker>,
    waker: Waker,
    /// Since when bytes have been waiting without one of them being taken.
    blocked_since: Option<Instant>,
    /// The upstream has taken bytes that it could not pass on yet, as one that encrypts does.
    holds_taken: bool,
    last_active: Instant,
    last_written: Option<Instant>,
    /// The write half failed; what the target sent before is still to be read.
    write_failure: Option<StreamEnd>,
    upload: Upload,
    /// The target sends no more, and the client was told so.
    has_target_finished: bool,
    pub(super) waits: Waits,
    pub(super) pace: Pace,
}

/// The direction from the client to the upstream: `Open → Finishing → Shut`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upload {
    Open,
    /// The client sends no more; the upstream is told behind the last byte.
    Finishing,
    /// The upstream was told.
    Shut,
}

/// What a stream that has something for the client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nothing, as far as it knows.
    No,
    /// Room in the client's queue, or credit of the session; it is in the session's list.
    Room,
    /// Credit of the client for just this stream.
    Credit,
}

enum Outlet {
    Dialing(Dial),
    Echo,
    Blackhole,
    Stream(Box<dyn ByteStream>),
}

/// What one stream adds to what its session has waiting for upstreams.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    /// Memory that the waiting bytes cost.
    pub(super) cost: usize,
    /// Whether the stream is at its own bound.
    pub(super) is_full: bool,
}

/// Where payload for the client goes.
pub(super) trait Sink {
    /// Bytes that one payload may have now; 0 when there is no room.
    fn room(&self) -> usize;
    /// Bytes that may be handed to the upstream now, of those that wait for it.
    fn upstream_limit(&self) -> usize;
    /// Whether payloads arrive as they were sent.
    fn keeps_boundaries(&self) -> bool;
    /// Sends one payload, within the room.
    fn send(&mut self, payload: &[u8]);
    /// Sends one payload that `read` appends to the given buffer, at most as many bytes as it is
    /// told; nothing when it appends nothing. Call it only when there is room.
    fn fill<R>(&mut self, read: impl FnOnce(&mut Vec<u8>, usize) -> R) -> R;
    /// The target finished. False when the protocol has no half-close: the stream is over then.
    fn finish(&mut self) -> bool;
    /// The upstream stands.
    fn opened(&mut self);
}

/// What a turn of a stream came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It waits for its upstream.
    Waiting,
    /// It has more to do; give the others a turn first.
    More,
    /// It has something for the client and there is no room.
    NoRoom,
    /// It is over.
    Ended(StreamEnd),
}

impl Relay {
    pub(super) fn new(dial: Dial, ready: &Arc<Ready>, stream: StreamKey, now: Instant) -> Self {
        let stream_waker = StreamWaker::new(ready, stream);
        Self {
            upstream: Outlet::Dialing(dial),
            pending: Pending::default(),
            waker: stream_waker.clone().into(),
            stream_waker,
            blocked_since: None,
            holds_taken: false,
            last_active: now,
            last_written: None,
            write_failure: None,
            upload: Upload::Open,
            has_target_finished: false,
            waits: Waits::No,
            pace: Pace::default(),
        }
    }

    /// Takes payload of the client. What cannot be handed on at once is kept.
    pub(super) fn handle_data(&mut self, data: &[u8], now: Instant, sink: &mut impl Sink) {
        self.last_active = now;
        if !self.pending.is_empty() {
            self.pending.push(data, self.merges(sink));
            return;
        }
        let mut rest = data;
        match &mut self.upstream {
            Outlet::Blackhole => return,
            Outlet::Echo => {
                if data.len() <= sink.room() && sink.room() > 0 {
                    sink.send(data);
                    return;
                }
                self.stream_waker.schedule();
            }
            Outlet::Stream(stream) => {
                while !rest.is_empty() && self.write_failure.is_none() {
                    let mut cx = Context::from_waker(&self.waker);
                    match Pin::new(&mut *stream).poll_write(&mut cx, rest) {
                        Poll::Ready(Ok(count)) if count > 0 => {
                            rest = &rest[count..];
                            self.last_written = Some(now);
                            self.blocked_since = None;
                        }
                        Poll::Ready(result) => self.write_failure = Some(write_end(result)),
                        Poll::Pending => break,
                    }
                }
                if self.write_failure.is_some() {
                    // The next turn reads what the target still had to say, then ends the stream.
                    self.stream_waker.schedule();
                    return;
                }
                if rest.is_empty() {
                    self.poll_flush(now);
                    return;
                }
            }
            Outlet::Dialing(_) => {
                if data.is_empty() {
                    return;
                }
            }
        }
        self.blocked_since.get_or_insert(now);
        let merges = self.merges(sink);
        self.pending.push(rest, merges);
    }

    /// With JSON the echo answers message for message; for everything else boundaries mean nothing.
    /// The echo stands at once, so that what is being dialled is none.
    fn merges(&self, sink: &impl Sink) -> bool {
        !(matches!(self.upstream, Outlet::Echo) && sink.keeps_boundaries())
    }

    /// Moves what can be moved: one step of dialling, all pending bytes that the upstream takes, and
    /// one read. Never blocks; whatever it waits for schedules the stream again.
    pub(super) fn poll(&mut self, now: Instant, sink: &mut impl Sink) -> Turn {
        self.stream_waker.clear();
        if let Outlet::Dialing(dial) = &mut self.upstream {
            match dial.as_mut().poll(&mut Context::from_waker(&self.waker)) {
                Poll::Pending => return Turn::Waiting,
                Poll::Ready(Err(error)) => return Turn::Ended(end_of_dial(error)),
                Poll::Ready(Ok(upstream)) => {
                    self.upstream = upstream.into();
                    // The time of the dial was not the target's refusal to take bytes.
                    self.blocked_since = self.blocked_since.map(|_| now);
                    self.last_active = now;
                    sink.opened();
                }
            }
        }
        match &mut self.upstream {
            Outlet::Echo => self.poll_echo(sink),
            Outlet::Blackhole => {
                self.pending = Pending::default();
                self.blocked_since = None;
                self.waiting_or_over()
            }
            Outlet::Stream(_) => {
                self.poll_write(sink.upstream_limit(), now);
                self.poll_shut();
                if self.has_target_finished {
                    self.waiting_or_over()
                } else {
                    self.poll_read(now, sink)
                }
            }
            Outlet::Dialing(_) => Turn::Waiting,
        }
    }

    fn poll_echo(&mut self, sink: &mut impl Sink) -> Turn {
        while !self.pending.is_empty() {
            let count = self.pending.front().len().min(sink.room());
            if sink.room() == 0 {
                return Turn::NoRoom;
            }
            sink.send(&self.pending.front()[..count]);
            self.pending.advance(count);
        }
        self.blocked_since = None;
        self.waiting_or_over()
    }

    /// Passes the client's finish on once the upstream has everything.
    fn poll_shut(&mut self) {
        let has_more = !self.pending.is_empty() || self.write_failure.is_some();
        if self.upload != Upload::Finishing || has_more {
            return;
        }
        let Outlet::Stream(stream) = &mut self.upstream else { return };
        match Pin::new(stream).poll_shutdown(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(Ok(())) => self.upload = Upload::Shut,
            Poll::Ready(Err(error)) => self.write_failure = Some(end_of_io(&error)),
            Poll::Pending => {}
        }
    }

    /// A stream is over when both sides have finished; an upstream of our own finishes with its
    /// client.
    fn waiting_or_over(&self) -> Turn {
        if let Some(failure) = self.write_failure {
            return Turn::Ended(failure);
        }
        let is_over = match self.upstream {
            Outlet::Stream(_) => self.upload == Upload::Shut,
            _ => self.upload != Upload::Open,
        };
        if is_over { Turn::Ended(StreamEnd::Eof) } else { Turn::Waiting }
    }

    /// Hands about `limit` of the bytes that waited to the upstream: a window may hold many times what a turn moves.
    fn poll_write(&mut self, limit: usize, now: Instant) {
        let Outlet::Stream(stream) = &mut self.upstream else { return };
        let mut cx = Context::from_waker(&self.waker);
        let mut written = 0;
        while !self.pending.is_empty() && self.write_failure.is_none() {
            if written >= limit {
                self.stream_waker.schedule();
                return;
            }
            if self.pending.front().is_empty() {
                self.pending.advance(0);
                continue;
            }
            match Pin::new(&mut *stream).poll_write(&mut cx, self.pending.front()) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.pending.advance(count);
                    written += count;
                    self.blocked_since = Some(now);
                    self.last_active = now;
                    self.last_written = Some(now);
                }
                Poll::Ready(result) => self.write_failure = Some(write_end(result)),
                Poll::Pending => return,
            }
        }
        self.pending = Pending::default();
        self.poll_flush(now);
    }

    /// Has the upstream pass on what it has taken; what it still holds afterwards waits like what
    /// it has not taken. To be called when nothing else waits.
    fn poll_flush(&mut self, now: Instant) {
        let Outlet::Stream(stream) = &mut self.upstream else { return };
        self.holds_taken = false;
        if self.write_failure.is_none() {
            let mut cx = Context::from_waker(&self.waker);
            match Pin::new(&mut *stream).poll_flush(&mut cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.write_failure = Some(end_of_io(&error));
                    self.stream_waker.schedule();
                }
                // What has no socket yet has taken nothing but the target's name.
                Poll::Pending => self.holds_taken = !stream.is_opening(),
            }
        }
        if self.holds_taken {
            self.blocked_since.get_or_insert(now);
        } else {
            self.blocked_since = None;
        }
    }

    /// Whether there is nothing yet that could take the client's bytes.
    fn is_dialing(&self) -> bool {
        match &self.upstream {
            Outlet::Dialing(_) => true,
            Outlet::Stream(stream) => stream.is_opening(),
            Outlet::Echo | Outlet::Blackhole => false,
        }
    }

    fn poll_read(&mut self, now: Instant, sink: &mut impl Sink) -> Turn {
        let Outlet::Stream(stream) = &mut self.upstream else { return Turn::Waiting };
        if sink.room() == 0 {
            return Turn::NoRoom;
        }
        let mut cx = Context::from_waker(&self.waker);
        let read = sink.fill(|buffer, room| {
            let mut limited = buffer.limit(room);
            // The future holds no state, so that a fresh one per poll loses nothing.
            pin!(stream.read_buf(&mut limited)).poll(&mut cx)
        });
        let is_over = match read {
            Poll::Pending => Err(Turn::Waiting),
            Poll::Ready(Err(error)) => Err(Turn::Ended(end_of_io(&error))),
            Poll::Ready(Ok(0)) => Ok(()),
            Poll::Ready(Ok(count)) => {
                self.last_active = now;
                self.pace = Pace::of_read(count);
                Err(Turn::More)
            }
        };
        match (is_over, self.write_failure) {
            (Err(turn), _) => turn,
            (Ok(()), Some(failure)) => Turn::Ended(failure),
            (Ok(()), None) if sink.finish() => {
                self.has_target_finished = true;
                self.waiting_or_over()
            }
            (Ok(()), None) => Turn::Ended(StreamEnd::Eof),
        }
    }

    /// Notes that the client sends no more; takes effect behind what waits.
    pub(super) fn handle_finish(&mut self) {
        self.upload = Upload::Finishing;
        self.stream_waker.schedule();
    }

    /// Its place among the streams that wait for a turn.
    pub(super) fn waker(&self) -> &StreamWaker {
        &self.stream_waker
    }

    /// Bytes of the client that the upstream has not taken.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.pending.bytes()
    }

    /// What waits for the upstream. A stream that still dials is not full: its bytes count towards
    /// the session's bound alone, so that a dial that hangs does not hold up the others at once.
    pub(super) fn load(&self, max_stream: usize) -> Load {
        let cost = self.pending.cost();
        Load { cost, is_full: cost >= max_stream && !self.is_dialing() }
    }

    /// When the stream is ended for moving nothing, and as what.
    pub(super) fn deadline(&self, stall: Duration, idle: Duration) -> Option<(Instant, StreamEnd)> {
        // An echo waits for its own client, whom the write deadline watches.
        let is_echo = matches!(self.upstream, Outlet::Echo);
        let stalled = self
            .blocked_since
            .filter(|_| !stall.is_zero() && !is_echo && !self.is_dialing())
            .map(|since| (since + stall, StreamEnd::Stalled));
        let idle = (!idle.is_zero()).then(|| (self.last_active + idle, StreamEnd::Idle));
        match (stalled, idle) {
            (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
            (a, b) => a.or(b),
        }
    }

    /// Makes the target see a reset rather than a finish when the stream is dropped.
    pub(super) fn reset(&mut self) {
        if let Outlet::Stream(stream) = &mut self.upstream {
            stream.reset();
        }
    }

    /// Ends the upstream without waiting for it: the system delivers what it has taken.
    pub(super) fn end_in_order(&mut self) {
        let Outlet::Stream(stream) = &mut self.upstream else { return };
        let mut cx = Context::from_waker(Waker::noop());
        // What is unread when a socket is closed makes the kernel send a reset and throw away what it has taken.
        let mut unread = vec![0; LAST_READ];
        for _ in 0..LAST_READS {
            match pin!(stream.read(&mut unread)).poll(&mut cx) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                _ => break,
            }
        }
        // One that cannot at once is closed with the drop, which is the same to a socket.
        let _ = Pin::new(stream).poll_shutdown(&mut cx);
    }

    /// Whether bytes of the client still wait for an upstream that could take them or pass them on.
    pub(super) fn has_unsent(&self) -> bool {
        let can_take = matches!(self.upstream, Outlet::Dialing(_) | Outlet::Stream(_));
        let has_some = !self.pending.is_empty() || self.holds_taken;
        can_take && has_some && self.write_failure.is_none()
    }

    /// Whether the upstream holds bytes that count as taken and that closing it would lose. They
    /// are in no [`Load`]; an upstream holds up to about 64 KiB of them.
    pub(super) fn holds_taken(&self) -> bool {
        self.holds_taken
    }

    /// Whether the upstream has everything and was told that no more comes.
    pub(super) fn is_shut(&self) -> bool {
        self.upload == Upload::Shut
    }

    /// Whether the kernel may still hold bytes for the target that closing the socket would lose.
    pub(super) fn has_sent_lately(&self, now: Instant) -> bool {
        self.last_written.is_some_and(|at| now.saturating_duration_since(at) < LINGER)
    }
}

impl From<Upstream> for Outlet {
    fn from(upstream: Upstream) -> Self {
        match upstream {
            Upstream::Echo => Self::Echo,
            Upstream::Blackhole => Self::Blackhole,
            Upstream::Stream(stream) => Self::Stream(stream),
        }
    }
}

/// The end of a stream whose upstream did not open.
pub(super) fn end_of_dial(error: ConnectError) -> StreamEnd {
    StreamEnd::from_token(error.reason()).unwrap_or(StreamEnd::Io)
}

fn end_of_io(error: &std::io::Error) -> StreamEnd {
    StreamEnd::from_token(end_of_io_error(error)).unwrap_or(StreamEnd::Io)
}

/// The end that a write of nothing or a failed write means.
fn write_end(result: std::io::Result<usize>) -> StreamEnd {
    result.map_or_else(|error| end_of_io(&error), |_| StreamEnd::Io)
}
