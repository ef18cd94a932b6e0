//! The HTTP/1.1 upgrade (RFC 6455 section 4).

use std::fmt;

use base64_turbo::STANDARD;
use hyper::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::{Method, Response, StatusCode, Version};
use sha1::{Digest, Sha1};

/// What every server appends to a client's key (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Length of the base64 of a SHA-1.
const ACCEPT_LEN: usize = 28;

/// A request that may be upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept([u8; ACCEPT_LEN]);

/// Why a request cannot be upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// It does not ask for a WebSocket: another method or version, a body, or without the
    /// upgrade headers. Answer as for any other page.
    NotWebSocket,
    /// It asks for another version than 13. Answer 426 with `Sec-WebSocket-Version: 13`.
    BadVersion,
    /// The key is missing, repeated, or not 16 bytes of base64. Answer 400.
    BadKey,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotWebSocket => "not a WebSocket upgrade",
            Self::BadVersion => "only version 13 of WebSocket is spoken",
            Self::BadKey => "Sec-WebSocket-Key is not 16 bytes of base64",
        })
    }
}

impl std::error::Error for Rejection {}

/// What keeps a request from being an upgrade at all, in the words of its log line and metric: `method`,
/// `http_version`, `upgrade_header`, `connection_header` or `body`. None: it asks for an upgrade.
pub fn not_an_upgrade(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Option<&'static str> {
    if method != Method::GET {
        Some("method")
    } else if version != Version::HTTP_11 {
        Some("http_version")
    } else if !lists_token(headers, &header::UPGRADE, "websocket") {
        Some("upgrade_header")
    } else if !lists_token(headers, &header::CONNECTION, "upgrade") {
        Some("connection_header")
    } else if headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
    {
        Some("body")
    } else {
        None
    }
}

/// Checks the head of a request for an upgrade (section 4.2.1). Path and origin are the caller's.
pub fn check(method: &Method, version: Version, headers: &HeaderMap) -> Result<Accept, Rejection> {
    if not_an_upgrade(method, version, headers).is_some() {
        return Err(Rejection::NotWebSocket);
    }
    match only(headers, &header::SEC_WEBSOCKET_VERSION) {
        Some(value) if value == "13" => {}
        _ => return Err(Rejection::BadVersion),
    }
    let key = only(headers, &header::SEC_WEBSOCKET_KEY).ok_or(Rejection::BadKey)?;
    let mut nonce = [0; 18];
    match STANDARD.decode_slice(key.as_bytes(), &mut nonce) {
        Ok(16) => Ok(Accept(accept(key.as_bytes()))),
        _ => Err(Rejection::BadKey),
    }
}

impl Accept {
    /// The value of `Sec-WebSocket-Accept`.
    pub fn value(&self) -> HeaderValue {
        as_header(&self.0)
    }

    /// The answer that completes the upgrade: 101 and its three headers.
    pub fn response<B>(&self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.value());
        response
    }
}

fn as_header(base64: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(base64).expect("base64 consists of visible characters")
}

/// The answer to a key.
pub(super) fn accept(key: &[u8]) -> [u8; ACCEPT_LEN] {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut encoded = [0; ACCEPT_LEN];
    STANDARD.encode_slice(digest, &mut encoded).expect("28 characters hold the base64 of 20 bytes");
    encoded
}

/// Whether a comma-separated list names a token, in any case.
pub(super) fn has_token(list: &str, token: &str) -> bool {
    list.split(',').any(|item| item.trim_matches([' ', '\t']).eq_ignore_ascii_case(token))
}

fn lists_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut values = headers.get_all(name).iter();
    values.any(|value| value.to_str().is_ok_and(|list| has_token(list, token)))
}

/// The value of a header that stands exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn verdict(headers: &[(&'static str, &'static str)]) -> Result<Accept, Rejection> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        check(&Method::GET, Version::HTTP_11, &map)
    }

    fn with(name: &'static str, value: &'static str) -> Result<Accept, Rejection> {
        let headers = GOOD.map(|(n, v)| if n == name { (n, value) } else { (n, v) });
        verdict(&headers)
    }

    #[test]
    fn the_example_of_the_standard_is_accepted() {
        let accept = verdict(&GOOD).unwrap();
        assert_eq!(accept.value(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let response = accept.response(());
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["upgrade"], "websocket");
    }

    #[test]
    fn what_a_request_lacks_is_named() {
        let lacks = |method: &Method, version, change: &dyn Fn(&mut HeaderMap)| {
            let mut map = HeaderMap::new();
            for (name, value) in GOOD {
                map.append(name, HeaderValue::from_static(value));
            }
            change(&mut map);
            not_an_upgrade(method, version, &map)
        };
        let (get, new) = (Method::GET, Version::HTTP_11);
        assert_eq!(lacks(&get, new, &|_| {}), None);
        assert_eq!(lacks(&Method::POST, new, &|_| {}), Some("method"));
        assert_eq!(lacks(&get, Version::HTTP_10, &|_| {}), Some("http_version"));
        for (name, missing) in [("upgrade", "upgrade_header"), ("connection", "connection_header")]
        {
            assert_eq!(lacks(&get, new, &|map| drop(map.remove(name))), Some(missing));
        }
        let body = |map: &mut HeaderMap| {
            map.insert("content-length", HeaderValue::from_static("5"));
        };
        assert_eq!(lacks(&get, new, &body), Some("body"));
    }

    #[test]
    fn other_requests_are_told_apart() {
        use Rejection::{BadKey, BadVersion, NotWebSocket};
        for missing in 0..GOOD.len() {
            let mut headers = GOOD.to_vec();
            headers.remove(missing);
            let expected = [NotWebSocket, NotWebSocket, BadVersion, BadKey][missing];
            assert_eq!(verdict(&headers), Err(expected));
        }
        assert_eq!(with("upgrade", "h2c"), Err(NotWebSocket));
        assert_eq!(with("connection", "close"), Err(NotWebSocket));
        assert_eq!(with("sec-websocket-version", "8"), Err(BadVersion));
        for key in ["", "dGhlIHNhbXBsZSBub25jZQ", "AAAA", "dGhlIHNhbXBsZSBub25jZXM=", "!"] {
            assert_eq!(with("sec-websocket-key", key), Err(BadKey), "{key}");
        }
        let twice = [&GOOD[..], &[GOOD[3]]].concat();
        assert_eq!(verdict(&twice), Err(BadKey));
        let body = [&GOOD[..], &[("content-length", "5")]].concat();
        assert_eq!(verdict(&body), Err(NotWebSocket));
        let chunked = [&GOOD[..], &[("transfer-encoding", "chunked")]].concat();
        assert_eq!(verdict(&chunked), Err(NotWebSocket));
        let empty = HeaderMap::new();
        assert_eq!(check(&Method::POST, Version::HTTP_11, &empty), Err(NotWebSocket));
    }
}
