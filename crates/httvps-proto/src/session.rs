//! The gateway's side of one session.

use crate::input::{Input, Verdict};
use crate::json::{self, AuthResult, Bad, Frame};
use crate::streams::{Crossing, Streams};
use crate::{
    Bucket, CAPABILITIES, CAPABILITY_GO_AWAY, CAPABILITY_OPEN_ACK, CAPABILITY_V2, CloseCause,
    ErrorCode, Limits, Outbox, StreamEnd, StreamKey, StreamRefusal,
};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The state of one session at the gateway: the messages that are valid next, and the open streams.
///
/// ```text
///              hello                 Verdict::Allowed
///  Handshake ─────────▶ Authenticating ─────────────▶ Active ──▶ Closed
///      │                      │ Verdict::Refused         │ too many errors
///      └─ anything else ──────┴──────────────────────────┴─▶ Closed
/// ```
/// Inputs are `handle_*`; each may put frames into the [`Outbox`] and says in its answer what the
/// gateway has to do. Time is an argument. Memory: an idle session without streams holds no heap
/// beyond the shared limits.
#[derive(Debug)]
pub struct Session {
    limits: Arc<Limits>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Handshake,
    Authenticating(Accepted),
    Active(Active),
    Closed,
}

/// The capabilities that both sides named.
#[derive(Debug, Clone, Copy, Default)]
struct Accepted {
    open_ack: bool,
    go_away: bool,
    v2: bool,
}

#[derive(Debug)]
struct Active {
    accepted: Accepted,
    streams: Streams,
    opens: Bucket,
    errors: Bucket,
}

impl Session {
    /// A session that waits for its `hello`.
    pub fn new(limits: Arc<Limits>) -> Self {
        Self { limits, phase: Phase::Handshake }
    }

    /// Handles one text message, which must be UTF-8. The payload of a data frame is at the front of
    /// `scratch` afterwards.
    ///
    /// While the session waits for a verdict the carrier must keep messages to itself.
    pub fn handle_text<'m>(
        &mut self,
        now: Instant,
        message: &'m [u8],
        scratch: &'m mut Vec<u8>,
        out: &mut impl Outbox,
    ) -> Input<'m> {
        match &mut self.phase {
            Phase::Handshake => self.handle_first(json::decode(message, scratch), out),
            Phase::Active(active) => {
                let input = match json::decode(message, scratch) {
                    Ok(frame) => active.handle_frame(&self.limits, now, frame, out),
                    Err(bad) => active.handle_bad(&self.limits, now, &bad, out),
                };
                self.closed_if_fatal(input)
            }
            Phase::Authenticating(_) | Phase::Closed => Input::Nothing,
        }
    }

    /// Handles one binary message, which the founding protocol does not allow.
    pub fn handle_binary(&mut self, now: Instant, out: &mut impl Outbox) -> Input<'static> {
        const WORDS: &str = "frames are JSON in text messages";
        match &mut self.phase {
            Phase::Handshake => self.bad_hello(WORDS, out),
            Phase::Active(active) => {
                let input = active.refuse(now, ErrorCode::BadFrame, WORDS, None, None, out);
                self.closed_if_fatal(input)
            }
            Phase::Authenticating(_) | Phase::Closed => Input::Nothing,
        }
    }

    fn closed_if_fatal<'m>(&mut self, input: Input<'m>) -> Input<'m> {
        if matches!(input, Input::Fatal(_)) {
            self.phase = Phase::Closed;
        }
        input
    }

    fn handle_first<'m>(
        &mut self,
        frame: Result<Frame<'m>, Bad>,
        out: &mut impl Outbox,
    ) -> Input<'m> {
        match frame {
            Ok(Frame::Hello(hello)) => {
                if hello.device_id.len() > self.limits.max_device_id {
                    let cause = CloseCause::DeviceIdTooLong;
                    return self.refuse_hello(cause, "device_id is too long", out);
                }
                if hello.token.len() > self.limits.max_token {
                    let cause = CloseCause::TokenTooLong;
                    return self.refuse_hello(cause, "token is too long", out);
                }
                for (text, words) in [
                    (&hello.device_id, "device_id holds a control character"),
                    (&hello.token, "token holds a control character"),
                ] {
                    // No backend issues them, and some answer them with a failure of their own.
                    if text.bytes().any(|byte| byte.is_ascii_control()) {
                        return self.bad_hello(words, out);
                    }
                }
                let names = |name| hello.capabilities.iter().any(|c| c == name);
                self.phase = Phase::Authenticating(Accepted {
                    open_ack: names(CAPABILITY_OPEN_ACK),
                    go_away: names(CAPABILITY_GO_AWAY),
                    v2: names(CAPABILITY_V2),
                });
                Input::Hello(hello)
            }
            Ok(_) => self.bad_hello("the first message must be hello", out),
            Err(Bad::Hello(words) | Bad::Frame(words) | Bad::Stream(words, _)) => {
                self.bad_hello(words, out)
            }
        }
    }

    fn bad_hello(&mut self, words: &str, out: &mut impl Outbox) -> Input<'static> {
        self.refuse_hello(CloseCause::BadHello, words, out)
    }

    fn refuse_hello(
        &mut self,
        cause: CloseCause,
        words: &str,
        out: &mut impl Outbox,
    ) -> Input<'static> {
        json::error(out, ErrorCode::BadHello, words, None, None);
        self.phase = Phase::Closed;
        Input::Fatal(cause)
    }

    /// Answers the `hello`. After a refusal the caller flushes and closes the connection.
    pub fn handle_verdict(&mut self, now: Instant, verdict: &Verdict<'_>, out: &mut impl Outbox) {
        let Phase::Authenticating(accepted) = self.phase else {
            return;
        };
        match *verdict {
            Verdict::Allowed { session_id, subscription_status } => {
                let result = AuthResult {
                    allowed: true,
                    session_id: Some(session_id.into()),
                    subscription_status: subscription_status.map(Cow::Borrowed),
                    reason: None,
                    max_streams: Some(self.limits.max_streams as u64),
                    capabilities: accepted.names().map(Cow::Borrowed).collect(),
                };
                json::auth_result(out, &result);
                self.phase = Phase::Active(Active::new(accepted, &self.limits, now));
            }
            Verdict::Refused { reason, subscription_status } => {
                let result = AuthResult {
                    reason: Some(reason.into()),
                    subscription_status: subscription_status.map(Cow::Borrowed),
                    ..AuthResult::default()
                };
                json::auth_result(out, &result);
                self.phase = Phase::Closed;
            }
            Verdict::Unavailable { reason } => {
                let words = "no node for the session; try again later";
                let code = ErrorCode::OutlineUnavailable;
                json::error(out, code, words, None, Some(reason));
                self.phase = Phase::Closed;
            }
        }
    }

    /// Sends `stream_opened` to a client with `open_ack`: the stream's upstream is connected.
    pub fn opened(&mut self, stream: StreamKey, out: &mut impl Outbox) {
        if let Phase::Active(active) = &self.phase
            && active.accepted.open_ack
            && let Some(id) = active.streams.wire_id(stream)
        {
            json::stream_opened(out, id);
        }
    }

    /// Sends payload of a stream to the client; false when there is no such stream.
    pub fn write(&mut self, stream: StreamKey, data: &[u8], out: &mut impl Outbox) -> bool {
        match &self.phase {
            Phase::Active(active) => match active.streams.wire_id(stream) {
                Some(id) => {
                    json::stream_data(out, id, data);
                    true
                }
                None => false,
            },
            _ => false,
        }
    }

    /// Ends a stream from the gateway's side and notifies the client: `stream_close` when the
    /// target finished, an `error` about the stream otherwise. False when there is no such stream.
    pub fn end(&mut self, stream: StreamKey, end: StreamEnd, out: &mut impl Outbox) -> bool {
        let Phase::Active(active) = &mut self.phase else {
            return false;
        };
        let Some(id) = active.streams.id(stream).cloned() else {
            return false;
        };
        match end {
            StreamEnd::ClientClosed => {}
            StreamEnd::Eof => {
                if let Some(id) = active.streams.wire_id(stream) {
                    json::stream_close(out, id, Some(end.as_str()));
                }
                active.streams.note_taken(&id);
            }
            _ => {
                let reason = Some(end.as_str());
                json::error(out, ErrorCode::StreamError, end.words(), Some(&id), reason);
                active.streams.note_taken(&id);
            }
        }
        active.streams.remove(stream)
    }

    /// Refuses a stream after its open because its target is malformed (`bad_stream`).
    pub fn refuse_target(
        &mut self,
        now: Instant,
        stream: StreamKey,
        words: &str,
        out: &mut impl Outbox,
    ) -> Input<'static> {
        self.take_back(now, stream, (ErrorCode::BadStream, "bad_target"), words, out)
    }

    /// Refuses a stream after its open because of a limit beyond those of this session.
    pub fn refuse_open(
        &mut self,
        now: Instant,
        stream: StreamKey,
        refusal: StreamRefusal,
        words: &str,
        out: &mut impl Outbox,
    ) -> Input<'static> {
        self.take_back(now, stream, (refusal.code(), refusal.as_str()), words, out)
    }

    fn take_back(
        &mut self,
        now: Instant,
        stream: StreamKey,
        (code, reason): (ErrorCode, &str),
        words: &str,
        out: &mut impl Outbox,
    ) -> Input<'static> {
        let Phase::Active(active) = &mut self.phase else {
            return Input::Nothing;
        };
        let id = active.streams.id(stream).cloned();
        if let Some(id) = &id {
            active.streams.note_taken(id);
        }
        active.streams.remove(stream);
        let input = active.refuse(now, code, words, id.as_deref(), Some(reason), out);
        self.closed_if_fatal(input)
    }

    /// Announces a drain to a client that asked for it; false when it did not.
    pub fn go_away(&mut self, deadline: Duration, out: &mut impl Outbox) -> bool {
        match &self.phase {
            Phase::Active(active) if active.accepted.go_away => {
                json::go_away(out, "draining", deadline.as_millis() as u64);
                true
            }
            _ => false,
        }
    }

    /// Whether the client receives `GO_AWAY` and can move to another session by itself.
    pub fn may_outlive_drain(&self) -> bool {
        matches!(&self.phase, Phase::Active(active) if active.accepted.go_away)
    }

    /// Whether the client was let in and both sides named the second wire format: a
    /// [`v2::Session`](crate::v2::Session) takes over from here.
    pub fn has_v2(&self) -> bool {
        matches!(&self.phase, Phase::Active(active) if active.accepted.v2)
    }

    /// Streams open now.
    pub fn stream_count(&self) -> usize {
        match &self.phase {
            Phase::Active(active) => active.streams.len(),
            _ => 0,
        }
    }

    /// The id of a stream as the client chose it.
    pub fn stream_id(&self, stream: StreamKey) -> Option<&str> {
        match &self.phase {
            Phase::Active(active) => active.streams.id(stream).map(|id| &**id),
            _ => None,
        }
    }
}

impl Accepted {
    fn names(self) -> impl Iterator<Item = &'static str> {
        CAPABILITIES.into_iter().filter(move |name| match *name {
            CAPABILITY_OPEN_ACK => self.open_ack,
            CAPABILITY_GO_AWAY => self.go_away,
            _ => self.v2,
        })
    }
}

impl Active {
    fn new(accepted: Accepted, limits: &Limits, now: Instant) -> Self {
        Self {
            accepted,
            streams: Streams::default(),
            opens: Bucket::new(
                limits.max_stream_opens_per_second,
                limits.max_stream_open_burst,
                now,
            ),
            errors: Bucket::new(limits.max_errors_per_second, limits.max_error_burst, now),
        }
    }

    fn handle_frame<'m>(
        &mut self,
        limits: &Limits,
        now: Instant,
        frame: Frame<'m>,
        out: &mut impl Outbox,
    ) -> Input<'m> {
        match frame {
            Frame::StreamData { stream_id, data } => match self.streams.find(&stream_id) {
                Some(stream) => Input::Data { stream, data },
                None => self.handle_unknown(limits, now, &stream_id, out),
            },
            Frame::StreamOpen { stream_id, target } => {
                if stream_id.len() > limits.max_stream_id {
                    let refusal = StreamRefusal::IdTooLong;
                    return self.refuse_stream(limits, now, refusal, &stream_id, out);
                }
                if let Some(refusal) = self.refusal_of_open(limits, now, &stream_id) {
                    if refusal != StreamRefusal::Duplicate {
                        self.streams.note_taken(&stream_id);
                    }
                    return self.refuse_stream(limits, now, refusal, &stream_id, out);
                }
                Input::Open { stream: self.streams.insert(&stream_id), target }
            }
            Frame::StreamClose { stream_id, .. } => match self.streams.find(&stream_id) {
                Some(stream) => {
                    self.streams.remove(stream);
                    Input::Close { stream }
                }
                None => self.handle_unknown(limits, now, &stream_id, out),
            },
            Frame::Ping => {
                json::pong(out);
                Input::Nothing
            }
            Frame::Pong => Input::Nothing,
            _ => {
                let words = "a frame of this type is not taken from a client";
                self.refuse(now, ErrorCode::Unsupported, words, None, None, out)
            }
        }
    }

    /// Answers a frame about a stream that is not open.
    ///
    /// A client that was not yet told so is not at fault, however much it has on its way: it gets
    /// one `error` for the stream, which does not count towards the flood, and then silence.
    fn handle_unknown(
        &mut self,
        limits: &Limits,
        now: Instant,
        id: &str,
        out: &mut impl Outbox,
    ) -> Input<'static> {
        let refusal = StreamRefusal::Unknown;
        match self.streams.crossing(id) {
            None => self.refuse_stream(limits, now, refusal, id, out),
            Some(Crossing::First) => {
                let (code, reason) = (ErrorCode::StreamError, Some(refusal.as_str()));
                json::error(out, code, refusal.words(), Some(id), reason);
                Input::Refused { code, refusal: Some(refusal) }
            }
            Some(Crossing::Again) => Input::Nothing,
        }
    }

    fn refusal_of_open(
        &mut self,
        limits: &Limits,
        now: Instant,
        id: &str,
    ) -> Option<StreamRefusal> {
        if self.streams.contains(id) {
            Some(StreamRefusal::Duplicate)
        } else if self.streams.len() >= limits.max_streams {
            Some(StreamRefusal::Limit)
        } else if !self.opens.try_take(now) {
            Some(StreamRefusal::OpenRate)
        } else {
            None
        }
    }

    fn handle_bad(
        &mut self,
        limits: &Limits,
        now: Instant,
        bad: &Bad,
        out: &mut impl Outbox,
    ) -> Input<'static> {
        match bad {
            Bad::Frame(words) => self.refuse(now, ErrorCode::BadFrame, words, None, None, out),
            // A second hello is refused for being one, whatever is in it.
            Bad::Hello(_) => {
                let words = "the session has had its hello";
                self.refuse(now, ErrorCode::Unsupported, words, None, None, out)
            }
            Bad::Stream(words, id) => {
                let id = id.as_deref().filter(|id| id.len() <= limits.max_stream_id);
                self.refuse(now, ErrorCode::BadStream, words, id, None, out)
            }
        }
    }

    fn refuse_stream(
        &mut self,
        limits: &Limits,
        now: Instant,
        refusal: StreamRefusal,
        id: &str,
        out: &mut impl Outbox,
    ) -> Input<'static> {
        let id = Some(id).filter(|id| id.len() <= limits.max_stream_id);
        let reason = Some(refusal.as_str());
        match self.refuse(now, refusal.code(), refusal.words(), id, reason, out) {
            Input::Refused { code, .. } => Input::Refused { code, refusal: Some(refusal) },
            fatal => fatal,
        }
    }

    /// Answers with an `error`, or ends the session when it has had more than its share of them.
    fn refuse(
        &mut self,
        now: Instant,
        code: ErrorCode,
        words: &str,
        id: Option<&str>,
        reason: Option<&str>,
        out: &mut impl Outbox,
    ) -> Input<'static> {
        if !self.errors.try_take(now) {
            let words = "too many errors";
            json::error(out, ErrorCode::SessionError, words, None, Some("error_flood"));
            return Input::Fatal(CloseCause::ErrorFlood);
        }
        json::error(out, code, words, id, reason);
        Input::Refused { code, refusal: None }
    }
}
