//! The interface between a session and its egress.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use httvps_proto::Target;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::{ConnectError, DatagramDial, LookupShare, NoDatagrams};

/// A boxed future, for trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A request to open an upstream.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// The target; absent when the client named none.
    pub target: Option<Target>,
    /// How long opening may take in all, name resolution included. After that it fails with
    /// [`ConnectError::TimedOut`].
    pub deadline: Duration,
    /// The share of name lookups of the device that the stream is of. Unused by a connector that resolves no names.
    pub lookups: LookupShare,
}

/// Opens upstreams for streams. One connector serves every session.
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

    /// Whether this connector uses the target. One that ignores it accepts any text.
    fn uses_target(&self) -> bool {
        true
    }

    /// The connector's name, as settings and logs have it.
    fn name(&self) -> &'static str;
}

/// The upstream of a byte stream.
pub enum Upstream {
    /// Every byte is sent back to the client; the relay does it without an upstream connection.
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
    /// Makes the drop reset the connection, so that the target can tell an aborted stream from a finished one.
    ///
    /// Unsent bytes are lost. No effect on a transport without a reset.
    fn reset(&mut self);

    /// Whether the stream cannot take any payload yet because its target is still being dialled.
    ///
    /// Until then a pending flush does not mean that accepted bytes are held.
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
