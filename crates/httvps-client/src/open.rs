//! What the listeners need of a client.

use crate::{Datagrams, OpenError};
use httvps_mux::{Local, StreamFailure};
use httvps_proto::Target;
use std::future::Future;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte flow to a target, as the listeners need it.
pub trait OpenStream: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// Whether `poll_shutdown` reaches the target while the stream stays readable.
    fn has_half_close(&self) -> bool;

    /// Moves bytes between `local` and the stream while both are open, if the stream knows a way
    /// that is cheaper than reading and writing. Hands both back with what broke `local`, if
    /// anything did.
    fn carry(
        self,
        local: Box<dyn Local>,
    ) -> impl Future<Output = (Box<dyn Local>, Self, Option<io::Error>)> + Send {
        std::future::ready((local, self, None))
    }

    /// Drops the stream so that the target does not take what it got for everything.
    fn reset(self);
}

impl OpenStream for httvps_mux::Stream {
    fn has_half_close(&self) -> bool {
        Self::has_half_close(self)
    }

    fn carry(
        self,
        local: Box<dyn Local>,
    ) -> impl Future<Output = (Box<dyn Local>, Self, Option<io::Error>)> + Send {
        Self::carry(self, local)
    }

    fn reset(self) {
        Self::reset(self);
    }
}

/// Datagrams to and from a target, as the listeners need them.
pub trait OpenDatagrams: Send + 'static {
    /// Sends one datagram, or drops it.
    fn send(&self, datagram: &[u8]);

    /// Waits for the next one. Cancel safe.
    fn recv(&mut self) -> impl Future<Output = Result<Box<[u8]>, StreamFailure>> + Send;
}

impl OpenDatagrams for Datagrams {
    fn send(&self, datagram: &[u8]) {
        Self::send(self, datagram);
    }

    fn recv(&mut self) -> impl Future<Output = Result<Box<[u8]>, StreamFailure>> + Send {
        Self::recv(self)
    }
}

/// Opens streams to targets. The listeners know nothing else of a client.
pub trait Open: Send + Sync + 'static {
    /// A byte flow to a target. A failure of it is an error of a read; dropping it closes it.
    type Stream: OpenStream;

    /// Opens a stream, with a deadline of its own. Cancel safe.
    fn open(&self, target: &Target)
    -> impl Future<Output = Result<Self::Stream, OpenError>> + Send;

    /// A flow of datagrams to a target. Dropping it closes it.
    type Datagrams: OpenDatagrams;

    /// Takes a place for datagrams, with a deadline of its own. Cancel safe.
    fn open_datagrams(
        &self,
        target: &Target,
    ) -> impl Future<Output = Result<Self::Datagrams, OpenError>> + Send;
}
