//! Events and verdicts of a gateway's session.

use crate::json::Hello;
use crate::{CloseCause, ErrorCode, StreamKey, StreamRefusal};
use std::borrow::Cow;

/// The event of a message from the client.
#[derive(Debug, PartialEq)]
pub enum Input<'m> {
    /// Nothing; it was answered or needs no answer.
    Nothing,
    /// Ask the backend, then call [`Session::handle_verdict`](crate::Session::handle_verdict). Read no further message before.
    Hello(Hello<'m>),
    /// Open an upstream; the stream is reserved. Answer with [`Session::opened`](crate::Session::opened) or [`Session::end`](crate::Session::end).
    Open {
        /// The new stream.
        stream: StreamKey,
        /// The target as the client wrote it, at most [`Limits::MAX_TARGET`](crate::Limits::MAX_TARGET) bytes.
        target: Option<Cow<'m, str>>,
    },
    /// Pass the payload on to the stream's upstream.
    Data {
        /// An open stream.
        stream: StreamKey,
        /// The decoded payload; may be empty.
        data: &'m [u8],
    },
    /// The client is done with the stream; it is already freed here. What was received for it
    /// before is still to be delivered.
    Close {
        /// The stream that was.
        stream: StreamKey,
    },
    /// The message was refused with an `error` of this code; the session lives on.
    Refused {
        /// The code of the answer.
        code: ErrorCode,
        /// Which rule refused it, when it was well-formed.
        refusal: Option<StreamRefusal>,
    },
    /// Flush what is queued, then close the connection.
    Fatal(CloseCause),
}

/// The backend's verdict on a `hello`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The device may enter.
    Allowed {
        /// The new session's UUID.
        session_id: &'a str,
        /// The status of the subscription, from the backend.
        subscription_status: Option<&'a str>,
    },
    /// The device may not enter, or the backend failed.
    Refused {
        /// Why, for the client.
        reason: &'a str,
        /// The status of the subscription, from the backend.
        subscription_status: Option<&'a str>,
    },
    /// The device may enter, but there is no way out for its streams: an `error`
    /// `outline_unavailable` in place of an `auth_result`.
    Unavailable {
        /// Why, for the client.
        reason: &'a str,
    },
}
