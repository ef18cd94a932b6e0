//! Handshake load: TCP, TLS, upgrade, `hello`, the backend's answer, `auth_result`; then the connection is dropped.

use crate::process::{Server, Usage, Used};
use crate::session::{Endpoint, Session};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Handshakes under way at once.
pub(crate) const WORKERS: usize = 16;

/// Handshakes done while it was measured, and what they cost.
pub(crate) async fn run(
    server: &Server,
    endpoint: &Endpoint,
    warm_up: Duration,
    measured: Duration,
) -> io::Result<(usize, Used)> {
    let done = Arc::new(AtomicUsize::new(0));
    let mut workers: JoinSet<io::Result<()>> = JoinSet::new();
    for number in 0..WORKERS {
        let (endpoint, done) = (endpoint.clone(), done.clone());
        workers.spawn(async move {
            let device = format!("bench-{number}");
            loop {
                Session::open(&endpoint, &device).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let measure = async {
        sleep(warm_up).await;
        let (before, begin) = (done.load(Ordering::Relaxed), Usage::of(server)?);
        sleep(measured).await;
        Ok((done.load(Ordering::Relaxed) - before, begin.until(Usage::of(server)?)))
    };
    tokio::select! {
        result = measure => result,
        // A worker ends only with an error.
        Some(ended) = workers.join_next() => Err(match ended {
            Ok(Err(error)) => error,
            _ => io::Error::other("a worker ended"),
        }),
    }
}
