//! Local ports that lead to one target each.

use crate::proxy::{Accept, Rejected, Serve};
use crate::relay::{Outcome, relay};
use crate::{Open, Target};
use httvps_mux::Local;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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
