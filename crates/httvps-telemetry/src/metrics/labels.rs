//! The closed sets of label values.

use httvps_proto::{ErrorCode, StreamEnd};

/// A closed set of values of one label.
pub trait Label: Copy + Send + Sync + 'static {
    /// The name of the label.
    const NAME: &'static str;

    /// Every value, in the order of the reference page.
    fn tokens() -> Vec<&'static str>;

    /// The place of this value in [`Label::tokens`].
    fn index(self) -> usize;
}

macro_rules! labels {
    ($(
        $(#[doc = $set:literal])+
        $type:ident, $label:literal {
            $( $(#[doc = $doc:literal])+ $name:ident = $token:literal, )+
        }
    )+) => {$(
        $(#[doc = $set])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $type { $( $(#[doc = $doc])+ $name, )+ }

        impl $type {
            /// All values, in the order of the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The value of the label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $token,)+ }
            }
        }

        impl Label for $type {
            const NAME: &'static str = $label;

            fn tokens() -> Vec<&'static str> {
                Self::ALL.iter().map(|value| value.as_str()).collect()
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    )+};
}

labels! {
    /// Why a request to the backend failed.
    BackendErrorCode, "code" {
        /// No answer in time.
        Timeout = "timeout",
        /// No connection.
        Unreachable = "unreachable",
        /// The connection broke before the answer was complete.
        Broken = "broken",
        /// A status from 500 to 599.
        Http5xx = "http_5xx",
        /// A status from 400 to 499 that the API does not have there.
        Http4xx = "http_4xx",
        /// A redirect.
        Http3xx = "http_3xx",
        /// Any other status that the API does not have there.
        HttpOther = "http_other",
        /// A body that does not say what it must.
        BadBody = "bad_body",
        /// A body above the limit.
        BodyTooLarge = "body_too_large",
        /// Not asked: the circuit breaker is open.
        CircuitOpen = "circuit_open",
        /// Not asked: no place came free in time.
        Busy = "busy",
    }

    /// The result of a handshake that reached the backend's verdict.
    HandshakeResult, "result" {
        /// The device was admitted.
        Accepted = "accepted",
        /// The device was refused.
        Rejected = "rejected",
        /// The backend failed, or the first message was no `hello`.
        Error = "error",
    }

    /// Why a device was refused.
    RefusalReason, "reason" {
        /// The backend does not know the device.
        DeviceNotFound = "device_not_found",
        /// The user of the device has no subscription that is active.
        NoActiveSubscription = "no_active_subscription",
        /// The token is wrong.
        InvalidToken = "invalid_token",
        /// The token belongs to another device.
        DeviceMismatch = "device_mismatch",
        /// The gateway or the device has as many sessions as allowed.
        SessionLimit = "session_limit",
        /// The gateway has no memory or descriptor left for another session.
        Overload = "overload",
        /// Any other reason of the backend.
        Other = "other",
    }

    /// The phase in which a handshake without a verdict ended.
    HandshakePhase, "phase" {
        /// In the TLS handshake.
        Tls = "tls",
        /// In the request headers or the upgrade.
        Http = "http",
        /// Before a whole, valid `hello`.
        Hello = "hello",
        /// While the backend was asked: the client disconnected.
        Backend = "backend",
    }

    /// Why a session ended.
    SessionEnd, "reason" {
        /// The client closed the WebSocket.
        ClientClosed = "client_closed",
        /// The connection broke.
        Disconnected = "disconnected",
        /// The client answered no ping.
        KeepAlive = "keepalive",
        /// A message of the client was not complete in time.
        MessageTimeout = "message_timeout",
        /// The client accepted no byte for too long.
        WriteTimeout = "write_timeout",
        /// The client broke the rules of WebSocket.
        ProtocolError = "protocol_error",
        /// A message was larger than allowed.
        MessageTooBig = "message_too_big",
        /// The client caused too many errors.
        ErrorFlood = "error_flood",
        /// The gateway drains.
        Drain = "drain",
        /// TLS failed after the handshake.
        TlsError = "tls_error",
    }

    /// A limit that applied; each value is the key of the setting.
    Limit, "limit" {
        /// Streams of a session.
        Streams = "max_streams_per_session",
        /// `stream_open` frames of a session.
        StreamOpens = "max_stream_opens_per_second",
        /// `error` frames that a client caused.
        Errors = "max_errors_per_second",
        /// Bytes of a `stream_id`.
        StreamId = "max_stream_id_bytes",
        /// Bytes of a `device_id`.
        DeviceId = "max_device_id_bytes",
        /// Bytes of a `token`.
        Token = "max_token_bytes",
        /// Sessions in all.
        Sessions = "max_sessions",
        /// Sessions of a device.
        SessionsPerDevice = "max_sessions_per_device",
        /// Streams of a device.
        StreamsPerDevice = "max_streams_per_device",
        /// Streams that a device opened.
        DeviceOpens = "max_device_opens_per_second",
        /// Descriptors of a device.
        DescriptorsPerDevice = "max_descriptors_per_device",
        /// Closed streams that are being delivered, in all.
        Deliveries = "max_deliveries",
        /// The same of a device.
        DeliveriesPerDevice = "max_deliveries_per_device",
        /// What all windows may grow by.
        WindowBudget = "window_budget_bytes",
        /// The same of a device.
        WindowBudgetPerDevice = "window_budget_per_device_bytes",
        /// Time from accept to the verdict.
        HandshakeTimeout = "handshake_timeout",
        /// Time of the TLS handshake.
        TlsHandshakeTimeout = "tls_handshake_timeout",
        /// Time of the request headers.
        HeaderTimeout = "header_timeout",
        /// Bytes of the request headers.
        HeaderBytes = "max_header_bytes",
        /// Header fields.
        Headers = "max_headers",
        /// Half-open connections in all.
        Handshakes = "max_handshakes",
        /// Half-open connections of an address.
        HandshakesPerSource = "max_handshakes_per_source",
        /// Bytes of all half-open connections.
        HandshakeBytes = "handshake_budget_bytes",
        /// Requests, or pings, of a half-open connection.
        Exchanges = "max_exchanges_before_auth",
        /// Origins that are not let in.
        Origins = "allowed_origins",
        /// Bytes of a message before the verdict.
        MessageBeforeAuth = "max_message_bytes_before_auth",
        /// Bytes of a message.
        Message = "max_message_bytes",
        /// Time from the beginning of a message to its end.
        MessageTimeout = "message_timeout",
        /// Fragments of a message.
        Fragments = "max_message_fragments",
        /// Bytes that wait for a client.
        SessionQueue = "max_session_queue_bytes",
        /// Bytes of a stream that wait for its target.
        StreamQueue = "max_stream_queue_bytes",
        /// Time in which a client takes no byte.
        Write = "write_timeout",
        /// Pings without an answer.
        KeepAlive = "keepalive_max_missed",
        /// Time to open an upstream.
        Dial = "dial_timeout",
        /// Time in which no byte moves on a stream.
        StreamIdle = "stream_idle_timeout",
        /// Time in which no datagram moves on a stream.
        DatagramIdle = "datagram_idle_timeout",
        /// Time in which a target takes no byte.
        StreamStall = "stream_stall_timeout",
        /// Time of a backend request.
        BackendTimeout = "backend_timeout",
        /// Backend requests at once.
        BackendConcurrent = "backend_max_concurrent",
        /// Bytes of a backend answer.
        BackendBody = "backend_max_body_bytes",
        /// Failed backend requests in a row.
        BackendBreaker = "backend_breaker_failures",
        /// Share of the memory budget.
        Memory = "memory_refuse_percent",
        /// Descriptors kept free.
        Descriptors = "descriptor_reserve",
        /// Time of a drain.
        Drain = "drain_timeout",
    }

    /// What a request for the WebSocket's path lacked for an upgrade.
    MissingUpgrade, "missing" {
        /// Its method is not `GET`.
        Method = "method",
        /// It is not HTTP/1.1.
        HttpVersion = "http_version",
        /// No `Upgrade: websocket`.
        UpgradeHeader = "upgrade_header",
        /// No `Connection: Upgrade`.
        ConnectionHeader = "connection_header",
        /// It has a body.
        Body = "body",
    }

    /// The direction of a datagram.
    Direction, "direction" {
        /// From a client to a target.
        In = "in",
        /// From a target to a client.
        Out = "out",
    }

    /// The source of a session's node, or why it has none.
    Assignment, "result" {
        /// The backend.
        Backend = "backend",
        /// The pool.
        Pool = "pool",
        /// The backend or the pool has no node.
        NoneAvailable = "none_available",
        /// The backend failed.
        BackendError = "backend_error",
        /// The key that the backend gave cannot be used.
        BadKey = "bad_key",
    }

    /// The result of a dial to a node.
    NodeDial, "result" {
        /// It succeeded.
        Ok = "ok",
        /// It was refused, or there is no way there.
        Failed = "failed",
        /// It took too long.
        Timeout = "timeout",
    }

    /// The result of a probe of a node.
    NodeProbe, "result" {
        /// The probe's target answered through the node.
        Ok = "ok",
        /// The node was not reached.
        Unreachable = "unreachable",
        /// The node, or the target behind it, did not answer, or the node opened no way to it.
        Silent = "silent",
        /// The node's answer does not fit the key, or its protocol, password or certificate is wrong.
        WrongKey = "wrong_key",
    }

    /// The result of a reload of the certificate.
    ReloadResult, "result" {
        /// The new certificate is in use.
        Replaced = "replaced",
        /// The new certificate could not be used; the old one stays.
        Failed = "failed",
    }
}

impl RefusalReason {
    /// The value for a reason of the backend; those outside the set are `other`.
    pub fn from_token(token: &str) -> Self {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == token).unwrap_or(Self::Other)
    }
}

impl MissingUpgrade {
    /// The value that a token names.
    pub fn from_token(token: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|missing| missing.as_str() == token)
    }
}

impl Label for StreamEnd {
    const NAME: &'static str = "reason";

    fn tokens() -> Vec<&'static str> {
        Self::ALL.iter().map(|end| end.as_str()).collect()
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// The code of an `error` frame that a client caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientErrorCode(ErrorCode);

impl From<ErrorCode> for ClientErrorCode {
    fn from(code: ErrorCode) -> Self {
        Self(code)
    }
}

impl Label for ClientErrorCode {
    const NAME: &'static str = "code";

    fn tokens() -> Vec<&'static str> {
        ErrorCode::ALL.iter().map(|code| code.as_str()).collect()
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<L: Label>(values: impl IntoIterator<Item = (L, &'static str)>) {
        let tokens = L::tokens();
        let mut seen = 0;
        for (value, token) in values {
            assert_eq!(tokens[value.index()], token);
            seen += 1;
        }
        assert_eq!(seen, tokens.len());
        let mut distinct = tokens.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), tokens.len());
        let spelled = |token: &&str| token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        assert!(tokens.iter().all(spelled), "{tokens:?}");
    }

    #[test]
    fn every_value_finds_its_own_place() {
        check(HandshakeResult::ALL.iter().map(|v| (*v, v.as_str())));
        check(RefusalReason::ALL.iter().map(|v| (*v, v.as_str())));
        check(HandshakePhase::ALL.iter().map(|v| (*v, v.as_str())));
        check(SessionEnd::ALL.iter().map(|v| (*v, v.as_str())));
        check(Limit::ALL.iter().map(|v| (*v, v.as_str())));
        check(Assignment::ALL.iter().map(|v| (*v, v.as_str())));
        check(NodeDial::ALL.iter().map(|v| (*v, v.as_str())));
        check(NodeProbe::ALL.iter().map(|v| (*v, v.as_str())));
        check(MissingUpgrade::ALL.iter().map(|v| (*v, v.as_str())));
        check(Direction::ALL.iter().map(|v| (*v, v.as_str())));
        check(ReloadResult::ALL.iter().map(|v| (*v, v.as_str())));
        check(StreamEnd::ALL.iter().map(|v| (*v, v.as_str())));
        check(ErrorCode::ALL.iter().map(|v| (ClientErrorCode::from(*v), v.as_str())));
        check(BackendErrorCode::ALL.iter().map(|v| (*v, v.as_str())));
    }

    #[test]
    fn an_unknown_reason_is_other() {
        assert_eq!(RefusalReason::from_token("invalid_token"), RefusalReason::InvalidToken);
        assert_eq!(RefusalReason::from_token("x\"} 1\n"), RefusalReason::Other);
    }
}
