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
/// [`AFTER_TARGET_END`] at the most: closing over unread bytes resets the connection, and the
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
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    /// A local connection in memory that remembers whether it was to be reset.
    pub(crate) struct FakeLocal(pub(crate) DuplexStream, pub(crate) Arc<AtomicBool>);

    impl Local for FakeLocal {
        fn reset_on_drop(&self) {
            self.1.store(true, Ordering::SeqCst);
        }
    }

    impl AsyncRead for FakeLocal {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for FakeLocal {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// A stream whose reads fail once its peer is gone, as a stream does that was reset.
    struct Failing(DuplexStream);

    impl AsyncRead for Failing {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
            match buf.filled().len() {
                0 => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                _ => Poll::Ready(Ok(())),
            }
        }
    }

    impl AsyncWrite for Failing {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A stream of either wire format: finishing the writing half reaches the other side, or not.
    struct Remote {
        pipe: DuplexStream,
        has_half_close: bool,
    }

    impl AsyncRead for Remote {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.pipe).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Remote {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.pipe).poll_write(cx, buf)
        }
        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.has_half_close {
                return Pin::new(&mut self.pipe).poll_shutdown(cx);
            }
            Poll::Ready(Ok(()))
        }
    }

    impl OpenStream for Remote {
        fn has_half_close(&self) -> bool {
            self.has_half_close
        }
        fn reset(self) {}
    }

    impl OpenStream for DuplexStream {
        fn has_half_close(&self) -> bool {
            false
        }
        fn reset(self) {}
    }

    impl OpenStream for Failing {
        fn has_half_close(&self) -> bool {
            false
        }
        fn reset(self) {}
    }

    fn local(capacity: usize) -> (DuplexStream, FakeLocal, Arc<AtomicBool>) {
        let (program, side) = duplex(capacity);
        let was_reset = Arc::new(AtomicBool::new(false));
        (program, FakeLocal(side, was_reset.clone()), was_reset)
    }

    #[tokio::test]
    async fn what_the_target_sent_arrives_before_its_end() {
        let (mut program, side, was_reset) = local(7);
        let (remote, mut target) = duplex(1024 * 1024);
        let relay = tokio::spawn(relay(side, remote));
        let body: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        target.write_all(&body).await.unwrap();
        drop(target);
        let mut got = Vec::new();
        program.read_to_end(&mut got).await.unwrap();
        assert!(got == body);
        drop(program);
        assert!(matches!(relay.await.unwrap(), Outcome::Finished));
        assert!(!was_reset.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_failed_stream_resets_the_local_connection() {
        let (mut program, side, was_reset) = local(1024);
        let (remote, mut target) = duplex(1024);
        let relay = tokio::spawn(relay(side, Failing(remote)));
        target.write_all(b"half of").await.unwrap();
        drop(target);
        let mut got = Vec::new();
        program.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"half of");
        assert!(matches!(relay.await.unwrap(), Outcome::Failed(_)));
        assert!(was_reset.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_local_end_the_target_may_answer_until_it_pauses() {
        let (mut program, side, was_reset) = local(1024);
        let (remote, mut target) = duplex(1024);
        let start = Instant::now();
        let relay = tokio::spawn(relay(side, Remote { pipe: remote, has_half_close: false }));
        program.write_all(b"question").await.unwrap();
        program.shutdown().await.unwrap();
        let mut question = [0; 8];
        target.read_exact(&mut question).await.unwrap();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(1900)).await;
            target.write_all(b"a").await.unwrap();
        }
        let mut answer = Vec::new();
        program.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"aaaaa");
        assert!(matches!(relay.await.unwrap(), Outcome::LocalGone));
        assert_eq!(start.elapsed().as_millis() / 100, (5 * 1900 + 2000) / 100);
        assert!(!was_reset.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn with_half_close_the_target_answers_when_it_likes() {
        let (mut program, side, was_reset) = local(1024);
        let (remote, mut target) = duplex(1024);
        let relay = tokio::spawn(relay(side, Remote { pipe: remote, has_half_close: true }));
        program.write_all(b"question").await.unwrap();
        program.shutdown().await.unwrap();
        let mut question = Vec::new();
        target.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question", "the target learns of the finish");
        tokio::time::sleep(Duration::from_hours(1)).await;
        target.write_all(b"answer").await.unwrap();
        target.shutdown().await.unwrap();
        let mut answer = Vec::new();
        program.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        assert!(matches!(relay.await.unwrap(), Outcome::Finished));
        assert!(!was_reset.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn with_half_close_a_program_goes_on_after_the_target_until_it_is_silent() {
        let (mut program, side, _) = local(1024);
        let (remote, mut target) = duplex(1024);
        let start = Instant::now();
        let relay = tokio::spawn(relay(side, Remote { pipe: remote, has_half_close: true }));
        target.shutdown().await.unwrap();
        assert_eq!(program.read(&mut [0]).await.unwrap(), 0, "it learns of the finish");
        for _ in 0..3 {
            tokio::time::sleep(AFTER_TARGET_FINISH / 2).await;
            program.write_all(b"x").await.unwrap();
        }
        let mut got = [0; 3];
        target.read_exact(&mut got).await.unwrap();
        assert!(matches!(relay.await.unwrap(), Outcome::Finished));
        let waited = start.elapsed();
        assert!(
            waited >= AFTER_TARGET_FINISH * 5 / 2
                && waited < AFTER_TARGET_FINISH * 3 + AFTER_TARGET_END
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_goes_on_sending_is_waited_for_a_little() {
        let (mut program, side, _) = local(16);
        let (remote, target) = duplex(1024);
        let start = Instant::now();
        let relay = tokio::spawn(relay(side, remote));
        drop(target);
        let writer = tokio::spawn(async move {
            while program.write_all(b"more").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        assert!(matches!(relay.await.unwrap(), Outcome::Finished | Outcome::LocalGone));
        writer.await.unwrap();
        assert!(start.elapsed() <= AFTER_TARGET_END);
    }
}
