//! What a request of a local program asks for, and how it goes on to the origin.

use super::body::{Framing, write_field};
use super::head::{BadHead, Fields, MAX_FIELDS, RequestHead, content_length};
use super::own::Own;
use crate::proxy::Credentials;
use crate::{Target, TargetError};

/// What the answer to a request depends on.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a request says or not")]
pub(super) struct Asked {
    pub(super) body: Framing,
    /// `HEAD`: the answer has no body.
    pub(super) is_head: bool,
    /// `CONNECT`.
    pub(super) wants_tunnel: bool,
    /// The program asks to change to another protocol on this connection.
    pub(super) wants_upgrade: bool,
    /// The program waits for `100 Continue`.
    pub(super) expects: bool,
    /// HTTP/1.0: no chunks, no interim answers, no further request.
    pub(super) is_http_1_0: bool,
    /// The program keeps the connection for further requests.
    pub(super) persists: bool,
    /// May be sent once more when a kept connection ended under it.
    pub(super) is_repeatable: bool,
    /// Has a login that holds for the connection.
    pub(super) has_login: bool,
}

/// Where a request goes.
#[derive(Debug)]
pub(super) enum Wish {
    Tunnel(Target),
    /// The rewritten head.
    Forward(Target, Vec<u8>),
    /// Nowhere.
    Answer(Own),
}

/// Judges the head of a request. An error is answered, and the connection is closed behind it.
pub(super) fn judge(head: &[u8], credentials: Option<&Credentials>) -> Result<(Asked, Wish), Own> {
    let head = RequestHead::parse(head).map_err(bad_head)?;
    let asked = asked(&head)?;
    if !is_authorized(&head.fields, credentials) {
        return Ok((asked, Wish::Answer(Own::credentials())));
    }
    let wish = match wish(&head, &asked) {
        Ok(wish) => wish,
        Err(words) => Wish::Answer(Own::plain(400, &words)),
    };
    Ok((asked, wish))
}

fn bad_head(bad: BadHead) -> Own {
    match bad {
        BadHead::TooManyFields => {
            Own::plain(431, &format!("the request has more than {MAX_FIELDS} header fields"))
        }
        BadHead::Version => Own::plain(505, "this proxy speaks HTTP/1.1"),
        BadHead::LineEnd => {
            Own::plain(400, "a line of the request does not end in CR LF, or has one of them in it")
        }
        BadHead::Malformed(error) => {
            Own::plain(400, &format!("the head of the request is malformed: {error}"))
        }
    }
}

fn asked(head: &RequestHead<'_>) -> Result<Asked, Own> {
    let fields = &head.fields;
    let body = framing(head)?;
    let is_empty = body == Framing::NONE;
    if fields.all("host").count() > 1 {
        return Err(Own::plain(400, "the request has more than one Host"));
    }
    match head.method {
        "CONNECT" if !is_empty => return Err(Own::plain(400, "CONNECT has no body")),
        "TRACE" if !is_empty => return Err(Own::plain(400, "TRACE has no body")),
        _ => {}
    }
    let is_close = |name| fields.lists(name, "close");
    let is_http_1_0 = head.is_http_1_0;
    let is_h2c = fields.lists("upgrade", "h2c");
    Ok(Asked {
        body,
        is_head: head.method == "HEAD",
        wants_tunnel: head.method == "CONNECT",
        wants_upgrade: !is_http_1_0
            && is_empty
            && !is_h2c
            && fields.has("upgrade")
            && fields.lists("connection", "upgrade"),
        expects: !is_http_1_0 && fields.lists("expect", "100-continue"),
        is_http_1_0,
        persists: !is_http_1_0 && !is_close("connection") && !is_close("proxy-connection"),
        is_repeatable: is_empty
            && matches!(head.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
        has_login: fields.has_connection_login("authorization"),
    })
}

/// How the body says where it ends. Whatever leaves a doubt is refused (RFC 9112 section 11.2).
fn framing(head: &RequestHead<'_>) -> Result<Framing, Own> {
    let fields = &head.fields;
    let length = content_length(fields, false)
        .map_err(|()| Own::plain(400, "Content-Length is not one plain number"))?;
    if !fields.has("transfer-encoding") {
        return Ok(Framing::Length(length.unwrap_or(0)));
    }
    if length.is_some() {
        let words = "Content-Length and Transfer-Encoding contradict each other";
        return Err(Own::plain(400, words));
    }
    if head.is_http_1_0 {
        return Err(Own::plain(400, "HTTP/1.0 has no Transfer-Encoding"));
    }
    let mut values = fields.all("transfer-encoding");
    match (values.next(), values.next()) {
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        _ => Err(Own::plain(501, "of the transfer codings this proxy knows chunked")),
    }
}

fn is_authorized(fields: &Fields<'_>, credentials: Option<&Credentials>) -> bool {
    let Some(known) = credentials else {
        return true;
    };
    fields.all("proxy-authorization").next().is_some_and(|value| {
        let scheme = value.get(..6);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic "))
            && known.is_basic(value[6..].trim_ascii())
    })
}

fn wish(head: &RequestHead<'_>, asked: &Asked) -> Result<Wish, String> {
    if head.method == "CONNECT" {
        let authority = without_user(head.target);
        return Target::parse(authority).map(Wish::Tunnel).map_err(malformed);
    }
    if head.method == "OPTIONS" && head.target == "*" {
        return Ok(Wish::Answer(Own::options()));
    }
    let place = Place::parse(head)?;
    let forwards = hops_left(head);
    if forwards == Some(0) {
        return Ok(Wish::Answer(match head.method {
            "TRACE" => Own::trace(head),
            _ => Own::options(),
        }));
    }
    let bytes = rewritten(head, asked, &place, forwards.map(|hops| hops - 1));
    Ok(Wish::Forward(place.target, bytes))
}

fn malformed(error: TargetError) -> String {
    format!("malformed target: {error}")
}

/// `Max-Forwards` of the methods that know it (RFC 9110 section 7.6.2).
fn hops_left(head: &RequestHead<'_>) -> Option<u64> {
    if !matches!(head.method, "TRACE" | "OPTIONS") {
        return None;
    }
    let value = head.fields.all("max-forwards").next()?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A target in absolute form, taken apart.
struct Place<'h> {
    target: Target,
    /// Host and port as they were written, for `Host`.
    authority: &'h str,
    path: String,
}

impl<'h> Place<'h> {
    fn parse(head: &RequestHead<'h>) -> Result<Self, String> {
        let (scheme, rest) = absolute(head.target).ok_or(
            "this is a proxy, not a web server; name it as proxy in the settings of your program",
        )?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(format!("{scheme}:// is not carried in plain requests; use CONNECT"));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // A user name before the host is for the origin, which gets it in another field.
        let authority = without_user(authority);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (authority, ""),
        };
        if host.contains(':') && !host.starts_with('[') {
            return Err(malformed(TargetError::UnbracketedIpv6));
        }
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let number = match port {
            "" => 80,
            _ if is_number => port.parse().map_err(|_| malformed(TargetError::BadPort))?,
            _ => return Err(malformed(TargetError::BadPort)),
        };
        let target = Target::from_parts(host, number).map_err(malformed)?;
        let authority = if port.is_empty() { host } else { authority };
        let path = path.split('#').next().unwrap_or_default();
        let path = match path {
            // RFC 9112 section 3.2.4.
            "" if head.method == "OPTIONS" => "*".into(),
            _ if path.starts_with('/') => path.to_owned(),
            _ => format!("/{path}"),
        };
        Ok(Self { target, authority, path })
    }
}

/// Splits `scheme://rest`.
fn absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    let is_scheme =
        scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    (is_scheme && !scheme.is_empty()).then_some((scheme, rest))
}

fn without_user(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// The head in the origin's form (RFC 9112 section 3.2), with `Host` from the target. Fields keep
/// their order and the case of their names.
///
/// No `Via` is added: a device behind a tunnel does not want to be told by it.
fn rewritten(
    head: &RequestHead<'_>,
    asked: &Asked,
    place: &Place<'_>,
    forwards: Option<u64>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(format!("{} {} HTTP/1.1\r\n", head.method, place.path).as_bytes());
    if !head.fields.has("host") {
        write_field(&mut out, "Host", place.authority.as_bytes());
    }
    let mut options = Vec::new();
    for field in head.fields.iter() {
        let is = |name| field.name.eq_ignore_ascii_case(name);
        if is("host") {
            write_field(&mut out, field.name, place.authority.as_bytes());
        } else if is("content-length")
            && let Framing::Length(length) = asked.body
        {
            write_field(&mut out, field.name, length.to_string().as_bytes());
        } else if is("transfer-encoding") {
            write_field(&mut out, field.name, b"chunked");
        } else if is("upgrade") && asked.wants_upgrade {
            write_field(&mut out, field.name, field.value);
        } else if is("expect") && asked.is_http_1_0 {
            // RFC 9110 section 10.1.1.
        } else if is("max-forwards")
            && let Some(hops) = forwards
        {
            write_field(&mut out, field.name, hops.to_string().as_bytes());
        } else if !head.fields.is_hop_by_hop(field.name) {
            write_field(&mut out, field.name, field.value);
        }
    }
    if asked.wants_upgrade {
        options.push("Upgrade");
    }
    if !asked.is_http_1_0 && head.fields.lists("te", "trailers") {
        write_field(&mut out, "TE", b"trailers");
        options.push("TE");
    }
    if !options.is_empty() {
        write_field(&mut out, "Connection", options.join(", ").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(text: &str) -> (Asked, String) {
        match judge(text.as_bytes(), None).unwrap() {
            (asked, Wish::Forward(_, head)) => (asked, String::from_utf8(head).unwrap()),
            (_, other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_with_a_doubtful_end_are_refused() {
        for (fields, status) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
            ("Content-Length: 5\r\nContent-Length: 5", 400),
            ("Content-Length: 5, 5", 400),
            ("Content-Length: 5\r\nContent-Length: 6", 400),
            ("Content-Length: +5", 400),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
            ("Transfer-Encoding: chunked, chunked", 501),
            ("Transfer-Encoding: xchunked", 501),
            ("Transfer-Encoding: chunked, identity", 501),
            ("Transfer-Encoding:", 501),
            ("Host: a\r\nHost: b", 400),
            ("Transfer-Encoding : chunked", 400),
            ("Content-Length: 5\r\n Transfer-Encoding: chunked", 400),
            ("X: y\nContent-Length: 5", 400),
        ] {
            let text = format!("POST http://a.example/ HTTP/1.1\r\n{fields}\r\n\r\n");
            let own = judge(text.as_bytes(), None).unwrap_err();
            assert_eq!(own.status(), status, "{fields:?}");
        }
        for line in ["CONNECT a.example:1 HTTP/1.1", "TRACE http://a.example/ HTTP/1.1"] {
            for body in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
                let own = judge(format!("{line}\r\n{body}\r\n\r\n").as_bytes(), None).unwrap_err();
                assert_eq!(own.status(), 400, "{line}");
            }
        }
        let empty = b"CONNECT a.example:1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
        assert!(matches!(judge(empty, None), Ok((_, Wish::Tunnel(_)))));
        let old = b"POST http://a.example/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(judge(old, None).unwrap_err().status(), 400);
    }

    #[test]
    fn what_goes_on_keeps_its_names_and_its_order() {
        let (asked, head) = forwarded(
            "POST http://u:p@A.example:8080?x=//#part HTTP/1.1\r\nx-LOWER: 1\r\nHOST: b.example\r\n\
             SOAPAction: \"x\"\r\nConnection: close, X-Hop, TE, content-length\r\nX-Hop: 1\r\n\
             TE: gzip, trailers\r\nTransfer-encoding: Chunked\r\nExpect: 100-continue\r\nTrailer: X-Sum\r\n\r\n",
        );
        assert_eq!(
            head,
            "POST /?x=// HTTP/1.1\r\nx-LOWER: 1\r\nHOST: A.example:8080\r\nSOAPAction: \"x\"\r\n\
             Transfer-encoding: chunked\r\nExpect: 100-continue\r\nTrailer: X-Sum\r\nTE: trailers\r\n\
             Connection: TE\r\n\r\n"
        );
        assert!(asked.expects && !asked.persists && asked.body == Framing::Chunked);
    }

    #[test]
    fn upgrades_go_on_but_not_to_http_2() {
        let request = |more: &str| {
            forwarded(&format!(
                "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n{more}\r\n\r\n"
            ))
        };
        let (asked, head) = request("Connection: keep-alive, Upgrade\r\nUpgrade: websocket");
        assert!(asked.wants_upgrade);
        assert!(head.ends_with("Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), "{head}");
        for not in [
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM",
            "Upgrade: websocket",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1",
        ] {
            let (asked, head) = request(not);
            assert!(!asked.wants_upgrade && !head.contains("Upgrade"), "{head}");
        }
    }

    #[test]
    fn options_and_trace_count_their_hops() {
        let (_, head) = forwarded("OPTIONS http://a.example HTTP/1.1\r\nMax-Forwards: 7\r\n\r\n");
        assert_eq!(head, "OPTIONS * HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 6\r\n\r\n");
        let (_, head) = forwarded("GET http://a.example HTTP/1.1\r\nMax-Forwards: 0\r\n\r\n");
        assert_eq!(head, "GET / HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 0\r\n\r\n");
        let own = |text: &str| match judge(text.as_bytes(), None).unwrap() {
            (asked, Wish::Answer(own)) => {
                let mut out = Vec::new();
                own.write(&mut out, Some(&asked), true);
                String::from_utf8(out).unwrap()
            }
            (_, other) => panic!("{other:?}"),
        };
        assert!(own("OPTIONS * HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\nAllow: "));
        let trace = own(
            "TRACE http://a.example/x HTTP/1.1\r\nX-A: 1\r\nCookie: s3cret\r\nMax-Forwards: 0\r\n\r\n",
        );
        let reflected =
            "\r\n\r\nTRACE http://a.example/x HTTP/1.1\r\nX-A: 1\r\nMax-Forwards: 0\r\n\r\n";
        assert!(
            trace.contains("Content-Type: message/http\r\n") && trace.ends_with(reflected),
            "{trace}"
        );
    }

    #[test]
    fn targets_are_read_strictly() {
        for (target, words) in [
            ("http://::1/", "brackets"),
            ("http://a:1:2/", "brackets"),
            ("http://a:+80/", "port"),
            ("http://a:65536/", "port"),
            ("http://a:0/", "port"),
            ("http:///x", "target"),
            ("/?http://a/", "this is a proxy"),
            ("ftp://a/", "ftp:// is not carried"),
            ("*", "this is a proxy"),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\n\r\n");
            match judge(text.as_bytes(), None).unwrap() {
                (asked, Wish::Answer(own)) => {
                    let mut out = Vec::new();
                    own.write(&mut out, Some(&asked), true);
                    let out = String::from_utf8(out).unwrap();
                    assert!(
                        out.starts_with("HTTP/1.1 400 ") && out.contains(words),
                        "{target}: {out}"
                    );
                }
                (_, other) => panic!("{target}: {other:?}"),
            }
        }
    }
}
