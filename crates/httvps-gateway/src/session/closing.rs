//! Ending a connection so that the peer gets to read why.

use super::ClientLink;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};

/// How long a peer has to take the last frames and to end its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Flushes what is queued, finishes our side and waits for the peer to finish its own.
///
/// What the peer still sends is read and dropped: closing a socket with unread bytes in it makes
/// the kernel send a reset, which can overtake the close frame. Bounded by two seconds.
pub(super) async fn close(mut link: ClientLink) {
    let closing = async {
        if poll_fn(|cx| link.poll_shutdown(cx)).await.is_err() {
            return;
        }
        let io = link.get_mut().get_mut();
        let mut scratch = vec![0; 16 * 1024];
        poll_fn(|cx| {
            loop {
                let mut buffer = ReadBuf::new(&mut scratch);
                match Pin::new(&mut *io).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    };
    // A peer that does not play along is cut off; nothing more can be done for it.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
}
