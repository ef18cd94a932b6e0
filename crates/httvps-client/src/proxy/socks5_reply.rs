//! A SOCKS5 connection from its first byte to its relay.

use super::prefixed::Prefixed;
use super::socks5::{Advance, MAX_MESSAGE, Negotiation, Next, Reply};
use super::{Credentials, Rejected, ReportRejected, associate};
use crate::relay::{Outcome, part, relay};
use crate::{Open, OpenError, StreamEnd, Target};
use httvps_mux::Local;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

pub(super) async fn serve<L: Local, O: Open>(
    mut local: Prefixed<L>,
    credentials: Option<&Credentials>,
    opener: &Arc<O>,
    report: &ReportRejected,
    deadline: Instant,
) -> Result<(), Rejected> {
    let target = match timeout_at(deadline, negotiate(&mut local, credentials)).await {
        Ok(Ok(Request::Connect(target))) => target,
        Ok(Ok(Request::Associate)) => {
            return associate::serve(local, opener.clone(), report).await;
        }
        Ok(Err(rejected)) => return Err(rejected),
        Err(_) => return Err(Rejected::SLOW),
    };
    match opener.open(&target).await {
        Ok(stream) => {
            send(&mut local, &Reply::Succeeded.message()).await?;
            match relay(local, stream).await {
                Outcome::Finished | Outcome::LocalGone => Ok(()),
                Outcome::Failed(error) => Err(Rejected::broken(&target, &error)),
            }
        }
        Err(error) => {
            send(&mut local, &reply_to(&error).message()).await?;
            part(&mut local).await;
            Err(Rejected::not_opened(&target, &error))
        }
    }
}

/// What a program asked for.
enum Request {
    Connect(Target),
    Associate,
}

pub(super) async fn send<L: Local>(local: &mut Prefixed<L>, bytes: &[u8]) -> Result<(), Rejected> {
    let result = async {
        local.write_all(bytes).await?;
        local.flush().await
    };
    result.await.map_err(|error| Rejected::local(&error))
}

async fn negotiate<L: Local>(
    local: &mut Prefixed<L>,
    credentials: Option<&Credentials>,
) -> Result<Request, Rejected> {
    let mut negotiation = Negotiation::Methods;
    let mut space = [0; MAX_MESSAGE];
    let mut have = 0;
    loop {
        let Some(Advance { consumed, next }) = negotiation.advance(&space[..have], credentials)
        else {
            match local.read(&mut space[have..]).await {
                Ok(0) => return Err(Rejected::because("a program left during SOCKS5")),
                Ok(n) => have += n,
                Err(error) => return Err(Rejected::local(&error)),
            }
            continue;
        };
        space.copy_within(consumed..have, 0);
        have -= consumed;
        match next {
            Next::Answer(answer) => send(local, &answer).await?,
            Next::Connect(target) => {
                // A program may send ahead; what is here belongs to the target.
                local.unread(&space[..have]);
                return Ok(Request::Connect(target));
            }
            Next::Associate => return Ok(Request::Associate),
            Next::Refuse(answer, words) => {
                send(local, &answer).await?;
                part(local).await;
                return Err(Rejected::because(words));
            }
        }
    }
}

/// The reply that tells a program why there is no stream.
fn reply_to(error: &OpenError) -> Reply {
    match error {
        OpenError::Failed(failure) => match failure.end {
            Some(StreamEnd::Refused) => Reply::ConnectionRefused,
            Some(
                StreamEnd::Unreachable | StreamEnd::NodeUnreachable | StreamEnd::ResolveFailed,
            ) => Reply::HostUnreachable,
            Some(StreamEnd::Timeout) => Reply::TtlExpired,
            Some(StreamEnd::Denied) => Reply::NotAllowed,
            _ => Reply::GeneralFailure,
        },
        OpenError::TimedOut => Reply::TtlExpired,
        OpenError::BadTarget(_)
        | OpenError::NoSession(_)
        | OpenError::Silent
        | OpenError::NoPlace
        | OpenError::Ended(_)
        | OpenError::NoDatagrams
        | OpenError::Closed => Reply::GeneralFailure,
    }
}
