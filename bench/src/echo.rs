//! Echo load: messages kept in flight on one connection, and what they cost the server.

use crate::frames::{Frames, text_frame};
use crate::process::{Server, Usage, Used};
use crate::session::{Endpoint, Session};
use serde_json::json;
use std::cell::Cell;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// Streams of the session, and messages that each keeps in flight.
pub(crate) const STREAMS: usize = 4;
pub(crate) const IN_FLIGHT: usize = 2;

/// How much of an unexpected message is shown.
const SHOWN: usize = 200;

/// How long the load runs before and while it is measured.
#[derive(Clone, Copy)]
pub(crate) struct Length {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What a load cost.
pub(crate) struct Echoed {
    /// GiB of payload, counted once although it crosses the server in both directions.
    pub(crate) gib: f64,
    pub(crate) used: Used,
}

/// One session of a gateway: 4 streams with 2 messages of `payload` bytes each in flight.
pub(crate) async fn through_gateway(
    server: &Server,
    endpoint: &Endpoint,
    payload: usize,
    length: Length,
) -> io::Result<Echoed> {
    let data = base64(payload);
    let mut session = Session::open(endpoint, "bench-echo").await?;
    for number in 0..STREAMS {
        session.echo_once(&stream_id(number), &data).await?;
    }
    let (stream, mut frames) = session.into_parts();
    frames.keep(SHOWN);
    let load = Load { frames: messages(&data), least: data.len(), end: End::After(length) };
    let (count, used) = load.run(stream, frames, server).await?;
    Ok(Echoed { gib: gib(count * payload), used })
}

/// The same messages, byte for byte, over TLS through a server that does not look into them.
pub(crate) async fn through_plain(
    server: &Server,
    endpoint: &Endpoint,
    payload: usize,
    length: Length,
) -> io::Result<Echoed> {
    let data = base64(payload);
    let stream = endpoint.connect().await?;
    let load = Load { frames: messages(&data), least: data.len(), end: End::After(length) };
    // What comes back are our own frames.
    let (count, used) = load.run(stream, Frames::new(true, SHOWN), server).await?;
    Ok(Echoed { gib: gib(count * payload), used })
}

/// Echoes `count` messages of `payload` bytes, whatever the time.
pub(crate) async fn fixed(
    server: &Server,
    endpoint: &Endpoint,
    payload: usize,
    count: usize,
) -> io::Result<()> {
    let data = base64(payload);
    let mut session = Session::open(endpoint, "bench-fixed").await?;
    for number in 0..STREAMS {
        session.echo_once(&stream_id(number), &data).await?;
    }
    let (stream, mut frames) = session.into_parts();
    frames.keep(SHOWN);
    let load = Load { frames: messages(&data), least: data.len(), end: End::Count(count) };
    load.run(stream, frames, server).await.map(drop)
}

/// Payload of `length` bytes in the standard alphabet.
pub(crate) fn base64(length: usize) -> String {
    let payload: Vec<u8> = (0..length).map(|at| (at * 131 % 251) as u8).collect();
    base64_turbo::STANDARD.encode(&payload)
}

fn gib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn stream_id(number: usize) -> String {
    format!("s{number}")
}

/// A `stream_data` for each stream.
fn messages(data: &str) -> Vec<Vec<u8>> {
    let message = |number| {
        json!({"type": "stream_data", "stream_id": stream_id(number), "data": data}).to_string()
    };
    (0..STREAMS).map(|number| text_frame(message(number).as_bytes())).collect()
}

enum End {
    After(Length),
    Count(usize),
}

struct Load {
    /// Sent in turn.
    frames: Vec<Vec<u8>>,
    /// A shorter message is no echo.
    least: usize,
    end: End,
}

impl Load {
    /// Gives the messages that came back while it was measured, and what that cost.
    async fn run(
        self,
        stream: impl AsyncRead + AsyncWrite,
        frames: Frames,
        server: &Server,
    ) -> io::Result<(usize, Used)> {
        let (reader, writer) = tokio::io::split(stream);
        let credit = Semaphore::new(STREAMS * IN_FLIGHT);
        let received = Cell::new(0);
        tokio::select! {
            result = self.read(reader, frames, &credit, &received) => match (result, &self.end) {
                (Err(error), _) => Err(error),
                (Ok(()), End::Count(_)) => {
                    let now = Usage::of(server)?;
                    Ok((received.get(), now.until(now)))
                }
                (Ok(()), End::After(_)) => Err(io::ErrorKind::UnexpectedEof.into()),
            },
            Err(error) = self.write(writer, &credit) => Err(error),
            result = self.measure(server, &received) => result,
        }
    }

    async fn read(
        &self,
        mut reader: impl AsyncRead + Unpin,
        mut frames: Frames,
        credit: &Semaphore,
        received: &Cell<usize>,
    ) -> io::Result<()> {
        let mut piece = vec![0; 256 * 1024];
        loop {
            if matches!(self.end, End::Count(count) if received.get() >= count) {
                return Ok(());
            }
            let length = reader.read(&mut piece).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            frames.feed(&piece[..length], |message| {
                if message.length < self.least {
                    let words = String::from_utf8_lossy(message.start);
                    return Err(io::Error::other(format!("not an echo: {words}")));
                }
                received.set(received.get() + 1);
                credit.add_permits(1);
                Ok(())
            })?;
        }
    }

    /// Never ends but with an error.
    async fn write(
        &self,
        mut writer: impl AsyncWrite + Unpin,
        credit: &Semaphore,
    ) -> io::Result<()> {
        for frame in self.frames.iter().cycle() {
            credit.acquire().await.map_err(io::Error::other)?.forget();
            writer.write_all(frame).await?;
            writer.flush().await?;
        }
        Ok(())
    }

    async fn measure(&self, server: &Server, received: &Cell<usize>) -> io::Result<(usize, Used)> {
        let End::After(length) = self.end else { return std::future::pending().await };
        sleep(length.warm_up).await;
        let (before, begin) = (received.get(), Usage::of(server)?);
        sleep(length.measured).await;
        Ok((received.get() - before, begin.until(Usage::of(server)?)))
    }
}
