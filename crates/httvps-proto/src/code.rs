//! The closed sets of codes: errors, ends of streams, ends of sessions.

/// The `code` of an `error` frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The first message was not a valid `hello`; the connection closes.
    BadHello,
    /// A message is not a JSON object, or its `type` is not a string.
    BadFrame,
    /// A `stream_*` frame lacks a field, has one of the wrong type or length, or bad base64.
    BadStream,
    /// A limit, a duplicate or unknown stream, or a failure of the upstream.
    StreamError,
    /// A frame type that the gateway does not know or does not take from a client.
    Unsupported,
    /// The session as a whole is in trouble; the connection closes.
    SessionError,
    /// No Outline node could be had for the session.
    OutlineUnavailable,
}

impl ErrorCode {
    /// All codes, in the order of the reference page.
    pub const ALL: [Self; 7] = [
        Self::BadHello,
        Self::BadFrame,
        Self::BadStream,
        Self::StreamError,
        Self::Unsupported,
        Self::SessionError,
        Self::OutlineUnavailable,
    ];

    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadHello => "bad_hello",
            Self::BadFrame => "bad_frame",
            Self::BadStream => "bad_stream",
            Self::StreamError => "stream_error",
            Self::Unsupported => "unsupported",
            Self::SessionError => "session_error",
            Self::OutlineUnavailable => "outline_unavailable",
        }
    }
}

macro_rules! stream_ends {
    ($($(#[$doc:meta])* $name:ident = $token:literal, $words:literal;)+) => {
        /// Why a stream ended: the `reason` of a `stream_close` or of an `error` about a stream,
        /// and the label of the metric that counts ends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum StreamEnd { $($(#[$doc])* $name,)+ }

        impl StreamEnd {
            /// All ends, in the order of the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The token on the wire and in the metric.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $token,)+ }
            }

            /// The text for `message`.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)+ }
            }

            /// The end that a token names.
            pub fn from_token(token: &str) -> Option<Self> {
                match token { $($token => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

stream_ends! {
    /// The target finished; every byte it sent was delivered.
    Eof = "eof", "the target finished";
    /// The client sent `stream_close`.
    ClientClosed = "client_closed", "the client closed the stream";
    /// The target's host refused the connection.
    Refused = "refused", "the target refused the connection";
    /// There is no way to the target's host or network.
    Unreachable = "unreachable", "the target cannot be reached";
    /// The node through which the stream would leave does not answer; the target was not asked.
    NodeUnreachable = "node_unreachable", "the exit node does not answer";
    /// The target did not answer within the dial time-out.
    Timeout = "timeout", "the target did not answer in time";
    /// The target reset the connection.
    Reset = "reset", "the target reset the connection";
    /// The gateway's policy does not allow this target.
    Denied = "denied", "the gateway does not allow this target";
    /// The target's name did not resolve.
    ResolveFailed = "resolve_failed", "the target's name did not resolve";
    /// The upstream needs a target and the `stream_open` had none.
    NoTarget = "no_target", "this gateway needs a target in stream_open";
    /// The gateway has no descriptor or memory left for the stream.
    Overload = "overload", "the gateway is overloaded";
    /// The way out that the stream has does not carry streams of this kind.
    NotOffered = "not_offered", "the gateway's way out does not carry this kind of stream";
    /// Another failure of the upstream's socket.
    Io = "io", "the connection to the target failed";
    /// The upstream took no byte for the stall time-out while bytes waited.
    Stalled = "stalled", "the target took no data for too long";
    /// No byte moved in either direction for the idle time-out.
    Idle = "idle", "the stream was idle for too long";
    /// The session ended with the stream still open.
    SessionEnded = "session_ended", "the session ended";
}

/// Which rule refused a `stream_*` frame that was well-formed: code `stream_error`, or `bad_stream`
/// for an id that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamRefusal {
    /// The session has as many streams as it may.
    Limit,
    /// Streams are opened faster than the session may.
    OpenRate,
    /// A stream of that id is open.
    Duplicate,
    /// No stream of that id is open.
    Unknown,
    /// The id is longer than ids may be.
    IdTooLong,
}

impl StreamRefusal {
    /// All refusals, in the order of the reference page.
    pub const ALL: [Self; 5] =
        [Self::Limit, Self::OpenRate, Self::Duplicate, Self::Unknown, Self::IdTooLong];

    /// The code of the `error` that reports it.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::IdTooLong => ErrorCode::BadStream,
            _ => ErrorCode::StreamError,
        }
    }

    /// The `reason` token on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "stream_limit",
            Self::OpenRate => "open_rate",
            Self::Duplicate => "duplicate_stream",
            Self::Unknown => "unknown_stream",
            Self::IdTooLong => "stream_id_too_long",
        }
    }

    /// The text for `message`.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Limit => "the session has as many streams as it may have",
            Self::OpenRate => "streams are opened too fast",
            Self::Duplicate => "a stream of this id is open",
            Self::Unknown => "no stream of this id is open",
            Self::IdTooLong => "stream_id is too long",
        }
    }
}

/// Why the session asks for its connection to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCause {
    /// The first message was no valid `hello`.
    BadHello,
    /// A `hello` with a `device_id` longer than allowed.
    DeviceIdTooLong,
    /// A `hello` with a `token` longer than allowed.
    TokenTooLong,
    /// The client causes more errors than it may.
    ErrorFlood,
}

impl CloseCause {
    /// The reason that goes with the WebSocket close code 1008 (RFC 6455 section 7.4.1).
    pub const fn words(self) -> &'static str {
        match self {
            Self::BadHello | Self::DeviceIdTooLong | Self::TokenTooLong => "bad hello",
            Self::ErrorFlood => "too many errors",
        }
    }
}
