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
