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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    if !is_a_date(SystemTime::now()) {
        return print::fail("the clock of this machine is before 1970 or after 9999; set it first");
    }
    match matches.subcommand() {
        Some(("gateway", matches)) => gateway::run(matches),
        Some(("connect", matches)) => block_on(connect::run(arguments(matches))),
        Some(("dev", matches)) => block_on(dev::run(arguments(matches))),
        Some(("backend", matches)) => backend::run(arguments(matches)),
        Some(("upstream", matches)) => block_on(upstream::run(arguments(matches))),
        _ => ExitCode::from(2),
    }
}

/// Whether certificates and HTTP have words for a time. The libraries for both panic where they do not.
fn is_a_date(time: SystemTime) -> bool {
    const YEAR_10000: Duration = Duration::from_hours(24 * 2_932_897);
    time.duration_since(UNIX_EPOCH).is_ok_and(|since| since < YEAR_10000)
}

/// Runs a subcommand on a runtime with one worker for each processor.
fn block_on(subcommand: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(subcommand),
        Err(error) => print::fail(format_args!("cannot start: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_outside_the_years_that_libraries_know_is_refused() {
        let day = Duration::from_hours(24);
        let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
        for (time, is_good) in [
            (UNIX_EPOCH - day, false),
            (UNIX_EPOCH, true),
            (SystemTime::now(), true),
            (last, true),
            (last + Duration::from_secs(1), false),
            (last + day * 365 * 1_501, false),
        ] {
            assert_eq!(is_a_date(time), is_good, "{time:?}");
        }
    }
}
