//! An honest neighbour beside parties that try to cost others something: before, during and after each attack.

mod deliveries;
mod floods;
mod neighbour;
mod report;
mod strangers;
mod windows;

use crate::backend;
use crate::rig::Rig;
use crate::samples::Samples;
use crate::session::KeyExchange;
use floods::Flood;
use neighbour::Neighbour;
use std::io;
use std::time::Duration;
use strangers::Stranger;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Of a gateway that is attacked.
const SETTINGS: [(&str, &str); 3] = [
    ("GATEWAY_UPSTREAM_MODE", "direct"),
    ("GATEWAY_EGRESS_ALLOW", "127.0.0.0/8"),
    ("GATEWAY_LOG_LEVEL", "error"),
];

/// The three parts of a measurement.
const PHASES: [&str; 3] = ["before", "during", "after"];

/// Options of the benchmark of attacks.
#[derive(clap::Args)]
#[group(id = "hostile_options")]
pub(crate) struct Options {
    /// Measure an honest neighbour beside attacks
    #[arg(long)]
    pub(crate) hostile: bool,
    /// Attacks of --hostile, separated by commas; all if not given
    #[arg(long, value_delimiter = ',', value_name = "ATTACKS", requires = "hostile")]
    attacks: Vec<String>,
}

/// How much is measured.
struct Plan {
    rounds: usize,
    /// Sessions that flood at once, one after the other.
    floods: &'static [usize],
    phase: Duration,
    /// How long the windows of a hostile device have to grow.
    growth: Duration,
    hostile_sessions: usize,
}

impl Plan {
    fn new(smoke: bool, rounds: Option<usize>, measured: Duration) -> Self {
        if smoke {
            let (phase, growth) = (Duration::from_millis(300), Duration::from_secs(1));
            return Self { rounds: 1, floods: &[2], phase, growth, hostile_sessions: 4 };
        }
        Self {
            rounds: rounds.unwrap_or(3),
            floods: &[2, 6],
            phase: measured,
            growth: Duration::from_secs(10),
            hostile_sessions: 23,
        }
    }
}

/// Runs all of it and gives the tables, or with `json` every value.
pub(crate) async fn measure(
    rig: &Rig,
    options: &Options,
    (smoke, rounds, measured): (bool, Option<usize>, Duration),
    json: bool,
) -> io::Result<String> {
    let plan = Plan::new(smoke, rounds, measured);
    let mut samples = Samples::default();
    let is_wanted = |name: &str| {
        options.attacks.is_empty() || options.attacks.iter().any(|wanted| wanted == name)
    };
    for _ in 0..plan.rounds {
        for flood in Flood::ALL.into_iter().filter(|flood| is_wanted(flood.name())) {
            for &sessions in plan.floods {
                beside_flood(rig, &plan, flood, sessions, &mut samples).await?;
            }
        }
        for stranger in Stranger::ALL.into_iter().filter(|stranger| is_wanted(stranger.name())) {
            beside_strangers(rig, &plan, stranger, &mut samples).await?;
        }
        if is_wanted("deliveries") {
            deliveries::measure(rig, plan.phase, &mut samples).await?;
        }
        if is_wanted("windows") {
            let (growth, sessions) = (plan.growth, plan.hostile_sessions);
            windows::measure(rig, plan.phase, growth, sessions, &mut samples).await?;
        }
    }
    Ok(if json {
        samples.to_json().to_string()
    } else {
        report::markdown(&samples, plan.floods, plan.hostile_sessions)
    })
}

/// What an honest echo and honest newcomers wait beside sessions of one device that flood.
async fn beside_flood(
    rig: &Rig,
    plan: &Plan,
    flood: Flood,
    sessions: usize,
    samples: &mut Samples,
) -> io::Result<()> {
    let (_server, endpoint) = rig.gateway_with(KeyExchange::X25519, &[], &SETTINGS)?;
    let targets = floods::Targets::start().await?;
    let neighbour = Neighbour::start(endpoint.clone(), targets.echo)?;
    let name = format!("{}.{sessions}", flood.name());
    let attack = |_| floods::run(flood, endpoint.clone(), targets.clone());
    beside(plan, &neighbour, &name, sessions, attack, samples).await;
    Ok(())
}

/// The same beside strangers who are never let in, or not soon.
async fn beside_strangers(
    rig: &Rig,
    plan: &Plan,
    stranger: Stranger,
    samples: &mut Samples,
) -> io::Result<()> {
    let pause = if stranger == Stranger::Hellos { strangers::SLOW } else { Duration::ZERO };
    let backend = format!("http://{}", backend::start_with(pause).await?);
    let settings = [&SETTINGS[..], &[("BACKEND_BASE_URL", &backend)]].concat();
    let (_server, endpoint) = rig.gateway_with(KeyExchange::X25519, &[], &settings)?;
    let targets = floods::Targets::start().await?;
    let neighbour = Neighbour::start(endpoint.clone(), targets.echo)?;
    let attack = |number| strangers::run(stranger, number, endpoint.clone());
    let name = format!("{}.{}", stranger.name(), stranger.count());
    beside(plan, &neighbour, &name, stranger.count(), attack, samples).await;
    Ok(())
}

/// What the honest ones see before, during and after `count` tasks that attack.
async fn beside<F: Future<Output = ()> + Send + 'static>(
    plan: &Plan,
    neighbour: &Neighbour,
    name: &str,
    count: usize,
    attack: impl Fn(usize) -> F,
    samples: &mut Samples,
) {
    let mut attackers = JoinSet::new();
    for phase in PHASES {
        if phase == "during" {
            for number in 0..count {
                attackers.spawn(attack(number));
            }
        } else {
            attackers.shutdown().await;
        }
        // What the last phase has left behind is not this one's.
        sleep(plan.phase / 4).await;
        neighbour.watch(plan.phase).await.note(&format!("{name}.{phase}"), samples);
    }
}
