//! What local programs ask the client's proxy for.

use super::{behaviour, choice, kind, seeds, upgrade};
use crate::run::Decoder;
use httvps_client::proxy::Credentials;
use httvps_client::proxy::fuzzing::{http, socks5, socks5_datagram};
use httvps_client::{Secret, Target};

fn credentials() -> Credentials {
    Credentials::new(Secret::new("ann".into()), Secret::new("s3cret".into()))
}

/// Pieces make no difference, and with credentials nobody comes in without them.
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
            assert!(credentials.is_none() || has(b"\x03ann\x06s3cret"), "nobody let it in");
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
        assert!(input.ends_with(payload), "bytes that nobody sent");
        let answer = [&*header, payload].concat();
        let again = socks5_datagram(&answer).map(|(target, payload, _)| (target, payload));
        assert!(again == Some((target.clone(), payload)), "{target} reads differently");
        behaviour((kind(&target.host), payload.len() / 16))
    }
}

/// A target has a host and a port that was asked for, and credentials are asked for.
pub(super) struct Http {
    credentials: Credentials,
}

impl Default for Http {
    fn default() -> Self {
        Self { credentials: credentials() }
    }
}

impl Decoder for Http {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let requests: [&[u8]; 7] = [
            b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
            b"CONNECT [::1]:443 HTTP/1.1\r\nProxy-Authorization: Basic YW5uOnMzY3JldA==\r\n\r\n",
            b"GET http://example.org/a?b HTTP/1.1\r\nHost: example.org\r\nproxy-authorization: basic  YW5uOnMzY3JldA==\r\n\r\n",
            b"GET http://user:pw@example.org:8080/ HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET https://a/ HTTP/1.1\r\nProxy-Authorization: Bearer x\r\n\r\n",
            b"OPTIONS http://[2001:db8::1]:/ HTTP/1.1\r\n\r\n",
        ];
        requests.iter().map(|request| request.to_vec()).collect()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"CONNECT ",
            b"http://",
            b"https://",
            b"@",
            b"[",
            b"]",
            b":",
            b":443",
            b"Proxy-Authorization: ",
            b"Basic YW5uOnMzY3JldA==",
            b"\r\n",
            b" HTTP/1.1\r\n",
            b"/",
            b"?",
            b"%41",
            b"\xff",
            b"65536",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let Some(request) = upgrade::head(input) else { return input.len() as u64 / 8 };
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let (is_authorized, target) = http(method, uri, headers, Some(&self.credentials));
        let has = |part: &[u8]| input.windows(part.len()).any(|window| window == part);
        assert!(!is_authorized || has(b"YW5uOnMzY3JldA=="), "nobody let it in");
        assert!(http(method, uri, headers, None).0, "without credentials everybody may");
        if let Ok(target) = &target {
            let again = httvps_client::Target::parse(&target.to_string());
            assert!(again.as_ref() == Ok(target), "{target} reads differently");
        }
        let target = target.map(|target| std::mem::discriminant(&target.host));
        behaviour((is_authorized, target, headers.len()))
    }
}
