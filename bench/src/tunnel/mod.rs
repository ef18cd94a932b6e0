//! The gateway and its client as a tunnel, next to other tunnels in the same rounds.

mod chain;
mod delay;
mod load;
mod memory;
mod report;
mod target;
mod v2;

use crate::echo::{self, Length};
use crate::handshakes::{self, Depth};
use crate::process::Used;
use crate::rig::Rig;
use crate::samples::Samples;
use crate::session::KeyExchange;
use chain::{Chain, Peer};
use clap::ValueEnum;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use target::{Direction, Targets};

pub(crate) use delay::start as start_line;
pub(crate) use report::markdown;
pub(crate) use v2::{Tunnel, frame};

/// Descriptors that the load generator and the gateway need beside those of sessions and streams.
const OTHER_FILES: usize = 200;

/// What can be measured by itself.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Section {
    /// Throughput, the server's CPU time and memory
    Bulk,
    /// Throughput of 64 and 256 streams
    Many,
    /// Round trips of 64 bytes
    Ping,
    /// Round trips of 64 bytes beside bulk in both directions
    Beside,
    /// New streams a second
    Opens,
    /// Full handshakes
    Handshake,
    /// Echo in the JSON protocol
    Json,
    /// Memory of idle sessions
    Sessions,
    /// Memory of idle streams
    Streams,
    /// One stream over a round trip of 100 ms
    Delay,
}

/// The sections that every tunnel has.
const LOADED: [Section; 5] =
    [Section::Bulk, Section::Many, Section::Ping, Section::Beside, Section::Opens];

/// Options of the tunnel benchmark.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Measure the gateway and its client as a tunnel, next to `HAProxy` and penguin
    #[arg(long)]
    pub(crate) tunnel: bool,
    /// Sections of --tunnel, separated by commas; all if not given
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SECTIONS", requires = "tunnel")]
    only: Vec<Section>,
    /// The penguin program (rusty-penguin); without it nothing is compared with it
    #[arg(long, value_name = "FILE")]
    penguin: Option<PathBuf>,
    /// Idle sessions of --tunnel
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    sessions: u32,
    /// Rate of the line with a round trip of 100 ms, in Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    line_mbit: u32,
}

/// What is measured, how long and how much of it.
pub(crate) struct Plan {
    only: Vec<Section>,
    penguin: Option<PathBuf>,
    rounds: usize,
    length: Length,
    /// How long the load runs on the long line before it is measured: windows grow by the round trip.
    growth: Duration,
    /// How long sessions and streams rest before their memory is measured.
    rest: Duration,
    sessions: usize,
    stream_sessions: usize,
    streams_each: usize,
    line_mbit: u32,
}

impl Plan {
    pub(crate) fn new(
        options: &Options,
        is_smoke: bool,
        rounds: Option<usize>,
        measured: Duration,
    ) -> Self {
        let (only, penguin) = (options.only.clone(), options.penguin.clone());
        if is_smoke {
            let length = Length {
                warm_up: Duration::from_millis(100),
                measured: Duration::from_millis(200),
            };
            let (sessions, stream_sessions, streams_each) = (20, 5, 4);
            let line_mbit = 50;
            return Self {
                only,
                penguin,
                rounds: 1,
                length,
                growth: Duration::from_millis(500),
                rest: Duration::from_millis(200),
                sessions,
                stream_sessions,
                streams_each,
                line_mbit,
            };
        }
        Self {
            only,
            penguin,
            rounds: rounds.unwrap_or(5),
            length: Length { warm_up: Duration::from_millis(500), measured },
            growth: Duration::from_secs(3),
            rest: Duration::from_millis(1500),
            sessions: options.sessions as usize,
            stream_sessions: 1000,
            streams_each: 16,
            line_mbit: options.line_mbit,
        }
    }

    fn has(&self, section: Section) -> bool {
        self.only.is_empty() || self.only.contains(&section)
    }

    /// A session that moves its bytes has two sockets in the gateway and two here; those that rest
    /// have one each. A stream has one in either, a session's own one beside.
    fn check_files(&self, limit: Option<u64>) -> io::Result<()> {
        let mut needed = OTHER_FILES;
        if self.has(Section::Sessions) {
            needed = needed.max(self.sessions + OTHER_FILES);
        }
        if self.has(Section::Streams) {
            needed = needed.max(self.stream_sessions * (self.streams_each + 1) + OTHER_FILES);
        }
        match limit {
            Some(limit) if limit < needed as u64 => Err(io::Error::other(format!(
                "{needed} open files are needed and the limit is {limit}; raise it with \
                 `ulimit -Hn {needed}` as root, or measure less: --sessions, --only"
            ))),
            _ => Ok(()),
        }
    }
}

/// All rounds; each runs every section with every peer once. `file_limit` is that of the process.
pub(crate) async fn run(
    rig: &Rig,
    plan: &Plan,
    file_limit: Option<u64>,
    samples: &mut Samples,
) -> io::Result<()> {
    plan.check_files(file_limit)?;
    let targets = Targets::start().await?;
    for round in 1..=plan.rounds {
        let tell = |what: &str| tell(round, plan.rounds, what);
        for (section, count) in [(Section::Ping, 1), (Section::Ping, 64)] {
            if plan.has(section) {
                tell(&format!("no tunnel: round trips, {count} streams"));
                ping(samples, "direct", targets.echo, count, plan.length).await?;
            }
        }
        for peer in Peer::ALL {
            let is_loaded = LOADED.iter().any(|&section| plan.has(section));
            if is_loaded
                && let Some(chain) = chain::start(peer, rig, plan.penguin.as_deref(), &targets)?
            {
                tell(&format!("{}: load", peer.name()));
                let during = loaded(plan, peer, &chain, &targets, samples);
                during.await.map_err(|error| in_words(peer.name(), &error))?;
            }
        }
        alone(rig, plan, &targets, samples, tell).await?;
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the words of a program")]
fn tell(round: usize, rounds: usize, what: &str) {
    eprintln!("round {round} of {rounds}: {what}");
}

fn in_words(who: &str, error: &io::Error) -> io::Error {
    io::Error::other(format!("{who}: {error}"))
}

async fn ping(
    samples: &mut Samples,
    who: &str,
    echo: std::net::SocketAddr,
    count: usize,
    length: Length,
) -> io::Result<()> {
    let latency = load::ping(echo, count, length).await?;
    samples.add(format!("tunnel.{who}.ping{count}.p50"), latency.p50);
    samples.add(format!("tunnel.{who}.ping{count}.p99"), latency.p99);
    Ok(())
}

/// Throughput of so many streams in each direction. The most memory that the server had meanwhile, in MiB.
async fn bulk(
    samples: &mut Samples,
    peer: Peer,
    chain: &Chain,
    targets: &Targets,
    counts: &[usize],
    length: Length,
) -> io::Result<f64> {
    let mut most = 0.0f64;
    for (&count, way) in counts.iter().flat_map(|count| Direction::ONE_WAY.map(|way| (count, way)))
    {
        let bulk = load::bulk(chain, targets, way, count, length).await?;
        let figure = format!("tunnel.{}.{}{count}", peer.name(), way.name());
        note_foreign(samples, &bulk.used);
        samples.add(format!("{figure}.cpu"), bulk.used.server / bulk.gib());
        samples.add(format!("{figure}.gbit"), load::gbit(bulk.gib(), bulk.used.seconds));
        most = most.max(bulk.rss_mib);
    }
    Ok(most)
}

/// What is measured of every tunnel.
async fn loaded(
    plan: &Plan,
    peer: Peer,
    chain: &Chain,
    targets: &Targets,
    samples: &mut Samples,
) -> io::Result<()> {
    let name = |figure: &str| format!("tunnel.{}.{figure}", peer.name());
    let length = plan.length;
    if plan.has(Section::Bulk) {
        let most = bulk(samples, peer, chain, targets, &[1, 8], length).await?;
        samples.add(name("rss"), most);
    }
    if plan.has(Section::Many) {
        bulk(samples, peer, chain, targets, &[64, 256], length).await?;
    }
    if plan.has(Section::Ping) {
        for count in [1, 64] {
            ping(samples, peer.name(), chain.echo, count, length).await?;
        }
    }
    if plan.has(Section::Beside) {
        let (bulk, latency) = load::beside(chain, targets, 7, length).await?;
        note_foreign(samples, &bulk.used);
        samples.add(name("beside.p50"), latency.p50);
        samples.add(name("beside.p99"), latency.p99);
        samples.add(name("beside.up"), load::gbit(bulk.up_gib, bulk.used.seconds));
        samples.add(name("beside.down"), load::gbit(bulk.down_gib, bulk.used.seconds));
    }
    if plan.has(Section::Opens) {
        let (count, used) = load::opens(chain, targets, length).await?;
        note_foreign(samples, &used);
        samples.add(name("opens.rate"), count as f64 / used.seconds);
        samples.add(name("opens.cpu"), used.server * 1e6 / count as f64);
    }
    Ok(())
}

/// What is measured of the gateway alone.
async fn alone(
    rig: &Rig,
    plan: &Plan,
    targets: &Targets,
    samples: &mut Samples,
    tell: impl Fn(&str),
) -> io::Result<()> {
    let length = plan.length;
    if plan.has(Section::Handshake) {
        tell("handshakes");
        let gateway = rig.gateway(KeyExchange::X25519, &[])?;
        let mut peers = vec![("handshake", Depth::Session, gateway)];
        if let Some(relay) = rig.relay().await? {
            peers.push(("handshake.haproxy", Depth::Tls, relay));
        }
        for (name, depth, (server, endpoint)) in peers {
            let run = handshakes::run(&server, &endpoint, depth, length.warm_up, length.measured);
            let (count, used) = run.await?;
            note_foreign(samples, &used);
            samples.add(format!("tunnel.httvps.{name}"), used.server * 1e6 / count as f64);
        }
    }
    if plan.has(Section::Json) {
        tell("JSON echo");
        for kib in [64, 16, 1] {
            let (server, endpoint) = rig.gateway(KeyExchange::X25519, &[])?;
            let echoed = echo::through_gateway(&server, &endpoint, kib * 1024, length).await?;
            note_foreign(samples, &echoed.used);
            samples.add(format!("tunnel.httvps.json{kib}"), echoed.used.server / echoed.gib);
        }
    }
    if plan.has(Section::Sessions) {
        tell("idle sessions");
        let each = memory::sessions(rig, targets.echo, plan.sessions, plan.rest).await?;
        samples.add("tunnel.httvps.session", each);
    }
    if plan.has(Section::Streams) {
        tell("idle streams");
        let counts = (plan.stream_sessions, plan.streams_each);
        let each = memory::streams(rig, targets.echo, counts, plan.rest).await?;
        samples.add("tunnel.httvps.stream", each);
    }
    if plan.has(Section::Delay) {
        let length = Length { warm_up: plan.growth, ..length };
        for way in Direction::ONE_WAY {
            tell(&format!("100 ms, {}", way.name()));
            let reached = delay::run(rig, targets, way, plan.line_mbit, length).await?;
            let name = format!("tunnel.httvps.delay.{}", way.name());
            samples.add(format!("{name}.plain"), reached.plain);
            samples.add(format!("{name}.share"), reached.tunnel / reached.plain);
            samples.add(name, reached.tunnel);
        }
    }
    Ok(())
}

fn note_foreign(samples: &mut Samples, used: &Used) {
    samples.add("tunnel.foreign", used.foreign);
}
