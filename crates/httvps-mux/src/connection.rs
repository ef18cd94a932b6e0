//! An open session, and the handshake that opens it.

use crate::Datagrams;
use crate::carrier::Carrier;
use crate::driver::{Driver, Shared};
use crate::link::{Link, LinkError};
use crate::state::State;
use crate::stream::{SILENT, Stream, StreamFailure, plain};
use httvps_proto::v2::Kind;
use httvps_proto::{ClientInput, ClientSession};
use httvps_transport::ws::{Event, Kind as MessageKind};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Limits of one connection of a client.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From the `hello` to the `auth_result`. Default 15 s.
    pub hello_timeout: Duration,
    /// Bytes that are buffered for one stream that is not read before the connection is not read
    /// either. Exceeded by one message at most. Default 4 MiB.
    pub max_stream_buffered: usize,
    /// The same for all streams of the connection. Default 16 MiB.
    pub max_session_buffered: usize,
    /// Bytes queued for the gateway from which on writers wait. Exceeded by one message at most.
    /// Default 256 KiB.
    pub max_queued: usize,
    /// How long readers may hold up the connection before they lose their streams. It must be
    /// shorter than the gateway's write deadline (30 s), which costs all of them. Default 10 s.
    pub stall_timeout: Duration,
    /// For the closing handshake. Default 3 s.
    pub close_timeout: Duration,
    /// An open or payload makes the connection ping the gateway when nothing has come from it for so
    /// long; zero switches it off. Default 4 s.
    pub probe_after: Duration,
    /// How long the answer to that ping may take before the connection counts as silent and takes
    /// no new streams, until something comes again. Default 3 s.
    pub probe_timeout: Duration,
    /// What the window of one stream may grow to in the second wire format, in which the two
    /// bounds on buffers above have no meaning. Default 16 MiB.
    pub max_stream_window: usize,
    /// The same for all streams of the connection. Default 32 MiB.
    pub max_session_window: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hello_timeout: Duration::from_secs(15),
            max_stream_buffered: 4 * 1024 * 1024,
            max_session_buffered: 16 * 1024 * 1024,
            max_queued: 256 * 1024,
            stall_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(3),
            probe_after: Duration::from_secs(4),
            probe_timeout: Duration::from_secs(3),
            max_stream_window: 16 * 1024 * 1024,
            max_session_window: 32 * 1024 * 1024,
        }
    }
}

/// The contents of a `hello`. There is no `Debug`, so that the token is never printed.
#[derive(Clone, Copy)]
pub struct Greeting<'a> {
    /// The id of the device.
    pub device_id: &'a str,
    /// The token of the device.
    pub token: &'a str,
    /// Program and version, at most 128 bytes.
    pub client_version: &'a str,
    /// The region that the device would like to leave from.
    pub region: Option<&'a str>,
    /// Whether the second wire format is offered; a gateway without it speaks JSON all the same.
    pub offers_v2: bool,
}

/// A session that the gateway has accepted.
///
/// A task drives it to its end; it needs a tokio runtime with time. When the `Connection` is
/// dropped its streams continue, and the drop of the last one closes it.
pub struct Connection {
    shared: Arc<Shared>,
    session_id: Box<str>,
    subscription_status: Option<Box<str>>,
}

impl Connection {
    /// Sends `hello` over `link`, waits for the answer and starts the driver.
    ///
    /// `changes` is notified whenever the count of streams, the draining, the silence or the end of the
    /// connection may have changed; several connections may share one. Cancel safe in that dropping the
    /// future drops the link.
    pub async fn spawn<T>(
        link: Link<T>,
        greeting: &Greeting<'_>,
        settings: Settings,
        changes: watch::Sender<()>,
    ) -> Result<Self, HelloError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut carrier: Box<dyn Carrier> = Box::new(link);
        let Greeting { device_id, token, client_version, region, offers_v2 } = *greeting;
        let mut session = ClientSession::hello(
            device_id,
            token,
            client_version,
            region,
            offers_v2,
            &mut carrier.outbox(),
        );
        let mut answer = Answer::default();
        let result = tokio::time::timeout(
            settings.hello_timeout,
            poll_fn(|cx| answer.poll(cx, &mut *carrier, &mut session)),
        )
        .await
        .unwrap_or(Err(HelloError::Timeout));
        let (session_id, subscription_status) = match result {
            Ok(welcome) => welcome,
            Err(error) => {
                part(&mut *carrier).await;
                return Err(error);
            }
        };
        let now = tokio::time::Instant::now().into_std();
        let shared = Arc::new(Shared::new(State::new(carrier, session, settings, now), changes));
        tokio::spawn(Driver::new(shared.clone()));
        Ok(Self { shared, session_id, subscription_status })
    }

    /// Opens a stream to `target` (`host:port`, at most 262 bytes).
    ///
    /// With a gateway that speaks `open_ack` it waits until the target answers or fails, or the
    /// gateway falls silent, without a deadline of its own; otherwise it returns at once, and a failure comes with the first
    /// read. Cancel safe: dropping the future closes the stream.
    pub async fn open(&self, target: &str) -> Result<Stream, OpenError> {
        self.begin(target)?.await
    }

    /// The first half of [`Self::open`]: takes a place and asks the gateway, without waiting.
    pub fn begin(&self, target: &str) -> Result<Opening, OpenError> {
        let now = tokio::time::Instant::now().into_std();
        let id = self.shared.with(|state| state.open(Kind::Bytes, target, now))?;
        Ok(Opening { stream: Some(Stream { shared: self.shared.clone(), id }) })
    }

    /// Takes a place for datagrams to `target` and asks the gateway for them. Datagrams may be sent
    /// at once; whether the gateway opens the flow shows when some are received.
    pub fn begin_datagrams(&self, target: &str) -> Result<Datagrams, OpenError> {
        let now = tokio::time::Instant::now().into_std();
        let id = self.shared.with(|state| state.open(Kind::Datagrams, target, now))?;
        Ok(Datagrams { shared: self.shared.clone(), id })
    }

    /// The session's UUID, as the gateway gave it; at most 256 bytes.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// The status of the subscription, from the backend.
    pub fn subscription_status(&self) -> Option<&str> {
        self.subscription_status.as_deref()
    }

    /// Streams open at the gateway now.
    pub fn stream_count(&self) -> usize {
        self.shared.with(|state| state.wire.stream_count())
    }

    /// Streams that this session may have at once.
    pub fn max_streams(&self) -> usize {
        self.shared.with(|state| state.wire.max_streams())
    }

    /// Whether the gateway reports that a stream's target has accepted.
    pub fn has_open_ack(&self) -> bool {
        self.shared.with(|state| state.wire.has_open_ack())
    }

    /// Whether the connection speaks the second wire format.
    pub fn has_v2(&self) -> bool {
        self.shared.with(|state| state.wire.has_half_close())
    }

    /// Whether the gateway has announced that it will close the connection.
    pub fn is_draining(&self) -> bool {
        self.shared.with(|state| state.is_draining())
    }

    /// Whether the gateway has not answered while something waited for it: see
    /// [`Settings::probe_after`]. Streams that are open may still go on.
    pub fn is_silent(&self) -> bool {
        self.shared.with(|state| state.silence.is_silent())
    }

    /// Why the connection is over or closing; None while it is not.
    pub fn end(&self) -> Option<Arc<ConnectionEnd>> {
        self.shared.with(|state| state.end())
    }

    /// Begins to close: streams fail, what is queued is sent, the gateway is told. The rest is
    /// done by the driver within [`Settings::close_timeout`]; [`Self::closed`] waits for it.
    pub fn close(&self) {
        let now = tokio::time::Instant::now().into_std();
        self.shared.with(|state| state.close(now));
    }

    /// Waits until the connection is over and says why. Cancel safe.
    pub async fn closed(&self) -> Arc<ConnectionEnd> {
        let mut changes = self.shared.changes();
        loop {
            changes.mark_unchanged();
            let end = self.shared.with(|state| state.is_over().then(|| state.end()).flatten());
            if let Some(end) = end {
                return end;
            }
            // The sender lives in `shared`, which we hold.
            let _ = changes.changed().await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.with(State::abandon);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("session_id", &self.session_id).finish_non_exhaustive()
    }
}

/// A stream that the gateway has been asked for. Dropping it closes the stream.
#[derive(Debug)]
#[must_use = "the stream is closed when this is dropped"]
pub struct Opening {
    stream: Option<Stream>,
}

impl Future for Opening {
    type Output = Result<Stream, OpenError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stream = self.stream.as_ref().expect("polled after it was ready");
        ready!(stream.shared.with(|state| state.poll_open(stream.id, cx)))?;
        Poll::Ready(Ok(self.stream.take().expect("polled after it was ready")))
    }
}

/// Waits for the answer to a `hello`.
#[derive(Default)]
struct Answer {
    scratch: Vec<u8>,
    /// The last `error` of the gateway: code and words.
    error: Option<(Box<str>, Box<str>)>,
}

type Welcome = (Box<str>, Option<Box<str>>);

impl Answer {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        carrier: &mut dyn Carrier,
        session: &mut ClientSession,
    ) -> Poll<Result<Welcome, HelloError>> {
        let now = tokio::time::Instant::now().into_std();
        loop {
            let received = carrier.poll_recv(cx, now)?;
            // After receiving, so that an answer to a ping goes out as well.
            let _ = carrier.poll_flush(cx, now)?;
            match ready!(received) {
                Event::Message(MessageKind::Text) => {
                    if let Some(result) = self.handle_text(carrier, session) {
                        return Poll::Ready(result);
                    }
                }
                Event::Close { code } => return Poll::Ready(Err(self.closed(code))),
                _ => {}
            }
        }
    }

    fn handle_text(
        &mut self,
        carrier: &mut dyn Carrier,
        session: &mut ClientSession,
    ) -> Option<Result<Welcome, HelloError>> {
        let (message, mut out) = carrier.message();
        match session.handle_text(message, &mut self.scratch, &mut out) {
            ClientInput::Authenticated(result) => {
                let status = result.subscription_status.as_deref().map(plain);
                Some(if result.allowed {
                    Ok((plain(result.session_id.as_deref().unwrap_or_default()), status))
                } else {
                    let reason = plain(result.reason.as_deref().unwrap_or_default());
                    Err(HelloError::Refused { reason, subscription_status: status })
                })
            }
            ClientInput::Error { code, reason, .. } if code == "outline_unavailable" => {
                Some(Err(HelloError::NoNode {
                    reason: plain(reason.as_deref().unwrap_or_default()),
                }))
            }
            ClientInput::Error { code, words, .. } => {
                self.error = Some((plain(&code), plain(&words)));
                None
            }
            _ => None,
        }
    }

    /// A gateway sends an `error` with the cause before it closes.
    fn closed(&mut self, code: Option<u16>) -> HelloError {
        match self.error.take() {
            Some((token, words)) if &*token == "bad_hello" => HelloError::BadHello(words),
            error => HelloError::Closed { code, words: error.map(|(_, words)| words) },
        }
    }
}

/// Sends a Close frame, without waiting for the answer.
async fn part(carrier: &mut dyn Carrier) {
    const PATIENCE: Duration = Duration::from_millis(500);
    carrier.queue_close(1000, "");
    let farewell = poll_fn(|cx| carrier.poll_shutdown(cx));
    // Both outcomes and the time-out mean the same: the connection is given up.
    let _ = tokio::time::timeout(PATIENCE, farewell).await;
}

/// Why a session could not be opened.
#[derive(Debug)]
pub enum HelloError {
    /// The gateway did not answer within [`Settings::hello_timeout`].
    Timeout,
    /// The device was refused, or the backend failed; see the reason.
    Refused {
        /// The gateway's reason; may be empty.
        reason: Box<str>,
        /// The status of the subscription, from the backend.
        subscription_status: Option<Box<str>>,
    },
    /// The backend accepted the device, and the gateway has no node for its streams.
    NoNode {
        /// The gateway's reason; may be empty.
        reason: Box<str>,
    },
    /// The gateway rejected the `hello` as invalid, with its message.
    BadHello(Box<str>),
    /// The gateway closed the connection instead of an answer.
    Closed {
        /// The WebSocket close code.
        code: Option<u16>,
        /// The last message of the gateway.
        words: Option<Box<str>>,
    },
    /// The connection failed.
    Link(LinkError),
}

impl From<LinkError> for HelloError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the gateway did not answer the hello in time"),
            Self::Refused { reason, .. } => write!(f, "the gateway refused the device: {reason}"),
            Self::NoNode { reason } => {
                write!(f, "the gateway has no node for the session: {reason}")
            }
            Self::BadHello(words) => write!(f, "the gateway did not accept the hello: {words}"),
            Self::Closed { code, words } => write_closed(f, *code, words.as_deref()),
            Self::Link(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HelloError {}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// This side closed it.
    Local,
    /// The gateway closed it.
    Gateway {
        /// The WebSocket close code.
        code: Option<u16>,
        /// The last message of the gateway.
        words: Option<Box<str>>,
    },
    /// The gateway answered no pings.
    KeepAlive,
    /// The gateway accepted no data for the write time-out.
    WriteTimeout,
    /// The connection broke, with the cause.
    Lost(Box<str>),
}

impl From<LinkError> for ConnectionEnd {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::KeepAlive => Self::KeepAlive,
            LinkError::WriteTimeout => Self::WriteTimeout,
            LinkError::WebSocket(_) | LinkError::MessageTimeout => {
                Self::Lost(error.to_string().into())
            }
        }
    }
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("the connection was closed here"),
            Self::Gateway { code, words } => write_closed(f, *code, words.as_deref()),
            Self::KeepAlive => f.write_str("the gateway answers no pings"),
            Self::WriteTimeout => f.write_str("the gateway takes no data"),
            Self::Lost(words) => write!(f, "the connection to the gateway was lost: {words}"),
        }
    }
}

/// Writes that the gateway closed the connection, and why: in its own words, or in those of the
/// code (RFC 6455 section 7.4.1).
fn write_closed(f: &mut fmt::Formatter<'_>, code: Option<u16>, words: Option<&str>) -> fmt::Result {
    f.write_str("the gateway closed the connection")?;
    let meaning = words.or(match code {
        Some(1001 | 1012) => Some("it restarts or goes out of service"),
        Some(1008) => Some("it is against its rules"),
        Some(1009) => Some("a message was too large for it"),
        Some(1013) => Some("it is busy, try again later"),
        _ => None,
    });
    match (meaning, code) {
        (None, None) => Ok(()),
        (None, Some(code)) => write!(f, " (code {code})"),
        (Some(words), None) => write!(f, ": {words}"),
        (Some(words), Some(code)) => write!(f, ": {words} (code {code})"),
    }
}

/// Why a stream did not open.
#[derive(Debug, Clone)]
pub enum OpenError {
    /// No place on this connection now: the limit of streams or of opens a second is reached, or
    /// the gateway takes no data. Nothing of it reached a target; another connection may do.
    NoPlace,
    /// The gateway drains; another connection may do.
    Draining,
    /// The gateway does not answer; nothing has reached the target as far as is known, and another
    /// connection may do.
    Silent,
    /// The connection is over.
    Closed(Arc<ConnectionEnd>),
    /// The target is longer than 262 bytes.
    TargetTooLong,
    /// The connection speaks JSON, which carries no datagrams.
    NoDatagrams,
    /// The gateway could not or would not reach the target.
    Failed(StreamFailure),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPlace => f.write_str("the session has no place for another stream"),
            Self::Draining => f.write_str("the gateway is going away"),
            Self::Silent => f.write_str(SILENT),
            Self::Closed(end) => end.fmt(f),
            Self::TargetTooLong => f.write_str("the target is longer than 262 bytes"),
            Self::NoDatagrams => f.write_str("the gateway carries no datagrams (no v2)"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}
