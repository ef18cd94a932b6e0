//! `httvps gateway`.

use crate::print::{self, fail};
use crate::signals;
use clap::{Arg, ArgAction, ArgMatches, Command};
use httvps_config::{Config, Sources, clap_args};
use httvps_gateway::{Gateway, MemoryBudget};
use httvps_telemetry::log;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::SystemTime;

const CHECK: &str = "check";
const ALL: &str = "all";

/// The subcommand with a flag for every setting.
pub(crate) fn command() -> Command {
    let check = Arg::new(CHECK)
        .long(CHECK)
        .action(ArgAction::SetTrue)
        .help("Check the configuration, the certificate and the key; serve nothing")
        .long_help("Check the configuration, the certificate and the key, and serve nothing. Prints whom the certificate is for and when it ends, the settings that were set, with secrets hidden, and a verdict. Exit status 0: the gateway starts with this, ports aside");
    let all = Arg::new(ALL)
        .long(ALL)
        .action(ArgAction::SetTrue)
        .requires(CHECK)
        .help("With --check: print the settings that have their default too");
    let command = Command::new("gateway")
        .about("Serve devices: TLS and WebSocket on /ws, the backend decides who may enter")
        .after_help(
            "These are the most common settings. All of them, with examples: httvps gateway --help",
        )
        .after_long_help(EXAMPLES)
        .arg(check)
        .arg(all);
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
        return check(&config, &warnings, matches.get_flag(ALL));
    }
    // A core file would hold keys and tokens.
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let guard = log::init(config.log_level, config.log_format);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.worker_threads > 0 {
        runtime.worker_threads(config.worker_threads);
    }
    let code = match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(config, &warnings, &guard)),
        Err(error) => fail(format_args!("cannot start: {error}")),
    };
    drop(guard);
    code
}

async fn serve(config: Config, warnings: &[String], guard: &log::LogGuard) -> ExitCode {
    let signals = match signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(format_args!("cannot listen for signals: {error}")),
    };
    let gateway = match Gateway::bind(config).await {
        Ok(gateway) => gateway,
        Err(error) => return fail(error),
    };
    // Only now: a gateway that does not start says nothing but why.
    for warning in warnings {
        tracing::warn!(warning = warning.as_str(), "config_warning");
    }
    let metrics = gateway.metrics();
    metrics.count_dropped_lines(guard.dropped_lines());
    log::install_panic_hook(move || metrics.panicked());
    match gateway.run(signals).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(died) => fail(died),
    }
}

fn check(config: &Config, warnings: &[String], shows_all: bool) -> ExitCode {
    let mut warnings = warnings.to_vec();
    let certificate = match httvps_gateway::check(config) {
        Ok(certificate) => certificate,
        Err(error) => {
            tell(&warnings);
            return fail(error);
        }
    };
    warnings.extend(certificate.iter().filter_map(|facts| facts.date_words(SystemTime::now())));
    tell(&warnings);
    let mut text = String::new();
    if let Some(facts) = certificate {
        let names = if facts.names.is_empty() {
            "no name (subjectAltName), so that no client accepts it".to_owned()
        } else {
            facts.names.join(", ")
        };
        let _ = writeln!(text, "certificate: {names}; valid until {}", facts.end());
    }
    let budget = MemoryBudget::resolve(config.memory_budget_bytes);
    let _ = writeln!(text, "memory budget: {budget}");
    if shows_all {
        text += &config.resolved_text();
    } else {
        text += &config.chosen_text();
        text += "All other settings have their defaults; --check --all shows them.\n";
    }
    let warned = match warnings.len() {
        0 => String::new(),
        1 => "; there is one warning".to_owned(),
        count => format!("; there are {count} warnings"),
    };
    let _ = writeln!(text, "OK: the gateway starts with this configuration{warned}.");
    match print::result(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

fn tell(warnings: &[String]) {
    for warning in warnings {
        print::say(format_args!("warning: {warning}"));
    }
}
