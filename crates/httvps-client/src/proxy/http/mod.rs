//! An HTTP connection of a local program: its requests one after another, and its tunnel when it
//! asks for one.
//!
//! Requests for one origin go over one connection to it (logins of NTLM and Negotiate hold for a
//! connection); a request for another origin closes it and opens another one. Requests that were
//! sent ahead wait until the answer before them is whole, so that none reaches another origin.

mod answer;
mod body;
mod exchange;
#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing;
mod head;
mod own;
mod request;
mod transfer;

use super::prefixed::Prefixed;
use super::{Credentials, HANDSHAKE_TIMEOUT, Rejected};
use crate::relay::{Outcome, part, relay};
use crate::{Open, OpenStream, Target};
use body::Decoder;
use exchange::{End, Failure, Origin, exchange, send};
use head::MAX_HEAD;
use httvps_mux::Local;
use own::Own;
use request::{Asked, Wish, judge};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use transfer::{Inbox, NoHead, discard};

/// How long a connection without a request is kept, as its program is told.
const IDLE_TOLD: Duration = Duration::from_mins(1);

/// How long it is kept: longer, so that a request that was sent in time is answered.
const IDLE: Duration = Duration::from_secs(65);

/// Connections to origins that are kept without a request, of all programs. Each holds one of the
/// places of a session. Those with a login of their own are not counted.
const IDLE_ORIGINS: usize = 16;

/// The rest of a request that is read behind an answer of the proxy itself, so that the program
/// may go on with its connection; of larger ones the connection is closed.
const SMALL_REST: u64 = 64 * 1024;

/// What is read behind an early answer before the connection is closed: closing over unread bytes
/// resets the connection, and the answer would be lost. All of it, a pause, and the bytes.
const LINGER: Duration = Duration::from_secs(10);
const LINGER_PAUSE: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// The places of [`IDLE_ORIGINS`].
pub(super) fn idle_origins() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(IDLE_ORIGINS))
}

/// Serves a connection whose first head, of which `first` has been read, must be there at
/// `deadline`.
pub(super) async fn serve<L: Local, O: Open>(
    local: Prefixed<L>,
    first: u8,
    credentials: Option<&Credentials>,
    opener: &O,
    places: &Arc<Semaphore>,
    deadline: Instant,
) -> Result<(), Rejected> {
    let mut connection = Connection { local, inbox: Inbox::new(), origin: None, opener, places };
    if !first.is_ascii_alphabetic() && first != b'\r' {
        // TLS above all. A program that speaks it would wait for an answer until the deadline.
        let words = "this is an HTTP and SOCKS5 proxy without TLS, and the program spoke neither";
        connection.refuse(&Own::plain(400, words)).await;
        connection.linger().await;
        return Err(Rejected::because("a program spoke neither HTTP nor SOCKS5 (TLS, perhaps)"));
    }
    let mut deadline = Some(deadline);
    loop {
        let Some(head) = connection.head(deadline.take()).await? else { return Ok(()) };
        let next = match judge(&head, credentials) {
            Err(own) => connection.refuse(&own).await,
            Ok((asked, Wish::Answer(own))) => {
                connection.answer(&own, &asked, &mut Decoder::new(asked.body)).await
            }
            Ok((asked, Wish::Tunnel(target))) => match opener.open(&target).await {
                Ok(stream) => return connection.tunnel(&target, stream).await,
                Err(error) => {
                    let own = Own::refusal(&target, &error);
                    connection.answer(&own, &asked, &mut Decoder::new(asked.body)).await
                }
            },
            Ok((asked, Wish::Forward(target, head))) => {
                match connection.forward(&target, &head, &asked).await? {
                    Some(next) => next,
                    None => return connection.upgraded(&target).await,
                }
            }
        };
        match next {
            Next::Request => {}
            Next::Close => break connection.close().await,
            Next::Linger => break connection.linger().await,
            Next::Nothing => break,
        }
    }
    Ok(())
}

/// What comes behind an answer.
enum Next {
    Request,
    /// An orderly end.
    Close,
    /// An orderly end for a program that is still sending.
    Linger,
    /// The program is gone.
    Nothing,
}

struct Connection<'o, L, O: Open> {
    local: Prefixed<L>,
    inbox: Inbox,
    /// The origin of the last request.
    origin: Option<Origin<O::Stream>>,
    opener: &'o O,
    places: &'o Arc<Semaphore>,
}

impl<L: Local, O: Open> Connection<'_, L, O> {
    /// The head of the next request; None when there is none.
    async fn head(&mut self, deadline: Option<Instant>) -> Result<Option<bytes::Bytes>, Rejected> {
        let deadline = match deadline {
            Some(deadline) => deadline,
            None if self.idle().await => Instant::now() + HANDSHAKE_TIMEOUT,
            None => {
                self.close().await;
                return Ok(None);
            }
        };
        match timeout_at(deadline, self.inbox.head(&mut self.local)).await {
            Ok(Ok(head)) => Ok(Some(head)),
            Ok(Err(NoHead::Ended { .. })) => {
                self.close().await;
                Ok(None)
            }
            Ok(Err(NoHead::TooLarge)) => {
                let words =
                    format!("the head of the request has more than {} KiB", MAX_HEAD / 1024);
                self.refuse(&Own::plain(431, &words)).await;
                self.linger().await;
                Ok(None)
            }
            Err(_) => {
                self.refuse(&Own::plain(408, "the request was not complete in 10 s")).await;
                self.close().await;
                Err(Rejected::SLOW)
            }
        }
    }

    /// Waits for the next request; false when the connection is over. An origin that speaks
    /// meanwhile, or ends, is let go: what it says is no answer to anything.
    async fn idle(&mut self) -> bool {
        self.inbox.rest();
        let end = Instant::now() + IDLE;
        while self.inbox.is_empty() {
            let mut byte = [0; 1];
            let read = async {
                match &mut self.origin {
                    Some(origin) => drop(origin.stream.read(&mut byte).await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = read => self.origin = None,
                read = self.inbox.fill(&mut self.local) => {
                    if !matches!(read, Ok(1..)) {
                        return false;
                    }
                }
                () = sleep_until(end) => return false,
            }
        }
        true
    }

    /// Answers a request whose end is not known.
    async fn refuse(&mut self, own: &Own) -> Next {
        let mut out = Vec::new();
        own.write(&mut out, None, false);
        match send(&mut self.local, &out).await {
            Ok(()) => Next::Linger,
            Err(_) => Next::Nothing,
        }
    }

    /// Answers a request of whose body `decoder` has taken a part.
    async fn answer(&mut self, own: &Own, asked: &Asked, decoder: &mut Decoder) -> Next {
        let is_small = decoder.left().is_some_and(|left| left <= SMALL_REST);
        let is_known = decoder.is_over() || (is_small && !asked.expects);
        // What was sent ahead into a tunnel was meant for its target, and others may have written it: it is no request.
        let is_ahead = asked.wants_tunnel && !self.inbox.is_empty();
        let persists = asked.persists && is_known && !is_ahead;
        let mut out = Vec::new();
        own.write(&mut out, Some(asked), persists);
        if send(&mut self.local, &out).await.is_err() {
            return Next::Nothing;
        }
        if !persists {
            return if decoder.is_over() && !is_ahead { Next::Close } else { Next::Linger };
        }
        let rest = discard((&mut self.inbox, &mut self.local), decoder);
        match timeout(HANDSHAKE_TIMEOUT, rest).await {
            Ok(Ok(())) => Next::Request,
            _ => Next::Close,
        }
    }

    async fn tunnel(mut self, target: &Target, stream: O::Stream) -> Result<(), Rejected> {
        let granted = send(&mut self.local, b"HTTP/1.1 200 OK\r\n\r\n").await;
        granted.map_err(|error| Rejected::local(&error))?;
        self.local.unread(&self.inbox.take());
        carry(self.local, target, stream).await
    }

    /// Goes on without HTTP.
    async fn upgraded(mut self, target: &Target) -> Result<(), Rejected> {
        let Some(mut origin) = self.origin.take() else { return Ok(()) };
        let sent = send(&mut self.local, &origin.inbox.take()).await;
        sent.map_err(|error| Rejected::local(&error))?;
        self.local.unread(&self.inbox.take());
        carry(self.local, target, origin.stream).await
    }

    /// Sends a request to its origin; None when the connection changes to another protocol.
    async fn forward(
        &mut self,
        target: &Target,
        head: &[u8],
        asked: &Asked,
    ) -> Result<Option<Next>, Rejected> {
        let mut decoder = Decoder::new(asked.body);
        loop {
            let mut origin = match self.origin.take() {
                Some(origin) if origin.target == *target => origin,
                other => {
                    drop(other);
                    match self.opener.open(target).await {
                        Ok(stream) => Origin::new(target.clone(), stream),
                        Err(error) => {
                            let own = Own::refusal(target, &error);
                            return Ok(Some(self.answer(&own, asked, &mut decoder).await));
                        }
                    }
                }
            };
            origin.place = None;
            let program = (&mut self.local, &mut self.inbox);
            let end = exchange(program, &mut origin, head, asked, &mut decoder).await;
            let failure = match end {
                End::Whole { program_persists, origin_persists } => {
                    if origin_persists && program_persists {
                        self.keep(origin);
                    }
                    let next = if program_persists { Next::Request } else { Next::Close };
                    return Ok(Some(next));
                }
                End::Upgraded => {
                    self.origin = Some(origin);
                    return Ok(None);
                }
                End::Early => {
                    origin.stream.reset();
                    return Ok(Some(Next::Linger));
                }
                End::Gone => {
                    origin.stream.reset();
                    return Ok(Some(Next::Nothing));
                }
                End::Broken(error) => {
                    self.local.reset_on_drop();
                    return Err(Rejected::broken(target, &error));
                }
                End::Unanswered(failure) => failure,
            };
            let is_stale = origin.is_used && matches!(failure, Failure::Silent);
            origin.stream.reset();
            if is_stale && asked.is_repeatable {
                continue;
            }
            if is_stale {
                // Without a proxy the program would see its own connection end. It knows whether
                // the request may be sent again; this proxy does not (RFC 9110 section 9.2.2).
                return Ok(Some(Next::Linger));
            }
            let own = match failure {
                Failure::Silent => {
                    Own::plain(502, &format!("{target} ended the connection without an answer"))
                }
                Failure::Wrong(words) => {
                    Own::plain(502, &format!("{target} did not answer in HTTP: {words}"))
                }
                Failure::BadBody => {
                    let own =
                        Own::plain(400, "the body of the request is not in its chunked format");
                    return Ok(Some(self.refuse(&own).await));
                }
            };
            return Ok(Some(self.answer(&own, asked, &mut decoder).await));
        }
    }

    /// Keeps a connection for the next request, unless it has said more than was asked, or too
    /// many are kept.
    fn keep(&mut self, mut origin: Origin<O::Stream>) {
        origin.place = self.places.clone().try_acquire_owned().ok();
        if origin.inbox.is_empty() && (origin.place.is_some() || origin.has_login) {
            origin.inbox.rest();
            self.origin = Some(origin);
        }
    }

    async fn close(&mut self) {
        self.origin = None;
        part(&mut self.local).await;
    }

    async fn linger(&mut self) {
        self.origin = None;
        let local = &mut self.local;
        let lingering = async {
            if local.shutdown().await.is_err() {
                return;
            }
            let mut space = vec![0; 16 * 1024];
            let mut left = LINGER_BYTES;
            while left > 0 {
                match timeout(LINGER_PAUSE, local.read(&mut space)).await {
                    Ok(Ok(count @ 1..)) => left = left.saturating_sub(count),
                    _ => return,
                }
            }
        };
        tokio::select! {
            () = lingering => {}
            () = sleep(LINGER) => {}
        }
    }
}

/// Moves what is no HTTP.
async fn carry<L: Local, S: OpenStream>(
    local: Prefixed<L>,
    target: &Target,
    stream: S,
) -> Result<(), Rejected> {
    match relay(local, stream).await {
        Outcome::Finished | Outcome::LocalGone => Ok(()),
        Outcome::Failed(error) => Err(Rejected::broken(target, &error)),
    }
}

/// The present time as HTTP writes it (RFC 9110 section 5.6.7); None where the clock is before 1970
/// or after 9999.
fn date() -> Option<String> {
    const YEAR_10000: u64 = 253_402_300_800;
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).map(|since| since.as_secs());
    match since {
        Ok(..YEAR_10000) => Some(httpdate::fmt_http_date(now)),
        _ => None,
    }
}
