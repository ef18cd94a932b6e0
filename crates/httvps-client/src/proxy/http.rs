//! An HTTP connection of a local program, and its tunnel when it asks for one.

use super::prefixed::Prefixed;
use super::request::{Answer, Tunnel, answer};
use super::{Credentials, Rejected};
use crate::Open;
use crate::relay::{Outcome, relay};
use httvps_mux::Local;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

/// The head of a request; a longer one is answered with 431.
const MAX_HEAD: usize = 16 * 1024;

/// Header fields of a request; more are answered with 431.
const MAX_FIELDS: usize = 100;

/// A tunnel that the service has opened, for the connection's task to relay.
type Handover<S> = Mutex<Option<Tunnel<S>>>;

pub(super) async fn serve<L: Local, O: Open>(
    local: Prefixed<L>,
    credentials: Option<Arc<Credentials>>,
    opener: Arc<O>,
) -> Result<(), Rejected> {
    let handover: Arc<Handover<O::Stream>> = Arc::default();
    let service = service_fn(|request| {
        let (credentials, opener, handover) =
            (credentials.clone(), opener.clone(), handover.clone());
        async move {
            Ok::<_, Infallible>(match answer(request, credentials.as_deref(), &*opener).await {
                Answer::Response(response) => response,
                Answer::Tunnel(response, tunnel) => {
                    *handover.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
                    response
                }
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(super::HANDSHAKE_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .serve_connection(TokioIo::new(local), service)
        .with_upgrades();
    let result = connection.await;
    let tunnel = handover.lock().unwrap_or_else(PoisonError::into_inner).take();
    match tunnel {
        Some(tunnel) => carry::<L, O>(tunnel).await,
        None => result.map_err(|error| Rejected::local(&error)),
    }
}

async fn carry<L: Local, O: Open>(tunnel: Tunnel<O::Stream>) -> Result<(), Rejected> {
    let upgraded = tunnel.upgrade.await.map_err(|error| Rejected::local(&error))?;
    let Ok(parts) = upgraded.downcast::<TokioIo<Prefixed<L>>>() else {
        return Err(Rejected::because("an HTTP connection changed its type"));
    };
    let mut local = parts.io.into_inner();
    local.unread(&parts.read_buf);
    match relay(local, tunnel.stream).await {
        Outcome::Finished | Outcome::LocalGone => Ok(()),
        Outcome::Failed(error) => Err(Rejected::broken(&tunnel.target, &error)),
    }
}
