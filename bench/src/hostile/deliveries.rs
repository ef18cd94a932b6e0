//! One device leaves streams behind whose last bytes cannot be delivered; what becomes of another's last bytes?

use crate::rig::Rig;
use crate::samples::Samples;
use crate::session::{Endpoint, KeyExchange, Session};
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Bytes that the honest device sends before it closes its stream: most of them wait in the kernel.
const LAST: usize = 60_000;
/// Streams of one session.
const STREAMS: usize = 8;
/// Delivery places of the gateway: fewer than by default, so that the attack fills them within a phase.
const PLACES: &str = "64";
const PLACES_OF_A_DEVICE: &str = "16";

/// A port that answers no further SYN, and what fills it.
struct Silent {
    address: SocketAddr,
    _full: (tokio::net::TcpListener, Vec<TcpStream>),
}

impl Silent {
    async fn start() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.1:0".parse().map_err(io::Error::other)?)?;
        let listener = socket.listen(1)?;
        let address = listener.local_addr()?;
        let mut full = Vec::new();
        while let Ok(connected) =
            timeout(Duration::from_millis(100), TcpStream::connect(address)).await
        {
            full.push(connected?);
        }
        Ok(Self { address, _full: (listener, full) })
    }
}

/// Adds the part of the honest device's last bytes that arrives, before, during and after.
pub(super) async fn measure(rig: &Rig, phase: Duration, samples: &mut Samples) -> io::Result<()> {
    let more = [
        ("GATEWAY_MAX_DELIVERIES", PLACES),
        ("GATEWAY_MAX_DELIVERIES_PER_DEVICE", PLACES_OF_A_DEVICE),
        ("GATEWAY_DIAL_TIMEOUT", "2s"),
    ];
    let settings = [&super::SETTINGS[..], &more].concat();
    let (_server, endpoint) = rig.gateway_with(KeyExchange::X25519, &[], &settings)?;
    let silent = Silent::start().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let slow = listener.local_addr()?;
    let (arrived, mut arrivals) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let arrived = arrived.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(200)).await;
                let (mut piece, mut count) = (vec![0; 64 * 1024], 0);
                while let Ok(length @ 1..) = stream.read(&mut piece).await {
                    count += length;
                }
                let _ = arrived.send(count).await;
            });
        }
    });
    let mut attack = JoinSet::new();
    for name in super::PHASES {
        if name == "during" {
            for _ in 0..4 {
                attack.spawn(leave_behind(endpoint.clone(), silent.address));
            }
            sleep(phase.max(Duration::from_millis(500))).await;
        } else if !attack.is_empty() {
            attack.shutdown().await;
            // The last dials have to give up.
            sleep(Duration::from_millis(2500)).await;
        }
        let mut whole = 0.0;
        for _ in 0..4 {
            say_last(&endpoint, slow).await?;
            let count = timeout(Duration::from_secs(10), arrivals.recv()).await;
            whole += count.ok().flatten().unwrap_or(0) as f64 / LAST as f64 / 4.0;
        }
        samples.add(format!("deliveries.{name}"), whole * 100.0);
    }
    Ok(())
}

/// Comes and goes, with a byte behind for targets that do not answer.
async fn leave_behind(endpoint: Endpoint, silent: SocketAddr) {
    loop {
        let left = async {
            let mut session = Session::open(&endpoint, "hostile").await?;
            for id in 0..STREAMS {
                send_and_close(&mut session, &id.to_string(), silent, "eA==").await?;
            }
            // It has read all of it when it answers.
            session.send(&json!({"type": "ping"})).await?;
            session.message().await.map(drop)
        };
        if left.await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn say_last(endpoint: &Endpoint, slow: SocketAddr) -> io::Result<()> {
    let mut session = Session::open(endpoint, "honest").await?;
    let data = base64_turbo::STANDARD.encode(vec![b'v'; LAST]);
    send_and_close(&mut session, "last", slow, &data).await?;
    session.send(&json!({"type": "ping"})).await?;
    while !session.message().await?.starts_with(br#"{"type":"pong""#) {}
    Ok(())
}

async fn send_and_close(
    session: &mut Session,
    id: &str,
    target: SocketAddr,
    data: &str,
) -> io::Result<()> {
    session.open_stream(id, &target.to_string()).await?;
    session.send(&json!({"type": "stream_data", "stream_id": id, "data": data})).await?;
    session.send(&json!({"type": "stream_close", "stream_id": id})).await
}
