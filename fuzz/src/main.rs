//! Throws mutated input at every decoder of httvps, and operations at pairs of sessions.
//!
//! `cargo run --profile fuzz -p httvps-fuzz -- [--executions N] [--seed N] [decoder…]`
//!
//! Without a decoder all of them run. Seeds come from `testdata/`. It prints a table, and for a
//! finding the smallest input that still shows it; the exit status is then 1. The same seed gives the
//! same run, but for what a decoder draws itself (the nonce of an upgrade).

mod decoders;
mod mutate;
mod random;
mod run;

use run::Outcome;
use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

const USAGE: &str = "usage: httvps-fuzz [--executions N] [--seed N] [decoder…]";

struct Arguments {
    executions: u64,
    seed: u64,
    names: Vec<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut wanted = Arguments { executions: 200_000, seed: 1, names: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let text = words.next().unwrap_or_default().replace('_', "");
            text.parse().map_err(|_| format!("{word} needs a number\n{USAGE}"))
        };
        match word.as_str() {
            "--executions" => wanted.executions = number()?,
            "--seed" => wanted.seed = number()?,
            name if decoders::NAMES.contains(&name) => wanted.names.push(word),
            _ => return Err(format!("{USAGE}\ndecoders: {}", decoders::NAMES.join(", "))),
        }
    }
    Ok(wanted)
}

fn main() -> ExitCode {
    let wanted = match arguments() {
        Ok(wanted) => wanted,
        Err(text) => {
            say(&text);
            return ExitCode::from(2);
        }
    };
    run::quiet_panics();
    say("| decoder | executions | behaviours | executions/s | found |\n|---|---:|---:|---:|---|");
    let mut has_finding = false;
    for name in decoders::NAMES {
        if !wanted.names.is_empty() && !wanted.names.iter().any(|known| known == name) {
            continue;
        }
        let Some(mut decoder) = decoders::by_name(name) else { continue };
        let outcome = run::run(&mut *decoder, wanted.executions, wanted.seed);
        has_finding |= outcome.finding.is_some();
        say(&row(name, &outcome));
        if let Some(finding) = &outcome.finding {
            let mut text = format!(
                "\n{name}: execution {} of seed {}: {}\nsmallest input, in hexadecimal: ",
                finding.execution, wanted.seed, finding.message
            );
            for byte in &finding.input {
                let _ = write!(text, "{byte:02x}");
            }
            say(&format!("{text}\nas text: {:?}\n", String::from_utf8_lossy(&finding.input)));
        }
    }
    if has_finding { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn row(name: &str, outcome: &Outcome) -> String {
    let rate = outcome.executions as f64 / outcome.time.as_secs_f64().max(1e-9);
    let operations =
        outcome.operations.map_or(String::new(), |n| format!(" ({} operations)", grouped(n)));
    format!(
        "| {name} | {}{operations} | {} | {} | {} |",
        grouped(outcome.executions),
        grouped(outcome.behaviours as u64),
        grouped(rate as u64),
        if outcome.finding.is_some() { "**1**" } else { "0" },
    )
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn say(text: &str) {
    // When standard output is closed there is no other place to report to.
    let _ = writeln!(std::io::stdout(), "{text}");
}
