//! A slow decoder to compare the real one with: no fast path, no borrowing, its own base64.

use httvps_proto::json::{AuthResult, Bad, Frame, Hello};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;

/// The fields of a JSON object in the order in which they came, doubles included.
pub struct Fields(Vec<(String, Value)>);

/// What a message is, in the words of the protocol document.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    Frame,
    Hello,
    Stream(Option<String>),
}

impl From<&Bad> for Fault {
    fn from(bad: &Bad) -> Self {
        match bad {
            Bad::Frame(_) => Self::Frame,
            Bad::Hello(_) => Self::Hello,
            Bad::Stream(_, id) => Self::Stream(id.as_deref().map(str::to_owned)),
        }
    }
}

const KNOWN: [&str; 17] = [
    "type",
    "stream_id",
    "data",
    "target",
    "reason",
    "device_id",
    "token",
    "client_version",
    "region",
    "capabilities",
    "code",
    "message",
    "session_id",
    "subscription_status",
    "allowed",
    "max_streams",
    "deadline_ms",
];

impl Fields {
    /// The fields of a message that is a JSON object.
    pub fn parse(message: &[u8]) -> Option<Self> {
        serde_json::from_slice(message).ok()
    }

    /// The frame, its payload decoded into `payload`.
    pub fn judge<'r>(&'r self, payload: &'r mut Vec<u8>) -> Result<Frame<'r>, Fault> {
        let has_double = |key: &&str| self.0.iter().filter(|(found, _)| found == key).count() > 1;
        if KNOWN.iter().any(has_double) {
            return Err(Fault::Frame);
        }
        let kind = match self.get("type") {
            Value::Null => "",
            Value::String(kind) => kind,
            _ => return Err(Fault::Frame),
        };
        Ok(match kind {
            "hello" => Frame::Hello(self.hello().ok_or(Fault::Hello)?),
            "auth_result" => Frame::AuthResult(AuthResult {
                allowed: self.get("allowed").as_bool().unwrap_or(false),
                session_id: self.text("session_id"),
                subscription_status: self.text("subscription_status"),
                reason: self.text("reason"),
                max_streams: self.get("max_streams").as_u64(),
                capabilities: self.capabilities().unwrap_or_default(),
            }),
            "stream_open" | "stream_opened" | "stream_data" | "stream_close" => {
                let id = self.text("stream_id").filter(|id| !id.is_empty());
                let stream_id = id.ok_or(Fault::Stream(None))?;
                let fault = Fault::Stream(Some(stream_id.to_string()));
                self.stream(kind, stream_id, payload).ok_or(fault)?
            }
            "ping" => Frame::Ping,
            "pong" => Frame::Pong,
            "error" => Frame::Error {
                code: self.text("code").unwrap_or_default(),
                message: self.text("message"),
                stream_id: self.text("stream_id"),
                reason: self.text("reason"),
            },
            "go_away" => Frame::GoAway {
                reason: self.text("reason"),
                deadline_ms: self.get("deadline_ms").as_u64(),
            },
            _ => Frame::Unknown { kind: kind.into() },
        })
    }

    fn get(&self, key: &str) -> &Value {
        self.0.iter().find(|(found, _)| found == key).map_or(&Value::Null, |(_, value)| value)
    }

    fn text(&self, key: &str) -> Option<Cow<'_, str>> {
        self.get(key).as_str().map(Cow::Borrowed)
    }

    /// A field that is absent or a string of at most so many bytes.
    fn optional(&self, key: &str, max: usize) -> Result<Option<Cow<'_, str>>, ()> {
        match self.get(key) {
            Value::Null => Ok(None),
            Value::String(text) if text.len() <= max => Ok(Some(text.into())),
            _ => Err(()),
        }
    }

    fn capabilities(&self) -> Option<Vec<Cow<'_, str>>> {
        match self.get("capabilities") {
            Value::Null => Some(Vec::new()),
            Value::Array(list) => {
                let names: Option<Vec<_>> =
                    list.iter().map(|name| name.as_str().map(Cow::Borrowed)).collect();
                names.map(|names| names.into_iter().take(32).collect())
            }
            _ => None,
        }
    }

    fn hello(&self) -> Option<Hello<'_>> {
        let needed = |key| self.text(key).filter(|text| !text.is_empty());
        Some(Hello {
            device_id: needed("device_id")?,
            token: needed("token")?,
            client_version: self.optional("client_version", usize::MAX).ok()?,
            region: self.optional("region", usize::MAX).ok()?,
            capabilities: self.capabilities()?,
        })
    }

    fn stream<'r>(
        &'r self,
        kind: &str,
        stream_id: Cow<'r, str>,
        payload: &'r mut Vec<u8>,
    ) -> Option<Frame<'r>> {
        Some(match kind {
            "stream_open" => {
                Frame::StreamOpen { stream_id, target: self.optional("target", 262).ok()? }
            }
            "stream_opened" => Frame::StreamOpened { stream_id },
            "stream_data" => {
                *payload = base64(self.get("data").as_str()?)?;
                Frame::StreamData { stream_id, data: payload }
            }
            _ => {
                Frame::StreamClose { stream_id, reason: self.optional("reason", usize::MAX).ok()? }
            }
        })
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// Padded standard base64 as RFC 4648 section 4 has it, with no leave of section 3.5.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix("==").or(text.strip_suffix('=')).unwrap_or(text);
    let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::new());
    for byte in digits.bytes() {
        bits = bits << 6 | u32::from(digit(byte)?);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}
