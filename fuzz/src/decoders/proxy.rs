//! What local programs ask the client's proxy for.

use super::{behaviour, choice, kind, seeds};
use crate::run::Decoder;
use httvps_client::proxy::Credentials;
use httvps_client::proxy::fuzzing::{Judged, chunked, http, http_answer, socks5, socks5_datagram};
use httvps_client::{Secret, Target};

fn credentials() -> Credentials {
    Credentials::new(Secret::new("ann".into()), Secret::new("s3cret".into()))
}

/// Pieces make no difference, and configured credentials are required.
pub(super) struct Socks5 {
    credentials: Credentials,
}

impl Default for Socks5 {
    fn default() -> Self {
        Self { credentials: credentials() }
    }
}

impl Decoder for Socks5 {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let negotiations: [&[u8]; 6] = [
            b"\x05\x01\x00\x05\x01\x00\x03\x0bexample.org\x01\xbbhello",
            b"\x05\x02\x00\x02\x01\x03ann\x06s3cret\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50",
            b"\x05\x02\x00\x02\x01\x03ann\x06s3creT\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50",
            b"\x05\x01\x00\x05\x01\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50",
            b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0",
            b"\x05\x01\x00\x05\x01\x00\x03\x07[::1%1]\x00\x00",
        ];
        seeds::led_by(&negotiations, &[0, 1, 2, 9])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\x05\x01\x00",
            b"\x05\x01\x02",
            b"\x01\x03ann\x06s3cret",
            b"\x05\x01\x00\x01",
            b"\x05\x01\x00\x03",
            b"\x05\x01\x00\x04",
            b"\x0bexample.org",
            b"\xff",
            b"\x01\xbb",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, rest) = choice(input);
        let credentials = (first & 1 == 1).then_some(&self.credentials);
        let result = socks5(rest, usize::from(first >> 1), credentials);
        assert!(result == socks5(rest, usize::MAX, credentials), "pieces make a difference");
        let (verdict, taken) = result;
        assert!(taken <= rest.len());
        if let Some(Ok(_)) = &verdict {
            let has = |part: &[u8]| rest.windows(part.len()).any(|window| window == part);
            assert!(
                credentials.is_none() || has(b"\x03ann\x06s3cret"),
                "let in without the credentials"
            );
        }
        let target = |target: Option<Target>| target.map(|target| kind(&target.host));
        behaviour((first & 1, taken, verdict.map(|verdict| verdict.map(target))))
    }
}

/// A datagram's target, written into the header of an answer, reads back as itself.
pub(super) struct Socks5Udp;

impl Decoder for Socks5Udp {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let datagrams: [&[u8]; 5] = [
            b"\0\0\0\x01\xc0\0\x02\x07\0\x35query",
            b"\0\0\0\x03\x0bexample.org\0\x35query",
            b"\0\0\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x35",
            b"\0\0\x01\x01\xc0\0\x02\x07\0\x35fragment",
            b"\0\0\0\x03\x0a[2001:db8]\0\x35",
        ];
        datagrams.map(<[u8]>::to_vec).to_vec()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\0\0\0\x01",
            b"\0\0\0\x03",
            b"\0\0\0\x04",
            b"\x0bexample.org",
            b"127.0.0.1",
            b"::",
            b"\xff",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let Some((target, payload, header)) = socks5_datagram(input) else { return 0 };
        assert!(input.ends_with(payload), "bytes that were not sent");
        let answer = [&*header, payload].concat();
        let again = socks5_datagram(&answer).map(|(target, payload, _)| (target, payload));
        assert!(again == Some((target.clone(), payload)), "{target} reads differently");
        behaviour((kind(&target.host), payload.len() / 16))
    }
}

/// None is let in without the credentials; what goes on to an origin is one head that every reader
/// understands alike, and goes on unchanged when it comes back.
pub(super) struct Http {
    credentials: Credentials,
}

impl Default for Http {
    fn default() -> Self {
        Self { credentials: credentials() }
    }
}

/// The method, the target and the fields of a head, as a strict reader sees them.
fn strictly(head: &[u8]) -> (String, Vec<(String, Vec<u8>)>) {
    let mut fields = vec![httparse::EMPTY_HEADER; 1100];
    let mut request = httparse::Request::new(&mut fields);
    let end = request.parse(head).expect("a head that cannot be read");
    assert!(end == httparse::Status::Complete(head.len()), "more than a head");
    let target = request.path.unwrap_or_default().to_owned();
    let fields = request.headers.iter();
    (target, fields.map(|field| (field.name.to_lowercase(), field.value.to_vec())).collect())
}

/// Asserts what everything that leaves the proxy has in common.
fn assert_plain(head: &[u8], fields: &[(String, Vec<u8>)]) {
    let mut lines = head.split(|&byte| byte == b'\n').rev();
    assert!(lines.next() == Some(b""), "it does not end with a line");
    let is_plain =
        |line: &[u8]| line.iter().position(|&byte| byte == b'\r') == Some(line.len() - 1);
    assert!(lines.all(|line| !line.is_empty() && is_plain(line)), "a line end within a line");
    let count = |name| fields.iter().filter(|(other, _)| other == name).count();
    let (length, chunks) = (count("content-length"), count("transfer-encoding"));
    assert!(length + chunks <= 1, "two ends of a body");
    assert!(count("proxy-authorization") + count("keep-alive") <= 1);
}

impl Decoder for Http {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let requests: [&[u8]; 10] = [
            b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
            b"CONNECT [::1]:443 HTTP/1.1\r\nProxy-Authorization: Basic YW5uOnMzY3JldA==\r\n\r\n",
            b"GET http://example.org/a?b HTTP/1.1\r\nHost: example.org\r\nproxy-authorization: basic  YW5uOnMzY3JldA==\r\n\r\n",
            b"GET http://user:pw@example.org:8080/ HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET https://a/ HTTP/1.1\r\nProxy-Authorization: Bearer x\r\n\r\n",
            b"OPTIONS http://[2001:db8::1]: HTTP/1.1\r\nMax-Forwards: 3\r\n\r\n",
            b"POST http://a/ HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
            b"POST http://a/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE, x\r\nX: y\r\n\r\n",
            b"GET http://a/ HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ];
        requests.iter().map(|request| request.to_vec()).collect()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"CONNECT ",
            b"TRACE ",
            b"http://",
            b"https://",
            b"@",
            b"[",
            b"]",
            b":443",
            b"Host: b\r\n",
            b"Proxy-Authorization: ",
            b"Basic YW5uOnMzY3JldA==",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: host, content-length\r\n",
            b"\r\n",
            b"\n",
            b"\r\n ",
            b" HTTP/1.1\r\n",
            b" HTTP/1.0\r\n",
            b"?",
            b"#",
            b"%41",
            b"\xff",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let has = |part: &[u8]| input.windows(part.len()).any(|window| window == part);
        let guarded = http(input, Some(&self.credentials));
        let is_in = matches!(guarded, Judged::Tunnel(_) | Judged::Forward(..));
        assert!(!is_in || has(b"YW5uOnMzY3JldA=="), "it was not let in");
        let judged = http(input, None);
        let target = match &judged {
            Judged::Tunnel(target) | Judged::Forward(target, _) => target,
            Judged::Refused => return 1,
            Judged::Answered => return 2,
        };
        let again = httvps_client::Target::parse(&target.to_string());
        assert!(again.as_ref() == Ok(target), "{target} reads differently");
        let mut shape = (kind(&target.host), 0, 0);
        if let Judged::Forward(target, head) = &judged {
            let (path, fields) = strictly(head);
            assert_plain(head, &fields);
            let hosts: Vec<_> = fields.iter().filter(|(name, _)| name == "host").collect();
            assert!(hosts.len() == 1, "not one host");
            let host = String::from_utf8_lossy(&hosts[0].1).into_owned();
            // The same request once more, in the form that is meant for a proxy.
            let text = String::from_utf8_lossy(head).into_owned();
            let place = if path == "*" { String::new() } else { path.clone() };
            let once_more =
                text.replacen(&format!(" {path} "), &format!(" http://{host}{place} "), 1);
            match http(once_more.as_bytes(), None) {
                Judged::Forward(other, _) => assert!(other == *target, "{other} is not {target}"),
                Judged::Answered if text.starts_with("TRACE") || text.starts_with("OPTIONS") => {}
                _ if text.as_bytes() != &head[..] => {}
                _ => panic!("what went on is refused: {once_more:?}"),
            }
            shape = (kind(&target.host), fields.len(), path.len().min(16));
        }
        behaviour(shape)
    }
}

/// The head of an answer that goes on to a program is one that every reader understands alike.
pub(super) struct HttpAnswer;

impl Decoder for HttpAnswer {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let answers: [&[u8]; 5] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX : y\r\n\r\n",
            b"HTTP/1.0 404 Not Found\nX: a\n b\nno field\nKeep-Alive: 5\n\n",
            b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nConnection: close, x\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
            b"HTTP/1.1 426 Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5, 5\r\n\r\n",
        ];
        answers.map(<[u8]>::to_vec).to_vec()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"HTTP/1.1 ",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: identity\r\n",
            b"Connection: content-length\r\n",
            b" : ",
            b"\r\n ",
            b"\n",
            b"\r",
            b"\0",
            b"\xff",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let Some(head) = http_answer(input) else { return 0 };
        let mut fields = vec![httparse::EMPTY_HEADER; 1100];
        let mut answer = httparse::Response::new(&mut fields);
        let end = answer.parse(&head).expect("a head that cannot be read");
        assert!(end == httparse::Status::Complete(head.len()), "more than a head");
        let fields = answer.headers.iter();
        let fields: Vec<_> =
            fields.map(|field| (field.name.to_lowercase(), field.value.to_vec())).collect();
        assert_plain(&head, &fields);
        behaviour((answer.code, fields.len()))
    }
}

/// A chunked body says the same whatever the pieces, and what is written reads back as itself.
pub(super) struct Chunked;

impl Decoder for Chunked {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let bodies: [&[u8]; 4] = [
            b"5\r\nhello\r\n0\r\n\r\nrest",
            b"A;x=\"y\"\r\n0123456789\r\n000\r\nX-Sum: 1\r\nHost: a\r\n\r\n",
            b"1 \r\na\r\n1\r\nb\r\n0\r\n\r\n",
            b"ffffffffffffffff\r\n",
        ];
        seeds::led_by(&bodies, &[0, 1, 2, 9])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[b"\r\n", b"\n", b"\r", b"0\r\n", b"1\r\n", b";", b" ", b"X: y\r\n", b"0\r\n\r\n"]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, rest) = choice(input);
        let whole = chunked(rest, usize::MAX);
        let pieces = chunked(rest, usize::from(first));
        let end = |result: &Option<(Vec<u8>, Option<usize>)>| result.as_ref().map(|(_, end)| *end);
        assert!(end(&whole) == end(&pieces), "pieces make a difference");
        let Some((written, Some(taken))) = &whole else { return u64::from(whole.is_some()) };
        assert!(*taken <= rest.len());
        let again = chunked(written, usize::MAX);
        assert!(again == Some((written.clone(), Some(written.len()))), "it reads differently");
        behaviour((*taken, written.len()))
    }
}
