//! Resident memory of streams that have moved some bytes and then rest.

use super::{CIPHERS, Node, Targets, start_client, start_gateway};
use crate::echo::base64;
use crate::process::Server;
use crate::rig::Rig;
use crate::samples::Samples;
use crate::session::{Endpoint, KeyExchange, Session};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Sessions, and streams of each.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) sessions: usize,
    pub(super) streams: usize,
}

pub(super) const FULL: Size = Size { sessions: 200, streams: 16 };
pub(super) const SMOKE: Size = Size { sessions: 4, streams: 4 };

/// What each stream echoes.
pub(super) const TOUCH: usize = 8 * 1024;

/// Client programs that share the streams of the binary format; each takes 1,024 connections at most.
const CLIENTS: usize = 8;

/// Streams that are opened at once.
const AT_ONCE: usize = 32;

/// How long everything rests before it is measured.
const REST: Duration = Duration::from_millis(2500);

/// Both formats, directly and through a node.
pub(super) async fn measure(
    rig: &Rig,
    ssserver: &Path,
    size: Size,
    targets: &Targets,
    samples: &mut Samples,
) -> io::Result<()> {
    for way in ["direct", "outline"] {
        let node =
            (way == "outline").then(|| Node::start(rig, ssserver, CIPHERS[0])).transpose()?;
        let (gateway, port) = start_gateway(rig, node.as_ref(), size.streams)?;
        let endpoint = rig.endpoint(port, KeyExchange::X25519)?;
        let each = json_streams(&gateway, node.as_ref(), &endpoint, size, targets.echo).await?;
        add(samples, "json", way, &each);

        let node =
            (way == "outline").then(|| Node::start(rig, ssserver, CIPHERS[0])).transpose()?;
        let total = size.sessions * size.streams;
        let (gateway, port) = start_gateway(rig, node.as_ref(), total.div_ceil(CLIENTS))?;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| start_client(rig, port, targets.echo))
            .collect::<Result<_, _>>()?;
        let locals: Vec<_> = clients.iter().map(|(_, local)| *local).collect();
        let each = binary_streams(&gateway, node.as_ref(), &locals, total).await?;
        add(samples, "binary", way, &each);
    }
    Ok(())
}

/// KiB of a stream in the gateway and in the node.
struct Each {
    gateway: f64,
    node: Option<f64>,
}

fn add(samples: &mut Samples, format: &str, way: &str, each: &Each) {
    samples.add(format!("idle.{format}.{way}"), each.gateway);
    if let Some(node) = each.node {
        samples.add(format!("idle.{format}.node"), node);
    }
}

/// Resident KiB now.
fn resident(gateway: &Server, node: Option<&Node>) -> io::Result<(f64, Option<f64>)> {
    let node = node.map(|node| node.server.rss_kib()).transpose()?;
    Ok((gateway.rss_kib()?, node))
}

fn each(before: (f64, Option<f64>), after: (f64, Option<f64>), count: usize) -> Each {
    let node = after.1.zip(before.1).map(|(after, before)| (after - before) / count as f64);
    Each { gateway: (after.0 - before.0) / count as f64, node }
}

/// Sessions with one stream each, then with all: the difference is the streams'.
async fn json_streams(
    gateway: &Server,
    node: Option<&Node>,
    endpoint: &Endpoint,
    size: Size,
    target: SocketAddr,
) -> io::Result<Each> {
    let target: Arc<str> = target.to_string().into();
    let mut sessions = Vec::new();
    for number in 0..size.sessions {
        sessions.push(Session::open(endpoint, &format!("bench-{number}")).await?);
    }
    let sessions = open_streams(sessions, 0..1, &target).await?;
    sleep(REST).await;
    let before = resident(gateway, node)?;
    let sessions = open_streams(sessions, 1..size.streams, &target).await?;
    sleep(REST).await;
    let after = resident(gateway, node)?;
    Ok(each(before, after, sessions.len() * (size.streams - 1)))
}

async fn open_streams(
    sessions: Vec<Session>,
    numbers: std::ops::Range<usize>,
    target: &Arc<str>,
) -> io::Result<Vec<Session>> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let data: Arc<str> = base64(TOUCH).into();
    let mut opening: JoinSet<io::Result<Session>> = JoinSet::new();
    for mut session in sessions {
        let (places, data, target) = (places.clone(), data.clone(), target.clone());
        let numbers = numbers.clone();
        opening.spawn(async move {
            let _place = places.acquire().await.map_err(io::Error::other)?;
            for number in numbers {
                let stream = format!("s{number}");
                session.open_stream(&stream, &target).await?;
                session.echo_bytes(&stream, &data).await?;
            }
            Ok(session)
        });
    }
    opening.join_all().await.into_iter().collect()
}

/// Half of the streams of every client, then all.
async fn binary_streams(
    gateway: &Server,
    node: Option<&Node>,
    locals: &[SocketAddr],
    total: usize,
) -> io::Result<Each> {
    let half = total / 2;
    let first = touch(locals, half).await?;
    sleep(REST).await;
    let before = resident(gateway, node)?;
    let rest = touch(locals, total - half).await?;
    sleep(REST).await;
    let after = resident(gateway, node)?;
    drop(first);
    Ok(each(before, after, rest.len()))
}

async fn touch(locals: &[SocketAddr], count: usize) -> io::Result<Vec<TcpStream>> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut opening: JoinSet<io::Result<TcpStream>> = JoinSet::new();
    for &local in locals.iter().cycle().take(count) {
        let places = places.clone();
        opening.spawn(async move {
            let _place = places.acquire().await.map_err(io::Error::other)?;
            let mut stream = TcpStream::connect(local).await?;
            stream.write_all(&[7; TOUCH]).await?;
            stream.read_exact(&mut [0; TOUCH]).await?;
            Ok(stream)
        });
    }
    opening.join_all().await.into_iter().collect()
}
