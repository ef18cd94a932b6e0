//! Resident memory of idle sessions.

use crate::echo;
use crate::process::Server;
use crate::session::{Endpoint, Session};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Handshakes under way at once.
const AT_ONCE: usize = 32;

/// How long the sessions rest before they are measured, and the gateway after they are gone.
const REST: Duration = Duration::from_millis(1500);

/// Payload that a touched session echoes, in one message.
pub(crate) const TOUCH: usize = 64 * 1024;

/// Resident memory in KiB: of each session, and of the whole gateway before and after.
pub(crate) struct Memory {
    pub(crate) each: f64,
    pub(crate) before: f64,
    pub(crate) after: f64,
}

/// Opens `count` sessions on a fresh gateway and holds them; `is_touched` echoes 64 KiB over each first.
pub(crate) async fn run(
    server: &Server,
    endpoint: &Endpoint,
    count: usize,
    is_touched: bool,
) -> io::Result<Memory> {
    let data: Option<Arc<str>> = is_touched.then(|| echo::base64(TOUCH).into());
    // The first session pays for what is made once.
    let mut first = Session::open(endpoint, "bench-first").await?;
    if let Some(data) = &data {
        first.echo_once("s0", data).await?;
    }
    drop(first);
    sleep(REST).await;
    let before = server.rss_kib()?;

    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut opening: JoinSet<io::Result<Session>> = JoinSet::new();
    for number in 0..count {
        let (endpoint, places, data) = (endpoint.clone(), places.clone(), data.clone());
        opening.spawn(async move {
            let _place = places.acquire().await.map_err(io::Error::other)?;
            let mut session = Session::open(&endpoint, &format!("bench-{number}")).await?;
            if let Some(data) = data {
                session.echo_once("s0", &data).await?;
            }
            Ok(session)
        });
    }
    let sessions: Vec<Session> = opening.join_all().await.into_iter().collect::<Result<_, _>>()?;
    sleep(REST).await;
    let held = server.rss_kib()?;
    drop(sessions);
    sleep(REST).await;
    let each = (held - before) / count as f64;
    Ok(Memory { each, before, after: server.rss_kib()? })
}
