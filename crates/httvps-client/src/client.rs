//! A client that keeps itself connected.

use crate::event::Report;
use crate::keeper::{Dial, Keeper};
use crate::pool::Pool;
use crate::session::connect_with;
use crate::{Config, ConnectError, Datagrams, Open, OpenError};
use httvps_mux::Stream;
use httvps_proto::Target;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;

/// A pool of sessions that reconnects by itself. Cheap to clone.
///
/// It keeps one session up, and opens further ones, up to
/// [`Config::max_sessions`], while streams wait for a place; those are closed again when they had
/// no stream for a minute. After a failure it waits as long as an exponential back-off with full
/// jitter says (up to 0.5 s at first, up to 30 s later), or up to 2 s (8 s after twenty attempts)
/// while a stream waits for the session; after a refusal, 30 s to 5 min. When the gateway announces
/// a drain, a new session takes the new streams at once and the old ones finish where they are; so
/// it does when the gateway does not answer on a session that is being used
/// ([`Timing::probe_after`](crate::Timing::probe_after)).
///
/// Flows of datagrams hold half of the places at most. A newcomer beyond that takes the place of
/// the flow that has been quiet for longest, and so does any stream that finds no place when no
/// session can be had, if that flow has been quiet for two seconds.
///
/// One task runs it. When the last clone is dropped, or after [`Self::close`], the sessions are
/// closed.
#[derive(Clone)]
pub struct Client(Arc<Handle>);

struct Handle {
    pool: Arc<Pool>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Client {
    /// Starts a client; it connects in the background. The only error is a configuration that
    /// cannot be used.
    pub fn start(config: Config, report: Report) -> Result<Self, ConnectError> {
        let tls = config.tls()?;
        let config = Arc::new(config);
        let dialled = config.clone();
        let dial: Dial = Box::new(move |changes| {
            let (config, tls) = (dialled.clone(), tls.clone());
            Box::pin(async move { connect_with(&config, &tls, changes).await })
        });
        Ok(Self::with_dial(&config, dial, report))
    }

    pub(crate) fn with_dial(config: &Config, dial: Dial, report: Report) -> Self {
        let pool = Arc::new(Pool::new(config.max_sessions, config.timing.clone()));
        let keeper = Keeper::new(pool.clone(), dial, report).run();
        let closing = CloseOnDrop(pool.clone());
        let keeper = tokio::spawn(async move {
            // A panic ends the keeper, too; without it nothing would connect any more.
            let _closing = closing;
            keeper.await;
        });
        Self(Arc::new(Handle { pool, keeper: Mutex::new(Some(keeper)) }))
    }

    /// Opens a stream to `target`, within
    /// [`Timing::open_timeout`](crate::Timing::open_timeout).
    ///
    /// Waits for a session and a place on it; those who wait are served in the order in which
    /// they came. Without a session it fails at once when the last attempt was refused. Cancel
    /// safe: dropping the future gives the place back.
    pub async fn open(&self, target: &Target) -> Result<Stream, OpenError> {
        self.0.pool.open(target).await
    }

    /// Opens a flow of datagrams to `target`; waits for a place as [`Self::open`] does, but not for
    /// the gateway. Needs a gateway that speaks v2.
    pub async fn open_datagrams(&self, target: &Target) -> Result<Datagrams, OpenError> {
        self.0.pool.open_datagrams(target).await
    }

    /// Waits until a session is up. Cancel safe. Returns an error only when the client is closed.
    pub async fn connected(&self) -> Result<(), OpenError> {
        self.0.pool.connected().await
    }

    /// Waits until the client is closed: by [`Self::close`], or because the task that keeps its
    /// sessions has panicked. Nothing can be opened from then on. Cancel safe.
    pub async fn ended(&self) {
        self.0.pool.ended().await;
    }

    /// Sessions that take new streams.
    pub fn session_count(&self) -> usize {
        self.0.pool.session_count()
    }

    /// Closes all sessions and waits for it, a few seconds at most.
    pub async fn close(&self) {
        self.0.pool.close();
        let keeper = self.0.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            // It cannot be cancelled, and a panic of it has been reported by the runtime.
            let _ = keeper.await;
        }
    }
}

struct CloseOnDrop(Arc<Pool>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl Open for Client {
    type Stream = Stream;

    fn open(
        &self,
        target: &Target,
    ) -> impl Future<Output = Result<Self::Stream, OpenError>> + Send {
        Self::open(self, target)
    }

    type Datagrams = Datagrams;

    fn open_datagrams(
        &self,
        target: &Target,
    ) -> impl Future<Output = Result<Self::Datagrams, OpenError>> + Send {
        Self::open_datagrams(self, target)
    }
}
