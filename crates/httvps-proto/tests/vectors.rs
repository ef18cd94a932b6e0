//! The test vectors of `testdata/vectors/json.json`, which other implementations may use as well.

#![allow(clippy::unwrap_used, reason = "a test ends with a panic")]

use httvps_proto::json::{self, AuthResult};
use httvps_proto::{
    ClientInput, ClientSession, ErrorCode, Input, Limits, Session, StreamKey, Verdict,
};
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

fn vectors(kind: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/vectors/json.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    file[kind].as_array().unwrap().clone()
}

/// What came of a message, in the words of the vectors.
#[derive(Default)]
struct Outcome(Map<String, Value>);

impl Outcome {
    fn new(input: &str) -> Self {
        Self::default().with("input", input)
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    fn maybe(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// A gateway, authenticated and with stream `s1` open when the phase is `active`.
fn gateway(phase: &str) -> Session {
    let mut session = Session::new(Arc::new(Limits::default()));
    let (now, mut scratch, mut out) = (Instant::now(), Vec::new(), Vec::new());
    if phase == "active" {
        let hello = br#"{"type":"hello","device_id":"d","token":"t"}"#;
        session.handle_text(now, hello, &mut scratch, &mut out);
        let verdict = Verdict::Allowed { session_id: "s", subscription_status: None };
        session.handle_verdict(now, &verdict, &mut out);
        let open = br#"{"type":"stream_open","stream_id":"s1"}"#;
        session.handle_text(now, open, &mut scratch, &mut out);
    }
    session
}

fn at_gateway(phase: &str, message: &str) -> (Outcome, Vec<Vec<u8>>) {
    let mut session = gateway(phase);
    let (mut scratch, mut out) = (Vec::new(), Vec::new());
    let input = session.handle_text(Instant::now(), message.as_bytes(), &mut scratch, &mut out);
    // The one stream that was open before is the first that this session had.
    let id = |stream: StreamKey| if stream.index() == 0 { "s1" } else { "another" };
    let outcome = match input {
        Input::Nothing => Outcome::new("nothing"),
        Input::Hello(hello) => {
            let names: Vec<&str> = hello.capabilities.iter().map(|name| &**name).collect();
            Outcome::new("hello")
                .with("device_id", &*hello.device_id)
                .with("token", &*hello.token)
                .with("capabilities", names)
                .maybe("client_version", hello.client_version.as_deref())
                .maybe("region", hello.region.as_deref())
        }
        Input::Open { stream, target } => {
            let id = session.stream_id(stream);
            Outcome::new("open").maybe("stream_id", id).maybe("target", target.as_deref())
        }
        Input::Data { stream, data } => {
            Outcome::new("data").with("stream_id", id(stream)).with("payload_hex", hex(data))
        }
        Input::Close { stream } => Outcome::new("close").with("stream_id", id(stream)),
        Input::Refused { .. } => with_error(Outcome::new("refused"), &mut out),
        Input::Fatal(_) => with_error(Outcome::new("fatal"), &mut out),
    };
    (outcome, out)
}

/// Adds the one error that was answered; its plain words are not part of the contract.
fn with_error(outcome: Outcome, out: &mut Vec<Vec<u8>>) -> Outcome {
    let Value::Object(mut error) = serde_json::from_slice(&out.remove(0)).unwrap() else {
        panic!("a frame is an object")
    };
    assert_eq!(error.remove("type"), Some("error".into()));
    assert!(error.remove("message").is_some());
    error.into_iter().fold(outcome, |outcome, (key, value)| outcome.with(&key, value))
}

fn at_client(phase: &str, message: &str) -> (Outcome, Vec<Vec<u8>>) {
    let (mut scratch, mut out) = (Vec::new(), Vec::new());
    let mut session = ClientSession::hello("d", "t", "v", None, false, &mut out);
    if phase == "client_active" {
        let allowed = br#"{"type":"auth_result","allowed":true}"#;
        session.handle_text(allowed, &mut scratch, &mut out);
        session.open(None, &mut out).unwrap();
    }
    out.clear();
    let input = session.handle_text(message.as_bytes(), &mut scratch, &mut out);
    // The client has opened one stream and gave it the id 1.
    let outcome = match input {
        ClientInput::Nothing => Outcome::new("nothing"),
        ClientInput::Authenticated(result) => Outcome::new("authenticated")
            .with("allowed", result.allowed)
            .maybe("session_id", result.session_id.as_deref())
            .maybe("subscription_status", result.subscription_status.as_deref())
            .maybe("reason", result.reason.as_deref())
            .with("max_streams", session.max_streams()),
        ClientInput::Opened(_) => Outcome::new("opened").with("stream_id", "1"),
        ClientInput::Data { data, .. } => {
            Outcome::new("data").with("stream_id", "1").with("payload_hex", hex(data))
        }
        ClientInput::Ended { end, .. } => Outcome::new("ended")
            .with("stream_id", "1")
            .maybe("end", end.map(httvps_proto::StreamEnd::as_str)),
        ClientInput::NoPlace(_) => Outcome::new("no_place").with("stream_id", "1"),
        ClientInput::Error { code, .. } => Outcome::new("error").with("code", &*code),
        ClientInput::GoAway => Outcome::new("go_away"),
    };
    (outcome, out)
}

#[test]
fn every_message_means_what_its_vector_says() {
    let vectors = vectors("decode");
    assert!(vectors.len() >= 100);
    for vector in vectors {
        let [name, phase, message] =
            ["name", "phase", "message"].map(|key| vector[key].as_str().unwrap());
        let (outcome, out) = match phase {
            "first" | "active" => at_gateway(phase, message),
            "client_waiting" | "client_active" => at_client(phase, message),
            _ => panic!("{name}: no phase is called {phase}"),
        };
        let answers = out.iter().map(|answer| serde_json::from_slice::<Value>(answer).unwrap());
        let outcome = answers.fold(outcome, |outcome, answer| outcome.with("answer", answer));
        assert_eq!(Value::Object(outcome.0), vector["expect"], "{name}");
    }
}

fn encoded(frame: &Value) -> Vec<u8> {
    let text = |key: &str| frame[key].as_str();
    let needed = |key: &str| text(key).unwrap();
    let names = frame["capabilities"].as_array().map_or(&[][..], Vec::as_slice);
    let names: Vec<&str> = names.iter().map(|name| name.as_str().unwrap()).collect();
    let wire = |key: &str| text(key).map(escaped);
    let mut out = Vec::new();
    match needed("type") {
        "hello" => json::hello(
            &mut out,
            needed("device_id"),
            needed("token"),
            needed("client_version"),
            &names,
            text("region"),
        ),
        "auth_result" => {
            let result = AuthResult {
                allowed: frame["allowed"].as_bool().unwrap(),
                session_id: text("session_id").map(Into::into),
                subscription_status: text("subscription_status").map(Into::into),
                reason: text("reason").map(Into::into),
                max_streams: frame["max_streams"].as_u64(),
                capabilities: names.into_iter().map(Into::into).collect(),
            };
            json::auth_result(&mut out, &result);
        }
        "stream_open" => json::stream_open(&mut out, needed("stream_id"), text("target")),
        "stream_opened" => json::stream_opened(&mut out, &wire("stream_id").unwrap()),
        "stream_data" => {
            let payload = unhex(needed("payload_hex"));
            json::stream_data(&mut out, &wire("stream_id").unwrap(), &payload);
        }
        "stream_close" => {
            let reason = wire("reason");
            json::stream_close(&mut out, &wire("stream_id").unwrap(), reason.as_deref());
        }
        "ping" => json::ping(&mut out),
        "pong" => json::pong(&mut out),
        "error" => {
            let code = ErrorCode::ALL.into_iter().find(|code| code.as_str() == needed("code"));
            let (id, reason) = (text("stream_id"), text("reason"));
            json::error(&mut out, code.unwrap(), needed("message"), id, reason);
        }
        "go_away" => {
            json::go_away(&mut out, needed("reason"), frame["deadline_ms"].as_u64().unwrap());
        }
        other => panic!("no frame is called {other}"),
    }
    out.remove(0)
}

/// The text as it stands inside a JSON string.
fn escaped(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap();
    quoted[1..quoted.len() - 1].to_owned()
}

#[test]
fn every_frame_is_sent_as_its_vector_says() {
    let vectors = vectors("encode");
    let mut kinds = std::collections::BTreeSet::new();
    for vector in &vectors {
        let message = String::from_utf8(encoded(&vector["frame"])).unwrap();
        assert_eq!(message, vector["message"].as_str().unwrap(), "{}", vector["name"]);
        kinds.insert(vector["frame"]["type"].as_str().unwrap());
    }
    assert_eq!(kinds.len(), 10, "every type has a vector: {kinds:?}");
}
