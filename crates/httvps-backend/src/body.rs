//! Request bodies: reading them within bounds, and the fields of the JSON object in them.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use serde_json::{Map, Value};

/// Largest request body, in bytes.
pub(crate) const MAX_BODY_LEN: usize = 64 * 1024;

/// A body that is too large is still read up to here, so that its sender gets to read the answer
/// instead of a reset.
const MAX_DISCARDED_LEN: usize = 1024 * 1024;

/// Why there is no body to look at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    TooLarge,
    /// The sender broke off or broke the framing.
    Incomplete,
}

/// Reads the whole body; keeps at most [`MAX_BODY_LEN`].
pub(crate) async fn read<B>(body: B) -> Result<Vec<u8>, BodyError>
where
    B: Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(body);
    let mut kept = Vec::new();
    let mut seen = 0_usize;
    if body.size_hint().lower() > MAX_DISCARDED_LEN as u64 {
        return Err(BodyError::TooLarge);
    }
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Incomplete)?.into_data() else {
            continue; // trailers
        };
        seen = seen.saturating_add(data.len());
        if seen <= MAX_BODY_LEN {
            kept.extend_from_slice(&data);
        } else if seen > MAX_DISCARDED_LEN {
            break;
        }
    }
    if seen > MAX_BODY_LEN { Err(BodyError::TooLarge) } else { Ok(kept) }
}

/// The members of a JSON object, with checks whose messages name the field and never repeat a
/// value.
///
/// Unknown members are ignored, so that newer gateways may send more.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice(httvps_text::without_mark(body)) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(_) => Err("the body must be a JSON object".to_owned()),
            Err(problem) => Err(format!(
                "the body is not valid JSON (line {}, column {})",
                problem.line(),
                problem.column()
            )),
        }
    }

    /// A required string.
    pub(crate) fn text(&self, name: &str) -> Result<&str, String> {
        self.0.get(name).and_then(Value::as_str).ok_or_else(|| wrong(name, "a string"))
    }

    /// A required whole number from 0 on.
    pub(crate) fn count(&self, name: &str) -> Result<u64, String> {
        self.0.get(name).and_then(Value::as_u64).ok_or_else(|| wrong(name, "a whole number >= 0"))
    }

    /// A required number from 0 on.
    pub(crate) fn level(&self, name: &str) -> Result<(), String> {
        match self.0.get(name).and_then(Value::as_f64) {
            Some(number) if number >= 0.0 => Ok(()),
            _ => Err(wrong(name, "a number >= 0")),
        }
    }

    /// A string, null or nothing.
    pub(crate) fn optional_text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name, "a string or null")),
        }
    }

    /// A string, a number, null or nothing.
    pub(crate) fn optional_name(&self, name: &str) -> Result<(), String> {
        match self.0.get(name) {
            None | Some(Value::Null | Value::String(_) | Value::Number(_)) => Ok(()),
            Some(_) => Err(wrong(name, "a string, a number or null")),
        }
    }
}

fn wrong(name: &str, wanted: &str) -> String {
    format!("the field {name} must be {wanted}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_before_a_question_does_not_matter() {
        assert!(Fields::parse("\u{feff}{}".as_bytes()).is_ok());
    }

    #[test]
    fn messages_name_the_field_and_repeat_no_value() {
        let fields = Fields::parse(br#"{"token":["s3cret"],"n":-1,"f":1.5,"null":null}"#).unwrap();
        for problem in [
            fields.text("token").unwrap_err(),
            fields.text("absent").unwrap_err(),
            fields.count("n").unwrap_err(),
            fields.count("f").unwrap_err(),
            fields.count("null").unwrap_err(),
            fields.level("n").unwrap_err(),
            fields.optional_text("token").unwrap_err(),
            fields.optional_name("token").unwrap_err(),
        ] {
            assert!(problem.starts_with("the field "), "{problem}");
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        fields.level("f").unwrap();
        fields.optional_text("null").unwrap();
        fields.optional_text("absent").unwrap();
        fields.optional_name("f").unwrap();
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in [&b""[..], b"{", b"[]", b"7", b"\"s3cret\"", b"{\"a\":\"s3cret", b"\xff"] {
            let problem = Fields::parse(bad).unwrap_err();
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        assert!(Fields::parse("[".repeat(60_000).as_bytes()).unwrap_err().contains("not valid"));
    }
}
