//! One request and its answer, on the connections of a local program and of an origin.

use super::answer::{Answer, rewritten};
use super::body::{Decoder, Encoding};
use super::request::Asked;
use super::transfer::{Broken, Inbox, NoHead, Progress, Request, pump};
use crate::{OpenStream, Target};
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use std::{io, mem};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

/// How long nothing may move after the program has ended its half of the connection, or while it
/// sends the rest of a request that has been answered.
const SILENCE: Duration = Duration::from_mins(1);

/// A connection to an origin.
pub(super) struct Origin<S> {
    pub(super) target: Target,
    pub(super) stream: S,
    pub(super) inbox: Inbox,
    /// It has answered a request before.
    pub(super) is_used: bool,
    /// Its login holds for the connection (NTLM, Negotiate).
    pub(super) has_login: bool,
    /// The place of one that is kept without a request.
    pub(super) place: Option<OwnedSemaphorePermit>,
}

impl<S: OpenStream> Origin<S> {
    pub(super) fn new(target: Target, stream: S) -> Self {
        let inbox = Inbox::new();
        Self { target, stream, inbox, is_used: false, has_login: false, place: None }
    }
}

/// How an exchange ended.
#[derive(Debug)]
pub(super) enum End {
    /// Request and answer are whole.
    Whole { program_persists: bool, origin_persists: bool },
    /// The answer is whole, and the origin does not take the rest of the request.
    Early,
    /// The program has the head of the `101`; what follows is no HTTP.
    Upgraded,
    /// The program has no final answer; why.
    Unanswered(Failure),
    /// The answer broke off.
    Broken(io::Error),
    /// The program left.
    Gone,
}

/// Why a program has no final answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The origin ended the connection and said nothing.
    Silent,
    /// What the origin said is no answer.
    Wrong(String),
    /// What the program sent is no body.
    BadBody,
}

/// Sends `head` and the body of the request to the origin, and gives the program all answers.
///
/// Both directions flow at once. An answer that is whole before the request is does not end the
/// request: the origin may read it still, and the program may read the answer only behind it.
pub(super) async fn exchange<C, S>(
    (program, inbox): (&mut C, &mut Inbox),
    origin: &mut Origin<S>,
    head: &[u8],
    asked: &Asked,
    decoder: &mut Decoder,
) -> End
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: OpenStream,
{
    let (mut program_reads, mut program_writes) = split(program);
    let (mut origin_reads, mut origin_writes) = split(&mut origin.stream);
    let progress = Progress::default();
    let encoding = match decoder.left() {
        Some(_) => Encoding::Raw,
        None => Encoding::Chunked,
    };
    let mut up = pin!(async {
        let source = (&mut *inbox, &mut program_reads);
        let sent = pump(source, decoder, head.into(), encoding, &mut origin_writes, &progress);
        match sent.await {
            Ok(()) => progress.request_is(Request::Whole),
            Err(Broken::Source(_)) => return Left::Gone,
            Err(Broken::Malformed) => return Left::BadBody,
            Err(Broken::Sink) => {
                // Why is told by the reading half, after what arrived before it.
                progress.request_is(Request::Unwanted);
                pending::<()>().await;
            }
        }
        watch(inbox, &mut program_reads, &progress).await;
        Left::Gone
    });
    let source = (&mut origin.inbox, &mut origin_reads);
    let down = receive(source, &mut program_writes, asked, &progress);
    let down = tokio::select! {
        biased;
        down = down => down,
        left = &mut up => return match left {
            Left::Gone => End::Gone,
            // A second answer within the first would be taken for a part of it.
            Left::BadBody if progress.is_answered() => {
                End::Broken(io::ErrorKind::InvalidData.into())
            }
            Left::BadBody => End::Unanswered(Failure::BadBody),
        },
    };
    let answer = match down {
        Down::Answer(answer) => answer,
        Down::Upgraded => return End::Upgraded,
        Down::Unanswered(failure) => return End::Unanswered(failure),
        Down::Broken(error) => return End::Broken(error),
        Down::Gone => return End::Gone,
    };
    origin.is_used = true;
    origin.has_login |= asked.has_login || answer.has_login;
    // The origin refused the request and closes: the rest would cross the tunnel for nothing.
    let is_refused = answer.status >= 400 && !answer.origin_persists;
    if progress.request() == Request::Unwanted
        || (progress.request() == Request::Unfinished
            && (is_refused || !is_sent(up, &progress).await))
    {
        return End::Early;
    }
    End::Whole {
        program_persists: answer.program_persists,
        origin_persists: answer.origin_persists,
    }
}

/// Why the program's direction ended before its request was whole.
enum Left {
    Gone,
    BadBody,
}

/// Waits until the rest of an answered request is with the origin; false when it does not get there.
async fn is_sent(mut up: Pin<&mut impl Future<Output = Left>>, progress: &Progress) -> bool {
    loop {
        let moved = progress.moved();
        let sending = poll_fn(|cx| match (up.as_mut().poll(cx), progress.request()) {
            (_, Request::Whole) => Poll::Ready(true),
            (Poll::Pending, Request::Unfinished) => Poll::Pending,
            _ => Poll::Ready(false),
        });
        tokio::select! {
            is_sent = sending => return is_sent,
            () = sleep(SILENCE) => {
                if moved == progress.moved() {
                    return false;
                }
            }
        }
    }
}

/// Returns when a program that has sent its request does not want the answer any more. One that ended
/// its half may still read, and what it sends ahead waits for its turn.
async fn watch<R: AsyncRead + Unpin>(inbox: &mut Inbox, program: &mut R, progress: &Progress) {
    if !inbox.is_empty() {
        pending::<()>().await;
    }
    match inbox.fill(program).await {
        Ok(0) => {}
        Ok(_) => pending().await,
        Err(_) => return,
    }
    loop {
        let moved = progress.moved();
        sleep(SILENCE).await;
        if moved == progress.moved() {
            return;
        }
    }
}

/// How the origin's direction ended.
enum Down {
    Answer(Answer),
    Upgraded,
    Unanswered(Failure),
    Broken(io::Error),
    Gone,
}

/// Passes the answers to one request on: interim ones, then the final one.
async fn receive<R, W>(
    (inbox, origin): (&mut Inbox, &mut R),
    program: &mut W,
    asked: &Asked,
    progress: &Progress,
) -> Down
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let wrong = |words: &str| Down::Unanswered(Failure::Wrong(words.to_owned()));
    let mut is_silent = true;
    loop {
        let head = match inbox.head(origin).await {
            Ok(head) => head,
            Err(NoHead::Ended { has_begun: false }) if is_silent => {
                return Down::Unanswered(Failure::Silent);
            }
            Err(NoHead::Ended { .. }) => return wrong("it ended before the end of the answer"),
            Err(NoHead::TooLarge) => return wrong("a head above 256 KiB"),
        };
        is_silent = false;
        let is_whole = progress.request() == Request::Whole;
        let mut answer = match rewritten(&head, asked, is_whole) {
            Ok(answer) => answer,
            Err(words) => return wrong(&words),
        };
        let head = mem::take(&mut answer.head);
        if answer.status == 101 {
            if !asked.wants_upgrade || !is_whole {
                return wrong("it changed to a protocol that was not asked for");
            }
            return match send(program, &head).await {
                Ok(()) => Down::Upgraded,
                Err(_) => Down::Gone,
            };
        }
        if answer.is_interim() {
            // HTTP/1.0 has no interim answers (RFC 9110 section 15.2).
            if !asked.is_http_1_0 && send(program, &head).await.is_err() {
                return Down::Gone;
            }
            continue;
        }
        progress.answer_begins();
        let mut decoder = Decoder::new(answer.body);
        let source = (&mut *inbox, &mut *origin);
        let passed = pump(source, &mut decoder, head, answer.encoding, program, progress);
        return match passed.await {
            Ok(()) => Down::Answer(answer),
            Err(Broken::Sink) => Down::Gone,
            Err(Broken::Source(error)) => Down::Broken(error),
            Err(Broken::Malformed) => Down::Broken(io::ErrorKind::InvalidData.into()),
        };
    }
}

/// Writes what is not part of a body.
pub(super) async fn send<W: AsyncWrite + Unpin>(sink: &mut W, bytes: &[u8]) -> io::Result<()> {
    sink.write_all(bytes).await?;
    sink.flush().await
}
