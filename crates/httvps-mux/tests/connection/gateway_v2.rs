//! A gateway that speaks the second wire format, whose every step the test decides.

use crate::gateway::{self, Gateway, OFF, pipe};
use httvps_mux::{Connection, Greeting, Link, Settings};
use httvps_proto::v2::{self, Budget, Event, Frames, ResetCode, Side, Violation};
use httvps_transport::ws::{self, Kind};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a client did.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Open(u32),
    Data(u32, Vec<u8>),
    Finish(u32),
    Reset(u32, ResetCode),
    Credit(u32),
    /// The connection closes, with this code.
    Closed(Option<u16>),
    /// The connection broke.
    Gone,
}

pub(crate) struct GatewayV2 {
    link: Link<DuplexStream>,
    pub(crate) session: v2::Session,
    /// Of a message that was taken as a whole.
    seen: VecDeque<Seen>,
}

/// A client that speaks v2, and its gateway, over a pipe that holds `capacity` bytes in each direction.
pub(crate) async fn pair(capacity: usize, settings: Settings) -> (Connection, GatewayV2) {
    pair_with(capacity, settings, ample()).await
}

/// Limits that no test comes near.
pub(crate) fn ample() -> v2::Limits {
    v2::Limits { max_streams: 100, ..v2::Limits::default() }
}

pub(crate) async fn pair_with(
    capacity: usize,
    settings: Settings,
    limits: v2::Limits,
) -> (Connection, GatewayV2) {
    let (near, far) = pipe(capacity, OFF);
    let mut gateway = Gateway::new(far, gateway::limits(100));
    let greeting = Greeting {
        device_id: "device",
        token: "token",
        client_version: "test",
        region: None,
        offers_v2: true,
    };
    let greet = Connection::spawn(near, &greeting, settings, watch::Sender::default());
    let (connection, ()) = tokio::join!(greet, gateway.admit());
    let now = Instant::now().into_std();
    let session = v2::Session::new(Side::Gateway, limits, Budget::new(1 << 30), now);
    (connection.unwrap(), GatewayV2 { link: gateway.link, session, seen: VecDeque::new() })
}

impl GatewayV2 {
    /// The next thing that the client does; nothing of what it sends is consumed.
    pub(crate) async fn next(&mut self) -> Seen {
        loop {
            if let Some(seen) = self.seen.pop_front() {
                return seen;
            }
            let event = poll_fn(|cx| {
                let now = Instant::now().into_std();
                let event = self.link.poll_recv(cx, now);
                if let Poll::Ready(Err(error)) = self.link.poll_flush(cx, now) {
                    return Poll::Ready(Err(error));
                }
                event
            })
            .await;
            match event {
                Ok(ws::Event::Message(Kind::Binary)) => self.take().unwrap(),
                Ok(ws::Event::Message(Kind::Text)) => panic!("text in the second format"),
                Ok(ws::Event::Close { code }) => {
                    let _ = self.flush().await;
                    return Seen::Closed(code);
                }
                Ok(_) => {}
                Err(_) => return Seen::Gone,
            }
        }
    }

    /// As [`next`](Self::next), without grants of credit.
    pub(crate) async fn next_deed(&mut self) -> Seen {
        loop {
            match self.next().await {
                Seen::Credit(_) => {}
                seen => return seen,
            }
        }
    }

    fn take(&mut self) -> Result<(), Violation> {
        let now = Instant::now().into_std();
        let (message, mut out) = self.link.message();
        for frame in Frames::new(message, Side::Client) {
            let frame = frame?;
            let session = &mut self.session;
            let seen = match out.frames(|frames| session.handle_frame(now, frame, frames))? {
                Event::Open { stream, .. } => Seen::Open(stream),
                Event::Data { stream, data } => Seen::Data(stream, data.to_vec()),
                Event::Finish(stream) => Seen::Finish(stream),
                Event::Reset { stream, code, .. } => Seen::Reset(stream, code),
                Event::Credit(stream) => Seen::Credit(stream),
                _ => continue,
            };
            self.seen.push_back(seen);
        }
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> Result<(), httvps_mux::LinkError> {
        poll_fn(|cx| self.link.poll_flush(cx, Instant::now().into_std())).await
    }

    /// Does something to the session and sends what comes of it.
    pub(crate) async fn act<R>(
        &mut self,
        command: impl FnOnce(&mut v2::Session, &mut Vec<u8>) -> R,
    ) -> R {
        let session = &mut self.session;
        let result = self.link.outbox().frames(|frames| command(session, frames));
        self.flush().await.unwrap();
        result
    }

    /// Waits for an OPEN and says that the target has answered.
    pub(crate) async fn open(&mut self) -> u32 {
        let Seen::Open(stream) = self.next_deed().await else { panic!("expected OPEN") };
        self.act(|session, out| session.opened(stream, out)).await;
        stream
    }

    /// Sends all of `data`, which must be within the credit.
    pub(crate) async fn write(&mut self, stream: u32, mut data: &[u8]) {
        while !data.is_empty() {
            let sent = self.act(|session, out| session.write(stream, data, out)).await;
            assert_ne!(sent, 0, "no credit is left");
            data = &data[sent..];
        }
    }

    pub(crate) async fn consumed(&mut self, stream: u32, bytes: usize) {
        let now = Instant::now().into_std();
        self.act(|session, out| session.consumed(stream, bytes, now, out)).await;
    }

    pub(crate) async fn finish(&mut self, stream: u32) {
        self.act(|session, out| session.finish(stream, out)).await;
    }

    pub(crate) async fn reset(&mut self, stream: u32, code: ResetCode) {
        self.act(|session, out| session.reset(stream, code, "", out)).await;
    }

    /// Takes payload of one stream until `count` bytes are there, and grants as many again.
    pub(crate) async fn read(&mut self, stream: u32, count: usize) -> Vec<u8> {
        let mut got = Vec::new();
        while got.len() < count {
            match self.next_deed().await {
                Seen::Data(from, data) if from == stream => {
                    self.consumed(stream, data.len()).await;
                    got.extend(data);
                }
                other => panic!("{other:?} after {} bytes", got.len()),
            }
        }
        got
    }

    /// Sends `count` bytes of one stream back as they come, as far as the credit goes.
    pub(crate) async fn echo(&mut self, stream: u32, count: usize) {
        let (mut waiting, mut sent) = (Vec::new(), 0);
        while sent < count {
            let now = self.act(|session, out| session.write(stream, &waiting, out)).await;
            waiting.drain(..now);
            sent += now;
            if now > 0 {
                continue;
            }
            match self.next().await {
                Seen::Data(_, data) => {
                    self.consumed(stream, data.len()).await;
                    waiting.extend(data);
                }
                Seen::Credit(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
