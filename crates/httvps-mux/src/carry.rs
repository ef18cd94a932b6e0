//! Local connections whose bytes the driver moves itself.
//!
//! A [`Stream`] costs a copy, a lock and a change of tasks for what it moves. While both sides of a
//! stream are open it is not needed: the driver reads the local connection straight into the message
//! that goes out, and writes to it straight from the message that came in.

use crate::StreamWaker;
use crate::link::{FLUSH_AT, LinkError};
use crate::state::State;
use crate::stream::Stream;
use crate::turns::Pace;
use crate::wire::Wire;
use bytes::BufMut as _;
use httvps_proto::StreamKey;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Most local connections that have a turn in one round of the driver.
const TURNS: usize = 32;

/// The connection of a local program.
pub trait Local: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Makes the drop reset the connection, so that the
    /// program can tell a broken transfer from a complete one.
    fn reset_on_drop(&self);

    /// The connection's two addresses, ours first; None where it has none.
    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        None
    }
}

impl Local for TcpStream {
    fn reset_on_drop(&self) {
        // Without it the program sees an orderly end, which is the second best.
        let _ = self.set_zero_linger();
    }

    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        Some((self.local_addr().ok()?, self.peer_addr().ok()?))
    }
}

impl Local for Box<dyn Local> {
    fn reset_on_drop(&self) {
        (**self).reset_on_drop();
    }

    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        (**self).addresses()
    }
}

/// A local connection that the driver serves.
pub(crate) struct Carried {
    local: Box<dyn Local>,
    pub(crate) pace: Pace,
    /// Listed among those that wait for room in the queue or for credit of the session.
    is_held_up: bool,
    stream_waker: Arc<StreamWaker>,
    waker: Waker,
    back: oneshot::Sender<HandedBack>,
}

impl std::fmt::Debug for Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}

type HandedBack = (Box<dyn Local>, Option<io::Error>);

impl Carried {
    pub(crate) fn hand_back(self, broken: Option<io::Error>) {
        // A receiver that no longer waits has dropped the stream too.
        let _ = self.back.send((self.local, broken));
    }

    /// Writes received bytes to the local connection; returns how many it accepted. An error
    /// shows in its next turn.
    pub(crate) fn deliver(&mut self, data: &[u8]) -> usize {
        let (taken, result) = self.write(data);
        if result.is_err() {
            self.stream_waker.schedule();
        }
        taken
    }

    /// Writes bytes to the local connection; returns how many it accepted.
    fn write(&mut self, data: &[u8]) -> (usize, io::Result<()>) {
        let mut cx = Context::from_waker(&self.waker);
        let mut taken = 0;
        while taken < data.len() {
            match Pin::new(&mut self.local).poll_write(&mut cx, &data[taken..]) {
                Poll::Ready(Ok(0)) => return (taken, Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => taken += count,
                Poll::Ready(Err(error)) => return (taken, Err(error)),
                Poll::Pending => break,
            }
        }
        (taken, Ok(()))
    }
}

/// The result of a turn of a local connection.
enum Turn {
    /// It waits for its program, for credit or for room.
    Waiting,
    /// It may have more; others have their turns first.
    More,
    /// It waits for room in the queue or for credit of the session.
    HeldUp,
    /// Its program finished.
    Finished,
    /// It broke.
    Broken(io::Error),
}

impl State {
    /// Gives a local connection to the driver. Returns it when the protocol has no credit for each
    /// stream, or one direction of the stream has ended.
    pub(crate) fn carry(
        &mut self,
        id: usize,
        local: Box<dyn Local>,
        back: oneshot::Sender<HandedBack>,
    ) {
        let ready = self.ready.clone();
        let slot = self.table.slot(id);
        let is_open = !slot.is_write_shut && slot.is_open();
        let key = slot.key.filter(|_| is_open && matches!(self.wire, Wire::V2(_)));
        let Some(key) = key else {
            let _ = back.send((local, None));
            return;
        };
        let stream_waker = StreamWaker::new(&ready, key);
        let waker = stream_waker.clone().into();
        stream_waker.claim();
        slot.carried = Some(Box::new(Carried {
            local,
            pace: Pace::default(),
            is_held_up: false,
            stream_waker,
            waker,
            back,
        }));
        self.turns.push(key, Pace::default());
        self.effects.has_work = true;
    }

    /// Gives local connections that have something to do a turn. True when some of them have to
    /// wait for the next round.
    pub(crate) fn take_turns(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Result<bool, LinkError> {
        let table = &mut self.table;
        self.turns.take_ready(&self.ready, |key| table.pace(key));
        let mut is_blocked = false;
        for _ in 0..self.turns.len().min(TURNS) {
            let Some(link) = &mut self.carrier else { break };
            if link.queued() >= FLUSH_AT && !is_blocked {
                // Blocked or not: programs may have something to take.
                is_blocked = link.poll_flush(cx, now)?.is_pending();
            }
            let Some(key) = self.turns.pop() else { break };
            match self.take_turn(key, now) {
                Turn::Waiting => {}
                Turn::More => self.give_turn(key),
                Turn::HeldUp => self.hold_up(key),
                Turn::Finished => self.give_up_carrying(key, None),
                Turn::Broken(error) => self.give_up_carrying(key, Some(error)),
            }
        }
        Ok(!self.turns.is_empty())
    }

    /// Lists a local connection that waits for room in the queue or for credit of the session. One
    /// that is given up meanwhile stays in the list, which holds no more of those than of others.
    fn hold_up(&mut self, key: StreamKey) {
        let Some(carried) = self.table.carried(key) else { return };
        if std::mem::replace(&mut carried.is_held_up, true) {
            return;
        }
        self.held_up.push(key, carried.pace);
        if self.held_up.len() > 2 * self.table.len() {
            let table = &mut self.table;
            self.held_up.retain(|key| table.carried(key).is_some());
        }
    }

    /// Gives the local connections that were held up a turn, in their order, once something can be
    /// sent again. True when there were some.
    pub(crate) fn readmit(&mut self) -> bool {
        let (Some(link), Wire::V2(v2)) = (&self.carrier, &self.wire) else { return false };
        let has_room = link.queued() <= self.settings.max_queued / 2;
        if self.held_up.is_empty() || !has_room || v2.session.session_sendable() == 0 {
            return false;
        }
        while let Some(key) = self.held_up.pop() {
            if let Some(carried) = self.table.carried(key) {
                carried.is_held_up = false;
                self.give_turn(key);
            }
        }
        true
    }

    /// Puts a local connection among those that wait for a turn, unless it is one of them already.
    fn give_turn(&mut self, key: StreamKey) {
        if let Some(carried) = self.table.carried(key)
            && carried.stream_waker.claim()
        {
            self.turns.push(key, carried.pace);
        }
    }

    fn give_up_carrying(&mut self, key: StreamKey, broken: Option<io::Error>) {
        let carried = self.table.slot_of(key).and_then(|slot| slot.carried.take());
        if let Some(carried) = carried {
            if carried.stream_waker.is_queued() {
                // The stream may be carried again.
                self.turns.retain(|waiting| waiting != key);
                self.ready.forget(key);
            }
            carried.hand_back(broken);
        }
    }

    fn take_turn(&mut self, key: StreamKey, now: Instant) -> Turn {
        let (Some(slot), Some(link), Wire::V2(v2)) =
            (self.table.slot_of(key), self.carrier.as_mut(), &mut self.wire)
        else {
            return Turn::Waiting;
        };
        let Some(carried) = &mut slot.carried else { return Turn::Waiting };
        carried.stream_waker.clear();
        let mut taken = 0;
        let mut written = Ok(());
        while let Some(chunk) = slot.chunks.front() {
            let wanted = chunk.len();
            let (count, result) = carried.write(chunk);
            slot.chunks.advance(count);
            taken += count;
            written = result;
            if written.is_err() || count < wanted {
                break;
            }
        }
        let waker = carried.waker.clone();
        let mut out = link.outbox();
        if taken > 0 {
            out.frames(|frames| v2.session.consumed(key.0, taken, now, frames));
        }
        let read = match written {
            Ok(()) if out.queued() > self.settings.max_queued => {
                return self.took(taken, Turn::HeldUp);
            }
            Ok(()) if v2.session.sendable(key.0) == 0 => {
                if v2.session.stream_sendable(key.0) > 0 {
                    return self.took(taken, Turn::HeldUp);
                }
                slot.await_credit(&waker);
                return self.took(taken, Turn::Waiting);
            }
            Ok(()) => v2.read_into(key, &mut out, |buffer, room| {
                let mut limited = buffer.limit(room);
                // The future holds no state, so that a fresh one per poll loses nothing.
                pin!(carried.local.read_buf(&mut limited)).poll(&mut Context::from_waker(&waker))
            }),
            Err(error) => return self.took(taken, Turn::Broken(error)),
        };
        let turn = match read {
            Poll::Pending => Turn::Waiting,
            Poll::Ready(Ok(0)) => Turn::Finished,
            Poll::Ready(Ok(count)) => {
                carried.pace = Pace::of_read(count);
                self.silence.used();
                Turn::More
            }
            Poll::Ready(Err(error)) => Turn::Broken(error),
        };
        self.took(taken, turn)
    }

    fn took(&mut self, bytes: usize, turn: Turn) -> Turn {
        self.table.buffered -= bytes;
        turn
    }
}

/// A stream and a local connection that the driver serves: see [`Stream::carry`].
///
/// Dropping it drops the local connection and closes the stream as dropping the [`Stream`] would.
#[must_use = "the stream is closed when this is dropped"]
pub struct Carry {
    stream: Option<Stream>,
    back: oneshot::Receiver<HandedBack>,
}

impl Stream {
    /// Lets the driver move bytes both ways between `local` and the stream, for as long as both of
    /// them are open: without a copy, a lock or a change of tasks for each message.
    ///
    /// Ends with both handed back when one side of either finishes or fails: what has not reached
    /// the local connection can still be read from the stream, and how it ended shows when the
    /// two are used again; only an error of the local connection is named, since a socket tells
    /// it once. In the JSON protocol, which has no credit by stream, both come back at once.
    /// Cancel safe in that dropping it closes the stream.
    pub fn carry(self, local: Box<dyn Local>) -> Carry {
        let (sender, back) = oneshot::channel();
        self.shared.with(|state| state.carry(self.id, local, sender));
        Carry { stream: Some(self), back }
    }
}

impl Future for Carry {
    type Output = (Box<dyn Local>, Stream, Option<io::Error>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let handed = ready!(Pin::new(&mut self.back).poll(cx));
        // The slot holds the sender until it sends, and the stream holds the slot.
        let (local, broken) = handed.expect("the driver hands back what it carries");
        let stream = self.stream.take().expect("polled after it was ready");
        Poll::Ready((local, stream, broken))
    }
}
