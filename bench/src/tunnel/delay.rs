//! A line with a long round trip: a proxy in this process that hands bytes on later.

use super::target;
use super::target::{Direction, Moved, Targets};
use super::{chain, load};
use crate::echo::Length;
use crate::plain;
use crate::rig::Rig;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

/// How long a byte takes in one direction: half of the round trip of the bar.
const DELAY: Duration = Duration::from_millis(50);

/// Bytes read at once.
const PIECE: usize = 64 * 1024;

/// Gbit/s of one stream through the line.
pub(crate) struct Reached {
    pub(crate) tunnel: f64,
    pub(crate) plain: f64,
}

/// One stream through the tunnel, and one plain TLS connection, over lines of `mbit` each.
pub(crate) async fn run(
    rig: &Rig,
    targets: &Targets,
    direction: Direction,
    mbit: u32,
    length: Length,
) -> io::Result<Reached> {
    let (server, endpoint) = rig.direct_gateway()?;
    let line = start(endpoint.address(), mbit, DELAY).await?;
    let chain = chain::httvps(rig, server, line, targets)?;
    let bulk = load::bulk(&chain, targets, direction, 1, length).await?;
    let tunnel = load::gbit(bulk.gib(), bulk.used.seconds);
    drop(chain);
    let plain = plain_tls(rig, targets.moved.clone(), direction, mbit, length).await?;
    Ok(Reached { tunnel, plain })
}

async fn plain_tls(
    rig: &Rig,
    moved: Arc<Moved>,
    direction: Direction,
    mbit: u32,
    length: Length,
) -> io::Result<f64> {
    let (acceptor, counted) = (plain::acceptor(rig.folder())?, moved.clone());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let line = start(listener.local_addr()?, mbit, DELAY).await?;
    let server = async {
        let stream = acceptor.accept(listener.accept().await?.0).await?;
        target::serve(stream, counted).await
    };
    let endpoint = rig.endpoint(line.port(), crate::session::KeyExchange::X25519)?;
    let client = async { target::load(endpoint.connect().await?, direction, &moved).await };
    let measure = async {
        sleep(length.warm_up).await;
        let (begin, before) = (Instant::now(), moved.up() + moved.down());
        sleep(length.measured).await;
        let gib = (moved.up() + moved.down() - before) as f64 / f64::from(1 << 30);
        Ok(load::gbit(gib, begin.elapsed().as_secs_f64()))
    };
    tokio::select! {
        result = measure => result,
        ended = server => Err(load::why(Ok(ended))),
        ended = client => Err(load::why(Ok(ended))),
    }
}

/// A proxy to `to`. Each direction takes `delay`, carries `mbit` and holds what is under way on such a line and as
/// much again; more waits in the sockets.
pub(crate) async fn start(to: SocketAddr, mbit: u32, delay: Duration) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let far = TcpStream::connect(to).await?;
                near.set_nodelay(true)?;
                far.set_nodelay(true)?;
                let (near, far) = (near.into_split(), far.into_split());
                tokio::try_join!(
                    carry(near.0, far.1, mbit, delay),
                    carry(far.0, near.1, mbit, delay)
                )
                .map(drop)
            });
        }
    });
    Ok(address)
}

struct Piece {
    due: Instant,
    bytes: Vec<u8>,
    /// Its place on the line.
    _room: OwnedSemaphorePermit,
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mbit: u32,
    delay: Duration,
) -> io::Result<()> {
    let bytes_per_second = f64::from(mbit) * 1e6 / 8.0;
    let under_way = (bytes_per_second * delay.as_secs_f64()) as usize;
    let most = 2 * under_way + PIECE;
    let room = Arc::new(Semaphore::new(most));
    // The bytes bound it before the pieces do.
    let (line, mut arriving) = mpsc::channel::<Piece>(most);
    let sender = async move {
        let mut is_free = Instant::now();
        loop {
            let mut bytes = vec![0; PIECE];
            let length = from.read(&mut bytes).await?;
            if length == 0 {
                return Ok(());
            }
            bytes.truncate(length);
            let place = room.clone().acquire_many_owned(length as u32).await;
            let taken = Duration::from_secs_f64(length as f64 / bytes_per_second);
            is_free = is_free.max(Instant::now()) + taken;
            let piece =
                Piece { due: is_free + delay, bytes, _room: place.map_err(io::Error::other)? };
            if line.send(piece).await.is_err() {
                return Ok(());
            }
        }
    };
    let receiver = async move {
        while let Some(piece) = arriving.recv().await {
            sleep_until(piece.due).await;
            to.write_all(&piece.bytes).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(sender, receiver).map(drop)
}
