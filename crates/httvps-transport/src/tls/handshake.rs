//! From a connected byte stream to a [`TlsStream`].

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::engine::{Engine, Job, Step};
use super::{TlsError, TlsStream};

/// Bytes of an unfinished handshake that are kept at the most.
const HANDSHAKE_MAX: usize = 64 * 1024;

/// Room for one read during the handshake; a flight is 2 to 4 KiB.
const READ_HANDSHAKE: usize = 4096;

/// Runs the handshake. On an error the alert is offered to the peer once, without waiting.
pub(super) async fn handshake<IO>(mut io: IO, mut engine: Engine) -> Result<TlsStream<IO>, TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut inbound = Vec::new();
    let mut outbound = Vec::new();
    loop {
        let (discard, step) = engine.step(&mut inbound, &mut outbound, &mut Job::Handshake);
        inbound.drain(..discard);
        match step {
            Ok(Step::Progress) => continue,
            Ok(Step::NeedMore | Step::Full) => {}
            Ok(_) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Err(error) => {
                engine.collect_alert(&mut outbound);
                send_once(&mut io, &outbound).await;
                return Err(error.into());
            }
        }
        if engine.has_only_tickets() {
            break;
        }
        let is_done = !engine.is_handshaking();
        if !is_done && inbound.len() >= HANDSHAKE_MAX {
            return Err(TlsError::Oversized);
        }
        poll_fn(|cx| poll_trade(&mut io, cx, &mut outbound, &mut inbound, is_done)).await?;
        if is_done {
            break;
        }
    }
    inbound.shrink_to_fit();
    outbound.shrink_to_fit();
    Ok(TlsStream::new(io, engine, inbound, outbound))
}

/// Writes `outbound` and, unless the handshake `is_done`, reads more: both at once, because two
/// peers that wait for each other's reading before they read themselves wait for ever.
fn poll_trade<IO: AsyncRead + AsyncWrite + Unpin>(
    io: &mut IO,
    cx: &mut Context<'_>,
    outbound: &mut Vec<u8>,
    inbound: &mut Vec<u8>,
    is_done: bool,
) -> Poll<io::Result<()>> {
    let mut is_flushed = false;
    while !is_flushed {
        if outbound.is_empty() {
            ready!(Pin::new(&mut *io).poll_flush(cx))?;
            is_flushed = true;
        } else {
            match Pin::new(&mut *io).poll_write(cx, outbound) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => drop(outbound.drain(..n)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
    }
    if is_done {
        return if is_flushed { Poll::Ready(Ok(())) } else { Poll::Pending };
    }
    inbound.reserve(READ_HANDSHAKE);
    let room = (inbound.capacity() - inbound.len()).min(HANDSHAKE_MAX - inbound.len());
    let mut limited = bytes::BufMut::limit(inbound, room);
    match ready!(Future::poll(std::pin::pin!(io.read_buf(&mut limited)), cx))? {
        0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        _ => Poll::Ready(Ok(())),
    }
}

/// Offers `bytes` to the socket without waiting for room.
async fn send_once<IO: AsyncWrite + Unpin>(io: &mut IO, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    poll_fn(|cx| {
        // Best effort by design: the connection is over either way.
        if let Poll::Ready(Ok(_)) = Pin::new(&mut *io).poll_write(cx, bytes) {
            let _ = Pin::new(&mut *io).poll_flush(cx);
        }
        Poll::Ready(())
    })
    .await;
}
