//! What an Outline node says on a stream and in datagrams.

use super::pieces::{Pieces, read_all};
use super::{behaviour, choice, seeds};
use crate::run::Decoder;
use httvps_proto::Target;
use httvps_shadowsocks::fuzzing::{NodeHalf, PacketFields, PacketHalf};
use httvps_shadowsocks::{AccessKey, Cipher, Client};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;

/// Bytes from which on nothing is repeated any more.
const MAX_WIRE: usize = 4 * 1024 * 1024;

/// A key of this cipher; `which` tells one node's from another's.
pub(super) fn key(cipher: Cipher, which: u8) -> AccessKey {
    let password = base64_turbo::STANDARD.encode(vec![which; cipher.key_len()]);
    AccessKey::from_parts("192.0.2.1", 1, cipher.name(), &password).expect("the key is well-formed")
}

pub(super) fn cipher(byte: u8) -> Cipher {
    Cipher::ALL[usize::from(byte) % Cipher::ALL.len()]
}

/// A reader gets what a node with the key sealed for it, from its start and in its order, all of it without an
/// attack; and nothing of a node that has another key.
pub(super) struct NodeStream;

struct Script {
    node: NodeHalf,
    good: Vec<u8>,
    /// Nothing but chunks of the right length was sealed, and nothing was changed.
    is_plain: bool,
    /// Where the last chunk begins.
    last: usize,
    /// What a true answer says about itself.
    about: Vec<u8>,
    /// It says to be no answer, or the answer to another request.
    is_alien: bool,
}

/// Longest chunk of a script, in bytes.
const LONGEST_CHUNK: usize = 255 * 64;

/// What payloads are made of: byte by byte they would cost more than sealing and opening them. It repeats itself after
/// 65,536 bytes.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    (0..(1 << 16) + LONGEST_CHUNK).map(|at| ((at * 31) ^ (at >> 8)) as u8).collect()
});

/// The time in what an answer says about itself, which may differ a little.
const TIME: std::ops::Range<usize> = 1..9;

impl Script {
    fn chunk(&mut self, lie: u16, len: usize) {
        let payload = &PATTERN[self.good.len() % (1 << 16)..][..len];
        if self.last == 0 {
            let about = self.node.about_mut();
            let timeless = |about: &[u8]| {
                (about.len(), about.first().copied(), about.get(TIME.end..).map(<[u8]>::to_vec))
            };
            self.is_alien = timeless(about) != timeless(&self.about);
        }
        self.last = self.node.wire_mut().len();
        self.node.chunk(lie, payload);
        self.good.extend_from_slice(payload);
    }

    /// One thing that the node or an attacker on the way does; gives what is left of the list.
    fn act<'i>(&mut self, op: u8, arg: u8, rest: &'i [u8]) -> &'i [u8] {
        let number = usize::from(arg);
        match op % 16 {
            0..4 => self.chunk(number as u16, number),
            // Long chunks cost what a thousand short ones do, so that there are few of them.
            4 => {
                let len = number * if op == 4 { 64 } else { 4 };
                self.chunk(len as u16, len);
            }
            5 => {
                // It says another length than it sends.
                let lie = (number as u16).wrapping_mul(u16::from(op | 1));
                self.is_plain &= usize::from(lie) == number;
                self.chunk(lie, number);
            }
            6 => {
                let about = self.node.about_mut();
                if let Some(byte) = (!about.is_empty()).then(|| number % about.len()) {
                    about[byte] ^= 1 << (op >> 4 & 7);
                    self.is_plain = false;
                }
            }
            7 => {
                let about = self.node.about_mut();
                let len = about.len().saturating_sub(1 + number);
                self.is_plain &= about.is_empty();
                about.truncate(len);
            }
            8 | 9 => {
                let wire = self.node.wire_mut();
                let at = if op % 16 == 8 { self.last } else { 0 };
                let at = (at + number).min(wire.len() - 1);
                wire[at] ^= 1 << (op >> 4 & 7);
                self.is_plain = false;
            }
            10 => {
                let wire = self.node.wire_mut();
                let end = wire.len().saturating_sub(number).max(1);
                self.is_plain &= number == 0;
                wire.truncate(end);
            }
            11 => {
                let wire = self.node.wire_mut();
                if wire.len() < MAX_WIRE {
                    let again = wire[self.last.min(wire.len())..].to_vec();
                    self.is_plain &= again.is_empty();
                    // The copy is the last one then: repeats of repeats would double what is there each time.
                    self.last = wire.len();
                    wire.extend_from_slice(&again);
                }
            }
            12 => {
                let (garbage, after) = rest.split_at(number.min(rest.len()));
                self.is_plain &= garbage.is_empty();
                self.node.wire_mut().extend_from_slice(garbage);
                return after;
            }
            _ => {}
        }
        rest
    }
}

impl Decoder for NodeStream {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let scripts: [&[u8]; 9] = [
            b"\xff\xff\x00\x10\x00\x20\x04\xff\x00\x00",
            b"\x08\x03\x04\x80\x00\x05\x00\x05",
            b"\x40\x20\x00\x10\x08\x07\x00\x08",
            b"\x40\x20\x00\x10\x00\x08\x0b\x00",
            b"\x40\x20\x06\x01\x00\x08",
            b"\x40\x20\x06\x20\x00\x08",
            b"\x40\x20\x07\x02\x00\x08",
            b"\x01\x01\x00\x10\x0a\x03",
            b"\x40\x20\x00\x10\x0c\x08garbage!\x05\x40",
        ];
        seeds::led_by(&scripts, &[0, 1, 2, 3, 4, 5, 6, 9])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\x14\xff\x14\xff",
            b"\x0a\x10",
            b"\x0a\x12",
            b"\x09\x00",
            b"\x09\x20",
            b"\x08\x12",
            b"\x06\x00",
            b"\x05\x00\x05\x00",
        ]
    }

    fn longest(&self) -> usize {
        40
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let [first, room, piece, list @ ..] = input else { return 0 };
        let (cipher, is_right) = (cipher(*first), first / 6 % 2 == 0);
        let client = Client::new(key(cipher, 1));
        let target = Target::parse("192.0.2.7:80").expect("it is a target");
        let stream = client.start(Pieces::new(Vec::new(), 1), Some(&target));
        let mut stream = stream.expect("the system has random bytes");
        let mut cx = Context::from_waker(Waker::noop());
        // With this the header is on its way, and reading needs no timer.
        let sent = Pin::new(&mut stream).poll_write(&mut cx, b"a request");
        assert!(matches!(sent, Poll::Ready(Ok(9))), "{sent:?}");
        let mut node = NodeHalf::new(&stream, &key(cipher, if is_right { 1 } else { 2 }));
        let about = node.about_mut().clone();
        let good = Vec::new();
        let mut script = Script { node, good, is_plain: true, last: 0, about, is_alien: false };
        let mut rest = list;
        while let [op, arg, after @ ..] = rest {
            rest = script.act(*op, *arg, after);
        }
        let Script { mut node, good, is_plain, last, is_alien, .. } = script;
        let wire = std::mem::take(node.wire_mut());
        let total = wire.len();
        *stream.get_mut() = Pieces::new(wire, 1 + usize::from(*piece) * 16);
        let (received, end) = read_all(&mut stream, 1 + usize::from(*room) * 80, |_| {});
        assert!(good.starts_with(&received), "{} bytes that were not sealed", received.len());
        assert!(received.is_empty() || !is_alien, "what is no answer to this request was taken");
        let has_spoken = last > 0;
        if !is_right {
            assert!(received.is_empty() && !stream.is_proven(), "a wrong key opened something");
            assert!(end.is_some() || total <= cipher.key_len(), "garbage is an end in order");
        } else if is_plain && has_spoken {
            assert!(
                received == good && end.is_none(),
                "{} of {}: {end:?}",
                received.len(),
                good.len()
            );
        }
        behaviour((first % 12, end, received.len() / 1024, total / 2048))
    }
}

/// A packet is opened when the node sealed it for this client, lately, once, and about the target; else it is not.
pub(super) struct NodePackets;

impl Decoder for NodePackets {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let scripts: [&[u8]; 6] = [
            b"\x00\x00\x00\x00\x00\x01\x00\x00",
            b"\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\x00\x00\x01\x00\x00\x02\x00\x10",
            b"\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00",
            b"\x05\x20\x00\x00\x06\x03\x00\x00",
            b"\x07\x08garbage!\x00\x00\x40\x00",
        ];
        seeds::led_by(&scripts, &[0, 1, 2, 3, 4, 5, 6])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\x00\x00\x00\x00",
            b"\x00\x00\x01\x00",
            b"\x00\x00\xff\x00",
            b"\x05\x00\x00\x00",
            b"\x05\x10\x01\x00",
            b"\x06\x10\x00\x00",
        ]
    }

    fn longest(&self) -> usize {
        64
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, mut rest) = choice(input);
        let (cipher, is_right) = (cipher(first), first / 6 % 2 == 0);
        let target = Target::parse("192.0.2.7:53").expect("it is a target");
        let ours = PacketHalf::new(key(cipher, 1), &target);
        let mut ours = ours.expect("the system has random bytes");
        let mut opened = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let [op, arg, number, len, after @ ..] = rest {
            rest = after;
            let payload = vec![*number; usize::from(*len)];
            let good = PacketFields {
                kind: 1,
                ahead: 0,
                session: 1,
                packet: u64::from(*number),
                is_ours: true,
                padding: 0,
                source: "192.0.2.7:53",
                payload: &payload,
            };
            let is_2022 = cipher.is_2022();
            let (fields, mut may_open) = match op % 8 {
                1 => (PacketFields { source: "192.0.2.7:54", ..good }, false),
                2 => (PacketFields { kind: *arg, ..good }, !is_2022 || *arg == 1),
                3 => (
                    PacketFields { ahead: i64::from(*arg) * 16 - 2048, ..good },
                    !is_2022 || (127..130).contains(arg),
                ),
                4 => (PacketFields { is_ours: false, ..good }, !is_2022),
                _ => (PacketFields { padding: u16::from(op >> 4), ..good }, true),
            };
            let mut packet = if is_right {
                ours.sealed(fields)
            } else {
                may_open = false;
                let other = PacketHalf::new(key(cipher, 2), &target);
                other.expect("the system has random bytes").sealed(fields)
            };
            match op % 8 {
                5 => {
                    let at = usize::from(*arg) % packet.len();
                    packet[at] ^= 1 << (op >> 4 & 7);
                    may_open = false;
                }
                6 => {
                    packet.truncate(packet.len().saturating_sub(1 + usize::from(*arg)));
                    may_open = false;
                }
                7 => {
                    let (garbage, after) = rest.split_at(usize::from(*arg).min(rest.len()));
                    (packet, rest, may_open) = (garbage.to_vec(), after, false);
                }
                _ => {}
            }
            // A packet that was seen is not opened again; the ciphers of 2017 have no numbers.
            let is_noted = is_right && (may_open || op % 8 == 1);
            let is_again = is_2022 && is_noted && !seen.insert(*number);
            let result = ours.open(packet);
            assert!(
                result.is_some() == (may_open && !is_again),
                "{result:?} of {op} {arg} {number}"
            );
            assert!(result.is_none_or(|result| result == payload), "another payload");
            opened.push(may_open);
        }
        behaviour((first % 12, opened))
    }
}
