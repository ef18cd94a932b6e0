//! The tables.

use crate::PAYLOADS;
use crate::echo::{IN_FLIGHT, STREAMS};
use crate::handshakes::WORKERS;
use crate::samples::Samples;
use crate::session::KeyExchange;
use std::path::Path;
use std::process::Command;

/// All that was measured, as Markdown.
pub(crate) fn markdown(samples: &Samples, idle_counts: &[usize]) -> String {
    let mut page = handshakes(samples);
    page += &echo(samples);
    page += &idle(samples, idle_counts);
    page += &foreign(samples);
    page
}

/// How quiet the machine was.
pub(crate) fn foreign(samples: &Samples) -> String {
    let foreign = samples.largest("foreign").unwrap_or_default() * 100.0;
    let verdict = if foreign > 10.0 { " **Too much: repeat on a quiet machine.**" } else { "" };
    format!(
        "Programs outside the benchmark, also on other virtual machines, took at most {foreign:.0} % of \
         the machine during a measurement.{verdict}\n"
    )
}

fn handshakes(samples: &Samples) -> String {
    let mut rows = Vec::new();
    for key_exchange in KeyExchange::ALL {
        let name = key_exchange.name();
        let mut row = vec![name.to_owned()];
        row.extend(costs(samples, |who| format!("handshake.{name}.{who}_cpu_us"), 0));
        row.push(samples.cell(&format!("handshake.{name}.gateway_per_second"), 0));
        rows.push(row);
    }
    let head = [
        "key exchange",
        "gateway CPU µs",
        "TLS echo CPU µs",
        "gateway ÷ TLS echo",
        "HAProxy CPU µs",
        "gateway ÷ HAProxy",
        "gateway a second",
    ];
    let words = format!(
        "Handshakes, {WORKERS} at once. The gateway: TCP, full TLS 1.3 handshake, upgrade, `hello`, backend, \
         `auth_result`. The TLS echo (rustls) and HAProxy (TLS to a TCP echo): TCP, full TLS 1.3 handshake and \
         one byte there and back."
    );
    table(&words, &head, &rows)
}

/// What the gateway costs, then the TLS echo and HAProxy, each with the ratio to it.
fn costs(samples: &Samples, cost: impl Fn(&str) -> String, digits: usize) -> Vec<String> {
    let gateway = cost("gateway");
    let mut cells = vec![samples.cell(&gateway, digits)];
    for other in ["tls", "relay"].map(cost) {
        cells.extend([samples.cell(&other, digits), samples.ratio_cell(&gateway, &other)]);
    }
    cells
}

fn echo(samples: &Samples) -> String {
    let mut rows = Vec::new();
    for payload in PAYLOADS {
        let mut row = vec![format!("{} KiB", payload / 1024)];
        row.extend(costs(samples, |who| format!("echo.{payload}.{who}_cpu_s_per_gib"), 2));
        row.push(samples.cell(&format!("echo.{payload}.gateway_mib_per_s"), 0));
        rows.push(row);
    }
    let head = [
        "payload",
        "gateway CPU s/GiB",
        "TLS echo CPU s/GiB",
        "gateway ÷ TLS echo",
        "HAProxy CPU s/GiB",
        "gateway ÷ HAProxy",
        "gateway MiB/s",
    ];
    let words = format!(
        "JSON echo, 1 session, {STREAMS} streams with {IN_FLIGHT} messages each in flight; a GiB of \
         payload is counted once and crosses in both directions. The TLS echo (rustls) and HAProxy \
         (TLS to a TCP echo and back) pass the same bytes without looking into them."
    );
    table(&words, &head, &rows)
}

fn idle(samples: &Samples, counts: &[usize]) -> String {
    let mut rows = Vec::new();
    for count in counts {
        let cell = |name: &str| samples.cell(&format!("idle.{count}.{name}"), 1);
        rows.push(vec![
            count.to_string(),
            cell("untouched_kib"),
            cell("touched_kib"),
            cell("before_mib"),
            cell("after_mib"),
        ]);
    }
    let head = [
        "sessions",
        "KiB each",
        "KiB each after 64 KiB of echo",
        "gateway MiB before",
        "gateway MiB after their end",
    ];
    table("Resident memory of idle sessions, a fresh gateway each time.", &head, &rows)
}

/// `words`, and a table whose first column is text and the others figures.
pub(crate) fn table(words: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let rule = format!("| --- |{}\n", " ---: |".repeat(head.len() - 1));
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("{words}\n\n{}{rule}{rows}\n", line(&head))
}

/// The machine and the relay in one line, so that figures can be compared.
pub(crate) fn machine(haproxy: Option<&Path>) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib: f64 = field(&read("/proc/meminfo"), "MemTotal")
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_default();
    format!(
        "{} ({cores} cores), {:.0} GiB, Linux {}, {}.",
        field(&read("/proc/cpuinfo"), "model name"),
        kib / f64::from(1 << 20),
        read("/proc/sys/kernel/osrelease").trim(),
        haproxy.and_then(haproxy_version).unwrap_or_else(|| "no HAProxy".to_owned()),
    )
}

fn haproxy_version(haproxy: &Path) -> Option<String> {
    let output = Command::new(haproxy).arg("-v").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(2)?;
    Some(format!("HAProxy {version}"))
}
