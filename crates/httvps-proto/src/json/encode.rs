//! From a frame to the bytes of a message.

use crate::{ErrorCode, Outbox};
use base64_turbo::STANDARD;
use serde::Serialize;
use std::borrow::Cow;

/// The fields of `auth_result`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct AuthResult<'a> {
    /// Whether the device may enter.
    pub allowed: bool,
    /// The session's UUID, when allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Cow<'a, str>>,
    /// The status of the subscription, from the backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_status: Option<Cow<'a, str>>,
    /// Why not, when not allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// Streams the session may have at once (an addition to the founding page).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_streams: Option<u64>,
    /// The capabilities of `hello` that the gateway accepted (an addition to the founding page).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Cow<'a, str>>,
}

#[derive(Serialize)]
struct Typed<'a, T> {
    r#type: &'a str,
    #[serde(flatten)]
    fields: T,
}

fn frame<T: Serialize>(out: &mut impl Outbox, kind: &str, fields: T) {
    let bytes = serde_json::to_vec(&Typed { r#type: kind, fields })
        .expect("a frame holds only strings, numbers and booleans");
    fixed(out, &bytes);
}

fn fixed(out: &mut impl Outbox, bytes: &[u8]) {
    out.text(bytes.len(), |message| message.extend_from_slice(bytes));
}

/// `auth_result`.
pub fn auth_result(out: &mut impl Outbox, result: &AuthResult<'_>) {
    frame(out, "auth_result", result);
}

/// `error`; the texts are given as they are and escaped here.
pub fn error(
    out: &mut impl Outbox,
    code: ErrorCode,
    message: &str,
    stream_id: Option<&str>,
    reason: Option<&str>,
) {
    #[derive(Serialize)]
    struct Fields<'a> {
        code: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    }
    frame(out, "error", Fields { code: code.as_str(), message, stream_id, reason });
}

/// `hello`.
pub fn hello(
    out: &mut impl Outbox,
    device_id: &str,
    token: &str,
    client_version: &str,
    capabilities: &[&str],
    region: Option<&str>,
) {
    #[derive(Serialize)]
    struct Fields<'a> {
        device_id: &'a str,
        token: &'a str,
        client_version: &'a str,
        capabilities: &'a [&'a str],
        #[serde(skip_serializing_if = "Option::is_none")]
        region: Option<&'a str>,
    }
    frame(out, "hello", Fields { device_id, token, client_version, capabilities, region });
}

/// `stream_open`.
pub fn stream_open(out: &mut impl Outbox, stream_id: &str, target: Option<&str>) {
    #[derive(Serialize)]
    struct Fields<'a> {
        stream_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        target: Option<&'a str>,
    }
    frame(out, "stream_open", Fields { stream_id, target });
}

/// `stream_opened`; the id is already escaped for a JSON string.
pub fn stream_opened(out: &mut impl Outbox, wire_id: &str) {
    parts(out, &["{\"type\":\"stream_opened\",\"stream_id\":\"", wire_id, "\"}"]);
}

/// `stream_close`; the id and the reason are given as they stand inside a JSON string.
pub fn stream_close(out: &mut impl Outbox, wire_id: &str, reason: Option<&str>) {
    const HEAD: &str = "{\"type\":\"stream_close\",\"stream_id\":\"";
    match reason {
        Some(reason) => parts(out, &[HEAD, wire_id, "\",\"reason\":\"", reason, "\"}"]),
        None => parts(out, &[HEAD, wire_id, "\"}"]),
    }
}

/// `go_away`: the gateway drains and will close within `deadline_ms` milliseconds.
pub fn go_away(out: &mut impl Outbox, reason: &str, deadline_ms: u64) {
    #[derive(Serialize)]
    struct Fields<'a> {
        reason: &'a str,
        deadline_ms: u64,
    }
    frame(out, "go_away", Fields { reason, deadline_ms });
}

/// `ping`.
pub fn ping(out: &mut impl Outbox) {
    fixed(out, br#"{"type":"ping"}"#);
}

/// `pong`.
pub fn pong(out: &mut impl Outbox) {
    fixed(out, br#"{"type":"pong"}"#);
}

fn parts(out: &mut impl Outbox, parts: &[&str]) {
    let len = parts.iter().map(|part| part.len()).sum();
    out.text(len, |message| {
        for part in parts {
            message.extend_from_slice(part.as_bytes());
        }
    });
}

const DATA_HEAD: &[u8] = b"{\"type\":\"stream_data\",\"stream_id\":\"";
const DATA_MID: &[u8] = b"\",\"data\":\"";
const DATA_TAIL: &[u8] = b"\"}";

/// Bytes of the message that carries `payload` bytes for a stream.
pub fn encoded_data_len(wire_id: &str, payload: usize) -> usize {
    DATA_HEAD.len() + wire_id.len() + DATA_MID.len() + payload.div_ceil(3) * 4 + DATA_TAIL.len()
}

/// `stream_data`, encoded straight into the outgoing buffer; the id is given as it stands inside a
/// JSON string. No allocation beyond the buffer's own growth.
pub fn stream_data(out: &mut impl Outbox, wire_id: &str, payload: &[u8]) {
    out.text(encoded_data_len(wire_id, payload.len()), |message| {
        message.extend_from_slice(DATA_HEAD);
        message.extend_from_slice(wire_id.as_bytes());
        message.extend_from_slice(DATA_MID);
        let start = message.len();
        message.resize(start + payload.len().div_ceil(3) * 4, 0);
        let written = STANDARD.encode_slice(payload, &mut message[start..]);
        debug_assert!(written.is_ok(), "the room was computed from the payload");
        message.extend_from_slice(DATA_TAIL);
    });
}

/// The text escaped for a JSON string, when that differs from the text.
pub(crate) fn escaped(text: &str) -> Option<Box<str>> {
    if !text.bytes().any(|b| b < 0x20 || b == b'"' || b == b'\\') {
        return None;
    }
    let quoted = serde_json::to_string(text).expect("a string serializes");
    Some(quoted[1..quoted.len() - 1].into())
}
