//! `httvps`: the gateway, its client, a small backend, and all three at once.

mod backend;
mod connect;
mod dev;
mod dev_certificates;
mod gateway;
mod memory;
mod print;
mod secrets;
mod signals;
mod upstream;

use clap::{Args, Command, FromArgMatches};
use std::process::ExitCode;

// The default allocator keeps what it once took; this one gives pages back after a burst.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn command() -> Command {
    Command::new("httvps")
        .about("A VPN gateway hidden in HTTPS: the operator's own backend decides, device by device, who may tunnel")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(gateway::command())
        .subcommand(connect::ConnectArgs::augment_args(
            Command::new("connect").about("Connect to a gateway and offer a local SOCKS5 and HTTP proxy"),
        ))
        .subcommand(dev::DevArgs::augment_args(
            Command::new("dev").about("Run backend, gateway and local proxy together, to try things out"),
        ))
        .subcommand(backend::BackendArgs::augment_args(
            Command::new("backend").about("A small subscription backend over a file of devices"),
        ))
        .subcommand(upstream::UpstreamArgs::augment_args(
            Command::new("upstream").about("Look at the ways out: test the key of an Outline node or a proxy"),
        ))
}

/// Reads the arguments of a subcommand; a mistake in them ends the process with clap's words.
fn arguments<A: FromArgMatches>(matches: &clap::ArgMatches) -> A {
    A::from_arg_matches(matches).unwrap_or_else(|error| error.exit())
}

fn main() -> ExitCode {
    memory::give_back_promptly();
    let matches = command().get_matches();
    match matches.subcommand() {
        Some(("gateway", matches)) => gateway::run(matches),
        Some(("connect", matches)) => block_on(connect::run(arguments(matches))),
        Some(("dev", matches)) => block_on(dev::run(arguments(matches))),
        Some(("backend", matches)) => backend::run(arguments(matches)),
        Some(("upstream", matches)) => block_on(upstream::run(arguments(matches))),
        _ => ExitCode::from(2),
    }
}

/// Runs a subcommand on a runtime with one worker for each processor.
fn block_on(subcommand: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(subcommand),
        Err(error) => print::fail(format_args!("cannot start: {error}")),
    }
}
