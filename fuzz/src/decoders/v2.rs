//! The second wire format: frames, one session against any bytes, and pairs of sessions.

use super::{behaviour, choice, seeds};
use crate::run::Decoder;
use httvps_proto::v2::{Budget, Event, Frame, Frames, Kind, Limits, ResetCode, Session, Side};
use std::time::{Duration, Instant};

#[allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test's")]
#[path = "../../../crates/httvps-proto/tests/v2/operations.rs"]
mod operations;
#[allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test's")]
#[path = "../../../crates/httvps-proto/tests/v2/pair.rs"]
mod pair;

const WORDS: &[&[u8]] = &[
    b"\x01\0\0\x01\0\0\0\x01\x01",
    b"\x01\0\0\x0a\0\0\0\x02\x01a.test:80",
    b"\x01\0\0\x01\0\0\0\x03\x02",
    b"\x02\0\0\0\0\0\0\x01",
    b"\x03\0\0\x02\0\0\0\x01hi",
    b"\x03\0\0\0\0\0\0\x01",
    b"\x04\0\0\0\0\0\0\x01",
    b"\x05\0\0\x01\0\0\0\x01\x01",
    b"\x06\0\0\x04\0\0\0\0\0\x01\0\0",
    b"\x06\0\0\x04\0\0\0\x01\x7f\xff\xff\xff",
    b"\x07\0\0\x02\0\0\0\x03hi",
    b"\x08\0\0\x08\0\0\0\x0012345678",
    b"\x09\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0",
    b"\x0a\0\0\x05\0\0\0\0\x08\0\0\0\x01",
    b"\x80\0\0\x01\0\0\0\0x",
    b"\0\0\0\x04",
    b"\0\x01\0\0",
    b"\0\0\0\x02",
];

fn sender(first: u8) -> Side {
    if first & 1 == 0 { Side::Client } else { Side::Gateway }
}

/// The vectors, the sender in the first byte, and `firsts` for further choices there.
fn messages(firsts: &[u8]) -> Vec<Vec<u8>> {
    let vectors = seeds::v2_messages();
    let with = |first: u8| {
        vectors.iter().map(move |(is_client, message)| {
            [&[first << 1 | u8::from(!is_client)], message.as_slice()].concat()
        })
    };
    firsts.iter().flat_map(|first| with(*first).collect::<Vec<_>>()).collect()
}

/// What is decoded and encoded again is what was there.
#[derive(Default)]
pub(super) struct Bytes {
    again: Vec<u8>,
}

impl Decoder for Bytes {
    fn seeds(&self) -> Vec<Vec<u8>> {
        messages(&[0])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        WORDS
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, message) = choice(input);
        let mut at = 0;
        let mut seen = Vec::new();
        for frame in Frames::new(message, sender(first)) {
            let frame = match frame {
                Ok(frame) => frame,
                Err(bad) => {
                    assert!(at < message.len(), "an error behind the end");
                    seen.push((0xff, bad as u8));
                    return behaviour(seen);
                }
            };
            let (kind, length) = header(&message[at..]);
            seen.push((kind, u8::from(length > 0)));
            let whole = &message[at..at + 8 + length];
            self.again.clear();
            frame.encode(&mut self.again);
            let is_skipped = matches!(frame, Frame::Skipped);
            // An unknown code is `io` from here on, so its number is not kept.
            let code = matches!(frame, Frame::Reset { code: ResetCode::Io, .. })
                || matches!(frame, Frame::GoAway { code: ResetCode::Io, .. });
            let at_code = if code { 8 } else { usize::MAX };
            let differs = |(place, (a, b)): (usize, (&u8, &u8))| a != b && place != at_code;
            let mut pairs = whole.iter().zip(&self.again).enumerate();
            assert!(
                is_skipped == (kind >= 0x80)
                    && (is_skipped || (whole.len() == self.again.len() && !pairs.any(differs))),
                "{frame:?} is encoded as {:?}",
                self.again
            );
            at += 8 + length;
        }
        assert!(at == message.len(), "bytes were passed over");
        behaviour(seen)
    }
}

/// Type and length of a header that is known to be whole.
fn header(bytes: &[u8]) -> (u8, usize) {
    let length = u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]);
    (bytes[0], length as usize)
}

/// One session, with streams open, against any frames of a peer. It never holds more than it
/// promised, answers little, and nothing is left when it breaks off.
pub(super) struct Hostile;

impl Decoder for Hostile {
    fn seeds(&self) -> Vec<Vec<u8>> {
        messages(&[0, 1, 2, 3])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        WORDS
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, message) = choice(input);
        let (peer, mut now) = (sender(first), Instant::now());
        let total = if first & 2 == 0 { 1 << 20 } else { 0 };
        let budget = Budget::new(total);
        let limits = Limits { max_streams: 3, max_open_burst: 6, ..Limits::default() };
        let mut session = Session::new(peer.peer(), limits, budget.clone(), now);
        let mut out = Vec::new();
        if peer == Side::Gateway {
            for kind in [Kind::Bytes, Kind::Bytes, Kind::Datagrams] {
                let _ = session.open(now, kind, "a.test:80", &mut out);
            }
        }
        session.ping(now, &mut out);
        let mut seen = Vec::new();
        for frame in Frames::new(message, peer) {
            let Ok(frame) = frame else { break };
            out.clear();
            now += Duration::from_millis(1);
            let event = match session.handle_frame(now, frame, &mut out) {
                Ok(event) => event,
                Err(violation) => {
                    seen.push(100 + violation.words().len() as u8);
                    break;
                }
            };
            let opened = matches!(event, Event::Open { .. });
            if let Event::Data { stream, data } = event {
                // Half of it is taken at once; the rest is held for good.
                session.consumed(stream, data.len() / 2, now, &mut out);
            }
            seen.push(number(&event));
            assert!(out.len() <= 64, "an answer of {} bytes to one frame", out.len());
            assert!(!opened || session.stream_count() <= 3, "more streams than allowed");
            assert!(session.held() <= session.window(), "more is held than was promised");
            assert!(budget.left() + session.window() - 262_144 == total, "the budget leaks");
            let answers = Frames::new(&out, peer.peer());
            assert!(answers.into_iter().all(|frame| frame.is_ok()), "an answer is no frame");
        }
        session.break_off(httvps_proto::v2::Violation::WrongKind, &mut out);
        assert!(session.stream_count() == 0, "streams outlive the session");
        drop(session);
        assert!(budget.left() == total, "the budget leaks");
        behaviour(seen)
    }
}

fn number(event: &Event<'_>) -> u8 {
    match event {
        Event::Nothing => 0,
        Event::Open { .. } => 1,
        Event::Refused(code) => 20 + code.to_wire(),
        Event::Opened(_) => 2,
        Event::Data { .. } => 3,
        Event::Finish(_) => 4,
        Event::Reset { .. } => 5,
        Event::Credit(0) => 6,
        Event::Credit(_) => 7,
        Event::Datagram { .. } => 8,
        Event::RoundTrip(_) => 9,
        Event::GoAway(_) => 10,
    }
}

/// A pair of sessions with operations in any order: see `operations`.
#[derive(Default)]
pub(super) struct Sessions {
    operations: u64,
}

impl Decoder for Sessions {
    fn seeds(&self) -> Vec<Vec<u8>> {
        vec![
            b"\x00\x00\x14\x02\x00\xff\x94\x08\x00\xff\x0e\x00\x8e\x00".to_vec(),
            b"\x02\x00\x01\x14\x91\x00\x92\x13\x01\x09\x12\x1e\x30\x94\x14".to_vec(),
            (0..=255).collect(),
        ]
    }

    fn longest(&self) -> usize {
        200
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let steps = operations::run(input) as u64;
        self.operations += steps;
        steps
    }

    fn operations(&self) -> Option<u64> {
        Some(self.operations)
    }
}
