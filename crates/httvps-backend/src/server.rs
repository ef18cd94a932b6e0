//! The accept loop, the watch over the file, and the orderly end.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Backend;
use crate::api::{Api, GatewaySecret};
use crate::connection::{self, Deadlines};

/// After a failed accept (out of descriptors, mostly) the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// How [`serve`] serves.
#[derive(Debug)]
pub struct ServeOptions {
    /// What gateways must show in `X-Internal-Secret`. Default: none, every request is answered.
    pub gateway_secret: Option<GatewaySecret>,
    /// For the head of a request, and again for its body. Default 10 s.
    pub read_deadline: Duration,
    /// Between an answer and the next request on the connection. Default 75 s.
    pub idle_deadline: Duration,
    /// Connections at once, at least 1; more wait in the kernel's queue. Default 1,024.
    pub max_connections: usize,
    /// Between two looks at the file, at least 10 ms. Default 1 s.
    pub reload_interval: Duration,
    /// For answers under way once the shutdown began; after it connections are cut. Default 5 s.
    pub drain_deadline: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            gateway_secret: None,
            read_deadline: Duration::from_secs(10),
            idle_deadline: Duration::from_secs(75),
            max_connections: 1024,
            reload_interval: Duration::from_secs(1),
            drain_deadline: Duration::from_secs(5),
        }
    }
}

/// Serves the API on `listener` until `shutdown` is cancelled; returns when no connection is left.
///
/// While it runs, changes of the devices file are taken over. Request bodies are limited to 64 KiB
/// and heads to 16 KiB. Errors of single connections end those connections only. Dropping the
/// future stops accepting and leaves the connections that there are to their deadlines.
pub async fn serve(
    listener: TcpListener,
    backend: Arc<Backend>,
    options: ServeOptions,
    shutdown: CancellationToken,
) {
    let deadlines = Deadlines { read: options.read_deadline, idle: options.idle_deadline };
    let watcher = watch_file(Arc::clone(&backend), options.reload_interval, shutdown.clone());
    let api = Arc::new(Api::new(backend, options.gateway_secret, options.read_deadline));
    let slots = Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    tasks.spawn(watcher);
    loop {
        // A slot comes before a connection, so that those over the limit wait where they cost us
        // nothing.
        let accepted = shutdown.run_until_cancelled(async {
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        });
        let (slot, stream) = match accepted.await {
            None => break,
            Some((slot, Ok((stream, _)))) => (slot, stream),
            Some((_, Err(problem))) => {
                tracing::warn!(error = %problem, "accept_failed");
                shutdown.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
                continue;
            }
        };
        // Without it, answers wait for the client's delayed acknowledgement.
        if stream.set_nodelay(true).is_err() {
            continue; // the connection is gone already
        }
        let (api, drain, cut) = (Arc::clone(&api), shutdown.clone(), cut.clone());
        tasks.spawn(async move {
            cut.run_until_cancelled(connection::serve(stream, api, deadlines, drain)).await;
            drop(slot);
        });
    }
    drop(listener);
    tasks.close();
    if timeout(options.drain_deadline, tasks.wait()).await.is_err() {
        cut.cancel();
        tasks.wait().await;
    }
    tracing::info!("backend_stopped");
}

/// Looks at the file until `shutdown`. Reading happens on a blocking thread, never on the runtime's
/// own.
async fn watch_file(backend: Arc<Backend>, period: Duration, shutdown: CancellationToken) {
    let mut ticks = interval(period.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let backend = Arc::clone(&backend);
        // The look logs what it finds; only a runtime that is ending can refuse it.
        let _ = tokio::task::spawn_blocking(move || backend.reload_if_changed()).await;
    }
}
