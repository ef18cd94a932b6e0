//! Frames and their bytes.

use super::{HEADER, MAX_CREDIT, MAX_DATA, MAX_DATAGRAM, MAX_TARGET, MAX_WORDS, ResetCode};
use std::fmt;

/// Types from here on are skipped by a receiver that does not know them.
const SKIPPED: u8 = 0x80;

/// The sender of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The device.
    Client,
    /// The gateway.
    Gateway,
}

impl Side {
    /// The other one.
    pub const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Gateway,
            Self::Gateway => Self::Client,
        }
    }
}

/// The kind of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A byte flow with credit and half-close.
    Bytes = 1,
    /// Datagrams with their boundaries, without credit.
    Datagrams = 2,
}

/// One frame; it borrows its payload from the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of docs/protocol-v2.md")]
pub enum Frame<'m> {
    /// A new stream; an empty target names none.
    Open { stream: u32, kind: Kind, target: &'m str },
    /// The far socket is open.
    Opened { stream: u32 },
    /// Bytes of a stream.
    Data { stream: u32, data: &'m [u8] },
    /// No more DATA of the sender.
    Finish { stream: u32 },
    /// The stream is over in both directions.
    Reset { stream: u32, code: ResetCode, words: &'m str },
    /// More bytes may be sent; stream 0 is the session.
    Credit { stream: u32, increment: u32 },
    /// One datagram.
    Datagram { stream: u32, data: &'m [u8] },
    /// A question whose answer measures the round trip.
    Ping { opaque: [u8; 8] },
    /// The answer.
    Pong { opaque: [u8; 8] },
    /// The session ends after the deadline.
    GoAway { code: ResetCode, deadline_ms: u32, words: &'m str },
    /// A type of a later version, to be passed over.
    Skipped,
}

/// Why a message is no sequence of frames. All are protocol errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadFrame {
    /// The message ends inside a frame.
    Truncated,
    /// A type below 0x80 that means nothing.
    UnknownType,
    /// A type that only the other side may send.
    WrongDirection,
    /// A length that the type does not allow.
    BadLength,
    /// Stream 0 where a stream is needed, or a stream where 0 is.
    BadStream,
    /// A kind, a credit or a text that is out of its range.
    BadValue,
}

impl BadFrame {
    /// A short text; also the reason of the WebSocket Close 1002.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Truncated => "message ends inside a frame",
            Self::UnknownType => "unknown frame type",
            Self::WrongDirection => "frame type of the other side",
            Self::BadLength => "bad frame length",
            Self::BadStream => "bad stream id",
            Self::BadValue => "bad value in a frame",
        }
    }
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl std::error::Error for BadFrame {}

/// The frames of one message, decoded one by one without allocation.
///
/// Ends after the first error: the rest of the message is ignored.
#[derive(Debug, Clone)]
pub struct Frames<'m> {
    rest: &'m [u8],
    sender: Side,
}

impl<'m> Frames<'m> {
    /// The frames of a whole message that `sender` sent.
    pub const fn new(message: &'m [u8], sender: Side) -> Self {
        Self { rest: message, sender }
    }

    /// The bytes after the last decoded frame; none after an error.
    pub const fn rest(&self) -> &'m [u8] {
        self.rest
    }
}

impl<'m> Iterator for Frames<'m> {
    type Item = Result<Frame<'m>, BadFrame>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let result = decode(self.rest, self.sender);
        self.rest = match &result {
            Ok((_, rest)) => rest,
            Err(_) => &[],
        };
        Some(result.map(|(frame, _)| frame))
    }
}

/// Decodes the first frame; returns it and the rest.
fn decode(bytes: &[u8], sender: Side) -> Result<(Frame<'_>, &[u8]), BadFrame> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(BadFrame::Truncated)?;
    let [kind, a, b, c, id @ ..] = *header;
    let (len, stream) = (u32::from_be_bytes([0, a, b, c]) as usize, u32::from_be_bytes(id));
    let allowed = shape(kind, sender)?;
    if !allowed.lengths.contains(&len) {
        return Err(BadFrame::BadLength);
    }
    if allowed.stream.is_some_and(|needs_one| needs_one != (stream != 0)) {
        return Err(BadFrame::BadStream);
    }
    let (payload, rest) = rest.split_at_checked(len).ok_or(BadFrame::Truncated)?;
    Ok((body(kind, stream, payload).ok_or(BadFrame::BadValue)?, rest))
}

/// The values that the header of a type may have.
struct Shape {
    lengths: std::ops::RangeInclusive<usize>,
    /// Whether a stream must be named (or must not be); None = either.
    stream: Option<bool>,
}

fn shape(kind: u8, sender: Side) -> Result<Shape, BadFrame> {
    let only = |side| if sender == side { Ok(()) } else { Err(BadFrame::WrongDirection) };
    let (lengths, stream) = match kind {
        OPEN => {
            only(Side::Client)?;
            (1..=1 + MAX_TARGET, Some(true))
        }
        OPENED => {
            only(Side::Gateway)?;
            (0..=0, Some(true))
        }
        DATA => (0..=MAX_DATA, Some(true)),
        FINISH => (0..=0, Some(true)),
        RESET => (1..=1 + MAX_WORDS, Some(true)),
        CREDIT => (4..=4, None),
        DATAGRAM => (0..=MAX_DATAGRAM, Some(true)),
        PING | PONG => (8..=8, Some(false)),
        GO_AWAY => {
            only(Side::Gateway)?;
            (5..=5 + MAX_WORDS, Some(false))
        }
        SKIPPED.. => (0..=MAX_DATA, None),
        _ => return Err(BadFrame::UnknownType),
    };
    Ok(Shape { lengths, stream })
}

/// The frame of a type whose length is right; None when a value in it is not.
fn body(kind: u8, stream: u32, payload: &[u8]) -> Option<Frame<'_>> {
    let text = |bytes| std::str::from_utf8(bytes).ok();
    Some(match kind {
        OPEN => {
            let (kind, target) = payload.split_first()?;
            let kind = match kind {
                1 => Kind::Bytes,
                2 => Kind::Datagrams,
                _ => return None,
            };
            Frame::Open { stream, kind, target: text(target)? }
        }
        OPENED => Frame::Opened { stream },
        DATA => Frame::Data { stream, data: payload },
        FINISH => Frame::Finish { stream },
        RESET => {
            let (code, words) = payload.split_first()?;
            Frame::Reset { stream, code: ResetCode::from_wire(*code), words: text(words)? }
        }
        CREDIT => {
            let increment = u32::from_be_bytes(payload.try_into().ok()?);
            (1..=MAX_CREDIT).contains(&increment).then_some(Frame::Credit { stream, increment })?
        }
        DATAGRAM => Frame::Datagram { stream, data: payload },
        PING => Frame::Ping { opaque: payload.try_into().ok()? },
        PONG => Frame::Pong { opaque: payload.try_into().ok()? },
        GO_AWAY => {
            let (code, rest) = payload.split_first()?;
            let (deadline, words) = rest.split_first_chunk::<4>()?;
            Frame::GoAway {
                code: ResetCode::from_wire(*code),
                deadline_ms: u32::from_be_bytes(*deadline),
                words: text(words)?,
            }
        }
        _ => Frame::Skipped,
    })
}

const OPEN: u8 = 0x01;
const OPENED: u8 = 0x02;
const DATA: u8 = 0x03;
const FINISH: u8 = 0x04;
const RESET: u8 = 0x05;
const CREDIT: u8 = 0x06;
const DATAGRAM: u8 = 0x07;
const PING: u8 = 0x08;
const PONG: u8 = 0x09;
const GO_AWAY: u8 = 0x0A;

impl Frame<'_> {
    /// Appends the frame to a message. Words and targets that are too long are cut at a character;
    /// data must be within [`MAX_DATA`] and [`MAX_DATAGRAM`], which the session sees to.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Open { stream, kind, target } => {
                push(out, OPEN, stream, &[&[kind as u8], cut(target, MAX_TARGET)]);
            }
            Self::Opened { stream } => push(out, OPENED, stream, &[]),
            Self::Data { stream, data } => push(out, DATA, stream, &[data]),
            Self::Finish { stream } => push(out, FINISH, stream, &[]),
            Self::Reset { stream, code, words } => {
                push(out, RESET, stream, &[&[code.to_wire()], cut(words, MAX_WORDS)]);
            }
            Self::Credit { stream, increment } => {
                push(out, CREDIT, stream, &[&increment.to_be_bytes()]);
            }
            Self::Datagram { stream, data } => push(out, DATAGRAM, stream, &[data]),
            Self::Ping { opaque } => push(out, PING, 0, &[&opaque]),
            Self::Pong { opaque } => push(out, PONG, 0, &[&opaque]),
            Self::GoAway { code, deadline_ms, words } => {
                let deadline = deadline_ms.to_be_bytes();
                push(out, GO_AWAY, 0, &[&[code.to_wire()], &deadline, cut(words, MAX_WORDS)]);
            }
            Self::Skipped => {}
        }
    }
}

fn push(out: &mut Vec<u8>, kind: u8, stream: u32, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(len <= MAX_DATA, "the session cuts data into frames");
    out.reserve(HEADER + len);
    out.extend_from_slice(&(u32::from(kind) << 24 | len as u32).to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Changes the length in a header.
pub(super) fn set_length(header: &mut [u8], len: usize) {
    debug_assert!(len <= MAX_DATA, "the session cuts data into frames");
    header[1..4].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
}

fn cut(text: &str, max: usize) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(max)]
}
