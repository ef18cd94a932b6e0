//! What it costs to leave through an Outline node: the gateway's CPU next to that of the direct way out and to that of
//! the node itself, and the memory of idle streams.

mod idle;
mod report;

use crate::Plan;
use crate::process::{Server, Usage, Used};
use crate::rig::{Rig, free_port};
use crate::samples::Samples;
use aws_lc_rs::aead;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

const CIPHERS: [&str; 2] = ["chacha20-ietf-poly1305", "aes-256-gcm"];
const PASSWORD: &str = "of-the-benchmark";

/// Connections that carry a load at once.
const STREAMS: usize = 8;

/// What a load writes and reads at once.
const PIECE: usize = 256 * 1024;

/// Which way the bytes go.
#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl Direction {
    const ALL: [Self; 2] = [Self::Up, Self::Down];

    fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Runs all of it and gives the tables, or with `json` every value. `smoke` only shows that it runs.
pub(crate) async fn measure(
    rig: &Rig,
    plan: &Plan,
    ssserver: &Path,
    json: bool,
    smoke: bool,
) -> io::Result<String> {
    let targets = Targets::start().await?;
    let mut samples = Samples::default();
    for round in 0..plan.rounds {
        for cipher in CIPHERS {
            for direction in Direction::ALL {
                let pass = aead_pass(cipher)?;
                samples.add(format!("pass.{cipher}"), pass);
                // Each pair in one breath, in turns who is first: the machine's speed drifts.
                let mut costs = [0.0; 2];
                for turn in 0..2 {
                    let way = (turn + round) % 2;
                    let node =
                        (way == 1).then(|| Node::start(rig, ssserver, cipher)).transpose()?;
                    let name = format!("cost.{cipher}.{}", direction.name());
                    let cost = transfer(rig, plan, &targets, node.as_ref(), direction).await?;
                    costs[way] = cost.gateway;
                    let who = ["direct", "outline"][way];
                    samples.add(format!("{name}.{who}"), cost.gateway);
                    samples.add(format!("{name}.{who}_mib_per_s"), cost.mib_per_second);
                    samples.add("foreign", cost.foreign);
                    if let Some(node) = cost.node {
                        samples.add(format!("{name}.node"), node);
                    }
                }
                let [direct, outline] = costs;
                let name = format!("cost.{cipher}.{}", direction.name());
                samples.add(format!("{name}.ratio"), outline / direct);
                samples.add(format!("{name}.of_bar"), outline / (1.35 * direct + pass));
            }
        }
    }
    let size = if smoke { idle::SMOKE } else { idle::FULL };
    idle::measure(rig, ssserver, size, &targets, &mut samples).await?;
    Ok(if json {
        samples.to_json().to_string()
    } else {
        report::markdown(&samples, size, &node_version(ssserver))
    })
}

fn node_version(ssserver: &Path) -> String {
    let output = Command::new(ssserver).arg("--version").output();
    output.map_or_else(
        |_| "ssserver".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// CPU-seconds to seal a GiB in chunks of 16 KiB: what one AEAD pass is on this machine.
fn aead_pass(cipher: &str) -> io::Result<f64> {
    const CHUNKS: usize = 4096;
    let algorithm =
        if cipher == "aes-256-gcm" { &aead::AES_256_GCM } else { &aead::CHACHA20_POLY1305 };
    let key = aead::UnboundKey::new(algorithm, &[7; 32]).map_err(io::Error::other)?;
    let key = aead::LessSafeKey::new(key);
    let mut chunk = vec![0; 16 * 1024];
    let start = thread_seconds();
    for number in 0..CHUNKS {
        let mut nonce = [0; aead::NONCE_LEN];
        nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::empty(), &mut chunk);
        chunk[0] ^= tag.map_err(io::Error::other)?.as_ref()[0];
    }
    Ok((thread_seconds() - start) / (CHUNKS * chunk.len()) as f64 * f64::from(1 << 30))
}

/// CPU-seconds of this thread.
fn thread_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// An Outline node: `ssserver` as a process of its own, and the pool that names it.
struct Node {
    server: Server,
    pool: PathBuf,
}

impl Node {
    fn start(rig: &Rig, ssserver: &Path, cipher: &str) -> io::Result<Self> {
        let port = free_port()?;
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(ssserver);
        command.args(["-s", &address, "-m", cipher, "-k", PASSWORD]);
        let server = Server::start(&mut command, &rig.path("node.log"), port)?;
        let pool = rig.path("nodes.yaml");
        let key = format!("ss://{cipher}:{PASSWORD}@{address}");
        std::fs::write(&pool, format!("nodes:\n  - id: bench\n    key: '{key}'\n"))?;
        Ok(Self { server, pool })
    }
}

/// A gateway that lets its streams out through the node, or directly when there is none.
fn start_gateway(rig: &Rig, node: Option<&Node>, max_streams: usize) -> io::Result<(Server, u16)> {
    let mut settings = vec![("GATEWAY_MAX_STREAMS", max_streams.to_string())];
    match node {
        None => settings.extend([
            ("GATEWAY_UPSTREAM_MODE", "direct".to_owned()),
            ("GATEWAY_EGRESS_ALLOW", "127.0.0.0/8".to_owned()),
        ]),
        Some(node) => settings.extend([
            ("GATEWAY_UPSTREAM_MODE", "outline".to_owned()),
            ("GATEWAY_OUTLINE_ASSIGN", "pool".to_owned()),
            ("GATEWAY_OUTLINE_NODES_PATH", node.pool.display().to_string()),
            ("GATEWAY_OUTLINE_PROBE_INTERVAL", "0".to_owned()),
        ]),
    }
    rig.start_gateway(&[], &settings)
}

/// `httvps connect` with a local port that leads to `target`.
fn start_client(rig: &Rig, gateway: u16, target: SocketAddr) -> io::Result<(Server, SocketAddr)> {
    let (proxy, local) = (free_port()?, free_port()?);
    let token = rig.path("token");
    std::fs::write(&token, "bench")?;
    let mut command = Command::new(rig.program());
    command
        .args(["connect", "--device-id", "bench", "--log-level", "warn"])
        .args(["--gateway", &format!("wss://localhost:{gateway}/ws")])
        .args(["--listen", &format!("127.0.0.1:{proxy}")])
        .args(["--forward", &format!("127.0.0.1:{local}={target}")])
        .arg("--token-file")
        .arg(token)
        .arg("--ca")
        .arg(rig.path("cert.pem"));
    let client = Server::start(&mut command, &rig.path("client.log"), proxy)?;
    Ok((client, (Ipv4Addr::LOCALHOST, local).into()))
}

/// The far ends, in this process.
struct Targets {
    /// Takes everything.
    sink: SocketAddr,
    taken: Arc<AtomicU64>,
    /// Says everything.
    source: SocketAddr,
    echo: SocketAddr,
}

impl Targets {
    async fn start() -> io::Result<Self> {
        let (sink, source) =
            (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let taken = Arc::new(AtomicU64::new(0));
        let targets = Self {
            sink: sink.local_addr()?,
            taken: taken.clone(),
            source: source.local_addr()?,
            echo: crate::plain::start_echo().await?,
        };
        // Whatever ends a connection ends the load, which tells.
        tokio::spawn(async move {
            while let Ok((stream, _)) = sink.accept().await {
                tokio::spawn(count(stream, taken.clone()));
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = source.accept().await {
                tokio::spawn(fill(stream));
            }
        });
        Ok(targets)
    }
}

async fn count(mut stream: TcpStream, taken: Arc<AtomicU64>) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match stream.read(&mut piece).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => taken.fetch_add(length as u64, Ordering::Relaxed),
        };
    }
}

async fn fill(mut stream: TcpStream) -> io::Result<()> {
    let piece: Vec<u8> = (0..PIECE).map(|at| (at * 131 % 251) as u8).collect();
    loop {
        stream.write_all(&piece).await?;
    }
}

/// What a GiB cost.
struct Cost {
    gateway: f64,
    node: Option<f64>,
    mib_per_second: f64,
    /// Share of the machine that programs outside the benchmark took.
    foreign: f64,
}

/// A load in one direction over [`STREAMS`] connections.
async fn transfer(
    rig: &Rig,
    plan: &Plan,
    targets: &Targets,
    node: Option<&Node>,
    direction: Direction,
) -> io::Result<Cost> {
    let (gateway, port) = start_gateway(rig, node, STREAMS)?;
    let target = match direction {
        Direction::Up => targets.sink,
        Direction::Down => targets.source,
    };
    let (client, local) = start_client(rig, port, target)?;
    let mut load: JoinSet<io::Result<()>> = JoinSet::new();
    let received = match direction {
        Direction::Up => targets.taken.clone(),
        Direction::Down => Arc::default(),
    };
    for _ in 0..STREAMS {
        let received = received.clone();
        load.spawn(async move {
            let stream = TcpStream::connect(local).await?;
            match direction {
                Direction::Up => fill(stream).await,
                Direction::Down => count(stream, received).await,
            }
        });
    }
    let measuring = async {
        sleep(plan.warm_up).await;
        let servers = [Some(&gateway), Some(&client), node.map(|node| &node.server)];
        let before = received.load(Ordering::Relaxed);
        let begin = usage(servers)?;
        sleep(plan.measured).await;
        let end = usage(servers)?;
        let bytes = received.load(Ordering::Relaxed) - before;
        Ok::<_, io::Error>((bytes, begin, end))
    };
    let (bytes, begin, end) = tokio::select! {
        measured = measuring => measured?,
        Some(ended) = load.join_next() => {
            ended.map_err(io::Error::other)??;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    if bytes == 0 {
        return Err(io::Error::other("nothing arrived"));
    }
    let used: Vec<Used> = begin.into_iter().zip(end).map(|(begin, end)| begin.until(end)).collect();
    let [gateway, client, rest @ ..] = &used[..] else {
        return Err(io::Error::other("nothing was measured"));
    };
    let gib = bytes as f64 / f64::from(1 << 30);
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let ours = client.server + rest.iter().map(|node| node.server).sum::<f64>();
    Ok(Cost {
        gateway: gateway.server / gib,
        node: rest.first().map(|node| node.server / gib),
        mib_per_second: gib * 1024.0 / gateway.seconds,
        foreign: (gateway.foreign - ours / (gateway.seconds * cores)).max(0.0),
    })
}

fn usage(servers: [Option<&Server>; 3]) -> io::Result<Vec<Usage>> {
    servers.into_iter().flatten().map(Usage::of).collect()
}
