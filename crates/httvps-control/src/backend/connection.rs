//! A connection to the backend and its statistics.

use super::error::TooMuch;
use httvps_https::Https;
use hyper::Uri;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

/// Statistics of a connection, attached to it as its `extra`.
#[derive(Debug)]
pub(super) struct Link {
    established: Instant,
    /// Microseconds from `established` to the last received byte; 0 = none was received.
    last_read: AtomicU64,
    /// Bytes received since the last complete response, and their limit.
    unanswered: AtomicU64,
    max_unanswered: u64,
}

impl Link {
    /// Whether it existed before `begun`: then the other end may have disappeared silently.
    pub(super) fn is_older_than(&self, begun: Instant) -> bool {
        self.established < begun
    }

    /// Whether a byte was received since `begun`.
    pub(super) fn is_heard_since(&self, begun: Instant) -> bool {
        let begun = begun.saturating_duration_since(self.established).as_micros();
        u128::from(self.last_read.load(Ordering::Relaxed)) > begun
    }

    /// Records that a response is complete.
    pub(super) fn answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }
}

/// The limit on bytes received before a response is complete.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The longest body.
    pub(super) body: usize,
    /// Responses that may be outstanding at once, with HTTP/2.
    pub(super) answers: usize,
}

/// Allowance for everything but bodies: heads, interim responses (1xx), frames, handshakes. It bounds the interim
/// responses too, whose number HTTP does not limit.
const ROOM: u64 = 1024 * 1024;

/// Opens connections with statistics.
#[derive(Clone)]
pub(super) struct Watching {
    connector: Https,
    bounds: Bounds,
}

impl Watching {
    pub(super) fn new(connector: Https, bounds: Bounds) -> Self {
        Self { connector, bounds }
    }
}

type Stream = TokioIo<MaybeHttpsStream<TokioIo<tokio::net::TcpStream>>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Watching {
    type Response = TokioIo<Watched>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, bounds) = (self.connector.call(uri), self.bounds);
        Box::pin(async move {
            let stream = connecting.await?;
            let is_shared = stream.connected().is_negotiated_h2();
            let answers = if is_shared { bounds.answers } else { 1 };
            let link = Arc::new(Link {
                established: Instant::now(),
                last_read: AtomicU64::new(0),
                unanswered: AtomicU64::new(0),
                max_unanswered: (bounds.body as u64).saturating_mul(answers as u64) + ROOM,
            });
            Ok(TokioIo::new(Watched { stream: TokioIo::new(stream), link }))
        })
    }
}

/// A connection whose bytes are counted.
pub(super) struct Watched {
    stream: Stream,
    link: Arc<Link>,
}

impl Connection for Watched {
    fn connected(&self) -> Connected {
        self.stream.inner().connected().extra(self.link.clone())
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let came = (buf.filled().len() - before) as u64;
        if came > 0 {
            let link = &this.link;
            let at = link.established.elapsed().as_micros().max(1);
            link.last_read.store(at as u64, Ordering::Relaxed);
            if link.unanswered.fetch_add(came, Ordering::Relaxed) + came > link.max_unanswered {
                return Poll::Ready(Err(io::Error::other(TooMuch)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }
}
