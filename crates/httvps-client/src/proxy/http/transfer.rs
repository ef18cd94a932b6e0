//! Heads and bodies between two connections.

use super::body::{Decoder, Encoding, Step};
use super::head::{MAX_HEAD, Search};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use httvps_mux::CHUNK;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of a read at first, and the most; a read that fills its room makes it four times as large.
/// The most is what a stream takes in one frame, as one chunk too.
const SMALL: usize = 4 * 1024;
const LARGE: usize = CHUNK - 16;

/// What has been read from a connection and not been used yet.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: BytesMut,
    room: usize,
}

/// Why there is no head.
#[derive(Debug)]
pub(super) enum NoHead {
    /// The connection ended, or broke; `has_begun` says whether a part of a head had come.
    Ended {
        has_begun: bool,
    },
    TooLarge,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { bytes: BytesMut::new(), room: SMALL }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Everything at hand.
    pub(super) fn take(&mut self) -> Bytes {
        self.bytes.split().freeze()
    }

    /// Gives the memory back that an empty inbox holds.
    pub(super) fn rest(&mut self) {
        if self.bytes.is_empty() {
            *self = Self::new();
        }
    }

    /// Reads once; 0 is the end of the connection. Cancel safe.
    pub(super) async fn fill<R: AsyncRead + Unpin>(&mut self, source: &mut R) -> io::Result<usize> {
        self.bytes.reserve(self.room);
        let count = source.read_buf(&mut (&mut self.bytes).limit(self.room)).await?;
        if count >= self.room {
            self.room = LARGE.min(4 * self.room);
        }
        Ok(count)
    }

    /// Takes a head, as far as its empty line; empty lines in front of it are skipped.
    pub(super) async fn head<R: AsyncRead + Unpin>(
        &mut self,
        source: &mut R,
    ) -> Result<Bytes, NoHead> {
        let mut search = Search::default();
        loop {
            while self.bytes.starts_with(b"\r\n") {
                self.bytes.advance(2);
            }
            let end = if self.bytes[..] == b"\r"[..] { None } else { search.end(&self.bytes) };
            if end.unwrap_or(self.bytes.len()) > MAX_HEAD {
                return Err(NoHead::TooLarge);
            }
            if let Some(end) = end {
                return Ok(self.bytes.split_to(end).freeze());
            }
            match self.fill(source).await {
                Ok(0) | Err(_) => return Err(NoHead::Ended { has_begun: !self.bytes.is_empty() }),
                Ok(_) => {}
            }
        }
    }
}

/// How far a program's request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Request {
    Unfinished,
    Whole,
    /// The origin does not take the rest.
    Unwanted,
}

/// How far an exchange has come. Both of its directions see it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    moved: AtomicU64,
    request: AtomicU8,
    is_answered: AtomicBool,
}

impl Progress {
    /// Bytes written in both directions.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    pub(super) fn request(&self) -> Request {
        match self.request.load(Ordering::Relaxed) {
            0 => Request::Unfinished,
            1 => Request::Whole,
            _ => Request::Unwanted,
        }
    }

    pub(super) fn request_is(&self, request: Request) {
        self.request.store(request as u8, Ordering::Relaxed);
    }

    /// Whether the program may have a part of its final answer.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Relaxed)
    }

    pub(super) fn answer_begins(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    fn count(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Why a body did not come to its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// Its sender left or broke before the end.
    Source(io::Error),
    /// Its reader takes no more.
    Sink,
    /// It does not keep to its format.
    Malformed,
}

/// Moves the body of one message, behind `out`, its head. At most [`LARGE`] bytes are held, twice
/// where they are put into chunks.
pub(super) async fn pump<R, W>(
    (inbox, source): (&mut Inbox, &mut R),
    decoder: &mut Decoder,
    mut out: Vec<u8>,
    encoding: Encoding,
    sink: &mut W,
    progress: &Progress,
) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        match decoder.next(&mut inbox.bytes).map_err(|_| Broken::Malformed)? {
            Step::Data(data)
                if encoding == Encoding::Raw && out.is_empty() && data.len() >= SMALL =>
            {
                write(sink, &data, progress).await?;
            }
            Step::Data(data) => {
                encoding.data(&mut out, &data);
                drop(data);
                // Smaller parts go together, as far as they are here.
                if out.len() >= LARGE {
                    write(sink, &out, progress).await?;
                    out.clear();
                }
            }
            Step::End(trailers) => {
                encoding.end(&mut out, &trailers);
                write(sink, &out, progress).await?;
                return sink.flush().await.map_err(|_| Broken::Sink);
            }
            Step::More => {
                write(sink, &out, progress).await?;
                out.clear();
                sink.flush().await.map_err(|_| Broken::Sink)?;
                match inbox.fill(source).await {
                    Ok(0) if decoder.ends_with_connection() => {
                        encoding.end(&mut out, b"\r\n");
                        write(sink, &out, progress).await?;
                        return sink.flush().await.map_err(|_| Broken::Sink);
                    }
                    Ok(0) => return Err(Broken::Source(io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) => {}
                    Err(error) => return Err(Broken::Source(error)),
                }
            }
        }
    }
}

/// Takes a body without passing it on.
pub(super) async fn discard<R: AsyncRead + Unpin>(
    (inbox, source): (&mut Inbox, &mut R),
    decoder: &mut Decoder,
) -> Result<(), Broken> {
    let nowhere = &mut tokio::io::sink();
    pump((inbox, source), decoder, Vec::new(), Encoding::Raw, nowhere, &Progress::default()).await
}

async fn write<W: AsyncWrite + Unpin>(
    sink: &mut W,
    mut bytes: &[u8],
    progress: &Progress,
) -> Result<(), Broken> {
    while !bytes.is_empty() {
        match sink.write(bytes).await {
            Ok(0) | Err(_) => return Err(Broken::Sink),
            Ok(count) => {
                progress.count(count);
                bytes = &bytes[count..];
            }
        }
    }
    Ok(())
}
