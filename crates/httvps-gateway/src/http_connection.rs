//! One HTTP/1.1 connection: its requests are answered, then it is upgraded or ends as a web server ends it.

use bytes::Bytes;
use http_body_util::Full;
use httvps_config::Config;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// How long a peer has to take the last bytes of a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long what a peer still sends is read and dropped after the last answer, and how long without a byte of it: the
/// values of nginx.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_IDLE: Duration = Duration::from_secs(5);

/// Bytes for requests that the HTTP library takes at once, and then up to its limit.
const FIRST_BUFFER: usize = 8 * 1024;

/// The settings of the HTTP library for unauthenticated connections.
pub(crate) fn builder(config: &Config) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // A peer that has ended its side behind a request gets the answer.
        .half_close(true)
        .header_read_timeout(config.header_timeout)
        // The exact bound is ours, so that the metric can tell it from that on bytes.
        .max_headers(config.max_headers.saturating_mul(4))
        .max_buf_size(config.max_header_bytes);
    builder
}

/// The outcome of a connection.
pub(crate) struct Served<IO> {
    /// The connection.
    pub(crate) io: IO,
    /// What was read behind the last request.
    pub(crate) early: Bytes,
    /// Whether a request or part of one may still be on its way.
    pub(crate) has_more: bool,
    pub(crate) end: End,
}

pub(crate) enum End {
    /// All requests were answered.
    Done,
    /// The time was up, or the gateway drains.
    Stopped,
    /// The HTTP library gave up; an answer, if there is one, has been written.
    Failed(hyper::Error),
}

/// Serves a connection until `deadline`, until `stop`, or until there is nothing more to do. Nothing of its end has
/// been said to the peer then. `held` is told how many bytes the connection holds: requests that are not complete, and
/// an answer until the next request.
pub(crate) async fn serve<IO>(
    builder: &http1::Builder,
    io: IO,
    answer: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>>,
    held: &(dyn Fn(usize) + Sync),
    (deadline, stop): (Instant, &CancellationToken),
) -> Served<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    held(FIRST_BUFFER);
    let (has_body, read) = (AtomicBool::new(false), AtomicUsize::new(0));
    let service = service_fn(|request: Request<Incoming>| {
        has_body.store(!request.body().is_end_stream(), Ordering::Relaxed);
        let answer = answer(&request);
        read.store(0, Ordering::Relaxed);
        held(FIRST_BUFFER + answer.size_hint().exact().unwrap_or(0) as usize);
        ready(Ok::<_, Infallible>(answer))
    });
    let has_read = |count| {
        let total = read.fetch_add(count, Ordering::Relaxed) + count;
        if total > FIRST_BUFFER {
            held(total);
        }
    };
    let io = Tuned { io, has_read };
    let mut connection = builder.serve_connection(TokioIo::new(io), service);
    let serving = poll_fn(|cx| connection.poll_without_shutdown(cx));
    let serving = tokio::time::timeout_at(deadline.into(), serving);
    let end = match stop.run_until_cancelled(serving).await {
        Some(Ok(Ok(()))) => End::Done,
        Some(Ok(Err(error))) => End::Failed(error),
        Some(Err(_)) | None => End::Stopped,
    };
    let parts = connection.into_parts();
    let has_more = match &end {
        End::Done => has_body.load(Ordering::Relaxed) || !parts.read_buf.is_empty(),
        End::Failed(error) => error.is_parse(),
        // It had its time.
        End::Stopped => false,
    };
    Served { io: parts.io.into_inner().io, early: parts.read_buf, has_more, end }
}

/// Ends a connection the ordinary way: what is queued leaves, and over TLS a `close_notify` behind it (RFC 8446
/// section 6.1). If the peer `has_more` to say, that is read and dropped for a while: a socket that is closed with
/// unread bytes in it is reset, and the reset takes the answer from the peer.
pub(crate) async fn finish<IO>(
    mut io: IO,
    has_more: bool,
    socket: impl FnOnce(&IO) -> &TcpStream,
    stop: &CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, io.shutdown()).await, Ok(Ok(()))) || !has_more
    {
        return;
    }
    let discarding = tokio::time::timeout(LINGER, discard(socket(&io)));
    stop.run_until_cancelled(discarding).await;
}

/// Reads until the peer has ended its side or has been silent for [`LINGER_IDLE`]. Below TLS, because nothing that comes
/// now is worth opening.
async fn discard(socket: &TcpStream) {
    while matches!(tokio::time::timeout(LINGER_IDLE, socket.readable()).await, Ok(Ok(()))) {
        if !has_discarded(socket) {
            return;
        }
        // A peer that sends fast shall not keep the worker.
        tokio::task::consume_budget().await;
    }
}

/// Drops what has come; false at the end. Not part of the future, which would hold the buffer.
fn has_discarded(socket: &TcpStream) -> bool {
    let mut scratch = [0; 16 * 1024];
    match socket.try_read(&mut scratch) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// A connection that says how many bytes were read, and whose answers name HTTP/1.1 whatever the request named, as web
/// servers do and RFC 9110 section 2.5 asks for. The HTTP library names the request's own version and has no setting
/// for it.
struct Tuned<IO, F> {
    io: IO,
    has_read: F,
}

/// How an answer to HTTP/1.0 begins. No body of ours does.
const OLD_VERSION: &[u8] = b"HTTP/1.0 ";
/// Where its minor version is.
const MINOR_AT: usize = 7;

impl<IO: AsyncRead + Unpin, F: Fn(usize) + Unpin> AsyncRead for Tuned<IO, F> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        (this.has_read)(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Tuned<IO, F> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let inner = Pin::new(&mut self.get_mut().io);
        if !buf.starts_with(OLD_VERSION) {
            return inner.poll_write(cx, buf);
        }
        let mut renamed = buf.to_vec();
        renamed[MINOR_AT] = b'1';
        inner.poll_write(cx, &renamed)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt, duplex};

    /// Serves what `requests` say, with an answer of `size` bytes each; what was answered, what was held, and whether
    /// more was expected.
    async fn served(requests: &[u8], size: usize) -> (String, Vec<usize>, bool) {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(requests).await.unwrap();
        far.shutdown().await.unwrap();
        let answer = |_: &Request<Incoming>| {
            let mut answer = Response::new(Full::from("x".repeat(size)));
            *answer.status_mut() = StatusCode::NOT_FOUND;
            answer
        };
        let held = Mutex::new(Vec::new());
        let note = |bytes| held.lock().unwrap().push(bytes);
        let mut builder = http1::Builder::new();
        builder.timer(hyper_util::rt::TokioTimer::new()).half_close(true).max_buf_size(32 * 1024);
        let stop = CancellationToken::new();
        let until = (Instant::now() + Duration::from_mins(1), &stop);
        let served = serve(&builder, near, answer, &note, until).await;
        drop(served.io);
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        (text, held.into_inner().unwrap(), served.has_more)
    }

    #[tokio::test]
    async fn an_answer_to_http_1_0_names_http_1_1() {
        for line in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"] {
            let (text, _, has_more) = served(line.as_bytes(), 9).await;
            assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"), "{text}");
            assert!(!text.contains("HTTP/1.0") && !has_more, "{text}");
        }
    }

    #[tokio::test]
    async fn what_a_request_and_its_answer_hold_is_told() {
        let (_, held, _) = served(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 100_000).await;
        assert_eq!(held, [FIRST_BUFFER, FIRST_BUFFER + 100_000]);
        let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "v".repeat(20_000));
        let (_, held, _) = served(long.as_bytes(), 1).await;
        assert!(held.iter().any(|bytes| *bytes > 20_000), "{held:?}");
    }

    #[tokio::test]
    async fn a_body_that_is_not_read_and_a_broken_request_may_have_more_to_come() {
        let post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\nbegun";
        assert!(served(post, 9).await.2);
        assert!(served(b"garbage\r\n\r\n", 9).await.2);
        assert!(!served(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 9).await.2);
    }
}
