//! What the listeners need of a client.

use crate::OpenError;
use httvps_proto::Target;
use std::future::Future;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte flow to a target, as the listeners need it.
pub trait OpenStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether `poll_shutdown` reaches the target while the stream stays readable.
    fn has_half_close(&self) -> bool;
}

impl OpenStream for httvps_mux::Stream {
    fn has_half_close(&self) -> bool {
        Self::has_half_close(self)
    }
}

/// Opens streams to targets. The listeners know nothing else of a client.
pub trait Open: Send + Sync + 'static {
    /// A byte flow to a target. A failure of it is an error of a read; dropping it closes it.
    type Stream: OpenStream;

    /// Opens a stream, with a deadline of its own. Cancel safe.
    fn open(&self, target: &Target)
    -> impl Future<Output = Result<Self::Stream, OpenError>> + Send;
}
