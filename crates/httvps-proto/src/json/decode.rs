//! From the bytes of a message to a frame.

use super::loose::{Field, Key, set};
use super::scan::scan;
use crate::Limits;
use base64_turbo::STANDARD;
use memchr::memchr2;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// A frame of the founding protocol, borrowed from its message.
#[derive(Debug, PartialEq)]
pub enum Frame<'m> {
    /// `hello`, the first message of a client.
    Hello(Hello<'m>),
    /// `auth_result`, the gateway's answer to `hello`.
    AuthResult(super::AuthResult<'m>),
    /// `stream_open`; the target is not validated here, since a test upstream accepts any.
    StreamOpen {
        /// The id that the client chose.
        stream_id: Cow<'m, str>,
        /// The target, `host:port`.
        target: Option<Cow<'m, str>>,
    },
    /// `stream_opened`, the positive answer of the capability `open_ack`.
    StreamOpened {
        /// The stream whose upstream is connected.
        stream_id: Cow<'m, str>,
    },
    /// `stream_data` with its payload decoded.
    StreamData {
        /// The stream that the payload belongs to.
        stream_id: Cow<'m, str>,
        /// The payload.
        data: &'m [u8],
    },
    /// `stream_close`.
    StreamClose {
        /// The stream that is over.
        stream_id: Cow<'m, str>,
        /// Why.
        reason: Option<Cow<'m, str>>,
    },
    /// `ping`.
    Ping,
    /// `pong`.
    Pong,
    /// `error`.
    Error {
        /// One of the error codes.
        code: Cow<'m, str>,
        /// A message for people.
        message: Option<Cow<'m, str>>,
        /// The stream it is about (an addition to the founding page).
        stream_id: Option<Cow<'m, str>>,
        /// A token that a program can act on (an addition to the founding page).
        reason: Option<Cow<'m, str>>,
    },
    /// `go_away`, the announcement of the capability of that name.
    GoAway {
        /// Why.
        reason: Option<Cow<'m, str>>,
        /// Milliseconds until the gateway closes the connection.
        deadline_ms: Option<u64>,
    },
    /// An object whose type is not one of the above.
    Unknown {
        /// The type; empty when there is none.
        kind: Cow<'m, str>,
    },
}

/// The fields of `hello`. The token is never printed: this type has no `Debug` of it.
#[derive(PartialEq, Eq)]
pub struct Hello<'m> {
    /// The id of the device.
    pub device_id: Cow<'m, str>,
    /// The token of the device.
    pub token: Cow<'m, str>,
    /// The client's program and version.
    pub client_version: Option<Cow<'m, str>>,
    /// Protocol additions that the client can speak.
    pub capabilities: Vec<Cow<'m, str>>,
    /// Where the client would like to leave the tunnel.
    pub region: Option<Cow<'m, str>>,
}

impl fmt::Debug for Hello<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").field("device_id", &self.device_id).finish_non_exhaustive()
    }
}

/// Why a message is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bad {
    /// Not a frame at all: `bad_frame`.
    Frame(&'static str),
    /// A `hello` with a missing or malformed field.
    Hello(&'static str),
    /// A `stream_*` with a missing or malformed field: `bad_stream`, and the stream if it is known.
    Stream(&'static str, Option<Box<str>>),
}

/// Decodes one message, which must be UTF-8 (the carrier of text messages sees to that).
///
/// Base64 is decoded into `scratch`, which grows to the largest payload and is reused. Cost: no
/// allocation for a plain `stream_data`, `ping` or `pong`; one pass to find the fields and one to
/// decode. Limits: [`Limits::MAX_DEPTH`] levels and [`Limits::MAX_VALUES`] values; lengths of ids are the session's to judge.
pub fn decode<'m>(message: &'m [u8], scratch: &'m mut Vec<u8>) -> Result<Frame<'m>, Bad> {
    if let Some(fields) = scan(message) {
        match (fields.kind, fields.stream_id, fields.data) {
            (Some("stream_data"), Some(id), Some(data)) if !id.is_empty() => {
                // Bad base64 falls through: the full parser tells a bad string from a bad payload.
                if let Some(len) = decode_base64(data, scratch) {
                    return Ok(Frame::StreamData { stream_id: id.into(), data: &scratch[..len] });
                }
            }
            (Some("ping"), None, None) => return Ok(Frame::Ping),
            (Some("pong"), None, None) => return Ok(Frame::Pong),
            _ => {}
        }
    }
    decode_full(message, scratch)
}

fn decode_base64(text: &[u8], scratch: &mut Vec<u8>) -> Option<usize> {
    let room = STANDARD.decoded_len_estimate(text.len());
    if scratch.len() < room {
        scratch.resize(room, 0);
    }
    STANDARD.decode_slice(text, &mut scratch[..]).ok()
}

fn decode_full<'m>(message: &'m [u8], scratch: &'m mut Vec<u8>) -> Result<Frame<'m>, Bad> {
    check_shape(message)?;
    let raw: Raw<'m> =
        serde_json::from_slice(message).map_err(|_| Bad::Frame("not a JSON object"))?;
    let kind = match raw.kind {
        Field::Given(kind) => kind,
        Field::Missing | Field::Null => Cow::Borrowed(""),
        Field::Other => return Err(Bad::Frame("type is not a string")),
    };
    match &*kind {
        "hello" => raw.fields.hello().map(Frame::Hello),
        "auth_result" => Ok(Frame::AuthResult(raw.fields.auth_result())),
        "stream_open" | "stream_opened" | "stream_data" | "stream_close" => {
            raw.fields.stream(&kind, scratch)
        }
        "ping" => Ok(Frame::Ping),
        "pong" => Ok(Frame::Pong),
        "error" => Ok(raw.fields.error()),
        "go_away" => Ok(Frame::GoAway {
            reason: raw.fields.reason.lenient(),
            deadline_ms: raw.fields.deadline_ms.lenient(),
        }),
        _ => Ok(Frame::Unknown { kind }),
    }
}

/// Checks that arrays and objects nest no deeper than [`Limits::MAX_DEPTH`] and that there are no more values than
/// [`Limits::MAX_VALUES`]; ends where it finds that there are. One pass, no stack.
fn check_shape(message: &[u8]) -> Result<(), Bad> {
    let (mut depth, mut values, mut rest) = (0usize, 0usize, message);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => rest = behind_string(rest),
            b',' => values += 1,
            b'{' | b'[' => {
                depth += 1;
                values += 1;
                if depth > Limits::MAX_DEPTH {
                    return Err(Bad::Frame("nested too deep"));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if values > Limits::MAX_VALUES {
            return Err(Bad::Frame("too many values"));
        }
    }
    Ok(())
}

/// What follows a string whose quotation mark has been read; nothing if it does not end.
fn behind_string(mut bytes: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', bytes) {
        if bytes[at] == b'"' {
            return &bytes[at + 1..];
        }
        bytes = bytes.get(at + 2..).unwrap_or_default();
    }
    &[]
}

type TextField<'m> = Field<Cow<'m, str>>;

impl<'m> TextField<'m> {
    fn optional(self, bad: Bad) -> Result<Option<Cow<'m, str>>, Bad> {
        match self {
            Field::Missing | Field::Null => Ok(None),
            Field::Given(text) => Ok(Some(text)),
            Field::Other => Err(bad),
        }
    }
}

struct Raw<'m> {
    kind: TextField<'m>,
    fields: Fields<'m>,
}

#[derive(Default)]
struct Fields<'m> {
    stream_id: TextField<'m>,
    data: TextField<'m>,
    target: TextField<'m>,
    reason: TextField<'m>,
    device_id: TextField<'m>,
    token: TextField<'m>,
    client_version: TextField<'m>,
    region: TextField<'m>,
    capabilities: Field<Vec<Cow<'m, str>>>,
    code: TextField<'m>,
    message: TextField<'m>,
    session_id: TextField<'m>,
    subscription_status: TextField<'m>,
    allowed: Field<bool>,
    max_streams: Field<u64>,
    deadline_ms: Field<u64>,
}

impl<'m> Fields<'m> {
    fn hello(self) -> Result<Hello<'m>, Bad> {
        let needed = |field: TextField<'m>, bad| match field {
            Field::Given(text) if !text.is_empty() => Ok(text),
            _ => Err(Bad::Hello(bad)),
        };
        Ok(Hello {
            device_id: needed(self.device_id, "device_id must be a non-empty string")?,
            token: needed(self.token, "token must be a non-empty string")?,
            client_version: self
                .client_version
                .optional(Bad::Hello("client_version must be a string"))?,
            region: self.region.optional(Bad::Hello("region must be a string"))?,
            capabilities: match self.capabilities {
                Field::Missing | Field::Null => Vec::new(),
                Field::Given(list) => list,
                Field::Other => return Err(Bad::Hello("capabilities must be an array of strings")),
            },
        })
    }

    fn auth_result(self) -> super::AuthResult<'m> {
        super::AuthResult {
            allowed: self.allowed.lenient().unwrap_or(false),
            session_id: self.session_id.lenient(),
            subscription_status: self.subscription_status.lenient(),
            reason: self.reason.lenient(),
            max_streams: self.max_streams.lenient(),
            capabilities: self.capabilities.lenient().unwrap_or_default(),
        }
    }

    fn stream(self, kind: &str, scratch: &'m mut Vec<u8>) -> Result<Frame<'m>, Bad> {
        let stream_id = match self.stream_id {
            Field::Given(id) if !id.is_empty() => id,
            _ => return Err(Bad::Stream("stream_id must be a non-empty string", None)),
        };
        let bad = |words| Bad::Stream(words, Some((&*stream_id).into()));
        Ok(match kind {
            "stream_open" => {
                let target = self.target.optional(bad("target must be a string"))?;
                if target.as_ref().is_some_and(|t| t.len() > Limits::MAX_TARGET) {
                    return Err(bad("target is longer than 262 bytes"));
                }
                Frame::StreamOpen { stream_id, target }
            }
            "stream_opened" => Frame::StreamOpened { stream_id },
            "stream_data" => {
                let Field::Given(text) = self.data else {
                    return Err(bad("data must be a base64 string"));
                };
                let Some(len) = decode_base64(text.as_bytes(), scratch) else {
                    return Err(bad("data is not padded standard base64"));
                };
                Frame::StreamData { stream_id, data: &scratch[..len] }
            }
            _ => {
                let reason = self.reason.optional(bad("reason must be a string"))?;
                Frame::StreamClose { stream_id, reason }
            }
        })
    }

    fn error(self) -> Frame<'m> {
        Frame::Error {
            code: self.code.lenient().unwrap_or_default(),
            message: self.message.lenient(),
            stream_id: self.stream_id.lenient(),
            reason: self.reason.lenient(),
        }
    }
}

impl<'de: 'm, 'm> Deserialize<'de> for Raw<'m> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw<'de>, A::Error> {
        let mut raw = Raw { kind: Field::Missing, fields: Fields::default() };
        let f = &mut raw.fields;
        while let Some(key) = map.next_key::<Key<'de>>()? {
            match key.as_str() {
                "type" => set(&mut raw.kind, &mut map)?,
                "stream_id" => set(&mut f.stream_id, &mut map)?,
                "data" => set(&mut f.data, &mut map)?,
                "target" => set(&mut f.target, &mut map)?,
                "reason" => set(&mut f.reason, &mut map)?,
                "device_id" => set(&mut f.device_id, &mut map)?,
                "token" => set(&mut f.token, &mut map)?,
                "client_version" => set(&mut f.client_version, &mut map)?,
                "region" => set(&mut f.region, &mut map)?,
                "capabilities" => set(&mut f.capabilities, &mut map)?,
                "code" => set(&mut f.code, &mut map)?,
                "message" => set(&mut f.message, &mut map)?,
                "session_id" => set(&mut f.session_id, &mut map)?,
                "subscription_status" => set(&mut f.subscription_status, &mut map)?,
                "allowed" => set(&mut f.allowed, &mut map)?,
                "max_streams" => set(&mut f.max_streams, &mut map)?,
                "deadline_ms" => set(&mut f.deadline_ms, &mut map)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(raw)
    }
}
