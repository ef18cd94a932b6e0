//! The client's side of one session.

use crate::json::{self, AuthResult, Frame};
use crate::streams::Streams;
use crate::{
    CAPABILITIES, CAPABILITY_OPEN_ACK, CAPABILITY_V2, FOUNDING_CAPABILITIES, Outbox, StreamEnd,
    StreamKey,
};
use std::borrow::Cow;

/// One session as the client sees it.
///
/// ```text
///  hello() ──▶ waiting for auth_result ──allowed──▶ active: open, write, close ──▶ over
///                        └──────────────refused──▶ over
/// ```
/// It trusts the gateway no further than it must: frames about streams that are not open are
/// ignored (they may have crossed a close), and nothing that the gateway sends can panic it.
#[derive(Debug, Default)]
pub struct ClientSession {
    state: State,
    streams: Streams,
    next_id: u64,
    /// The limit that the gateway announced; until then the default of the founding page.
    max_streams: Option<usize>,
    has_open_ack: bool,
    has_v2: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Waiting,
    Active,
    Over,
}

/// The event of a message from the gateway.
#[derive(Debug, PartialEq)]
pub enum ClientInput<'m> {
    /// Nothing to do.
    Nothing,
    /// The answer to `hello`; when not allowed, the gateway closes the connection next.
    Authenticated(AuthResult<'m>),
    /// The upstream of a stream is connected (only with the capability `open_ack`).
    Opened(StreamKey),
    /// Payload for a stream.
    Data {
        /// An open stream.
        stream: StreamKey,
        /// The payload.
        data: &'m [u8],
    },
    /// A stream is over; it is already freed here.
    Ended {
        /// The stream that was.
        stream: StreamKey,
        /// How it ended; None when the gateway gave a reason that this client does not know.
        end: Option<StreamEnd>,
        /// The reason or message as the gateway gave it.
        words: Cow<'m, str>,
    },
    /// The gateway had no place for a new stream (`stream_limit` or `open_rate`); it is freed here.
    /// Nothing of it reached a target, so it may be opened again on another session.
    NoPlace(StreamKey),
    /// An error that is not about a stream.
    Error {
        /// The code.
        code: Cow<'m, str>,
        /// A message for people.
        words: Cow<'m, str>,
        /// The reason, a token.
        reason: Option<Cow<'m, str>>,
    },
    /// The gateway drains; open new streams on another session.
    GoAway,
}

/// Why a stream cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// The session is not authenticated, or over.
    NotActive,
    /// The session has as many streams as the gateway allows.
    Limit,
}

impl ClientSession {
    /// The limit of the founding page, for gateways that do not announce theirs.
    pub const DEFAULT_MAX_STREAMS: usize = 8;

    /// Starts the session: queues the `hello`, which offers the second wire format if `offers_v2`.
    pub fn hello(
        device_id: &str,
        token: &str,
        client_version: &str,
        region: Option<&str>,
        offers_v2: bool,
        out: &mut impl Outbox,
    ) -> Self {
        let capabilities: &[&str] = if offers_v2 { &CAPABILITIES } else { &FOUNDING_CAPABILITIES };
        json::hello(out, device_id, token, client_version, capabilities, region);
        Self::default()
    }

    /// Handles one text message, which must be UTF-8. `scratch` holds the payload of a data frame.
    pub fn handle_text<'m>(
        &mut self,
        message: &'m [u8],
        scratch: &'m mut Vec<u8>,
        out: &mut impl Outbox,
    ) -> ClientInput<'m> {
        let Ok(frame) = json::decode(message, scratch) else {
            return ClientInput::Error {
                code: "bad_frame".into(),
                words: "the gateway sent something that is not a frame".into(),
                reason: None,
            };
        };
        match frame {
            Frame::AuthResult(result) if self.state == State::Waiting => self.authenticated(result),
            Frame::StreamData { stream_id, data } => match self.streams.find(&stream_id) {
                Some(stream) => ClientInput::Data { stream, data },
                None => ClientInput::Nothing,
            },
            Frame::StreamOpened { stream_id } => match self.streams.find(&stream_id) {
                Some(stream) => ClientInput::Opened(stream),
                None => ClientInput::Nothing,
            },
            Frame::StreamClose { stream_id, reason } => {
                let end = match reason.as_deref() {
                    None => Some(StreamEnd::Eof),
                    Some(token) => StreamEnd::from_token(token),
                };
                self.ended(&stream_id, end, reason.unwrap_or_default())
            }
            Frame::Error { code, message, stream_id, reason } => {
                self.error(code, message, stream_id, reason)
            }
            Frame::Ping => {
                json::pong(out);
                ClientInput::Nothing
            }
            Frame::GoAway { .. } => ClientInput::GoAway,
            _ => ClientInput::Nothing,
        }
    }

    fn authenticated<'m>(&mut self, result: AuthResult<'m>) -> ClientInput<'m> {
        self.state = if result.allowed { State::Active } else { State::Over };
        self.max_streams = result.max_streams.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        self.has_v2 = result.allowed && result.capabilities.iter().any(|c| c == CAPABILITY_V2);
        self.has_open_ack = result.capabilities.iter().any(|c| c == CAPABILITY_OPEN_ACK);
        ClientInput::Authenticated(result)
    }

    fn ended<'m>(
        &mut self,
        id: &str,
        end: Option<StreamEnd>,
        words: Cow<'m, str>,
    ) -> ClientInput<'m> {
        match self.streams.find(id) {
            Some(stream) => {
                self.streams.remove(stream);
                ClientInput::Ended { stream, end, words }
            }
            None => ClientInput::Nothing,
        }
    }

    fn error<'m>(
        &mut self,
        code: Cow<'m, str>,
        message: Option<Cow<'m, str>>,
        stream_id: Option<Cow<'m, str>>,
        reason: Option<Cow<'m, str>>,
    ) -> ClientInput<'m> {
        let words = message.unwrap_or_else(|| code.clone());
        let Some(id) = stream_id else {
            return ClientInput::Error { code, words, reason };
        };
        match (reason.as_deref(), self.streams.find(&id)) {
            // It ended while our frame was on its way.
            (_, None) => ClientInput::Nothing,
            (Some(reason @ ("stream_limit" | "open_rate")), Some(stream)) => {
                self.streams.remove(stream);
                // A rate says nothing of how many streams there may be at once.
                if reason == "stream_limit" {
                    self.max_streams = Some(self.streams.len().max(1));
                }
                ClientInput::NoPlace(stream)
            }
            (reason, Some(_)) => {
                let end = reason.and_then(StreamEnd::from_token);
                self.ended(&id, end, words)
            }
        }
    }

    /// Opens a stream to `target`. Data may be written at once.
    pub fn open(
        &mut self,
        target: Option<&str>,
        out: &mut impl Outbox,
    ) -> Result<StreamKey, OpenError> {
        if self.state != State::Active {
            return Err(OpenError::NotActive);
        }
        if self.streams.len() >= self.max_streams() {
            return Err(OpenError::Limit);
        }
        self.next_id += 1;
        let id = self.next_id.to_string();
        json::stream_open(out, &id, target);
        Ok(self.streams.insert(&id))
    }

    /// Sends payload; false when the stream is not open.
    pub fn write(&mut self, stream: StreamKey, data: &[u8], out: &mut impl Outbox) -> bool {
        let Some(id) = self.streams.wire_id(stream) else {
            return false;
        };
        json::stream_data(out, id, data);
        true
    }

    /// Closes a stream; false when it was not open.
    pub fn close(&mut self, stream: StreamKey, out: &mut impl Outbox) -> bool {
        let Some(id) = self.streams.wire_id(stream) else {
            return false;
        };
        json::stream_close(out, id, None);
        self.streams.remove(stream)
    }

    /// Streams that this session may have at once.
    pub fn max_streams(&self) -> usize {
        self.max_streams.unwrap_or(Self::DEFAULT_MAX_STREAMS)
    }

    /// Streams open now.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Whether the gateway accepted the second wire format: a
    /// [`v2::Session`](crate::v2::Session) takes over from here.
    pub fn has_v2(&self) -> bool {
        self.has_v2
    }

    /// Whether the gateway announces that a stream's upstream is connected.
    pub fn has_open_ack(&self) -> bool {
        self.has_open_ack
    }
}
