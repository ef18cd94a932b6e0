//! Idle sessions of one device whose windows have grown; what is left for an honest upload over a long path?

use crate::rig::Rig;
use crate::samples::Samples;
use crate::session::KeyExchange;
use crate::tunnel::{Tunnel, start_line};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// One direction of the honest path, and of that of the hostile ones, whose windows are as large as their path is long.
const HONEST: Duration = Duration::from_millis(30);
const HOSTILE: Duration = Duration::from_millis(300);
/// What the paths carry, in Mbit/s.
const MBIT: u32 = 4000;

/// Adds the rate of the honest upload in MB/s: before, beside idle sessions, and after they have gone.
pub(super) async fn measure(
    rig: &Rig,
    phase: Duration,
    growth: Duration,
    sessions: usize,
    samples: &mut Samples,
) -> io::Result<()> {
    let (_server, endpoint) = rig.gateway_with(KeyExchange::X25519, &[], &super::SETTINGS)?;
    let near = rig.endpoint(
        start_line(endpoint.address(), MBIT, HONEST).await?.port(),
        KeyExchange::X25519,
    )?;
    let far = rig.endpoint(
        start_line(endpoint.address(), MBIT, HOSTILE).await?.port(),
        KeyExchange::X25519,
    )?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let sink = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut piece = vec![0; 256 * 1024];
                while matches!(stream.read(&mut piece).await, Ok(length) if length > 0) {}
            });
        }
    });
    let mut idle = Vec::new();
    for name in super::PHASES {
        if name == "during" {
            let mut growing = JoinSet::new();
            for _ in 0..sessions {
                let far = far.clone();
                growing.spawn(async move {
                    let mut tunnel = Tunnel::open(&far, "hostile").await?;
                    upload(&mut tunnel, sink, growth).await?;
                    io::Result::Ok(tunnel)
                });
            }
            for grown in growing.join_all().await {
                idle.push(grown?);
            }
        } else {
            idle.clear();
            sleep(phase / 4).await;
        }
        let mut tunnel = Tunnel::open(&near, "honest").await?;
        // Its windows have to grow as well.
        upload(&mut tunnel, sink, phase.max(Duration::from_millis(500))).await?;
        let rate = upload(&mut tunnel, sink, phase).await?;
        samples.add(format!("windows.{name}"), rate / 1e6);
    }
    Ok(())
}

/// Bytes a second of an upload that takes so long.
async fn upload(tunnel: &mut Tunnel, sink: SocketAddr, time: Duration) -> io::Result<f64> {
    let stream = tunnel.last(sink).await?;
    let (begin, mut sent) = (Instant::now(), 0);
    while begin.elapsed() < time {
        sent += tunnel.pour(stream).await?;
    }
    Ok(sent as f64 / begin.elapsed().as_secs_f64())
}
