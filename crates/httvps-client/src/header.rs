//! Header fields of the request that a client makes of a gateway.

use std::fmt;
use std::str::FromStr;

/// What a client calls itself by default: the words of a common browser, since many content
/// delivery networks and firewalls refuse requests without any, or with those of a tool.
pub const USER_AGENT: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 \
                              (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";

/// Longest field, in bytes; a gateway takes no head beyond 16 KiB.
const MAX_FIELD: usize = 4 * 1024;

/// Fields that the WebSocket handshake or HTTP itself needs as they are.
const RESERVED: [&str; 8] = [
    "host",
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "expect",
];

/// A header field that can stand in a request. `Debug` does not show its value, which may be a
/// secret.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHeader {
    name: String,
    value: String,
}

impl RequestHeader {
    /// Takes name and value if they can stand in the request for a WebSocket.
    pub fn new(name: &str, value: &str) -> Result<Self, BadRequestHeader> {
        let value = value.trim_matches([' ', '\t']);
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(BadRequestHeader::Name);
        }
        if !value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(BadRequestHeader::Value);
        }
        if name.len() + value.len() > MAX_FIELD {
            return Err(BadRequestHeader::TooLong);
        }
        let lower = name.to_ascii_lowercase();
        if lower.starts_with("sec-websocket-") || RESERVED.contains(&&*lower) {
            return Err(BadRequestHeader::Reserved);
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }

    /// What a browser calls itself.
    pub(crate) fn user_agent() -> Self {
        Self { name: "User-Agent".to_owned(), value: USER_AGENT.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for RequestHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ***", self.name)
    }
}

impl FromStr for RequestHeader {
    type Err = BadRequestHeader;

    /// Reads `Name: value`.
    fn from_str(text: &str) -> Result<Self, BadRequestHeader> {
        let (name, value) = text.split_once(':').ok_or(BadRequestHeader::NoColon)?;
        Self::new(name, value)
    }
}

/// Why a text is no header field for the request. Nothing of the text is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequestHeader {
    /// There is no colon behind a name.
    NoColon,
    /// The name is empty or has characters that no name has.
    Name,
    /// The value has other characters than visible ASCII and spaces.
    Value,
    /// Name and value are longer than 4 KiB.
    TooLong,
    /// The handshake needs this field as it is.
    Reserved,
}

impl fmt::Display for BadRequestHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoColon => "no ':'; accepted: 'Name: value', as in 'X-Access: 1234'",
            Self::Name => {
                "the name before the ':' is empty or has other characters than letters, digits, '-' and '_'"
            }
            Self::Value => "the value may have visible ASCII characters and spaces only",
            Self::TooLong => "name and value are longer than 4 KiB",
            Self::Reserved => "the WebSocket handshake sets this field itself",
        })
    }
}

impl std::error::Error for BadRequestHeader {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_field_is_read_without_the_spaces_around_its_value() {
        let field: RequestHeader = "X-Access:  a b:c ".parse().unwrap();
        assert_eq!((field.name(), field.value()), ("X-Access", "a b:c"));
        let empty: RequestHeader = "X-Empty:".parse().unwrap();
        assert_eq!(empty.value(), "");
    }

    #[test]
    fn what_cannot_stand_in_the_request_is_named() {
        let long = format!("A: {}", "x".repeat(MAX_FIELD));
        for (text, expected) in [
            ("", BadRequestHeader::NoColon),
            ("X-Access 1", BadRequestHeader::NoColon),
            (": 1", BadRequestHeader::Name),
            ("X Access: 1", BadRequestHeader::Name),
            ("X\r\nY: 1", BadRequestHeader::Name),
            ("X: 1\r\nY: 2", BadRequestHeader::Value),
            ("X: 1\r", BadRequestHeader::Value),
            ("X: \u{e4}", BadRequestHeader::Value),
            (&long, BadRequestHeader::TooLong),
            ("hOST: a", BadRequestHeader::Reserved),
            ("Sec-WebSocket-Protocol: chat", BadRequestHeader::Reserved),
            ("Transfer-Encoding: chunked", BadRequestHeader::Reserved),
        ] {
            assert_eq!(text.parse::<RequestHeader>().err(), Some(expected), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_splits_a_request(text in any::<String>(), near in "[A-Za-z-]{1,9}:[ -~\r\n\t]{0,30}") {
            for text in [text, near] {
                if let Ok(field) = text.parse::<RequestHeader>() {
                    let whole = format!("{}: {}", field.name(), field.value());
                    prop_assert!(whole.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
                }
            }
        }
    }
}
