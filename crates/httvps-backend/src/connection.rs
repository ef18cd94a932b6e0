//! One connection: HTTP/1.1 with keep-alive, under one deadline at a time.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::api::Api;

/// Largest request head, in bytes; more is answered with 431.
const MAX_HEAD_LEN: usize = 16 * 1024;

/// Serves one connection until it ends, misses a deadline, or finishes its current answer after
/// `drain`.
///
/// Deadlines are absolute: bytes that drip in do not move them. Dropping the future cuts the
/// connection.
pub(crate) async fn serve(
    stream: TcpStream,
    api: Arc<Api>,
    limits: Deadlines,
    drain: CancellationToken,
) {
    let clock = Arc::new(Clock::start(limits));
    let io = TokioIo::new(Watched { stream, clock: Arc::clone(&clock) });
    let service = service_fn(|request| {
        let (api, clock) = (Arc::clone(&api), Arc::clone(&clock));
        async move {
            clock.enter(Phase::Request);
            let answer = api.answer(request).await;
            clock.enter(Phase::Idle);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http =
        pin!(http1::Builder::new().max_buf_size(MAX_HEAD_LEN).serve_connection(io, service));
    let mut timer = pin!(sleep_until(clock.deadline()));
    let mut drained = pin!(drain.cancelled());
    let mut is_draining = false;
    poll_fn(|cx| {
        if !is_draining && drained.as_mut().poll(cx).is_ready() {
            is_draining = true;
            http.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(outcome) = http.as_mut().poll(cx) {
            if let Err(problem) = outcome {
                tracing::debug!(error = %problem, "connection_broken");
            }
            return Poll::Ready(());
        }
        // Polling the connection may have begun another phase.
        let deadline = clock.deadline();
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        if timer.as_mut().poll(cx).is_ready() {
            tracing::debug!("connection_timed_out");
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

/// How long a connection may stay in each phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// From the first byte of a request to the end of its head, and again from there to the end of
    /// its body.
    pub(crate) read: Duration,
    /// From one answer to the next request; includes the time the client takes to read the answer.
    pub(crate) idle: Duration,
}

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The rest of a request's head; a new connection begins here.
    Head,
    /// The body of a request and our answer.
    Request,
    /// The client: to read the answer, and to send another request.
    Idle,
}

/// The phase of a connection and when it must be over.
struct Clock {
    limits: Deadlines,
    now: Mutex<(Phase, Instant)>,
}

impl Clock {
    fn start(limits: Deadlines) -> Self {
        Self { limits, now: Mutex::new((Phase::Head, Instant::now() + limits.read)) }
    }

    fn enter(&self, phase: Phase) {
        let allowance = match phase {
            Phase::Head => self.limits.read,
            // The API gives up on a slow body after `read`; the rest is for its 408 to get out.
            Phase::Request => self.limits.read * 2,
            Phase::Idle => self.limits.idle,
        };
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) =
            (phase, Instant::now() + allowance);
    }

    fn bytes_arrived(&self) {
        let (phase, _) = *self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if phase == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    fn deadline(&self) -> Instant {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// A socket that tells the clock when bytes arrive.
struct Watched {
    stream: TcpStream,
    clock: Arc<Clock>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.clock.bytes_arrived();
        }
        outcome
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
