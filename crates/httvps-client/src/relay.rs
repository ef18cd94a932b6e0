//! Bytes between a local program and a stream.

use crate::OpenStream;
use httvps_mux::Local;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// After the local program has finished sending, the target has so long for each further byte,
/// where the protocol cannot tell it that the program has finished: it may wait for more for ever.
pub(crate) const AFTER_LOCAL_END: Duration = Duration::from_secs(2);

/// How long a local program may take to close after the target has finished. Closing at once
/// could reset the connection under the last bytes, if the program is still sending.
const AFTER_TARGET_END: Duration = Duration::from_secs(2);

/// How long a local program may be silent after the target has finished, where the target can
/// finish before it. Short, since programs that keep the connection for a next request often look
/// at it only then, and it holds one of the session's places until the end.
const AFTER_TARGET_FINISH: Duration = Duration::from_secs(2);

/// Bytes of a direction's buffer at first, and the most of them; a read that fills it makes it four
/// times as large.
const SMALL: usize = 4 * 1024;
const LARGE: usize = 64 * 1024;

/// How a relay ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The target finished, and the local program has everything.
    Finished,
    /// The local program finished or left.
    LocalGone,
    /// The stream failed; the local connection has been reset.
    Failed(io::Error),
}

/// Moves bytes both ways until one side is done. At most 64 KiB are held in each direction.
///
/// * The target finishes: the local program gets the rest and an orderly end.
/// * The stream fails: the local connection is reset.
/// * The local program finishes sending: without half-close what the target still sends is passed on
///   until it pauses for [`AFTER_LOCAL_END`].
///
/// With half-close either side may finish and still receive; it is over when both have finished, or
/// when the program was silent for [`AFTER_TARGET_FINISH`] after the target.
pub(crate) async fn relay<L, R>(local: L, remote: R) -> Outcome
where
    L: Local,
    R: OpenStream,
{
    let (mut local, mut remote, broken) = remote.carry(Box::new(local)).await;
    if broken.is_some() {
        remote.reset();
        return Outcome::LocalGone;
    }
    let mut relay = Relay {
        has_half_close: remote.has_half_close(),
        is_down_over: false,
        up: Pipe::new(),
        down: Pipe::new(),
        is_up_over: false,
        timer: Box::pin(sleep_until(Instant::now())),
    };
    let outcome = poll_fn(|cx| relay.poll(cx, &mut local, &mut remote)).await;
    match &outcome {
        Outcome::Finished => {
            drop(remote);
            part(&mut local).await;
        }
        Outcome::Failed(_) => local.reset_on_drop(),
        // What the program had sent before it broke is not all that it wanted to send.
        Outcome::LocalGone if relay.has_half_close => remote.reset(),
        Outcome::LocalGone => {}
    }
    outcome
}

/// Ends the sending half, then reads on until the local program closes too, for
/// at most [`AFTER_TARGET_END`]: closing over unread bytes resets the connection, and the
/// reset can overtake what was sent.
pub(crate) async fn part<L: Local>(local: &mut L) {
    let mut space = [0; 1024];
    let mut is_shut = false;
    let farewell = poll_fn(|cx| {
        if !is_shut {
            if ready!(Pin::new(&mut *local).poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            is_shut = true;
        }
        loop {
            let mut buf = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut *local).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    });
    // Whether it closed or the time ran out: the connection is dropped next.
    let _ = tokio::time::timeout(AFTER_TARGET_END, farewell).await;
}

struct Relay {
    up: Pipe,
    down: Pipe,
    is_up_over: bool,
    is_down_over: bool,
    has_half_close: bool,
    /// Runs while one direction is over, as far as it has a deadline then.
    timer: Pin<Box<Sleep>>,
}

impl Relay {
    fn poll<L: Local, R: OpenStream>(
        &mut self,
        cx: &mut Context<'_>,
        local: &mut L,
        remote: &mut R,
    ) -> Poll<Outcome> {
        if self.has_half_close {
            return self.poll_halves(cx, local, remote);
        }
        let moved = self.down.moved;
        match self.down.poll(cx, remote, local) {
            Poll::Ready(Ok(())) => return Poll::Ready(Outcome::Finished),
            Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(Outcome::Failed(error)),
            Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(Outcome::LocalGone),
            Poll::Pending => {}
        }
        if !self.is_up_over {
            match ready!(self.up.poll(cx, local, remote)) {
                Ok(()) => {
                    let _ = Pin::new(remote).poll_shutdown(cx);
                }
                Err(Broken::Source(_)) => return Poll::Ready(Outcome::LocalGone),
                // Why is told by the reading half, after what arrived before it.
                Err(Broken::Sink) => {}
            }
            self.is_up_over = true;
            self.timer.as_mut().reset(Instant::now() + AFTER_LOCAL_END);
        } else if self.down.moved > moved {
            self.timer.as_mut().reset(Instant::now() + AFTER_LOCAL_END);
        }
        ready!(self.timer.as_mut().poll(cx));
        if self.down.is_empty() {
            return Poll::Ready(Outcome::LocalGone);
        }
        // The program is slow to take what is here: the target has not paused.
        self.timer.as_mut().reset(Instant::now() + AFTER_LOCAL_END);
        self.timer.as_mut().poll(cx).map(|()| Outcome::LocalGone)
    }
}

impl Relay {
    /// Both directions, each to its own end.
    fn poll_halves<L: Local, R: OpenStream>(
        &mut self,
        cx: &mut Context<'_>,
        local: &mut L,
        remote: &mut R,
    ) -> Poll<Outcome> {
        if !self.is_down_over {
            match self.down.poll(cx, remote, local) {
                Poll::Ready(Ok(())) => {
                    self.is_down_over = true;
                    self.timer.as_mut().reset(Instant::now() + AFTER_TARGET_FINISH);
                    if !self.is_up_over && is_broken(&Pin::new(&mut *local).poll_shutdown(cx)) {
                        return Poll::Ready(Outcome::LocalGone);
                    }
                }
                Poll::Ready(Err(Broken::Source(error))) => {
                    return Poll::Ready(Outcome::Failed(error));
                }
                Poll::Ready(Err(Broken::Sink)) => return Poll::Ready(Outcome::LocalGone),
                Poll::Pending => {}
            }
        }
        let moved = self.up.moved;
        if !self.is_up_over {
            match self.up.poll(cx, local, remote) {
                Poll::Ready(Ok(())) => {
                    let _ = Pin::new(remote).poll_shutdown(cx);
                    self.is_up_over = true;
                }
                Poll::Ready(Err(Broken::Source(_))) => return Poll::Ready(Outcome::LocalGone),
                // Why is told by the reading half, after what arrived before it.
                Poll::Ready(Err(Broken::Sink)) => self.is_up_over = true,
                Poll::Pending => {}
            }
        }
        if self.is_down_over && self.is_up_over {
            return Poll::Ready(Outcome::Finished);
        }
        if !self.is_down_over {
            return Poll::Pending;
        }
        if self.up.moved > moved {
            self.timer.as_mut().reset(Instant::now() + AFTER_TARGET_FINISH);
        }
        self.timer.as_mut().poll(cx).map(|()| Outcome::Finished)
    }
}

/// Whether an attempt has failed, rather than succeeded or not ended yet.
fn is_broken<T>(attempt: &Poll<io::Result<T>>) -> bool {
    matches!(attempt, Poll::Ready(Err(_)))
}

/// One direction.
struct Pipe {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    is_source_over: bool,
    is_flush_due: bool,
    moved: u64,
}

enum Broken {
    Source(io::Error),
    Sink,
}

impl Pipe {
    fn new() -> Self {
        Self {
            buffer: vec![0; SMALL].into(),
            start: 0,
            end: 0,
            is_source_over: false,
            is_flush_due: false,
            moved: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Ready when the source has ended and the sink has everything.
    fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut A,
        sink: &mut B,
    ) -> Poll<Result<(), Broken>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        loop {
            while !self.is_empty() {
                let rest = &self.buffer[self.start..self.end];
                let n = match ready!(Pin::new(&mut *sink).poll_write(cx, rest)) {
                    Ok(0) => {
                        return Poll::Ready(Err(Broken::Sink));
                    }
                    Ok(n) => n,
                    Err(_) => return Poll::Ready(Err(Broken::Sink)),
                };
                self.start += n;
                self.is_flush_due = true;
            }
            if self.is_source_over {
                return Pin::new(sink).poll_flush(cx).map_err(|_| Broken::Sink);
            }
            match self.poll_fill(cx, source) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Source(error))),
                Poll::Pending => {
                    if self.is_flush_due {
                        self.is_flush_due =
                            Pin::new(sink).poll_flush(cx).map_err(|_| Broken::Sink)?.is_pending();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_fill<A: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut A,
    ) -> Poll<io::Result<()>> {
        if self.end == self.buffer.len() && self.buffer.len() < LARGE {
            self.buffer = vec![0; LARGE.min(4 * self.buffer.len())].into();
        }
        (self.start, self.end) = (0, 0);
        let mut buf = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(source).poll_read(cx, &mut buf))?;
        self.end = buf.filled().len();
        self.moved += self.end as u64;
        self.is_source_over = self.end == 0;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
pub(crate) mod tests;
