//! `httvps gateway`.

use crate::print::{self, fail};
use crate::signals;
use clap::{Arg, ArgAction, ArgMatches, Command};
use httvps_gateway::config::{Config, Sources, clap_args};
use httvps_gateway::{Gateway, log};
use std::process::ExitCode;

const CHECK: &str = "check";

/// The subcommand with a flag for every setting.
pub(crate) fn command() -> Command {
    let check = Arg::new(CHECK)
        .long(CHECK)
        .action(ArgAction::SetTrue)
        .help("Validate the configuration, the certificate and the key; print the resolved values with secrets hidden; serve nothing");
    let command = Command::new("gateway")
        .about("Serve devices: TLS and WebSocket on /ws, the backend decides who may enter")
        .after_help(EXAMPLES)
        .arg(check);
    clap_args(command)
}

const EXAMPLES: &str = "A flag wins over the environment, the environment over the YAML file.

Examples:
  httvps gateway --config /etc/httvps/gateway.yaml
  httvps gateway --check --config /etc/httvps/gateway.yaml
  GATEWAY_TLS_CERT_PATH=cert.pem GATEWAY_TLS_KEY_PATH=key.pem \\
    BACKEND_BASE_URL=https://backend.example GATEWAY_UPSTREAM_MODE=direct httvps gateway

Signals: SIGTERM and SIGINT drain (a second one ends at once), SIGHUP reloads the certificate.";

/// Runs the gateway until it is told to end.
pub(crate) fn run(matches: &ArgMatches) -> ExitCode {
    let (config, mut warnings) = match Config::load(&Sources::from_process(matches)) {
        Ok(loaded) => loaded,
        Err(error) => return fail(error),
    };
    warnings.extend(httvps_gateway::host_warnings(&config));
    if matches.get_flag(CHECK) {
        return check(&config, &warnings);
    }
    // A core file would hold keys and tokens.
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let guard = log::init(config.log_level, config.log_format);
    for warning in &warnings {
        tracing::warn!(warning = warning.as_str(), "config_warning");
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.worker_threads > 0 {
        runtime.worker_threads(config.worker_threads);
    }
    let code = match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(config, &guard)),
        Err(error) => fail(format_args!("cannot start: {error}")),
    };
    drop(guard);
    code
}

async fn serve(config: Config, guard: &log::LogGuard) -> ExitCode {
    let signals = match signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(format_args!("cannot listen for signals: {error}")),
    };
    let gateway = match Gateway::bind(config).await {
        Ok(gateway) => gateway,
        Err(error) => return fail(error),
    };
    let metrics = gateway.metrics();
    metrics.count_dropped_lines(guard.dropped_lines());
    log::install_panic_hook(move || metrics.panicked());
    match gateway.run(signals).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(died) => fail(died),
    }
}

fn check(config: &Config, warnings: &[String]) -> ExitCode {
    for warning in warnings {
        print::say(format_args!("warning: {warning}"));
    }
    if let Err(error) = httvps_gateway::check(config) {
        return fail(error);
    }
    match print::result(config.resolved_text()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}
