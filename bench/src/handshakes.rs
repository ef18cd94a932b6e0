//! Handshake load: connections that are opened to their end and dropped.

use crate::process::{Server, Usage, Used};
use crate::session::{Endpoint, Session};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Handshakes under way at once.
pub(crate) const WORKERS: usize = 16;

/// How far a connection is opened.
#[derive(Clone, Copy)]
pub(crate) enum Depth {
    /// TCP, TLS, upgrade, `hello`, the backend's answer, `auth_result`.
    Session,
    /// TCP, TLS and one byte there and back.
    Tls,
}

impl Depth {
    async fn open(self, endpoint: &Endpoint, device: &str) -> io::Result<()> {
        match self {
            Self::Session => drop(Session::open(endpoint, device).await?),
            Self::Tls => {
                let mut stream = endpoint.connect().await?;
                stream.write_all(b"x").await?;
                stream.read_u8().await?;
            }
        }
        Ok(())
    }
}

/// Handshakes done while it was measured, and what they cost.
pub(crate) async fn run(
    server: &Server,
    endpoint: &Endpoint,
    depth: Depth,
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
                depth.open(&endpoint, &device).await?;
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
