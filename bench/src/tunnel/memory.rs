//! Resident memory of idle v2 sessions, and of idle streams to targets.

use super::v2::Tunnel;
use crate::rig::Rig;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Sessions that are opened, or used, at once.
const AT_ONCE: usize = 32;

/// Bytes that each session moves to a target and back before it goes quiet.
pub(crate) const MOVED: usize = 1 << 20;

/// KiB of the gateway for each of `count` idle sessions, after each has moved 1 MiB over a stream
/// that is over, and `rest` has passed.
pub(crate) async fn sessions(
    rig: &Rig,
    echo: SocketAddr,
    count: usize,
    rest: Duration,
) -> io::Result<f64> {
    let (server, endpoint) = rig.direct_gateway()?;
    // The first session pays for what is made once.
    open(&endpoint, 0..1, echo, MOVED).await?;
    sleep(rest).await;
    let before = server.rss_kib()?;
    let held = open(&endpoint, 1..count + 1, echo, MOVED).await?;
    sleep(rest).await;
    let each = (server.rss_kib()? - before) / count as f64;
    drop(held);
    Ok(each)
}

/// KiB of the gateway for each idle stream, with `each` on each of `count` sessions.
pub(crate) async fn streams(
    rig: &Rig,
    echo: SocketAddr,
    (count, each): (usize, usize),
    rest: Duration,
) -> io::Result<f64> {
    let (server, endpoint) = rig.direct_gateway()?;
    let held = open(&endpoint, 0..count, echo, 1).await?;
    sleep(rest).await;
    let before = server.rss_kib()?;
    let opened = at_once(held, |mut tunnel| async move {
        for _ in 0..each {
            tunnel.echo(echo, 1).await?;
        }
        Ok(tunnel)
    });
    let held = opened.await?;
    sleep(rest).await;
    let cost = (server.rss_kib()? - before) / (count * each) as f64;
    drop(held);
    Ok(cost)
}

/// Sessions that have each moved `bytes` over a stream that is over.
async fn open(
    endpoint: &crate::session::Endpoint,
    numbers: std::ops::Range<usize>,
    echo: SocketAddr,
    bytes: usize,
) -> io::Result<Vec<Tunnel>> {
    at_once(numbers, |number| {
        let endpoint = endpoint.clone();
        async move {
            let mut tunnel = Tunnel::open(&endpoint, &format!("bench-{number}")).await?;
            let stream = tunnel.echo(echo, bytes).await?;
            tunnel.finish(stream).await?;
            Ok(tunnel)
        }
    })
    .await
}

async fn at_once<T, F>(
    items: impl IntoIterator<Item = T>,
    act: impl Fn(T) -> F,
) -> io::Result<Vec<Tunnel>>
where
    F: Future<Output = io::Result<Tunnel>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut acts: JoinSet<io::Result<Tunnel>> = JoinSet::new();
    for item in items {
        let (places, act) = (places.clone(), act(item));
        acts.spawn(async move {
            let _place = places.acquire().await.map_err(io::Error::other)?;
            act.await
        });
    }
    acts.join_all().await.into_iter().collect()
}
