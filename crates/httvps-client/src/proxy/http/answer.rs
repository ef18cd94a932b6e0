//! How an origin's answer goes on to the local program.

use super::body::{Encoding, Framing, write_field};
use super::head::{AnswerHead, BadHead, Fields, MAX_FIELDS, content_length};
use super::own::{write_date, write_persistence};
use super::request::Asked;

/// An answer whose head has been rewritten.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: Vec<u8>,
    pub(super) body: Framing,
    pub(super) encoding: Encoding,
    /// The origin takes a further request on its connection.
    pub(super) origin_persists: bool,
    /// The program may send a further request on its connection.
    pub(super) program_persists: bool,
    /// The origin logs connections in, not requests.
    pub(super) has_login: bool,
}

impl Answer {
    pub(super) const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// Rewrites the head of an answer; else says what is wrong with it. `is_request_whole` says whether
/// the program has sent its whole request.
pub(super) fn rewritten(
    head: &[u8],
    asked: &Asked,
    is_request_whole: bool,
) -> Result<Answer, String> {
    let head = AnswerHead::parse(head).map_err(|bad| match bad {
        BadHead::TooManyFields => format!("more than {MAX_FIELDS} header fields"),
        BadHead::Version => "another version of HTTP, or another protocol".into(),
        BadHead::LineEnd => "a malformed line".into(),
        BadHead::Malformed(error) => error.to_string(),
    })?;
    if head.status < 100 {
        return Err("its status is below 100".into());
    }
    let fields = &head.fields;
    let is_interim = head.status < 200;
    let may_tell_length = !is_interim && head.status != 204;
    let is_chunked = is_chunked(fields)?;
    let length = match content_length(fields, true) {
        Ok(length) => length,
        Err(()) if is_chunked => Some(0),
        Err(()) => return Err("its Content-Length is not one plain number".into()),
    };
    let body = if asked.is_head || !may_tell_length || head.status == 304 {
        Framing::NONE
    } else if is_chunked {
        Framing::Chunked
    } else {
        length.map_or(Framing::UntilClose, Framing::Length)
    };
    let keeps = if head.is_http_1_0 {
        fields.lists("connection", "keep-alive")
    } else {
        !fields.lists("connection", "close")
    };
    // RFC 9112 section 6.1: what contradicts itself is the last on its connection.
    let is_doubtful = is_chunked && (length.is_some() || head.is_http_1_0);
    let origin_persists = keeps && !is_doubtful && body != Framing::UntilClose;
    let encoding = match body {
        Framing::Length(_) => Encoding::Raw,
        _ if asked.is_http_1_0 => Encoding::Raw,
        _ => Encoding::Chunked,
    };
    let program_persists =
        asked.persists && (is_request_whole || (origin_persists && !asked.expects));

    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", head.status, head.reason).as_bytes());
    let has_upgrade = matches!(head.status, 101 | 426);
    let mut has_length = false;
    for field in fields.iter() {
        let is = |name| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            if let Some(length) = length
                && may_tell_length
                && !is_chunked
                && !has_length
            {
                write_field(&mut out, field.name, length.to_string().as_bytes());
                has_length = true;
            }
        } else if (is("upgrade") && has_upgrade) || !fields.is_hop_by_hop(field.name) {
            write_field(&mut out, field.name, field.value);
        }
    }
    let tells_chunks = may_tell_length && is_chunked && !asked.is_http_1_0;
    if tells_chunks || encoding == Encoding::Chunked {
        write_field(&mut out, "Transfer-Encoding", b"chunked");
    }
    if head.status == 101 {
        write_field(&mut out, "Connection", b"Upgrade");
    } else if !is_interim {
        if !fields.has("date") {
            write_date(&mut out);
        }
        write_persistence(&mut out, program_persists, has_upgrade.then_some("Upgrade"));
    }
    out.extend_from_slice(b"\r\n");
    Ok(Answer {
        status: head.status,
        head: out,
        body,
        encoding,
        origin_persists,
        program_persists,
        has_login: fields.has_connection_login("www-authenticate"),
    })
}

/// Whether the body comes in chunks. Other codings than that were not asked for.
fn is_chunked(fields: &Fields<'_>) -> Result<bool, String> {
    let mut is_chunked = false;
    for coding in fields.list("transfer-encoding") {
        match coding {
            _ if coding.eq_ignore_ascii_case(b"identity") => {}
            _ if coding.eq_ignore_ascii_case(b"chunked") && !is_chunked => is_chunked = true,
            _ => return Err("a transfer coding that was not asked for".into()),
        }
    }
    Ok(is_chunked)
}

#[cfg(test)]
mod tests {
    use super::super::request::judge;
    use super::*;

    fn asked(line: &str) -> Asked {
        judge(format!("{line}\r\n\r\n").as_bytes(), None).unwrap().0
    }

    /// The rewritten head without `Date`, and where the body ends.
    fn passed(line: &str, answer: &str) -> (String, Answer) {
        let answer = rewritten(answer.as_bytes(), &asked(line), true).unwrap();
        let head = String::from_utf8(answer.head.clone()).unwrap();
        let lines = head.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: "));
        (lines.collect(), answer)
    }

    const GET: &str = "GET http://a.example/ HTTP/1.1";
    const OLD: &str = "GET http://a.example/ HTTP/1.0";
    const HEAD: &str = "HEAD http://a.example/ HTTP/1.1";
    const KEPT: &str = "Connection: keep-alive\r\nKeep-Alive: timeout=60\r\n\r\n";

    #[test]
    fn a_head_is_repaired_and_keeps_its_names() {
        let (head, answer) = passed(
            GET,
            "HTTP/1.0 200  Fine\nContent-length : 5\nX-lower \t: a\n  b\nno field\nset-cookie: 1\nSet-Cookie: 2\n\
             Connection: x-hop, Set-Cookies\nX-Hop: 1\nKeep-Alive: 3\nProxy-Connection: x\n\n",
        );
        let (start, rest) = head.split_once("X-lower: a").unwrap();
        assert_eq!(start, "HTTP/1.1 200 Fine\r\nContent-length: 5\r\n");
        assert_eq!(rest.trim_start(), format!("b\r\nset-cookie: 1\r\nSet-Cookie: 2\r\n{KEPT}"));
        assert!(!answer.origin_persists && answer.program_persists);
    }

    #[test]
    fn the_end_of_a_body_is_told_in_the_words_of_its_reader() {
        let chunked = "Transfer-Encoding: chunked\r\n";
        let length = "Content-Length: 5\r\n";
        for (line, fields, written, body, encoding, persists) in [
            (GET, length, length, Framing::Length(5), Encoding::Raw, (true, true)),
            (GET, chunked, chunked, Framing::Chunked, Encoding::Chunked, (true, true)),
            (GET, "", chunked, Framing::UntilClose, Encoding::Chunked, (false, true)),
            (OLD, chunked, "", Framing::Chunked, Encoding::Raw, (true, false)),
            (OLD, "", "", Framing::UntilClose, Encoding::Raw, (false, false)),
            (HEAD, length, length, Framing::NONE, Encoding::Raw, (true, true)),
            (HEAD, chunked, chunked, Framing::NONE, Encoding::Raw, (true, true)),
            (
                GET,
                "Content-Length: 5, 5\r\n",
                length,
                Framing::Length(5),
                Encoding::Raw,
                (true, true),
            ),
            (
                GET,
                "Content-Length: 9\r\nTransfer-Encoding: chunked\r\n",
                chunked,
                Framing::Chunked,
                Encoding::Chunked,
                (false, true),
            ),
            (
                GET,
                "Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
                length,
                Framing::Length(5),
                Encoding::Raw,
                (true, true),
            ),
        ] {
            let (head, answer) = passed(line, &format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
            let end = if persists.1 { KEPT } else { "Connection: close\r\n\r\n" };
            assert_eq!(head, format!("HTTP/1.1 200 OK\r\n{written}{end}"), "{line} {fields}");
            assert_eq!((answer.body, answer.encoding), (body, encoding), "{line} {fields}");
            assert_eq!(
                (answer.origin_persists, answer.program_persists),
                persists,
                "{line} {fields}"
            );
        }
        for status in ["204 No", "304 Not", "103 Early"] {
            let (head, answer) =
                passed(GET, &format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n"));
            assert_eq!(answer.body, Framing::NONE);
            assert_eq!(head.contains("Content-Length"), status.starts_with("304"), "{head}");
        }
    }

    #[test]
    fn an_answer_with_a_doubtful_end_is_refused() {
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5x",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, chunked",
        ] {
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
            assert!(rewritten(answer.as_bytes(), &asked(GET), true).is_err(), "{fields}");
        }
        for answer in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 Low\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
        ] {
            assert!(rewritten(answer.as_bytes(), &asked(GET), true).is_err(), "{answer}");
        }
    }

    #[test]
    fn an_early_answer_closes_where_the_rest_of_the_request_has_no_place() {
        let asked = asked("PUT http://a.example/ HTTP/1.1\r\nContent-Length: 5");
        for (close, persists) in [("", true), ("Connection: close\r\n", false)] {
            let answer = format!("HTTP/1.1 413 No\r\nContent-Length: 0\r\n{close}\r\n");
            let answer = rewritten(answer.as_bytes(), &asked, false).unwrap();
            assert_eq!(answer.program_persists, persists);
        }
    }
}
