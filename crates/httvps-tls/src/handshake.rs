//! From a connected byte stream to a [`TlsStream`].

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::PeerMisbehaved;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::engine::{Engine, Step};
use super::record::{ALERT, HEADER_LEN};
use super::record_buf::RecordBuf;
use super::{TlsError, TlsStream};

/// What a handshake may hold, and when it may do its work.
pub(super) struct Bounds<'a> {
    /// Most bytes of the peer that are kept.
    pub(super) max: usize,
    /// Is told how many bytes are held whenever that changes.
    pub(super) held: &'a (dyn Fn(usize) + Sync),
    /// Lets so many handshakes do their cryptography at once; none = all, as behind the answer with the certificate.
    pub(super) turns: Option<&'a Semaphore>,
}

/// Longer than a `HelloRetryRequest` with what goes along, and shorter than any answer with a certificate in it.
const RETRY_MAX: usize = 256;

/// A record with the fatal alert `decode_error`, for a message longer than is kept.
const ALERT_TOO_LARGE: [u8; 7] = [ALERT, 3, 3, 0, 2, 2, 50];

/// Room for one read during the handshake; a flight is 2 to 4 KiB.
const READ_HANDSHAKE: usize = 4096;

/// Runs the handshake. On an error the alert is offered to the peer once, without waiting.
///
/// rustls is shown one record more at a time: what lies behind the last one of the handshake is
/// ours to open.
pub(super) async fn handshake<IO>(
    mut io: IO,
    mut engine: Engine,
    mut bounds: Bounds<'_>,
) -> Result<TlsStream<IO>, TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut inbound = Vec::new();
    let mut outbound = Vec::new();
    // Bytes at the front that rustls has gone through but wants to see again: parts of a message.
    let mut seen = 0;
    let mut held = 0;
    loop {
        let (end, is_whole) = next_record(&inbound, seen);
        // The `ClientHello` asks for a signature and a key exchange, what follows for little. It may come in several
        // records, and again after a retry.
        let turns = if is_whole { bounds.turns } else { None };
        let turn = turn(turns).await;
        let (discard, step) = engine.step(&mut inbound[..end], &mut outbound);
        drop(turn);
        if outbound.len() > RETRY_MAX {
            bounds.turns = None;
        }
        inbound.drain(..discard);
        seen = seen.saturating_sub(discard);
        let needs_more = match step {
            Ok(step @ (Step::Progress | Step::NeedMore)) => step == Step::NeedMore,
            Ok(Step::Closed) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Err(error) => {
                if begins_with_proxy_header(&inbound) {
                    return Err(TlsError::ProxyHeader);
                }
                engine.collect_alert(&mut outbound);
                send_once(&mut io, &outbound).await;
                return Err(error.into());
            }
        };
        if needs_more && is_whole {
            seen = end - discard;
        }
        if engine.is_done() {
            break;
        }
        if !needs_more || is_whole {
            continue;
        }
        if inbound.len() >= bounds.max {
            // A server that has said nothing yet has no keys; the alert goes in the clear (RFC 8446 section 6).
            if engine.is_silent_server() {
                send_once(&mut io, &ALERT_TOO_LARGE).await;
            }
            return Err(TlsError::Oversized);
        }
        let holds = inbound.capacity() + outbound.capacity();
        if std::mem::replace(&mut held, holds) != holds {
            (bounds.held)(holds);
        }
        let most = Some(bounds.max);
        poll_fn(|cx| poll_trade(&mut io, cx, &mut outbound, &mut inbound, most)).await?;
    }
    if seen > 0 {
        // Half a message behind the last one of the handshake, in the same record.
        let error = rustls::Error::from(PeerMisbehaved::KeyEpochWithPendingFragment);
        let mut alert = RecordBuf::exact(outbound);
        engine.into_session()?.refuse(&error, &mut alert);
        send_once(&mut io, alert.bytes()).await;
        return Err(error.into());
    }
    if !engine.has_only_tickets() {
        poll_fn(|cx| poll_trade(&mut io, cx, &mut outbound, &mut inbound, None)).await?;
    }
    let session = engine.into_session()?;
    inbound.shrink_to_fit();
    outbound.shrink_to_fit();
    Ok(TlsStream::new(io, session, RecordBuf::exact(inbound), RecordBuf::exact(outbound)))
}

/// Whether a proxy in front announces its client (PROXY protocol, versions 1 and 2).
fn begins_with_proxy_header(input: &[u8]) -> bool {
    input.starts_with(b"PROXY ") || input.starts_with(b"\r\n\r\n\0\r\nQUIT\n")
}

/// Where the record that begins at `start` ends, and whether it has arrived in full; the end of
/// the input if it has not.
fn next_record(input: &[u8], start: usize) -> (usize, bool) {
    let Some(&[.., high, low]) = input[start..].first_chunk::<HEADER_LEN>() else {
        return (input.len(), false);
    };
    let end = start + HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
    if end <= input.len() { (end, true) } else { (input.len(), false) }
}

/// Waits for a turn among the handshakes, behind all that is ready to run. Everything that runs waits for every step
/// of a handshake before it, so that hundreds of them in the queue of the runtime would hold up the sessions; here
/// they wait beside it.
async fn turn(turns: Option<&Semaphore>) -> Option<SemaphorePermit<'_>> {
    let permit = turns?.acquire().await.ok();
    tokio::task::yield_now().await;
    permit
}

/// Writes `outbound` and, unless the handshake is done (no `most`), reads up to `most` bytes: both at once, because two
/// peers that wait for each other's reading before they read themselves wait for ever.
fn poll_trade<IO: AsyncRead + AsyncWrite + Unpin>(
    io: &mut IO,
    cx: &mut Context<'_>,
    outbound: &mut Vec<u8>,
    inbound: &mut Vec<u8>,
    most: Option<usize>,
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
    let Some(most) = most else {
        return if is_flushed { Poll::Ready(Ok(())) } else { Poll::Pending };
    };
    let left = most.saturating_sub(inbound.len());
    // No more than may still come: a vector that grows doubles, and would hold twice the bound.
    inbound.reserve(READ_HANDSHAKE.min(left));
    let room = (inbound.capacity() - inbound.len()).min(left);
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
