//! What SOCKS5 and HTTP proxies say to the gateway, judged again by slow readers of their own.

use super::pieces::{Pieces, read_all};
use super::{behaviour, choice, seeds};
use crate::run::Decoder;
use httvps_proto::{Host, Target};
use httvps_proxies::{Error, Packets, ProxyKey, Refusal};
use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The longest head of an HTTP proxy's answers that is read, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

fn target() -> Target {
    Target { host: Host::Ip([192, 0, 2, 7].into()), port: 80 }
}

fn key(text: &str) -> ProxyKey {
    ProxyKey::parse(text).expect("it is a key")
}

/// What becomes of something that never has to wait.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits although there is something to read"),
    }
}

/// An error in a word.
fn word(error: &Error) -> &'static str {
    match error {
        Error::Io(_) => "cut",
        Error::NotAProxy => "garbage",
        Error::Credentials => "credentials",
        Error::NoCredentials => "no credentials",
        Error::Target(Refusal::Refused) => "refused",
        Error::Target(Refusal::Unreachable) => "unreachable",
        Error::Target(Refusal::TimedOut) => "timed out",
        Error::Target(Refusal::Denied) => "denied",
        Error::Unsupported => "unsupported",
    }
}

/// An address header at the front of `bytes`: the address unless it is a name, the port, the length.
fn address(bytes: &[u8]) -> Result<(Option<IpAddr>, u16, usize), &'static str> {
    let (ip, length) = match bytes {
        [1, a, b, c, d, ..] => (Some(IpAddr::from([*a, *b, *c, *d])), 5),
        [4, rest @ ..] if rest.len() >= 16 => {
            let octets: [u8; 16] = rest[..16].try_into().expect("that many");
            (Some(IpAddr::from(octets).to_canonical()), 17)
        }
        [3, 0, ..] => return Err("garbage"),
        [3, length, ..] => (None, 2 + usize::from(*length)),
        [] | [1 | 3 | 4, ..] => return Err("cut"),
        _ => return Err("garbage"),
    };
    match bytes.get(length..length + 2) {
        Some([high, low]) => Ok((ip, u16::from_be_bytes([*high, *low]), length + 2)),
        _ => Err("cut"),
    }
}

/// Nothing is read behind the answers, a way is there when they grant one, and a password goes to those who ask for it.
pub(super) struct Socks5 {
    keys: [ProxyKey; 2],
    target: Target,
}

/// Bytes read and written until something was clear, and what.
type Story = (usize, usize, Result<(Option<IpAddr>, u16), &'static str>);

impl Default for Socks5 {
    fn default() -> Self {
        let keys = ["socks5://h:1", "socks5://ann:s3cret@h:1"].map(key);
        Self { keys, target: target() }
    }
}

impl Socks5 {
    fn real(&self, input: &[u8], piece: usize, has_key: bool, is_udp: bool) -> Story {
        let key = &self.keys[usize::from(has_key)];
        let mut io = Pieces::new(input.to_vec(), piece);
        let mut early = 0;
        let asking = async {
            key.greet(&mut io).await?;
            if is_udp {
                return key.associate(&mut io).await;
            }
            let mut stream = key.open(&mut io, &self.target).await?;
            let taken = stream.get_mut().taken();
            let (read, end) = read_all(&mut stream, 512, |_| {});
            assert!(end.is_none() && read == input[taken..], "other bytes than the target's");
            early = read.len();
            Ok((None, 0))
        };
        let result = at_once(asking).map_err(|error| word(&error));
        (io.taken() - early, io.sent(), result)
    }

    /// The same by hand, from all of the bytes.
    fn slow(input: &[u8], has_key: bool, is_udp: bool) -> Story {
        let (mut at, mut sent) = (2, 3 + usize::from(has_key));
        let Some(method) = input.first_chunk::<2>() else { return (input.len(), sent, Err("cut")) };
        match (method, has_key) {
            ([5, 0], _) => {}
            ([5, 2], true) => {
                sent += 1 + 1 + 3 + 1 + 6;
                at = 4;
                match input.get(2..4) {
                    None => return (input.len(), sent, Err("cut")),
                    Some([_, 0]) => {}
                    Some(_) => return (at, sent, Err("credentials")),
                }
            }
            ([5, 0xff], true) => return (at, sent, Err("credentials")),
            ([5, 0xff], false) => return (at, sent, Err("no credentials")),
            _ => return (at, sent, Err("garbage")),
        }
        sent += 4 + 4 + 2;
        let problem = match input.get(at..at + 2) {
            None => return (input.len(), sent, Err("cut")),
            Some([5, 0]) => None,
            Some([5, 2]) => Some("denied"),
            Some([5, 5]) => Some("refused"),
            Some([5, 6]) => Some("timed out"),
            Some([5, 7]) => Some("unsupported"),
            Some([5, _]) => Some("unreachable"),
            Some(_) => Some("garbage"),
        };
        if let Some(problem) = problem {
            return (at + 2, sent, Err(problem));
        }
        match address(&input[(at + 3).min(input.len())..]) {
            Ok((ip, port, length)) => {
                let relay = match is_udp {
                    false => Ok((None, 0)),
                    true if port == 0 => Err("unsupported"),
                    true => Ok((ip.filter(|ip| !ip.is_unspecified()), port)),
                };
                (at + 3 + length, sent, relay)
            }
            // As much as tells the length is read in one.
            Err("garbage") if input.len() >= at + 5 => (at + 5, sent, Err("garbage")),
            Err(_) => (input.len(), sent, Err("cut")),
        }
    }
}

impl Decoder for Socks5 {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let answers: [&[u8]; 8] = [
            b"\x05\x00\x05\x00\x00\x01\xc0\x00\x02\x01\x04\x38hello",
            b"\x05\x02\x01\x00\x05\x00\x00\x03\x05x.org\x00\x50hello",
            b"\x05\x00\x05\x00\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\xff\xff",
            b"\x05\x00\x05\x00\x00\x04\0\0\0\0\0\0\0\0\0\0\xff\xff\0\0\0\0\x04\x38",
            b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
            b"\x05\x02\x01\x01",
            b"\x05\xff",
            b"\x05\x00\x05\x07\x00\x01",
        ];
        seeds::led_by(&answers, &[0, 1, 2, 3, 7, 31])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\x05\x00",
            b"\x05\x02",
            b"\x05\xff",
            b"\x01\x00",
            b"\x05\x00\x00\x01",
            b"\x05\x00\x00\x03",
            b"\x05\x00\x00\x03\xff",
            b"\x05\x00\x00\x04",
            b"\0\0\0\0",
            b"\x05\x05",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, rest) = choice(input);
        let (has_key, is_udp) = (first & 1 == 1, first & 2 == 2);
        let story = self.real(rest, 1 + usize::from(first >> 2), has_key, is_udp);
        let whole = self.real(rest, usize::MAX, has_key, is_udp);
        assert!(story == whole, "pieces make a difference: {story:?}, {whole:?}");
        let slow = Self::slow(rest, has_key, is_udp);
        assert!(story == slow, "{story:?} and by hand {slow:?}");
        let relay = story.2.map(|(ip, _)| ip.map(|ip| ip.is_ipv6()));
        behaviour((first & 3, story.0, story.1, relay))
    }
}

/// A stream is there when the final answer is a 2xx, and begins behind its head; heads are bounded.
pub(super) struct Http {
    keys: [ProxyKey; 2],
    target: Target,
}

/// A stream's bytes, or why there is none.
type Outcome = Result<Vec<u8>, &'static str>;

impl Default for Http {
    fn default() -> Self {
        let keys = ["http://h:1", "http://ann:s3cret@h:1"].map(key);
        Self { keys, target: target() }
    }
}

impl Http {
    fn real(&self, input: &[u8], piece: usize, has_key: bool) -> Outcome {
        let mut io = Pieces::new(input.to_vec(), piece);
        let key = &self.keys[usize::from(has_key)];
        let opened = at_once(key.open(&mut io, &self.target));
        let opened = opened.map(|mut stream| {
            assert!(stream.get_mut().taken() <= LONGEST_HEAD, "more than a head is kept");
            let (read, end) = read_all(&mut stream, 512, |_| {});
            assert!(end.is_none(), "{end:?}");
            read
        });
        opened.map_err(|error| {
            assert!(io.taken() <= LONGEST_HEAD, "more than a head is read");
            word(&error)
        })
    }

    /// The final answer: its status, where its head ends, and whether all heads are in order beyond doubt; none
    /// when it is not whole or no answer at all.
    fn slow(input: &[u8]) -> Option<(u16, usize, bool)> {
        let (mut at, mut is_strict) = (0, true);
        loop {
            while let Some(length) =
                [&b"\r\n"[..], b"\n"].iter().find(|end| input[at..].starts_with(end))
            {
                at += length.len();
                is_strict = false;
            }
            let head = &input[at..];
            let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b' ', digits @ ..] = head
            else {
                return None;
            };
            let digits = digits.get(..3).filter(|all| all.iter().all(u8::is_ascii_digit))?;
            let digits = std::str::from_utf8(digits).ok()?;
            let status: u16 = digits.parse().ok()?;
            let ends = head.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            let length = ends.map(|(at, _)| at + 1).find_map(|end| match &head[end..] {
                [b'\n', ..] => Some(end + 1),
                [b'\r', b'\n', ..] => Some(end + 2),
                _ => None,
            })?;
            is_strict &= Self::is_strict(&head[..length]);
            at += length;
            if !(100..200).contains(&status) {
                return Some((status, at, is_strict));
            }
        }
    }

    /// Whether a head follows the grammar strictly.
    fn is_strict(head: &[u8]) -> bool {
        let Some(head) = head.strip_suffix(b"\r\n\r\n") else { return false };
        let Ok(head) = std::str::from_utf8(head) else { return false };
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let is_plain = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let is_field = |line: &str| {
            line.split_once(": ").is_some_and(|(name, value)| {
                !name.is_empty()
                    && name.bytes().all(|byte| byte.is_ascii_alphabetic())
                    && is_plain(value)
            })
        };
        status.get(12..).is_some_and(|rest| rest.starts_with(' ') && is_plain(rest))
            && lines.clone().count() <= 100
            && lines.all(is_field)
    }

    fn expected(status: u16, has_key: bool) -> &'static str {
        match status {
            401 | 407 if has_key => "credentials",
            401 | 407 => "no credentials",
            403 | 451 => "denied",
            408 | 504 => "timed out",
            405 | 501 => "unsupported",
            _ => "unreachable",
        }
    }
}

/// Each byte 0xf5 as 1,000 letters, so that short inputs make long heads.
fn expanded(input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(input.len());
    for byte in input {
        match byte {
            0xf5 if bytes.len() < LONGEST_HEAD + 2048 => bytes.extend_from_slice(&[b'x'; 1000]),
            _ => bytes.push(*byte),
        }
    }
    bytes
}

impl Decoder for Http {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let answers: [&[u8]; 8] = [
            b"HTTP/1.1 200 Connection established\r\n\r\nSSH-2.0-x\r\n",
            b"HTTP/1.0 204 OK\r\nVia: x\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 \r\n\r\nHTTP/1.1 403 No\r\n\r\n",
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n",
            b"HTTP/1.1 504 Late\n\n",
            b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nPad: \xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\r\nPad: \xf5\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nPad: \xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\xf5\r\n\r\n",
        ];
        seeds::led_by(&answers, &[0, 1, 4, 255])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 101 \r\n\r\n",
            b"HTTP/1.0 407 x\r\n",
            b"\r\n\r\n",
            b"\n\n",
            b"\r\n",
            b"Via: x\r\n",
            b"\xf5\xf5\xf5\xf5",
            b"a: b\r\na: b\r\na: b\r\na: b\r\na: b\r\na: b\r\na: b\r\na: b\r\n",
            b" ",
            b"403",
            b"501",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, rest) = choice(input);
        let (has_key, bytes) = (first & 1 == 1, expanded(rest));
        // A head is read from its start for each piece: long ones come in few.
        let piece = (1 + usize::from(first >> 1)).max(bytes.len() / 16);
        let outcome = self.real(&bytes, piece, has_key);
        let whole = self.real(&bytes, usize::MAX, has_key);
        assert!(outcome == whole, "pieces make a difference: {outcome:?}, {whole:?}");
        let slow = Self::slow(&bytes);
        match (&outcome, slow) {
            (Ok(read), Some((200..=299, end, _))) => {
                assert!(*read == bytes[end..], "{} bytes of {}", read.len(), bytes.len() - end);
            }
            (Ok(_), _) => panic!("a stream that was not granted: {slow:?}"),
            (Err("garbage"), Some((_, end, true))) if end <= LONGEST_HEAD => {
                panic!("it is in order")
            }
            (Err("garbage"), _) => {}
            (Err("cut"), _) => assert!(slow.is_none(), "it is whole: {slow:?}"),
            (Err(error), Some((status, ..))) => {
                assert!(!(200..300).contains(&status), "{status} refused as {error}");
                assert!(*error == Self::expected(status, has_key), "{status} is {error}");
            }
            (Err(error), None) => panic!("{error} that was not sent"),
        }
        // Few long inputs are kept, which take long.
        let about = |length: usize| length.checked_ilog2();
        let end = slow.map(|(status, end, is_strict)| (status, about(end), is_strict));
        behaviour((has_key, outcome.map(|read| about(read.len())), end, about(bytes.len())))
    }
}

/// What is wrapped is opened as itself, and what is opened is whole, of the target, and a part of the packet.
pub(super) struct Packet {
    targets: [Target; 3],
}

impl Default for Packet {
    fn default() -> Self {
        let read = |text| Target::parse(text).expect("it is a target");
        Self { targets: ["192.0.2.7:53", "[2001:db8::1]:53", "a.example:53"].map(read) }
    }
}

impl Packet {
    /// A packet of a proxy by hand: where its payload begins.
    fn slow(packet: &[u8], target: Option<&Target>) -> Option<usize> {
        let (ip, port, length) = address(packet.get(3..)?).ok().filter(|_| packet[2] == 0)?;
        let Some(target) = target else { return Some(3) };
        let is_there = match &target.host {
            Host::Ip(wanted) => ip == Some(*wanted),
            Host::Name(_) => true,
        };
        (is_there && port == target.port).then_some(3 + length)
    }
}

impl Decoder for Packet {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let packets: [&[u8]; 6] = [
            b"\0\0\0\x01\xc0\0\x02\x07\0\x35answer",
            b"\0\0\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x35answer",
            b"\0\0\0\x03\x09a.example\0\x35answer",
            b"\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x07\0\x35",
            b"\0\0\x01\x01\xc0\0\x02\x07\0\x35fragment",
            b"\x01\xc0\0\x02\x07\0\x35query",
        ];
        seeds::led_by(&packets, &[0, 1, 2, 3])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\0\0\0\x01",
            b"\0\0\0\x03",
            b"\0\0\0\x04",
            b"\x01\xc0\0\x02\x07\0\x35",
            b"\x03\x01a\0\x35",
            b"\xff",
            b"\0\x35",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, bytes) = choice(input);
        let target = self.targets.get(usize::from(first & 3));
        let packets = Packets::new(target);
        let opened = packets.unwrap(bytes);
        let slow = Self::slow(bytes, target).map(|start| start..bytes.len());
        assert!(opened == slow, "{opened:?} and by hand {slow:?}");
        // What a client sends; without a target it has an address header in front, or stays here.
        let mut packet = b"what was there before".to_vec();
        let may_go = target.is_some() || address(bytes).is_ok();
        let is_wrapped = packets.wrap(bytes, &mut packet).is_ok();
        assert!(is_wrapped == may_go, "wrapped: {is_wrapped}");
        if is_wrapped {
            let again = packets.unwrap(&packet).map(|payload| &packet[payload]);
            assert!(again == Some(bytes), "it reads differently");
            let header = Self::slow(&packet, target);
            assert!(header == Some(packet.len() - bytes.len()), "{header:?} of {}", packet.len());
        }
        behaviour((first & 3, is_wrapped, opened.map(|payload| (payload.start, payload.len() / 8))))
    }
}
