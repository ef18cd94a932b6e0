//! A link over any byte stream.

use crate::link::{Link, LinkError, LinkOutbox};
use httvps_transport::ws::Event;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};

/// A [`Link`] over any byte stream.
pub(crate) trait Carrier: Send {
    fn begin_turn(&mut self, bytes: usize);
    fn poll_recv(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<Event, LinkError>>;
    fn message(&mut self) -> (&mut [u8], LinkOutbox<'_>);
    fn outbox(&mut self) -> LinkOutbox<'_>;
    fn queue_close(&mut self, code: u16, reason: &str);
    fn queued(&self) -> usize;
    fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<(), LinkError>>;
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>>;
    fn poll_timeout(&self) -> Option<Instant>;
    fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError>;
    fn signs_of_life(&self) -> u32;
    fn queue_ping(&mut self);
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carrier for Link<T> {
    fn begin_turn(&mut self, bytes: usize) {
        Self::begin_turn(self, bytes);
    }
    fn poll_recv(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<Event, LinkError>> {
        Self::poll_recv(self, cx, now)
    }
    fn message(&mut self) -> (&mut [u8], LinkOutbox<'_>) {
        Self::message(self)
    }
    fn outbox(&mut self) -> LinkOutbox<'_> {
        Self::outbox(self)
    }
    fn queue_close(&mut self, code: u16, reason: &str) {
        Self::queue_close(self, code, reason);
    }
    fn queued(&self) -> usize {
        Self::queued(self)
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<(), LinkError>> {
        Self::poll_flush(self, cx, now)
    }
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        Self::poll_shutdown(self, cx)
    }
    fn poll_timeout(&self) -> Option<Instant> {
        Self::poll_timeout(self)
    }
    fn handle_timeout(&mut self, now: Instant) -> Result<(), LinkError> {
        Self::handle_timeout(self, now)
    }
    fn signs_of_life(&self) -> u32 {
        Self::signs_of_life(self)
    }
    fn queue_ping(&mut self) {
        Self::queue_ping(self);
    }
}
