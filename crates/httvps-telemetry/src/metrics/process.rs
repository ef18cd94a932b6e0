//! What the process uses, under the names that every Prometheus client library gives it.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};
use std::fs;

/// One metric of the process: name, type, help, and how it is found in a [`Reading`].
type Row = (&'static str, &'static str, &'static str, fn(&Reading) -> Option<f64>);

/// The metrics of the process, in the order of the reference page.
pub(super) const ROWS: [Row; 7] = [
    (
        "process_cpu_seconds_total",
        "counter",
        "User and system CPU time of the process in seconds",
        |reading| reading.stat.as_ref().map(|stat| stat.cpu_seconds),
    ),
    (
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory of the process in bytes",
        |reading| reading.stat.as_ref().map(|stat| stat.resident_bytes),
    ),
    (
        "process_virtual_memory_bytes",
        "gauge",
        "Virtual memory of the process in bytes",
        |reading| reading.stat.as_ref().map(|stat| stat.virtual_bytes),
    ),
    (
        "process_start_time_seconds",
        "gauge",
        "Start of the process in seconds since the Unix epoch",
        |reading| Some(reading.boot_seconds? + reading.stat.as_ref()?.started_after_boot),
    ),
    ("process_threads", "gauge", "Threads of the process", |reading| {
        reading.stat.as_ref().map(|stat| stat.threads)
    }),
    ("process_open_fds", "gauge", "Open file descriptors of the process", |reading| {
        reading.open_descriptors
    }),
    ("process_max_fds", "gauge", "Most file descriptors that the process may open", |reading| {
        reading.max_descriptors
    }),
];

/// Reads `/proc` at every scrape; what is not there is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        let reading = Reading::take();
        for (name, kind, help, value) in ROWS {
            let Some(value) = value(&reading) else { continue };
            let help = format!("{help}.");
            if kind == "counter" {
                let name = name.trim_end_matches("_total");
                let counter = ConstCounter::new(value);
                let metric = encoder.encode_descriptor(name, &help, None, counter.metric_type())?;
                counter.encode(metric)?;
            } else {
                let gauge = ConstGauge::new(value);
                let metric = encoder.encode_descriptor(name, &help, None, gauge.metric_type())?;
                gauge.encode(metric)?;
            }
        }
        Ok(())
    }
}

/// What the system says of this process at one moment.
pub(super) struct Reading {
    stat: Option<Stat>,
    boot_seconds: Option<f64>,
    open_descriptors: Option<f64>,
    max_descriptors: Option<f64>,
}

impl Reading {
    fn take() -> Self {
        let text = |path| fs::read_to_string(path).ok();
        Self {
            stat: text("/proc/self/stat").and_then(|text| Stat::parse(&text)),
            boot_seconds: text("/proc/stat").and_then(|text| boot_seconds(&text)),
            open_descriptors: open_descriptors().map(|count| count as f64),
            max_descriptors: getrlimit(Resource::Nofile).current.map(|limit| limit as f64),
        }
    }
}

/// Linux gives the count as the size of the directory since 6.2; before that it is counted.
fn open_descriptors() -> Option<u64> {
    let path = "/proc/self/fd";
    match fs::metadata(path).ok()?.len() {
        // One of the entries is the descriptor that reads the directory.
        0 => Some((fs::read_dir(path).ok()?.count() as u64).saturating_sub(1)),
        count => Some(count),
    }
}

fn boot_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The fields of `/proc/self/stat` that are reported, by their numbers in its manual page.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: f64,
    started_after_boot: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the name in parentheses and may hold anything, parentheses too.
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
        // The first field after the name is number 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            started_after_boot: field(22)? / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * rustix::param::page_size() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_any_name() {
        let line = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 8 18 1000 4096 2 21\n";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = Stat::parse(line).unwrap();
        assert!((stat.cpu_seconds - 200.0 / ticks).abs() < 1e-9);
        assert!((stat.threads - 8.0).abs() < 1e-9);
        assert!((stat.started_after_boot - 1000.0 / ticks).abs() < 1e-9);
        assert!((stat.virtual_bytes - 4096.0).abs() < 1e-9);
        assert!((stat.resident_bytes - 2.0 * rustix::param::page_size() as f64).abs() < 1e-9);
    }

    #[test]
    fn a_broken_stat_line_is_nothing() {
        for line in ["", "1 (a", "1 (a) S 1 2", "1 (a) S x"] {
            assert_eq!(Stat::parse(line), None, "{line}");
        }
        assert_eq!(boot_seconds("cpu 1\nbtime 1700000000\nx"), Some(1_700_000_000.0));
        assert_eq!(boot_seconds("cpu 1\n"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let reading = Reading::take();
        for (name, _, _, value) in ROWS {
            assert!(value(&reading).is_some_and(|value| value >= 0.0), "{name}");
        }
        let open = reading.open_descriptors.unwrap();
        assert!(open >= 3.0 && open <= reading.max_descriptors.unwrap());
    }
}
