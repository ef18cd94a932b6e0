//! Log lines in the shapes of Go's `log/slog`, on standard output.
//!
//! An event's `message` is the `msg`, its other fields are the attributes, in their order; spans,
//! targets and source positions are not written. Values are escaped, so that one event is one line
//! whatever is in it, and cut after 1,024 characters. A token, key or payload is never logged: that
//! is the callers' promise.

mod event;
mod lines;
mod time;
mod value;

pub use value::controls_terminal;

use event::Slog;
use lines::{Gathering, LostLines};
use std::panic::{self, Location};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, SystemTime};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

/// Lines that may wait for standard output; further ones are lost and counted.
pub const MAX_WAITING_LINES: usize = 8_192;

/// How long the end of the process waits for the last lines to be written.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// The least level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What an operator wants to know.
    Info,
    /// What an operator should look into.
    Warn,
    /// What went wrong.
    Error,
}

impl LogLevel {
    fn filter(self) -> LevelFilter {
        match self {
            // What is traced is written as DEBUG.
            Self::Debug => LevelFilter::TRACE,
            Self::Info => LevelFilter::INFO,
            Self::Warn => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
        }
    }
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// That of slog's `JSONHandler`: `{"time":"…","level":"INFO","msg":"…","key":"value"}`.
    Json,
    /// That of slog's `TextHandler`: `time=… level=INFO msg=… key=value`.
    Text,
}

/// Sends the events of this process to standard output, for as long as the process lives.
///
/// Events of this project are logged from `level` on, those of libraries from WARN on. Writing
/// never blocks the caller: up to [`MAX_WAITING_LINES`] lines wait for a thread of their own,
/// further ones are lost and counted, and so are those that standard output does not take (a full
/// disk, a reader that has gone). If the process has a subscriber already, that one stays and
/// nothing is logged here.
pub fn init(level: LogLevel, format: LogFormat) -> LogGuard {
    let unwritten = LostLines::default();
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MAX_WAITING_LINES)
        .thread_name("log")
        .finish(Gathering::new(lines::standard_output(), unwritten.clone()));
    let dropped = DroppedLines { unread: writer.error_counter(), unwritten };
    let slog = Slog { format, clock: SystemTime::now };
    let _ = tracing::subscriber::set_global_default(subscriber(level, slog, writer));
    LogGuard { worker: Some(worker), dropped }
}

fn subscriber<W>(level: LogLevel, slog: Slog, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let of_others = level.filter().min(LevelFilter::WARN);
    let filter = Targets::new().with_target("httvps", level.filter()).with_default(of_others);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .log_internal_errors(false)
        .event_format(slog)
        .with_writer(writer);
    Registry::default().with(lines.with_filter(filter))
}

/// Keeps the log going. Dropping it writes the lines that wait, for at most two seconds.
#[derive(Debug)]
#[must_use = "without the guard the last lines are lost"]
pub struct LogGuard {
    worker: Option<WorkerGuard>,
    dropped: DroppedLines,
}

impl LogGuard {
    /// The lines lost so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.count()
    }

    /// A counter of lost lines that outlives the guard, for the metric.
    pub fn dropped_lines(&self) -> DroppedLines {
        self.dropped.clone()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let Some(worker) = self.worker.take() else { return };
        // On a thread: when standard output is not read, dropping the worker blocks for ever.
        let (done, is_done) = sync_channel(1);
        let flush = move || {
            drop(worker);
            let _ = done.send(());
        };
        if thread::Builder::new().name("log-flush".to_owned()).spawn(flush).is_ok() {
            let _ = is_done.recv_timeout(FLUSH_DEADLINE);
        }
    }
}

/// Counts the log lines that were lost; clones count the same lines.
#[derive(Debug, Clone)]
pub struct DroppedLines {
    /// Those that found the queue full.
    unread: ErrorCounter,
    /// Those that could not be written.
    unwritten: LostLines,
}

impl DroppedLines {
    /// The lines lost so far.
    pub fn count(&self) -> u64 {
        self.unread.dropped_lines() as u64 + self.unwritten.count()
    }
}

/// Makes every panic of the process one log line with its place, and calls `on_panic` for each.
///
/// Neither the panic's message, which may hold what a client sent, nor a backtrace is written.
pub fn install_panic_hook(on_panic: impl Fn() + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |info| {
        on_panic();
        log_panic(info.location());
    }));
}

fn log_panic(place: Option<&Location<'_>>) {
    if let Some(place) = place {
        tracing::error!(location = %place, "panic");
    } else {
        tracing::error!("panic");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::UNIX_EPOCH;

    fn clock() -> SystemTime {
        UNIX_EPOCH + Duration::new(1_795_401_540, 123_456_789)
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, format: LogFormat, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = subscriber(level, Slog { format, clock }, move || writer.clone());
        tracing::subscriber::with_default(subscriber, events);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    fn session_started() {
        tracing::info!(
            target: "httvps_test",
            device_id = "phone 1",
            session_id = %"0b6e",
            "session_started"
        );
    }

    #[test]
    fn json_is_that_of_the_founding_design() {
        assert_eq!(
            logged(LogLevel::Info, LogFormat::Json, session_started),
            "{\"time\":\"2026-11-23T02:39:00.123456789Z\",\"level\":\"INFO\",\"msg\":\"session_started\",\
             \"device_id\":\"phone 1\",\"session_id\":\"0b6e\"}\n"
        );
    }

    #[test]
    fn text_is_that_of_the_founding_design() {
        assert_eq!(
            logged(LogLevel::Info, LogFormat::Text, session_started),
            "time=2026-11-23T02:39:00.123Z level=INFO msg=session_started device_id=\"phone 1\" \
             session_id=0b6e\n"
        );
    }

    fn every_kind() {
        tracing::warn!(
            target: "httvps_test",
            a = -1_i64,
            b = u64::MAX,
            c = 0.25,
            d = true,
            e = u128::MAX,
            f = ?Some("x"),
            g = &b"\xff\n"[..],
            r#type = "t",
            "a message with \"quotes\"\nand {} lines", 2
        );
    }

    #[test]
    fn every_kind_of_value_in_json() {
        assert_eq!(
            logged(LogLevel::Info, LogFormat::Json, every_kind),
            "{\"time\":\"2026-11-23T02:39:00.123456789Z\",\"level\":\"WARN\",\
             \"msg\":\"a message with \\\"quotes\\\"\\nand 2 lines\",\"a\":-1,\"b\":18446744073709551615,\
             \"c\":0.25,\"d\":true,\"e\":340282366920938463463374607431768211455,\"f\":\"Some(\\\"x\\\")\",\
             \"g\":\"\u{fffd}\\n\",\"type\":\"t\"}\n"
        );
    }

    #[test]
    fn every_kind_of_value_in_text() {
        assert_eq!(
            logged(LogLevel::Info, LogFormat::Text, every_kind),
            "time=2026-11-23T02:39:00.123Z level=WARN msg=\"a message with \\\"quotes\\\"\\nand 2 lines\" a=-1 \
             b=18446744073709551615 c=0.25 d=true e=340282366920938463463374607431768211455 \
             f=\"Some(\\\"x\\\")\" g=\"\u{fffd}\\n\" type=t\n"
        );
    }

    #[test]
    fn hostile_values_stay_in_their_line() {
        let hostile = "x\"}\n{\"level\":\"ERROR\"\r\u{2028}\0\u{1b}[2J😀";
        let event = || tracing::info!(target: "httvps_test", device_id = hostile, "m");
        assert_eq!(
            logged(LogLevel::Info, LogFormat::Json, event),
            "{\"time\":\"2026-11-23T02:39:00.123456789Z\",\"level\":\"INFO\",\"msg\":\"m\",\"device_id\":\
             \"x\\\"}\\n{\\\"level\\\":\\\"ERROR\\\"\\r\\u2028\\u0000\\u001b[2J😀\"}\n"
        );
        assert_eq!(
            logged(LogLevel::Info, LogFormat::Text, event),
            "time=2026-11-23T02:39:00.123Z level=INFO msg=m device_id=\
             \"x\\\"}\\n{\\\"level\\\":\\\"ERROR\\\"\\r\\u2028\\x00\\x1b[2J😀\"\n"
        );
    }

    #[test]
    fn an_event_without_a_message_has_an_empty_one() {
        let event = || tracing::info!(target: "httvps_test", a = 1);
        assert!(
            logged(LogLevel::Info, LogFormat::Text, event).ends_with("level=INFO msg=\"\" a=1\n")
        );
    }

    #[test]
    fn long_values_are_cut() {
        let long = "ä".repeat(1_025);
        let event = || tracing::info!(target: "httvps_test", a = long, b = ?long, c = %long, "m");
        let line = logged(LogLevel::Info, LogFormat::Json, event);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        for key in ["a", "b", "c"] {
            let text = value[key].as_str().unwrap();
            assert!(text.ends_with('…'), "{key}");
            assert_eq!(text.chars().count(), event::MAX_VALUE + 1, "{key}");
        }
        let whole = "ä".repeat(1_024);
        let event = || tracing::info!(target: "httvps_test", a = whole, c = %whole, "m");
        assert!(!logged(LogLevel::Info, LogFormat::Json, event).contains('…'));
    }

    #[test]
    fn levels_and_other_crates_are_filtered() {
        let events = || {
            tracing::trace!(target: "httvps_mux", "a");
            tracing::debug!(target: "httvps", "b");
            tracing::info!(target: "httvps_gateway::accept", "c");
            tracing::warn!(target: "httvps", "d");
            tracing::error!(target: "httvps", "e");
            tracing::info!(target: "hyper", "f");
            tracing::warn!(target: "hyper", "g");
            tracing::error!(target: "rustls", "h");
        };
        for (level, expected) in [
            (LogLevel::Debug, "DEBUG a,DEBUG b,INFO c,WARN d,ERROR e,WARN g,ERROR h"),
            (LogLevel::Info, "INFO c,WARN d,ERROR e,WARN g,ERROR h"),
            (LogLevel::Warn, "WARN d,ERROR e,WARN g,ERROR h"),
            (LogLevel::Error, "ERROR e,ERROR h"),
        ] {
            let text = logged(level, LogFormat::Text, events);
            let short: Vec<_> = text
                .lines()
                .map(|line| line.split_once("level=").unwrap().1.replace("msg=", ""))
                .collect();
            assert_eq!(short.join(","), expected);
        }
    }

    #[test]
    fn a_panic_is_one_line_with_its_place() {
        let here = Location::caller();
        let event = || log_panic(Some(here));
        // The crate may be called anything where this file is tested.
        let line = logged(LogLevel::Error, LogFormat::Text, event);
        assert!(line.contains("level=ERROR msg=panic location="), "{line}");
        assert!(line.contains("log/mod.rs:"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }

    proptest! {
        #[test]
        fn one_event_is_one_line(message in any::<String>(), value in any::<String>()) {
            for format in [LogFormat::Json, LogFormat::Text] {
                let event = || tracing::info!(target: "httvps_test", value, "{}", message);
                let line = logged(LogLevel::Info, format, event);
                prop_assert_eq!(line.matches(['\n', '\r']).count(), 1);
                prop_assert!(line.ends_with('\n'));
                if format == LogFormat::Json {
                    prop_assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
                }
            }
        }
    }
}
