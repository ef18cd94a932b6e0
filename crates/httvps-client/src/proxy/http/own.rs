//! Answers that do not come from an origin.

use super::body::write_field;
use super::head::RequestHead;
use super::request::Asked;
use super::{IDLE_TOLD, date};
use crate::{OpenError, StreamEnd, Target};

/// An answer of the proxy itself.
#[derive(Debug)]
pub(super) struct Own {
    status: u16,
    /// One field more, by its name and value.
    extra: Option<(&'static str, &'static str)>,
    kind: &'static str,
    body: Vec<u8>,
}

impl Own {
    /// What is wrong, in one line.
    pub(super) fn plain(status: u16, words: &str) -> Self {
        let body = format!("httvps: {words}\n").into_bytes();
        Self { status, extra: None, kind: "text/plain; charset=utf-8", body }
    }

    pub(super) fn credentials() -> Self {
        let words = "this proxy asks for a user name and a password";
        let challenge = ("Proxy-Authenticate", "Basic realm=\"httvps\"");
        Self { extra: Some(challenge), ..Self::plain(407, words) }
    }

    /// Why there is no stream.
    pub(super) fn refusal(target: &Target, error: &OpenError) -> Self {
        let status = match error {
            OpenError::BadTarget(_) => 400,
            OpenError::NoSession(_) | OpenError::NoPlace | OpenError::Closed => 503,
            OpenError::TimedOut | OpenError::Silent => 504,
            OpenError::Ended(_) | OpenError::NoDatagrams => 502,
            OpenError::Failed(failure) => match failure.end {
                Some(StreamEnd::Denied) => 403,
                Some(StreamEnd::Timeout) => 504,
                Some(StreamEnd::Overload) => 503,
                _ => 502,
            },
        };
        Self::plain(status, &format!("cannot open {target}: {error}"))
    }

    /// `OPTIONS` that goes no further.
    pub(super) fn options() -> Self {
        let allow = ("Allow", "CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE");
        Self { status: 200, extra: Some(allow), kind: "", body: Vec::new() }
    }

    /// `TRACE` that goes no further: the request as it came, without what is secret (RFC 9110
    /// section 9.3.8).
    pub(super) fn trace(head: &RequestHead<'_>) -> Self {
        let version = if head.is_http_1_0 { "1.0" } else { "1.1" };
        let line = format!("{} {} HTTP/{version}\r\n", head.method, head.target);
        let mut body = line.into_bytes();
        for field in head.fields.iter() {
            let is_secret = ["authorization", "cookie", "proxy-authorization"]
                .iter()
                .any(|name| field.name.eq_ignore_ascii_case(name));
            if !is_secret {
                write_field(&mut body, field.name, field.value);
            }
        }
        body.extend_from_slice(b"\r\n");
        Self { status: 200, extra: None, kind: "message/http", body }
    }

    #[cfg(test)]
    pub(super) const fn status(&self) -> u16 {
        self.status
    }

    /// Writes the answer to a request; to one that could not be read, without `asked`.
    pub(super) fn write(&self, out: &mut Vec<u8>, asked: Option<&Asked>, persists: bool) {
        out.extend_from_slice(
            format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).as_bytes(),
        );
        if let Some((name, value)) = self.extra {
            write_field(out, name, value.as_bytes());
        }
        if !self.kind.is_empty() {
            write_field(out, "Content-Type", self.kind.as_bytes());
        }
        write_field(out, "Content-Length", self.body.len().to_string().as_bytes());
        write_date(out);
        write_persistence(out, persists, None);
        out.extend_from_slice(b"\r\n");
        if !asked.is_some_and(|asked| asked.is_head) {
            out.extend_from_slice(&self.body);
        }
    }
}

pub(super) fn write_date(out: &mut Vec<u8>) {
    if let Some(date) = date() {
        write_field(out, "Date", date.as_bytes());
    }
}

/// Says whether the connection stays open, and for how long; `more` is another connection option.
pub(super) fn write_persistence(out: &mut Vec<u8>, persists: bool, more: Option<&str>) {
    let option = if persists { "keep-alive" } else { "close" };
    let options = more.map_or_else(|| option.to_owned(), |more| format!("{option}, {more}"));
    write_field(out, "Connection", options.as_bytes());
    if persists {
        let timeout = format!("timeout={}", IDLE_TOLD.as_secs());
        write_field(out, "Keep-Alive", timeout.as_bytes());
    }
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
