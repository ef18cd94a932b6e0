//! The JSON format: the decoder against a slow second one, each side of a session against whatever
//! arrives, and a pair of sessions with messages under way.

use super::{behaviour, choice, kind, seeds};
use crate::run::Decoder;
use httvps_proto::json::decode;
use httvps_proto::{ClientInput, ClientSession, Input, Limits, Session, StreamKey, Verdict};
use serde::de::IgnoredAny;
use std::sync::Arc;
use std::time::Instant;

#[allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test's")]
#[path = "../../../crates/httvps-proto/tests/protocol/operations.rs"]
mod operations;
#[allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test's")]
#[path = "../../../crates/httvps-proto/tests/protocol/slow.rs"]
mod slow;

use slow::{Fault, Fields};

const WORDS: &[&[u8]] = &[
    b"\"type\":",
    b"\"stream_data\"",
    b"\"stream_open\"",
    b"\"stream_close\"",
    b"\"hello\"",
    b"\"ping\"",
    b"\"pong\"",
    b"\"auth_result\"",
    b"\"error\"",
    b"\"go_away\"",
    b"\"stream_opened\"",
    b"\"stream_id\":",
    b"\"a\"",
    b"\"data\":",
    b"\"QUJD\"",
    b"\"QQ==\"",
    b"\"target\":",
    b"\"a.test:80\"",
    b"\"reason\":",
    b"\"allowed\":",
    b"\"max_streams\":",
    b"\"capabilities\":",
    b"[\"v2\"]",
    b"\"code\":",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\\u0061",
    b"\\ud83e\\udd80",
    b"\\ud800",
    b"null",
    b"true",
    b"18446744073709551616",
    b"1e999",
    b"\n",
    b"\xff",
    b"\xc3\xa9",
    b"\x1f",
    b" ",
];

fn messages() -> Vec<Vec<u8>> {
    let mut seeds = seeds::corpus("frame", "");
    seeds.retain(|message| message.len() < 2048);
    seeds
}

/// The decoder says what the slow one says.
#[derive(Default)]
pub(super) struct Frame {
    scratch: Vec<u8>,
}

impl Decoder for Frame {
    fn seeds(&self) -> Vec<Vec<u8>> {
        messages()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        WORDS
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let real = decode(input, &mut self.scratch);
        let seen = match &real {
            Ok(frame) => behaviour((kind(frame), input.len() / 32)),
            Err(bad) => behaviour(format!("{bad:?}")),
        };
        // The slow one sees what a WebSocket hands on as text.
        if std::str::from_utf8(input).is_err() {
            return seen;
        }
        let mut payload = Vec::new();
        match Fields::parse(input) {
            Some(fields) => {
                let slow = fields.judge(&mut payload);
                match (&real, &slow) {
                    (Ok(real), Ok(slow)) => assert!(real == slow, "{real:?} instead of {slow:?}"),
                    (Err(real), Err(slow)) => {
                        assert!(&Fault::from(real) == slow, "{real:?} {slow:?}");
                    }
                    _ => panic!("decoded {real:?}, expected {slow:?}"),
                }
            }
            // The slow parser reads the values of unknown keys, where it refuses some that are
            // sound JSON; what is no JSON at all is no frame.
            None if serde_json::from_slice::<IgnoredAny>(input).is_err() => {
                assert!(matches!(&real, Err(bad) if Fault::from(bad) == Fault::Frame), "{real:?}");
            }
            None => {}
        }
        seen
    }
}

/// The gateway's side: lines are messages, the first byte says whether the hello is behind us.
#[derive(Default)]
pub(super) struct Gateway {
    scratch: Vec<u8>,
}

const HELLO: &[u8] =
    br#"{"type":"hello","device_id":"d","token":"t","capabilities":["open_ack","go_away"]}"#;

impl Decoder for Gateway {
    fn seeds(&self) -> Vec<Vec<u8>> {
        sessions(&[
            b"{\"type\":\"stream_open\",\"stream_id\":\"a\"}",
            b"{\"type\":\"stream_data\",\"stream_id\":\"a\",\"data\":\"QUJD\"}",
            b"{\"type\":\"stream_close\",\"stream_id\":\"a\"}",
        ])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        WORDS
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, rest) = choice(input);
        let limits = Limits { max_streams: 2, max_error_burst: 6, ..Limits::default() };
        let (mut session, now, mut out) =
            (Session::new(Arc::new(limits)), Instant::now(), Vec::new());
        let mut open: Vec<StreamKey> = Vec::new();
        let mut seen = Vec::new();
        let hello = (first & 1 == 1).then_some(HELLO);
        for message in hello.into_iter().chain(rest.split(|byte| *byte == b'\n')) {
            if std::str::from_utf8(message).is_err() {
                continue;
            }
            out.clear();
            let input = session.handle_text(now, message, &mut self.scratch, &mut out);
            seen.push(kind(&input));
            match input {
                Input::Hello(hello) => {
                    assert!(!hello.device_id.is_empty() && !hello.token.is_empty());
                    let verdict = Verdict::Allowed { session_id: "s", subscription_status: None };
                    session.handle_verdict(now, &verdict, &mut out);
                }
                Input::Open { stream, target } => {
                    assert!(target.is_none_or(|target| target.len() <= Limits::MAX_TARGET));
                    assert!(!open.contains(&stream), "a key names one open stream");
                    open.push(stream);
                }
                Input::Data { stream, .. } => {
                    assert!(open.contains(&stream), "a stream that is not");
                }
                Input::Close { stream } => {
                    assert!(open.contains(&stream), "a stream that is not");
                    open.retain(|known| *known != stream);
                }
                Input::Fatal(_) => open.clear(),
                Input::Nothing | Input::Refused { .. } => {}
            }
            assert!(session.stream_count() == open.len() && open.len() <= 2, "streams are lost");
            let is_json = |frame: &Vec<u8>| serde_json::from_slice::<IgnoredAny>(frame).is_ok();
            assert!(out.iter().all(is_json), "an answer is no JSON");
        }
        behaviour(seen)
    }
}

/// The client's side, likewise, with two streams open.
#[derive(Default)]
pub(super) struct Client {
    scratch: Vec<u8>,
}

const RESULT: &[u8] =
    br#"{"type":"auth_result","allowed":true,"session_id":"s","capabilities":["open_ack","go_away"]}"#;

impl Decoder for Client {
    fn seeds(&self) -> Vec<Vec<u8>> {
        sessions(&[
            b"{\"type\":\"stream_opened\",\"stream_id\":\"1\"}",
            b"{\"type\":\"stream_data\",\"stream_id\":\"1\",\"data\":\"QUJD\"}",
            b"{\"type\":\"stream_close\",\"stream_id\":\"2\",\"reason\":\"idle\"}",
        ])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        WORDS
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, rest) = choice(input);
        let mut out = Vec::new();
        let mut session = ClientSession::hello("d", "t", "v", None, first & 2 == 2, &mut out);
        let mut open: Vec<StreamKey> = Vec::new();
        let mut seen = Vec::new();
        let result = (first & 1 == 1).then_some(RESULT);
        for message in result.into_iter().chain(rest.split(|byte| *byte == b'\n')) {
            let event = session.handle_text(message, &mut self.scratch, &mut out);
            seen.push(kind(&event));
            match event {
                ClientInput::Data { stream, .. } | ClientInput::Opened(stream) => {
                    assert!(open.contains(&stream), "a stream that is not");
                }
                ClientInput::Ended { stream, .. } | ClientInput::NoPlace(stream) => {
                    assert!(open.contains(&stream), "a stream that is not");
                    open.retain(|known| *known != stream);
                }
                ClientInput::Authenticated(_) => {
                    let keys = [(); 2].map(|()| session.open(Some("a.test:80"), &mut out));
                    open.extend(keys.into_iter().flatten());
                }
                ClientInput::Nothing | ClientInput::Error { .. } | ClientInput::GoAway => {}
            }
            assert!(session.stream_count() == open.len(), "streams are lost");
        }
        behaviour(seen)
    }
}

fn sessions(lines: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut bodies = messages();
    bodies.push(lines.join(&b'\n'));
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    seeds::led_by(&bodies, &[0, 1, 3])
}

/// A pair of sessions with operations in any order: see `operations`.
#[derive(Default)]
pub(super) struct Sessions {
    operations: u64,
}

impl Decoder for Sessions {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut seeds = seeds::corpus("session", "");
        seeds.push((0..=255).rev().collect());
        seeds
    }

    fn longest(&self) -> usize {
        80
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
