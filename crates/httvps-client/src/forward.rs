//! Local ports that lead to one target each, for streams or for datagrams.

use crate::flows::{Flows, Way};
use crate::proxy::{Accept, Rejected, ReportRejected, Serve};
use crate::relay::{Outcome, relay};
use crate::{Open, Target};
use httvps_mux::Local;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Pause after an error of a local UDP socket.
const SOCKET_PAUSE: Duration = Duration::from_millis(500);

/// Serves a listening port: every connection becomes a stream to `target`. A connection whose
/// stream does not open is reset. Returns when `cancel` is.
pub async fn serve<O: Open>(
    accept: Accept,
    target: Target,
    opener: Arc<O>,
    cancel: CancellationToken,
) {
    accept.run(Arc::new(Forward { target, opener }), cancel).await;
}

/// Serves a local UDP socket: each address that sends to it gets a flow of datagrams to `target`, up
/// to 32 of them, the quietest giving way; a flow is closed after a minute without any (port 53:
/// 5 s). Returns when `cancel` is.
pub async fn serve_datagrams<O: Open>(
    socket: UdpSocket,
    target: Target,
    opener: Arc<O>,
    report: ReportRejected,
    cancel: CancellationToken,
) {
    let mut flows = Flows::<SocketAddr, O>::new(opener, Arc::new(socket));
    loop {
        let take = |flows: &mut Flows<SocketAddr, O>, from, bytes: &[u8]| {
            flows.pass(&from, &target, || Way { program: from, header: Box::default() }, bytes);
        };
        let ended = tokio::select! {
            ended = flows.next(take) => ended,
            () = cancel.cancelled() => return,
        };
        match ended {
            Ok(Some((target, error))) => report(&Rejected::not_opened(&target, &error)),
            Ok(None) => {}
            // The system may be short of something, or an interface be down: programs come back.
            Err(error) => {
                report(&Rejected::local(&error));
                tokio::select! {
                    () = sleep(SOCKET_PAUSE) => {}
                    () = cancel.cancelled() => return,
                }
            }
        }
    }
}

struct Forward<O> {
    target: Target,
    opener: Arc<O>,
}

impl<O: Open> Serve for Forward<O> {
    async fn serve<L: Local>(&self, local: L) -> Result<(), Rejected> {
        match self.opener.open(&self.target).await {
            Ok(stream) => match relay(local, stream).await {
                Outcome::Finished | Outcome::LocalGone => Ok(()),
                Outcome::Failed(error) => Err(Rejected::broken(&self.target, &error)),
            },
            Err(error) => {
                local.reset_on_drop();
                Err(Rejected::not_opened(&self.target, &error))
            }
        }
    }
}
