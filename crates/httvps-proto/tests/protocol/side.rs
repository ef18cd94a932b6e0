//! One side of a session with its clock, its scratch buffer and what it sent.

use httvps_proto::{
    ClientInput, ClientSession, ErrorCode, Input, Limits, Session, StreamKey, Verdict,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const SESSION_ID: &str = "00000000-0000-4000-8000-000000000001";
pub const ALLOWED: Verdict<'static> =
    Verdict::Allowed { session_id: SESSION_ID, subscription_status: Some("active") };

/// The gateway's side.
pub struct Gateway {
    pub session: Session,
    pub now: Instant,
    pub scratch: Vec<u8>,
    pub out: Vec<Vec<u8>>,
}

impl Gateway {
    /// A session that waits for its hello.
    pub fn new(limits: Limits) -> Self {
        let session = Session::new(Arc::new(limits));
        Self { session, now: Instant::now(), scratch: Vec::new(), out: Vec::new() }
    }

    /// An authenticated session whose client named these capabilities.
    pub fn active(limits: Limits, capabilities: &[&str]) -> Self {
        let mut gateway = Self::new(limits);
        let hello =
            json!({"type": "hello", "device_id": "d", "token": "t", "capabilities": capabilities});
        assert!(matches!(gateway.text(&hello.to_string()), Input::Hello(_)));
        gateway.verdict(&ALLOWED);
        gateway.out.clear();
        gateway
    }

    pub fn text<'m>(&'m mut self, message: &'m str) -> Input<'m> {
        self.session.handle_text(self.now, message.as_bytes(), &mut self.scratch, &mut self.out)
    }

    pub fn verdict(&mut self, verdict: &Verdict<'_>) {
        self.session.handle_verdict(self.now, verdict, &mut self.out);
    }

    /// Opens a stream that must be admitted.
    pub fn open(&mut self, id: &str) -> StreamKey {
        match self.text(&json!({"type": "stream_open", "stream_id": id}).to_string()) {
            Input::Open { stream, .. } => stream,
            other => panic!("{id} was not opened: {other:?}"),
        }
    }

    pub fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// The frames sent since the last call.
    pub fn sent(&mut self) -> Vec<Value> {
        parsed(&mut self.out)
    }

    /// The one frame sent since the last call.
    #[track_caller]
    pub fn sent_one(&mut self) -> Value {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    /// That the session still answers.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        self.out.clear();
        assert_eq!(self.text(r#"{"type":"ping"}"#), Input::Nothing);
        assert_eq!(self.sent(), [json!({"type": "pong"})]);
    }

    /// That the client may still cause an error without ending the session.
    #[track_caller]
    pub fn assert_has_errors_left(&mut self) {
        assert!(matches!(self.text("garbage"), Input::Refused { .. }));
        self.assert_alive();
    }

    /// That the session is over: whatever comes, nothing goes out.
    #[track_caller]
    pub fn assert_over(&mut self) {
        self.out.clear();
        for message in
            [r#"{"type":"ping"}"#, r#"{"type":"hello","device_id":"d","token":"t"}"#, "x"]
        {
            assert_eq!(self.text(message), Input::Nothing);
        }
        assert_eq!(self.session.handle_binary(self.now, &mut self.out), Input::Nothing);
        self.verdict(&ALLOWED);
        assert!(!self.session.go_away(Duration::ZERO, &mut self.out));
        assert_eq!(self.session.stream_count(), 0);
        assert_eq!(self.sent(), Vec::<Value>::new());
    }
}

/// The client's side.
pub struct Client {
    pub session: ClientSession,
    pub scratch: Vec<u8>,
    pub out: Vec<Vec<u8>>,
}

impl Client {
    /// A session that has sent its hello.
    pub fn new() -> Self {
        let mut out = Vec::new();
        let session = ClientSession::hello("device", "secret", "test/1", None, false, &mut out);
        Self { session, scratch: Vec::new(), out }
    }

    /// An authenticated session; `more` is merged into the `auth_result`.
    pub fn active(more: Value) -> Self {
        let mut client = Self::new();
        client.out.clear();
        let mut result = json!({"type": "auth_result", "allowed": true, "session_id": SESSION_ID});
        let Value::Object(more) = more else { panic!("more fields are an object") };
        result.as_object_mut().unwrap().extend(more);
        assert!(matches!(client.text(&result.to_string()), ClientInput::Authenticated(_)));
        client
    }

    pub fn text<'m>(&'m mut self, message: &'m str) -> ClientInput<'m> {
        self.session.handle_text(message.as_bytes(), &mut self.scratch, &mut self.out)
    }

    /// Takes a frame given as a JSON value; answers with `Debug` of what it meant.
    pub fn frame(&mut self, frame: Value) -> String {
        let message = frame.to_string();
        format!("{:?}", self.text(&message))
    }

    pub fn open(&mut self) -> StreamKey {
        self.session.open(Some("example.com:80"), &mut self.out).unwrap()
    }

    pub fn sent(&mut self) -> Vec<Value> {
        parsed(&mut self.out)
    }
}

fn parsed(out: &mut Vec<Vec<u8>>) -> Vec<Value> {
    out.drain(..).map(|message| serde_json::from_slice(&message).unwrap()).collect()
}

/// A session of a device that has just been let in, under the usual limits.
pub fn active() -> Gateway {
    Gateway::active(Limits::default(), &[])
}

/// That the message is refused with exactly this error (plain words aside), and nothing else suffers.
#[track_caller]
pub fn assert_refused(gateway: &mut Gateway, message: &str, code: ErrorCode, more: Value) {
    let streams = gateway.session.stream_count();
    let input = gateway.text(message);
    assert!(matches!(input, Input::Refused { code: c, .. } if c == code), "{message}: {input:?}");
    let mut answer = gateway.sent_one();
    let words = answer.as_object_mut().unwrap().remove("message");
    assert!(words.is_some_and(|words| words.as_str().is_some_and(|w| !w.is_empty())));
    let mut expected = json!({"type": "error", "code": code.as_str()});
    expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    assert_eq!(answer, expected, "{message}");
    assert_eq!(gateway.session.stream_count(), streams);
    gateway.assert_alive();
}
