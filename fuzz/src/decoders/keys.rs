//! Outline nodes: access keys, the documents that hold them, and address headers.

use super::pieces::Pieces;
use super::shadowsocks::{cipher, key};
use super::{behaviour, choice, seeds};
use crate::run::Decoder;
use httvps_egress::nodes::{KeySource, read_document};
use httvps_proto::{Host, Target, address};
use httvps_shadowsocks::{AccessKey, Cipher, Client};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;

/// A key reads the same in all of its forms, and neither it nor an error shows what is secret.
pub(super) struct Keys;

/// Forms of one key that a client may be given.
fn forms(cipher: Cipher, password: &str, node: &str) -> [String; 4] {
    let plain = format!("{cipher}:{password}");
    let percent =
        |text: &str| text.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02X}"));
    let encoded = base64_turbo::STANDARD.encode(plain.as_bytes());
    let url_safe = encoded.trim_end_matches('=').replace('+', "-").replace('/', "_");
    [
        format!("ss://{cipher}:{}@{node}", percent(password)),
        format!("SS://{}@{node}/?outline=1", percent(&encoded)),
        format!(" ss://{url_safe}@{node}#a%20name\n"),
        format!("ss://{}", base64_turbo::STANDARD.encode(format!("{plain}@{node}").as_bytes())),
    ]
}

impl Decoder for Keys {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let texts: [&[u8]; 10] = [
            b"ss://Y2hhY2hhMjAtaWV0Zi1wb2x5MTMwNTpwNHNzLXcwcmQ@192.0.2.1:8388/?outline=1",
            b"ss://aes-256-gcm:p%40ss@[2001:db8::1]:443#Name",
            b"ss://2022-blake3-aes-128-gcm:AAECAwQFBgcICQoLDA0ODw%3D%3D@node.example:1",
            b"ss://YWVzLTEyOC1nY206cHdAbm9kZS5leGFtcGxlOjE=",
            b"ss://aes-256-gcm:pw@h:1/?prefix=%16%03%01%C2%A8&plugin=",
            b"ss://aes-256-gcm:pw@h:1/?plugin=obfs",
            b"ssconf://keys.example/a/b?c#d",
            b"https://keys.example:8443/",
            b"http://keys.example/",
            b"pw\xc3\xa9:@/?#%+",
        ];
        seeds::led_by(&texts, &[0, 1, 6])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"ss://",
            b"ssconf://",
            b"https://",
            b"@",
            b":",
            b"/?outline=1",
            b"prefix=",
            b"plugin=",
            b"&",
            b"%2F",
            b"%",
            b"=",
            b"chacha20-ietf-poly1305",
            b"aes-128-gcm",
            b"2022-blake3-aes-256-gcm",
            b"[::1]",
            b"#",
            b"YWVzLTI1Ni1nY20",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, rest) = choice(input);
        let Ok(text) = std::str::from_utf8(rest) else { return 0 };
        if first % 2 == 1 {
            return Self::run_forms(cipher(first / 2), text);
        }
        let parsed = AccessKey::parse(text);
        let source = KeySource::parse(text);
        let same = match &source {
            Ok(KeySource::Static(key)) => Some(key),
            _ => None,
        };
        assert!(parsed.as_ref().ok() == same, "a key in one place and another in the other");
        let words = parsed.as_ref().map_or_else(ToString::to_string, |_| String::new());
        if let Ok(key) = &parsed {
            let node = key.node().to_string();
            assert!(Target::parse(&node).as_ref() == Ok(key.node()), "{node:?} is another node");
            let shown = format!("ss://{}:***@{node}", key.cipher());
            assert!(key.to_string() == shown && format!("{key:?}") == shown, "shown as {key}");
            assert!(
                key.tag().is_none_or(|tag| !tag.contains(char::is_control)),
                "a control in a tag"
            );
        }
        let kind = source.map_or(2, |source| u8::from(matches!(source, KeySource::Dynamic(_))));
        let cipher = parsed.as_ref().ok().map(|key| (key.cipher().name(), key.tag().is_some()));
        behaviour((words, kind, cipher, text.len() / 32))
    }
}

impl Keys {
    fn run_forms(cipher: Cipher, password: &str) -> u64 {
        let parts = AccessKey::from_parts("2001:db8::7", 8388, cipher.name(), password);
        for form in forms(cipher, password, "[2001:db8::7]:8388") {
            let read = AccessKey::parse(&form);
            match (&parts, &read) {
                (Ok(key), Ok(same)) => assert!(key == same, "{form:?} is another key"),
                // A key may be too long for a line.
                (Err(_), Err(_)) => {}
                (_, Err(_)) if form.len() > 4096 => {}
                _ => panic!("{form:?} and its parts differ: {parts:?} {read:?}"),
            }
        }
        behaviour((
            cipher.name(),
            parts.map_err(|error| error.to_string()).is_ok(),
            password.len() / 8,
        ))
    }
}

/// What a dynamic key's server says is a key, or something that is wrong in few words of our own.
pub(super) struct Document;

impl Decoder for Document {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let texts: [&[u8]; 9] = [
            b"ss://YWVzLTI1Ni1nY206cHc@192.0.2.1:8388/?outline=1\n",
            br#"{"server":"192.0.2.1","server_port":8388,"password":"pw","method":"chacha20-ietf-poly1305","prefix":"\u0016\u0003"}"#,
            br#"{"server":"h","server_port":"8388","password":"pw","method":"aes-256-gcm"}"#,
            br#"{"error":{"message":"no such key","details":"x"}}"#,
            b"transport:\n  $type: tcpudp\n  tcp:\n    $type: shadowsocks\n    endpoint: h:443\n    cipher: chacha20-ietf-poly1305\n    secret: pw\n    prefix: \"POST \"\n  udp:\n    $type: shadowsocks\n    endpoint: h:443\n    cipher: chacha20-ietf-poly1305\n    secret: pw\n",
            b"transport:\n  $type: tcpudp\n  tcp: &shared\n    $type: shadowsocks\n    endpoint: h:443\n    cipher: aes-256-gcm\n    secret: pw\n  udp: *shared\n",
            b"transport: ss://YWVzLTI1Ni1nY206cHc@192.0.2.1:8388\n",
            b"a: &a [x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n",
            b"<!doctype html>",
        ];
        texts.map(<[u8]>::to_vec).into()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"transport:",
            b"$type: ",
            b"shadowsocks",
            b"tcpudp",
            b"websocket",
            b"endpoint: ",
            b"cipher: ",
            b"secret: ",
            b"prefix: ",
            b"\n  ",
            b"\n    ",
            b"&a ",
            b"*a",
            b"<<: ",
            b"{",
            b"}",
            b"\"server\":",
            b"\"server_port\":",
            b"\"password\":",
            b"\"method\":",
            b"null",
            b"ss://",
        ]
    }

    fn longest(&self) -> usize {
        700
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let Ok(text) = std::str::from_utf8(input) else { return 0 };
        match read_document(text) {
            Ok(key) => {
                behaviour((key.cipher().name(), key.node().to_string().len(), text.len() / 64))
            }
            Err(words) => {
                assert!(words.chars().count() <= 200, "{} characters of an error", words.len());
                assert!(!words.contains(char::is_control), "control characters: {words:?}");
                behaviour((words, text.len() / 128))
            }
        }
    }
}

/// A header ends where it says, whatever the pieces; one that is written reads back.
pub(super) struct Address;

impl Decoder for Address {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let headers: [&[u8]; 6] = [
            b"\x01\x01\x02\x03\x04\x00\x50GET /",
            b"\x03\x0bexample.com\x01\xbbhello",
            b"\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\xff\xff",
            b"\x04\0\0\0\0\0\0\0\0\0\0\xff\xff\x01\x02\x03\x04\x00\x50x",
            b"\x03\x00\x00\x50",
            b"GET / HTTP/1.1",
        ];
        seeds::led_by(&headers, &[0, 1, 7])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[b"\x01", b"\x03", b"\x04", b"\x03\xff", b"\x03\x01a\0\x50", b"\0\0\0\0"]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, bytes) = choice(input);
        let length = address::header_len(bytes);
        let split = address::split(bytes).map(|(source, rest)| (source.ip, source.port, rest));
        let is_whole = length.is_ok_and(|len| len.is_some_and(|len| len <= bytes.len()));
        assert!(split.is_some() == is_whole, "{length:?} of {} bytes", bytes.len());
        if let Some((ip, port, rest)) = split {
            assert!(Ok(Some(bytes.len() - rest.len())) == length, "it ends elsewhere");
            if let Some(ip) = ip {
                let mut header = Vec::new();
                address::encode(&Target { host: Host::Ip(ip), port }, &mut header);
                assert!(
                    address::split(&header).is_some_and(|(source, rest)| (
                        source.ip,
                        source.port,
                        rest
                    ) == (
                        Some(ip),
                        port,
                        &[]
                    )),
                    "{ip} reads differently"
                );
            }
        }
        Self::run_stream(first, bytes, length.is_ok(), is_whole);
        let outcome =
            split.map(|(ip, _, rest)| (ip.is_some_and(|ip| ip.is_ipv6()), rest.len() / 8));
        behaviour((length.map_err(|error| error.to_string()), outcome))
    }
}

impl Address {
    /// A stream whose client sends the header itself, in pieces, to a node of 2022, which wants it apart.
    fn run_stream(first: u8, bytes: &[u8], is_good: bool, is_whole: bool) {
        let client = Client::new(key(Cipher::Blake3Aes128Gcm, 1));
        let stream = client.start(Pieces::new(Vec::new(), 1), None);
        let mut stream = stream.expect("the system has random bytes");
        let mut cx = Context::from_waker(Waker::noop());
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(1 + usize::from(first % 16))];
            match Pin::new(&mut stream).poll_write(&mut cx, piece) {
                Poll::Ready(Ok(taken)) => {
                    assert!((1..=piece.len()).contains(&taken), "{taken} of {}", piece.len());
                    rest = &rest[taken..];
                }
                Poll::Ready(Err(error)) => {
                    assert!(!is_good, "a good header is {error}");
                    return;
                }
                Poll::Pending => panic!("it waits although the node takes everything"),
            }
        }
        assert!(is_good, "a header that is none was taken");
        let ended = Pin::new(&mut stream).poll_shutdown(&mut cx);
        let may_end = is_whole || bytes.is_empty();
        assert!(matches!(&ended, Poll::Ready(result) if result.is_ok() == may_end), "{ended:?}");
    }
}
