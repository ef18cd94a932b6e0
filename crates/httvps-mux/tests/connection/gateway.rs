//! A gateway whose every step the test decides, over a pipe in memory.

use httvps_mux::{Connection, Greeting, HelloError, Link, LinkError, LinkTiming, Settings, Stream};
use httvps_proto::{Input, Limits, Session, StreamEnd, StreamKey, Verdict};
use httvps_transport::ws::{self, Event, Kind, Role, WebSocket};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::watch;
use tokio::time::Instant;

/// What a client did.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Open(StreamKey, String),
    Data(StreamKey, Vec<u8>),
    Close(StreamKey),
    /// The connection closes, with this code.
    Closed(Option<u16>),
    /// The connection broke.
    Gone,
}

pub(crate) struct Gateway {
    pub(crate) link: Link<DuplexStream>,
    pub(crate) session: Session,
    scratch: Vec<u8>,
}

pub(crate) const OFF: LinkTiming = LinkTiming {
    keepalive_interval: Duration::ZERO,
    keepalive_max_missed: 2,
    write_timeout: Duration::ZERO,
};

pub(crate) fn limits(max_streams: usize) -> Limits {
    Limits { max_streams, ..Limits::default() }
}

/// The two ends of a pipe that holds `capacity` bytes in each direction.
pub(crate) fn pipe(
    capacity: usize,
    timing: LinkTiming,
) -> (Link<DuplexStream>, Link<DuplexStream>) {
    let (near, far) = duplex(capacity);
    let now = Instant::now().into_std();
    let link = |io, role, timing| {
        Link::new(WebSocket::new(io, role, ws::Limits::default(), &[]), timing, now)
    };
    (link(near, Role::Client, timing), link(far, Role::Server, OFF))
}

pub(crate) async fn greet(
    link: Link<DuplexStream>,
    settings: Settings,
) -> Result<Connection, HelloError> {
    let greeting = Greeting {
        device_id: "device",
        token: "token",
        client_version: "test",
        region: None,
        offers_v2: false,
    };
    Connection::spawn(link, &greeting, settings, watch::Sender::default()).await
}

/// A client that has been let in, and its gateway.
pub(crate) async fn pair(
    capacity: usize,
    limits: Limits,
    settings: Settings,
) -> (Connection, Gateway) {
    pair_with(capacity, limits, settings, OFF).await
}

pub(crate) async fn pair_with(
    capacity: usize,
    limits: Limits,
    settings: Settings,
    timing: LinkTiming,
) -> (Connection, Gateway) {
    let (near, far) = pipe(capacity, timing);
    let mut gateway = Gateway::new(far, limits);
    let (connection, ()) = tokio::join!(greet(near, settings), gateway.admit());
    (connection.unwrap(), gateway)
}

impl Gateway {
    pub(crate) fn new(link: Link<DuplexStream>, limits: Limits) -> Self {
        Self { link, session: Session::new(Arc::new(limits)), scratch: Vec::new() }
    }

    pub(crate) async fn admit(&mut self) {
        self.answer(&Verdict::Allowed { session_id: "s-1", subscription_status: Some("active") })
            .await;
    }

    /// Waits for the `hello` and answers it.
    pub(crate) async fn answer(&mut self, verdict: &Verdict<'_>) {
        self.hello().await;
        let now = Instant::now().into_std();
        self.session.handle_verdict(now, verdict, &mut self.link.outbox());
        self.flush().await.unwrap();
    }

    pub(crate) async fn hello(&mut self) {
        let event = self.event().await.unwrap();
        assert_eq!(event, Event::Message(Kind::Text));
        let (message, mut out) = self.link.message();
        let now = Instant::now().into_std();
        let input = self.session.handle_text(now, message, &mut self.scratch, &mut out);
        assert!(matches!(input, Input::Hello(_)));
    }

    async fn event(&mut self) -> Result<Event, LinkError> {
        poll_fn(|cx| {
            let now = Instant::now().into_std();
            let event = self.link.poll_recv(cx, now);
            if let Poll::Ready(Err(error)) = self.link.poll_flush(cx, now) {
                return Poll::Ready(Err(error));
            }
            event
        })
        .await
    }

    pub(crate) async fn flush(&mut self) -> Result<(), LinkError> {
        poll_fn(|cx| self.link.poll_flush(cx, Instant::now().into_std())).await
    }

    /// The next thing that the client does.
    pub(crate) async fn next(&mut self) -> Seen {
        loop {
            match self.event().await {
                Ok(Event::Message(_)) => {}
                Ok(Event::Close { code }) => {
                    let _ = self.flush().await;
                    return Seen::Closed(code);
                }
                Ok(_) => continue,
                Err(_) => return Seen::Gone,
            }
            let (message, mut out) = self.link.message();
            let now = Instant::now().into_std();
            match self.session.handle_text(now, message, &mut self.scratch, &mut out) {
                Input::Open { stream, target } => {
                    return Seen::Open(stream, target.unwrap_or_default().into_owned());
                }
                Input::Data { stream, data } => return Seen::Data(stream, data.to_vec()),
                Input::Close { stream } => return Seen::Close(stream),
                _ => {}
            }
        }
    }

    /// Waits for a `stream_open` and says that it stands.
    pub(crate) async fn open(&mut self) -> StreamKey {
        let Seen::Open(stream, _) = self.next().await else { panic!("expected stream_open") };
        self.session.opened(stream, &mut self.link.outbox());
        self.flush().await.unwrap();
        stream
    }

    pub(crate) async fn write(&mut self, stream: StreamKey, data: &[u8]) {
        assert!(self.session.write(stream, data, &mut self.link.outbox()));
        self.flush().await.unwrap();
    }

    pub(crate) async fn end(&mut self, stream: StreamKey, end: StreamEnd) {
        assert!(self.session.end(stream, end, &mut self.link.outbox()));
        self.flush().await.unwrap();
    }

    /// Sends back whatever comes, for ever.
    pub(crate) async fn echo(mut self) {
        loop {
            match self.next().await {
                Seen::Open(stream, _) => self.session.opened(stream, &mut self.link.outbox()),
                Seen::Data(stream, data) => {
                    self.session.write(stream, &data, &mut self.link.outbox());
                }
                Seen::Close(_) => {}
                Seen::Closed(_) | Seen::Gone => return,
            }
        }
    }
}

/// Opens a stream on both sides.
pub(crate) async fn open(connection: &Connection, gateway: &mut Gateway) -> (Stream, StreamKey) {
    let (stream, key) = tokio::join!(connection.open("target:1"), gateway.open());
    (stream.unwrap(), key)
}
