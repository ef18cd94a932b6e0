//! Connections to the backend, kept by the thread that uses them.

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

type Pool = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// How long a connection is kept that nobody uses.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// A pool of connections for each thread: a connection is served by the thread that opened it, and a call from another
/// one would have to wake it twice.
pub(super) struct Pools {
    connector: HttpsConnector<HttpConnector>,
    /// Connections without a call that one pool keeps.
    max_idle: usize,
    /// As many as threads have called; only those of the runtime do.
    of_threads: Mutex<HashMap<ThreadId, Pool>>,
}

impl Pools {
    pub(super) fn new(connector: HttpsConnector<HttpConnector>, max_idle: usize) -> Self {
        Self { connector, max_idle, of_threads: Mutex::default() }
    }

    pub(super) fn of_this_thread(&self) -> Pool {
        let mut pools = self.of_threads.lock().unwrap_or_else(PoisonError::into_inner);
        pools.entry(thread::current().id()).or_insert_with(|| self.pool()).clone()
    }

    fn pool(&self) -> Pool {
        Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(self.max_idle)
            .build(self.connector.clone())
    }
}
