//! Load on a tunnel: bulk, small round trips, new streams.

use super::chain::Chain;
use super::target::{self, Direction, Moved, Targets};
use crate::echo::Length;
use crate::process::{Usage, Used};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Bytes of a small message.
pub(crate) const SMALL: usize = 64;

/// Streams that are opened at once.
pub(crate) const OPENERS: usize = 16;

/// What moved while it was measured, and what that cost.
pub(crate) struct Bulk {
    pub(crate) up_gib: f64,
    pub(crate) down_gib: f64,
    pub(crate) used: Used,
    pub(crate) rss_mib: f64,
}

impl Bulk {
    pub(crate) fn gib(&self) -> f64 {
        self.up_gib + self.down_gib
    }
}

/// Gbit/s of GiB in some seconds.
pub(crate) fn gbit(gib: f64, seconds: f64) -> f64 {
    gib * f64::from(1 << 30) * 8.0 / 1e9 / seconds
}

/// `count` streams that move bytes as fast as they can, while `meanwhile` runs.
async fn bulk_while<T>(
    chain: &Chain,
    targets: &Targets,
    (direction, count): (Direction, usize),
    warm_up: Duration,
    meanwhile: impl Future<Output = io::Result<T>>,
) -> io::Result<(Bulk, T)> {
    let mut streams = start_bulk(chain.bulk, &targets.moved, direction, count);
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let measure = async {
        sleep(warm_up).await;
        let begin = Usage::beside(&chain.server, Some(&chain.client))?;
        let (up, down) = (targets.moved.up(), targets.moved.down());
        let other = meanwhile.await?;
        let bulk = Bulk {
            up_gib: gib(targets.moved.up() - up),
            down_gib: gib(targets.moved.down() - down),
            used: begin.until(Usage::beside(&chain.server, Some(&chain.client))?),
            rss_mib: chain.server.rss_kib()? / 1024.0,
        };
        Ok((bulk, other))
    };
    let measured = tokio::select! {
        result = measure => result,
        Some(ended) = streams.join_next() => Err(why(ended)),
    }?;
    streams.shutdown().await;
    Ok(measured)
}

pub(crate) async fn bulk(
    chain: &Chain,
    targets: &Targets,
    direction: Direction,
    count: usize,
    length: Length,
) -> io::Result<Bulk> {
    let wait = async {
        sleep(length.measured).await;
        Ok(())
    };
    let measured = bulk_while(chain, targets, (direction, count), length.warm_up, wait).await?;
    Ok(measured.0)
}

/// One stream of small round trips beside `count` streams that move bytes in both directions.
pub(crate) async fn beside(
    chain: &Chain,
    targets: &Targets,
    count: usize,
    length: Length,
) -> io::Result<(Bulk, Latency)> {
    let short = Length { warm_up: Duration::ZERO, measured: length.measured };
    let ping = ping(chain.echo, 1, short);
    bulk_while(chain, targets, (Direction::Both, count), length.warm_up, ping).await
}

fn start_bulk(
    address: SocketAddr,
    moved: &Arc<Moved>,
    direction: Direction,
    count: usize,
) -> JoinSet<io::Result<()>> {
    let mut streams = JoinSet::new();
    for _ in 0..count {
        let moved = moved.clone();
        streams.spawn(async move {
            target::load(TcpStream::connect(address).await?, direction, &moved).await
        });
    }
    streams
}

/// Why a load ended that should not.
pub(crate) fn why<T>(ended: Result<io::Result<T>, tokio::task::JoinError>) -> io::Error {
    match ended {
        Ok(Err(error)) => error,
        _ => io::Error::other("the load ended"),
    }
}

/// Round trips in milliseconds.
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Round trips of small messages on `count` connections at once, one in flight on each; from a
/// thread of its own.
pub(crate) async fn ping(address: SocketAddr, count: usize, length: Length) -> io::Result<Latency> {
    let measured = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut streams = JoinSet::new();
            for _ in 0..count {
                streams.spawn(round_trips(address, length));
            }
            let mut all = Vec::new();
            while let Some(ended) = streams.join_next().await {
                all.extend(ended.map_err(io::Error::other)??);
            }
            io::Result::Ok(all)
        })
    });
    let mut all: Vec<f64> = measured.await.map_err(io::Error::other)??;
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all.get((all.len() as f64 * share) as usize).copied();
    let values = at(0.5).zip(at(0.99));
    let (p50, p99) = values.ok_or_else(|| io::Error::other("not one round trip came back"))?;
    Ok(Latency { p50, p99 })
}

async fn round_trips(address: SocketAddr, length: Length) -> io::Result<Vec<f64>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (begin, mut times) = (Instant::now(), Vec::new());
    let mut answer = [0; SMALL];
    for number in 0u64.. {
        let mut message = [0x5a; SMALL];
        message[..8].copy_from_slice(&number.to_be_bytes());
        let sent = Instant::now();
        stream.write_all(&message).await?;
        stream.read_exact(&mut answer).await?;
        if answer != message {
            return Err(io::Error::other("the echo differs"));
        }
        let elapsed = begin.elapsed();
        if elapsed > length.warm_up {
            times.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        // Behind the note: the last round trip may have been the slowest, or the only one.
        if elapsed > length.warm_up + length.measured {
            break;
        }
    }
    Ok(times)
}

/// New streams, each with one byte there and back, through SOCKS5 where the client has it: how
/// many, and what they cost.
pub(crate) async fn opens(
    chain: &Chain,
    targets: &Targets,
    length: Length,
) -> io::Result<(usize, Used)> {
    let done = Arc::new(AtomicUsize::new(0));
    let mut openers: JoinSet<io::Result<()>> = JoinSet::new();
    for _ in 0..OPENERS {
        let (done, socks, echo, target) = (done.clone(), chain.socks, chain.echo, targets.echo);
        openers.spawn(async move {
            loop {
                open_once(socks, echo, target).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let measure = async {
        sleep(length.warm_up).await;
        let begin = Usage::beside(&chain.server, Some(&chain.client))?;
        let before = done.load(Ordering::Relaxed);
        sleep(length.measured).await;
        let count = done.load(Ordering::Relaxed) - before;
        Ok((count, begin.until(Usage::beside(&chain.server, Some(&chain.client))?)))
    };
    tokio::select! {
        result = measure => result,
        Some(ended) = openers.join_next() => Err(why(ended)),
    }
}

async fn open_once(
    socks: Option<SocketAddr>,
    forward: SocketAddr,
    target: SocketAddr,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(socks.unwrap_or(forward)).await?;
    stream.set_nodelay(true)?;
    if let (Some(_), SocketAddr::V4(target)) = (socks, target) {
        stream.write_all(&[5, 1, 0]).await?;
        let mut chosen = [0; 2];
        stream.read_exact(&mut chosen).await?;
        let mut request = vec![5, 1, 0, 1];
        request.extend(target.ip().octets());
        request.extend(target.port().to_be_bytes());
        stream.write_all(&request).await?;
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).await?;
        if chosen != [5, 0] || reply[..2] != [5, 0] {
            return Err(io::Error::other(format!("SOCKS5 refused with {}", reply[1])));
        }
    }
    stream.write_all(&[7]).await?;
    match stream.read_u8().await? {
        7 => Ok(()),
        _ => Err(io::Error::other("the echo differs")),
    }
}
