//! What a session and the ways out of the gateway agree on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use httvps_proto::Target;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::{ConnectError, DatagramDial, LookupShare, NoDatagrams};

/// A future on the heap, as trait objects must return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything a connector may need to know of the stream that wants out.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// Where the client wants to go; absent when the client named no target.
    pub target: Option<Target>,
    /// How long opening may take in all, name resolution included. After that it fails with
    /// [`ConnectError::TimedOut`].
    pub deadline: Duration,
    /// The share of name lookups of the device that the stream is of. A connector that resolves no names does without.
    pub lookups: LookupShare,
}

/// A way out of the gateway. One connector serves every session.
pub trait Connector: Send + Sync + 'static {
    /// Starts to open an upstream.
    ///
    /// Nothing is done before the future is polled. Dropping it cancels the attempt and frees its sockets at once.
    /// It ends within the request's deadline.
    fn connect(&self, request: OpenRequest) -> BoxFuture<'static, Result<Upstream, ConnectError>>;

    /// Starts to open an upstream for datagrams, by the same rules as [`Self::connect`].
    ///
    /// A connector offers them only if it says so here.
    fn connect_datagrams(&self, _request: OpenRequest) -> Result<DatagramDial, NoDatagrams> {
        Err(NoDatagrams)
    }

    /// Whether the target means anything to this connector. One that ignores it takes any text.
    fn uses_target(&self) -> bool {
        true
    }

    /// The connector's name, as settings and logs have it.
    fn name(&self) -> &'static str;
}

/// What a stream's bytes go to.
pub enum Upstream {
    /// Every byte comes back to the client; the relay does it without an upstream connection.
    Echo,
    /// Every byte is dropped; none comes back.
    Blackhole,
    /// A connection to a target. Dropping it closes both halves.
    Stream(Box<dyn ByteStream>),
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echo => "Echo",
            Self::Blackhole => "Blackhole",
            Self::Stream(_) => "Stream",
        })
    }
}

/// A connection to a target. `poll_shutdown` finishes our half; the other half can still be read.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Turns the coming drop into a reset, so that the target does not take a broken stream for a finished one.
    ///
    /// Bytes not sent yet are lost. Without effect where the transport knows no reset.
    fn reset(&mut self);

    /// Whether the stream cannot take any payload yet because its target is still being dialled.
    ///
    /// Until then a flush that waits does not mean that bytes which count as taken are held.
    fn is_opening(&self) -> bool {
        false
    }
}

impl ByteStream for TcpStream {
    fn reset(&mut self) {
        // It fails only on a socket that is already dead, and such a socket sends nothing any more.
        let _ = self.set_zero_linger();
    }
}
