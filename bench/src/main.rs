//! Measures a gateway process: handshakes, JSON echo next to a plain TLS echo and a TLS relay, idle sessions;
//! and gateway and client as a tunnel, next to other tunnels.
//!
//! `bench/run` builds what is needed and calls this. The load generator, the stub backend and the
//! relay's echo are in this process, so that the gateway's CPU time and memory are its own.

mod backend;
mod echo;
mod frames;
mod handshakes;
mod hostile;
mod idle;
mod instructions;
mod outline;
mod plain;
mod process;
mod report;
mod rig;
mod samples;
mod session;
mod tunnel;

use clap::Parser;
use handshakes::Depth;
use rig::Rig;
use samples::Samples;
use session::KeyExchange;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Payload bytes of an echoed message.
const PAYLOADS: [usize; 3] = [64 * 1024, 16 * 1024, 1024];

/// Measure a gateway next to a plain TLS echo and a TLS relay
#[derive(Parser)]
struct Args {
    /// The httvps program
    #[arg(long, value_name = "FILE", required_unless_present = "tls_echo")]
    gateway: Option<PathBuf>,
    /// The haproxy program; without it there is no relay to compare with
    #[arg(long, value_name = "FILE")]
    haproxy: Option<PathBuf>,
    /// One short round that only shows that everything runs
    #[arg(long)]
    smoke: bool,
    /// Rounds; each runs every measurement once [default: 3, with --tunnel 5]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Length of a measurement under load
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    seconds: f64,
    /// Print every value as JSON instead of the tables
    #[arg(long)]
    json: bool,
    /// Count the gateway's instructions for each message under valgrind instead
    #[arg(long)]
    instructions: bool,
    #[command(flatten)]
    tunnel: tunnel::Options,
    #[command(flatten)]
    hostile: hostile::Options,
    /// Measure the way out by an Outline node, with this `ssserver` program, instead
    #[arg(long, value_name = "FILE")]
    outline: Option<PathBuf>,
    /// Be the plain TLS echo on this port
    #[arg(long, value_name = "PORT", requires = "folder", hide = true)]
    tls_echo: Option<u16>,
    /// Where the certificate of the plain TLS echo is
    #[arg(long, value_name = "DIR", hide = true)]
    folder: Option<PathBuf>,
}

impl Args {
    fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.clamp(0.1, 60.0))
    }
}

/// What is measured, and for how long.
struct Plan {
    rounds: usize,
    warm_up: Duration,
    measured: Duration,
    idle_counts: &'static [usize],
}

impl Plan {
    fn new(args: &Args) -> Self {
        if args.smoke {
            let (warm_up, measured) = (Duration::from_millis(100), Duration::from_millis(400));
            return Self { rounds: 1, warm_up, measured, idle_counts: &[200] };
        }
        let (measured, warm_up) = (args.measured(), Duration::from_millis(500));
        Self { rounds: args.rounds.unwrap_or(3), warm_up, measured, idle_counts: &[1000, 5000] }
    }
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the result and the words of a program"
)]
fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(page) => {
            println!("{}", page.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("httvps-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<String> {
    let file_limit = allow_many_files()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        if let (Some(port), Some(folder)) = (args.tls_echo, &args.folder) {
            return plain::serve_tls(port, folder).await.map(|()| String::new());
        }
        let gateway = args.gateway.clone().unwrap_or_default();
        let rig = Rig::new(gateway, args.haproxy.clone()).await?;
        if args.instructions {
            return instructions::markdown(&rig).await;
        }
        if let Some(ssserver) = &args.outline {
            return outline::measure(&rig, &Plan::new(args), ssserver, args.json, args.smoke).await;
        }
        if args.hostile.hostile {
            let length = (args.smoke, args.rounds, args.measured());
            return hostile::measure(&rig, &args.hostile, length, args.json).await;
        }
        let mut samples = Samples::default();
        let mut page = report::machine(rig.haproxy()) + "\n\n";
        if !args.tunnel.tunnel {
            let plan = Plan::new(args);
            measure(&rig, &plan, &mut samples).await?;
            page += &report::markdown(&samples, plan.idle_counts);
            page += "\n";
        }
        if args.tunnel.tunnel || args.smoke {
            let plan = tunnel::Plan::new(&args.tunnel, args.smoke, args.rounds, args.measured());
            tunnel::run(&rig, &plan, file_limit, &mut samples).await?;
            page += &tunnel::markdown(&samples, &plan);
        }
        Ok(if args.json { samples.to_json().to_string() } else { page })
    })
}

/// Every round runs everything, so that a machine that slows down slows all figures alike.
async fn measure(rig: &Rig, plan: &Plan, samples: &mut Samples) -> io::Result<()> {
    for _ in 0..plan.rounds {
        measure_handshakes(rig, plan, samples).await?;
        for payload in PAYLOADS {
            measure_echo(rig, plan, payload, samples).await?;
        }
        for &count in plan.idle_counts {
            measure_idle(rig, count, samples).await?;
        }
    }
    Ok(())
}

/// Each session is a descriptor here and one in the gateway, which inherits the limit; gives that.
fn allow_many_files() -> io::Result<Option<u64>> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(limit.current)
}

async fn measure_handshakes(rig: &Rig, plan: &Plan, samples: &mut Samples) -> io::Result<()> {
    for key_exchange in KeyExchange::ALL {
        let mut peers = vec![
            ("gateway", Depth::Session, rig.gateway(key_exchange, &[])?),
            ("tls", Depth::Tls, rig.tls_echo(key_exchange)?),
        ];
        // OpenSSL has the other key exchange from 3.5 on, Debian 12 an older one.
        if let (KeyExchange::X25519, Some(relay)) = (key_exchange, rig.relay().await?) {
            peers.push(("relay", Depth::Tls, relay));
        }
        for (who, depth, (server, endpoint)) in peers {
            let run = handshakes::run(&server, &endpoint, depth, plan.warm_up, plan.measured);
            let (count, used) = run.await?;
            let name = format!("handshake.{}.{who}", key_exchange.name());
            samples.add(format!("{name}_cpu_us"), used.server * 1e6 / count as f64);
            samples.add(format!("{name}_per_second"), count as f64 / used.seconds);
            samples.add("foreign", used.foreign);
        }
    }
    Ok(())
}

async fn measure_echo(
    rig: &Rig,
    plan: &Plan,
    payload: usize,
    samples: &mut Samples,
) -> io::Result<()> {
    let length = echo::Length { warm_up: plan.warm_up, measured: plan.measured };
    let (server, endpoint) = rig.gateway(KeyExchange::X25519, &[])?;
    let gateway = echo::through_gateway(&server, &endpoint, payload, length).await?;
    drop(server);
    let mut results = vec![("gateway", gateway)];
    let (server, endpoint) = rig.tls_echo(KeyExchange::X25519)?;
    results.push(("tls", echo::through_plain(&server, &endpoint, payload, length).await?));
    drop(server);
    if let Some((server, endpoint)) = rig.relay().await? {
        results.push(("relay", echo::through_plain(&server, &endpoint, payload, length).await?));
    }
    for (who, echo::Echoed { gib, used }) in results {
        let name = format!("echo.{payload}.{who}");
        samples.add(format!("{name}_cpu_s_per_gib"), used.server / gib);
        samples.add(format!("{name}_mib_per_s"), gib * 1024.0 / used.seconds);
        samples.add("foreign", used.foreign);
    }
    Ok(())
}

async fn measure_idle(rig: &Rig, count: usize, samples: &mut Samples) -> io::Result<()> {
    for (is_touched, figure) in [(false, "untouched_kib"), (true, "touched_kib")] {
        let (server, endpoint) = rig.gateway(KeyExchange::X25519, &[])?;
        let memory = idle::run(&server, &endpoint, count, is_touched).await?;
        samples.add(format!("idle.{count}.{figure}"), memory.each);
        if is_touched {
            samples.add(format!("idle.{count}.before_mib"), memory.before / 1024.0);
            samples.add(format!("idle.{count}.after_mib"), memory.after / 1024.0);
        }
    }
    Ok(())
}
