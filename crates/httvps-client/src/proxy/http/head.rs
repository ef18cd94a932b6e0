//! Heads of HTTP/1 messages: read strictly where a program sends them, repaired where an origin does.

use httparse::{EMPTY_HEADER, Header, ParserConfig, Status};
use std::collections::HashSet;

/// The longest head, in bytes. Tickets of Negotiate alone have up to 64 KiB.
pub(super) const MAX_HEAD: usize = 256 * 1024;

/// The most header fields of a message.
pub(super) const MAX_FIELDS: usize = 1000;

/// Fields that most messages have at most; space for more is taken when there are more.
const FEW_FIELDS: usize = 64;

/// Looks for the end of a head in bytes that arrive in pieces, each byte once.
#[derive(Debug, Default)]
pub(super) struct Search {
    seen: usize,
}

impl Search {
    /// The length of the head that `input` begins with, its empty line included.
    pub(super) fn end(&mut self, input: &[u8]) -> Option<usize> {
        while let Some(at) = input.get(self.seen..)?.iter().position(|&byte| byte == b'\n') {
            self.seen += at;
            match input.get(self.seen + 1..)? {
                [b'\n', ..] => return Some(self.seen + 2),
                [b'\r', b'\n', ..] => return Some(self.seen + 3),
                [] | [b'\r'] => return None,
                _ => self.seen += 1,
            }
        }
        self.seen = input.len();
        None
    }
}

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHead {
    TooManyFields,
    Version,
    /// A line that ends in CR or LF alone.
    LineEnd,
    Malformed(httparse::Error),
}

/// The fields of a head, in their order and with their names as they were written.
#[derive(Debug)]
pub(super) struct Fields<'h> {
    fields: Vec<Header<'h>>,
    /// What `Connection` names, in lower case: looked up for every field, and a head has room for
    /// a hundred thousand names.
    options: HashSet<Box<[u8]>>,
}

impl<'h> Fields<'h> {
    fn new(fields: Vec<Header<'h>>) -> Self {
        let mut fields = Self { fields, options: HashSet::new() };
        let options = fields.list("connection").map(|name| name.to_ascii_lowercase().into());
        fields.options = options.collect();
        fields
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Header<'h>> {
        self.fields.iter()
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &'h [u8]> {
        let named = self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The elements of a list that may be spread over several fields (RFC 9110 section 5.6.1).
    pub(super) fn list(&self, name: &str) -> impl Iterator<Item = &'h [u8]> {
        let elements = self.all(name).flat_map(|value| value.split(|&byte| byte == b','));
        elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
    }

    pub(super) fn lists(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Whether a field goes no further than this connection (RFC 9110 section 7.6.1): those that
    /// `Connection` names, those that this proxy writes itself, and those meant for a proxy.
    pub(super) fn is_hop_by_hop(&self, name: &str) -> bool {
        const KNOWN: [&str; 11] = [
            "connection",
            "content-length",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authentication-info",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
        ];
        let name = name.to_ascii_lowercase();
        KNOWN.contains(&&*name) || (name != "host" && self.options.contains(name.as_bytes()))
    }

    /// Whether a login (`WWW-Authenticate`, `Authorization`) holds for a connection instead of a
    /// request: NTLM and Negotiate.
    pub(super) fn has_connection_login(&self, name: &str) -> bool {
        self.all(name).any(|value| {
            ["ntlm", "negotiate"].iter().any(|scheme| {
                let begin = value.get(..scheme.len());
                begin.is_some_and(|begin| begin.eq_ignore_ascii_case(scheme.as_bytes()))
            })
        })
    }
}

/// The head of a request.
#[derive(Debug)]
pub(super) struct RequestHead<'h> {
    pub(super) method: &'h str,
    pub(super) target: &'h str,
    pub(super) is_http_1_0: bool,
    pub(super) fields: Fields<'h>,
}

impl<'h> RequestHead<'h> {
    /// Reads a whole head. Nothing is repaired: what two readers could understand differently is
    /// refused.
    pub(super) fn parse(head: &'h [u8]) -> Result<Self, BadHead> {
        if !has_whole_line_ends(head) {
            return Err(BadHead::LineEnd);
        }
        with_room(|space| {
            let mut request = httparse::Request::new(space);
            match request.parse(head) {
                Ok(Status::Complete(length)) if length == head.len() => {
                    let parsed = (request.method, request.path, request.version);
                    Ok((parsed, request.headers.len()))
                }
                Ok(_) => Err(httparse::Error::NewLine),
                Err(error) => Err(error),
            }
        })
        .map(|((method, target, version), fields)| Self {
            method: method.unwrap_or_default(),
            target: target.unwrap_or_default(),
            is_http_1_0: version == Some(0),
            fields,
        })
    }
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct AnswerHead<'h> {
    pub(super) status: u16,
    pub(super) reason: &'h str,
    pub(super) is_http_1_0: bool,
    pub(super) fields: Fields<'h>,
}

impl<'h> AnswerHead<'h> {
    /// Reads a whole head as browsers do: with space before a colon, folded lines, lines that end
    /// in LF alone, and lines that are no fields, which are left out.
    pub(super) fn parse(head: &'h [u8]) -> Result<Self, BadHead> {
        let mut lenient = ParserConfig::default();
        lenient
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_multiple_spaces_in_response_status_delimiters(true)
            .ignore_invalid_headers_in_responses(true);
        with_room(|space| {
            let mut answer = httparse::Response::new(space);
            match lenient.parse_response(&mut answer, head) {
                Ok(Status::Complete(length)) if length == head.len() => {
                    let parsed = (answer.code, answer.reason, answer.version);
                    Ok((parsed, answer.headers.len()))
                }
                Ok(_) => Err(httparse::Error::NewLine),
                Err(error) => Err(error),
            }
        })
        .map(|((status, reason, version), fields)| Self {
            status: status.unwrap_or_default(),
            reason: reason.unwrap_or_default(),
            is_http_1_0: version == Some(0),
            fields,
        })
    }
}

/// Parses with space for a few fields, then for the most that are allowed.
fn with_room<'h, T>(
    parse: impl Fn(&mut [Header<'h>]) -> Result<(T, usize), httparse::Error>,
) -> Result<(T, Fields<'h>), BadHead> {
    for room in [FEW_FIELDS, MAX_FIELDS] {
        let mut space = vec![EMPTY_HEADER; room];
        match parse(&mut space) {
            Ok((parsed, count)) => {
                space.truncate(count);
                return Ok((parsed, Fields::new(space)));
            }
            Err(httparse::Error::TooManyHeaders) => {}
            Err(httparse::Error::Version) => return Err(BadHead::Version),
            Err(error) => return Err(BadHead::Malformed(error)),
        }
    }
    Err(BadHead::TooManyFields)
}

/// Reads the fields behind a chunked body.
pub(super) fn trailers(section: &[u8]) -> Result<Fields<'_>, BadHead> {
    if !has_whole_line_ends(section) {
        return Err(BadHead::LineEnd);
    }
    with_room(|space| match httparse::parse_headers(section, space)? {
        Status::Complete((length, fields)) if length == section.len() => Ok(((), fields.len())),
        _ => Err(httparse::Error::NewLine),
    })
    .map(|((), fields)| fields)
}

/// Whether each CR is followed by LF, and each LF comes behind CR.
fn has_whole_line_ends(head: &[u8]) -> bool {
    let mut before = 0;
    for &byte in head {
        if (before == b'\r') != (byte == b'\n') {
            return false;
        }
        before = byte;
    }
    before != b'\r'
}

/// The number of a `Content-Length`; None where there is no such field. A list of equal numbers is
/// taken only when `may_repeat` (RFC 9112 section 6.3).
pub(super) fn content_length(fields: &Fields<'_>, may_repeat: bool) -> Result<Option<u64>, ()> {
    let mut length = None;
    for value in fields.all("content-length") {
        for element in value.split(|&byte| byte == b',') {
            let element = element.trim_ascii();
            let is_number = !element.is_empty() && element.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(element).ok().filter(|_| is_number);
            let number = number.and_then(|number| number.parse::<u64>().ok()).ok_or(())?;
            if number > i64::MAX as u64
                || length.is_some_and(|known| !may_repeat || known != number)
            {
                return Err(());
            }
            length = Some(number);
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_is_found_whatever_the_pieces() {
        for (input, end) in [
            (&b"GET / HTTP/1.1\r\nA: b\r\n\r\nbody"[..], Some(24)),
            (b"HTTP/1.1 200\nA: b\n\nbody", Some(19)),
            (b"HTTP/1.1 200\nA: b\n\r\nbody", Some(20)),
            (b"GET / HTTP/1.1\r\nA: b\r\n\r", None),
            (b"GET / HTTP/1.1\r\nA: b\r\n \r\n", None),
        ] {
            for piece in 1..input.len() {
                let mut search = Search::default();
                let mut have = 0;
                let mut found = None;
                while found.is_none() && have < input.len() {
                    have = (have + piece).min(input.len());
                    found = search.end(&input[..have]);
                }
                assert_eq!(found, end, "{piece}");
            }
        }
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_refused_in_a_request() {
        let bad = |text: &str| RequestHead::parse(text.as_bytes()).unwrap_err();
        for text in [
            "GET http://a/ HTTP/1.1\nHost: a\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
            "\nGET http://a/ HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(bad(text), BadHead::LineEnd, "{text:?}");
        }
        for text in [
            "GET http://a/ HTTP/1.1\r\nX: a\r\n folded\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nX : a\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nX\r\n\r\n",
            "GET  http://a/ HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nX: a\0b\r\n\r\n",
        ] {
            assert!(matches!(bad(text), BadHead::Malformed(_)), "{text:?}");
        }
        assert_eq!(bad("GET http://a/ HTTP/2.0\r\n\r\n"), BadHead::Version);
        let many = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert!(RequestHead::parse(many(MAX_FIELDS).as_bytes()).is_ok());
        assert_eq!(bad(&many(MAX_FIELDS + 1)), BadHead::TooManyFields);
    }

    #[test]
    fn lengths_are_plain_numbers() {
        let length = |value: &str, may_repeat| {
            let text = format!("GET / HTTP/1.1\r\n{value}\r\n\r\n");
            content_length(&RequestHead::parse(text.as_bytes()).unwrap().fields, may_repeat)
        };
        assert_eq!(length("X: y", false), Ok(None));
        assert_eq!(length("Content-Length: 007", false), Ok(Some(7)));
        for bad in
            ["+7", "-7", "0x7", "7 7", "", "7,", "9223372036854775808", "18446744073709551617"]
        {
            assert_eq!(length(&format!("Content-Length: {bad}"), true), Err(()), "{bad}");
        }
        for repeated in ["Content-Length: 7, 7", "Content-Length: 7\r\nContent-length: 7"] {
            assert_eq!(length(repeated, true), Ok(Some(7)));
            assert_eq!(length(repeated, false), Err(()));
        }
        assert_eq!(length("Content-Length: 7\r\nContent-Length: 8", true), Err(()));
    }
}
