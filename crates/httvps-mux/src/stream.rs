//! One byte flow to a target, through a connection.

use crate::connection::ConnectionEnd;
use crate::driver::Shared;
use httvps_proto::StreamEnd;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream to a target, opened by [`Connection::open`](crate::Connection::open).
///
/// **Reads** end with `Ok` and no bytes when the target has finished. When the stream failed they
/// deliver what had arrived, then an [`io::Error`] whose inner error is a [`StreamFailure`]. The
/// JSON protocol has no credit: what is not read is buffered (4 MiB a stream and 16 MiB a
/// connection by default), then the whole connection waits for the reader, and a reader that
/// holds it up for 10 seconds loses its stream
/// ([`Settings::stall_timeout`](crate::Settings::stall_timeout)).
///
/// **Writes** take at most 64 KiB at once and wait while more than 256 KiB are queued for the
/// gateway. `poll_flush` is ready at once, since the driver sends what is queued by itself.
///
/// In the second wire format reads and writes are bound by credit instead: unread data is at
/// most the stream's window (64 KiB, growing to 16 MiB as the path needs it), holds up no other
/// stream and ends no stream; writes wait for the gateway's credit.
///
/// **`poll_shutdown`** finishes our half in the second wire format; in JSON it only ends writing
/// here, and the target does not learn of it ([`Self::has_half_close`]). What was written is
/// delivered, and the stream stays readable until the target ends it.
///
/// Dropping the stream closes it at the gateway, after everything that was written; with bytes
/// unread it is reset in the second wire format. All methods are cancellation-safe.
pub struct Stream {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: usize,
}

impl Stream {
    /// Whether `poll_shutdown` reaches the target while the stream stays readable: in the second
    /// wire format, not in JSON.
    pub fn has_half_close(&self) -> bool {
        self.shared.with(|state| state.wire.has_half_close())
    }

    /// Aborts the stream: in the second wire format the target sees a reset and
    /// not the end of what was sent. In JSON the same as dropping it.
    pub fn reset(self) {
        self.shared.with(|state| state.table.slot(self.id).is_broken_off = true);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.shared.with(|state| state.poll_read(self.id, cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.with(|state| state.poll_write(self.id, cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|state| state.shut_write(self.id));
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.with(|state| state.drop_stream(self.id));
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// The message for a gateway that does not answer.
pub(crate) const SILENT: &str = "the gateway does not answer; the path to it may have been lost";

/// Why a stream failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFailure {
    /// The reason that the gateway named; None when it named none that this version knows.
    pub end: Option<StreamEnd>,
    /// The message, at most 256 characters.
    pub words: Box<str>,
}

impl StreamFailure {
    pub(crate) fn new(end: Option<StreamEnd>, words: &str) -> Self {
        Self { end, words: plain(words) }
    }

    /// The failure of the streams that were open when the connection ended.
    pub(crate) fn of_connection(end: &ConnectionEnd) -> Self {
        Self::new(Some(StreamEnd::SessionEnded), &end.to_string())
    }

    /// The failure of what does not wait for a connection that is silent.
    pub(crate) fn of_silence() -> Self {
        Self::new(Some(StreamEnd::SessionEnded), SILENT)
    }

    /// The failure out of an error of a [`Stream`].
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// The kind of [`io::Error`] that comes nearest.
    pub fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind as Kind;
        match self.end {
            Some(StreamEnd::Refused) => Kind::ConnectionRefused,
            Some(StreamEnd::Unreachable | StreamEnd::NodeUnreachable) => Kind::HostUnreachable,
            Some(StreamEnd::Timeout | StreamEnd::Stalled | StreamEnd::Idle) => Kind::TimedOut,
            Some(StreamEnd::Reset) => Kind::ConnectionReset,
            Some(StreamEnd::Denied) => Kind::PermissionDenied,
            Some(StreamEnd::ResolveFailed) => Kind::NotFound,
            Some(StreamEnd::NoTarget) => Kind::InvalidInput,
            Some(StreamEnd::NotOffered) => Kind::Unsupported,
            Some(StreamEnd::Overload) => Kind::ResourceBusy,
            Some(StreamEnd::Eof) => Kind::UnexpectedEof,
            Some(StreamEnd::ClientClosed) => Kind::BrokenPipe,
            Some(StreamEnd::Io | StreamEnd::SessionEnded) => Kind::ConnectionAborted,
            None => Kind::Other,
        }
    }

    pub(crate) fn to_error(&self) -> io::Error {
        io::Error::new(self.kind(), self.clone())
    }
}

impl fmt::Display for StreamFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for StreamFailure {}

/// A text of the gateway, made safe to print: at most 256 bytes of it, control characters replaced.
pub(crate) fn plain(words: &str) -> Box<str> {
    let words = &words[..words.floor_char_boundary(256)];
    words.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
