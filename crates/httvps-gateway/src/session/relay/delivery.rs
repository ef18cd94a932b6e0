//! The rest of a stream that its client closed.

use super::{LINGER, Outlet, Pending, Relay};
use httvps_egress::{ByteStream, Upstream};
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

/// Bytes that a closed stream's target is read by.
const DROP_CHUNK: usize = 16 * 1024;

impl Relay {
    /// Delivers what the client had sent before it closed the stream, then finishes.
    ///
    /// What the target says meanwhile is read and dropped: closing a socket with unread bytes makes
    /// the kernel send a reset and throw away what it still has to send. Ends when the upstream
    /// takes nothing for `stall`, `limit` after it began, and [`LINGER`] after the last byte was
    /// handed to the kernel. A target that does not get everything sees a reset. Cancelling it
    /// drops the rest.
    pub(in crate::session) async fn deliver(self, stall: Duration, limit: Duration) {
        let mut over = pin!(tokio::time::sleep(limit));
        let stream = match self.upstream {
            Outlet::Dialing(dial) => tokio::select! {
                dialled = dial => match dialled {
                    Ok(Upstream::Stream(stream)) => stream,
                    _ => return,
                },
                () = &mut over => return,
            },
            Outlet::Stream(stream) => stream,
            Outlet::Echo | Outlet::Blackhole => return,
        };
        let (mut read, mut write) = tokio::io::split(stream);
        let is_sent = {
            let mut sending = pin!(send_all(&mut write, self.pending, stall));
            let mut dropping = pin!(drop_all(&mut read));
            let mut is_open = true;
            let is_sent = loop {
                tokio::select! {
                    is_sent = &mut sending => break is_sent,
                    () = &mut dropping, if is_open => is_open = false,
                    () = &mut over => break false,
                }
            };
            if is_sent && is_open {
                let _ = tokio::time::timeout(LINGER, dropping).await;
            }
            is_sent
        };
        if !is_sent {
            read.unsplit(write).reset();
        }
    }
}

/// Writes everything, has it passed on, then finishes; false when the upstream failed or one of
/// these steps took longer than `stall`.
async fn send_all(
    write: &mut WriteHalf<Box<dyn ByteStream>>,
    mut pending: Pending,
    stall: Duration,
) -> bool {
    let stall = if stall.is_zero() { Duration::MAX } else { stall };
    while !pending.is_empty() {
        match tokio::time::timeout(stall, write.write(pending.front())).await {
            Ok(Ok(count)) if count > 0 || pending.front().is_empty() => pending.advance(count),
            _ => return false,
        }
    }
    let is_flushed = matches!(tokio::time::timeout(stall, write.flush()).await, Ok(Ok(())));
    is_flushed && matches!(tokio::time::timeout(stall, write.shutdown()).await, Ok(Ok(())))
}

/// Reads to the end and keeps nothing.
async fn drop_all(read: &mut ReadHalf<Box<dyn ByteStream>>) {
    let mut dropped = vec![0; DROP_CHUNK];
    while matches!(read.read(&mut dropped).await, Ok(count) if count > 0) {}
}
