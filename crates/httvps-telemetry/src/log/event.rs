//! One event as one line.

use super::LogFormat;
use super::time::{Precision, append as append_time};
use super::value::{append_json_float, append_json_string, append_text, append_text_float};
use std::fmt::{self, Write};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Most characters of a value that are logged.
pub(super) const MAX_VALUE: usize = 1_024;

/// Writes events as the handlers of Go's `log/slog` do: time, level, msg, then the attributes in
/// their order.
pub(super) struct Slog {
    pub(super) format: LogFormat,
    /// Where the time comes from.
    pub(super) clock: fn() -> SystemTime,
}

impl<S, N> FormatEvent<S, N> for Slog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line =
            Line { out: String::with_capacity(256), format: self.format, pass: Pass::Message };
        line.begin((self.clock)(), level(*event.metadata().level()));
        event.record(&mut line);
        if line.pass == Pass::Message {
            line.text("msg", "");
        }
        line.pass = Pass::Attributes;
        event.record(&mut line);
        if self.format == LogFormat::Json {
            line.out.push('}');
        }
        line.out.push('\n');
        writer.write_str(&line.out)
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

/// What of an event is being written: the message comes first wherever the event has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Message,
    MessageDone,
    Attributes,
}

struct Line {
    out: String,
    format: LogFormat,
    pass: Pass,
}

impl Line {
    fn begin(&mut self, time: SystemTime, level: &str) {
        match self.format {
            LogFormat::Json => {
                self.out.push_str("{\"time\":\"");
                append_time(&mut self.out, time, Precision::Nanoseconds);
                self.out.push_str("\",\"level\":\"");
                self.out.push_str(level);
                self.out.push('"');
            }
            LogFormat::Text => {
                self.out.push_str("time=");
                append_time(&mut self.out, time, Precision::Milliseconds);
                self.out.push_str(" level=");
                self.out.push_str(level);
            }
        }
    }

    /// Whether a field is due in this pass, and under which key.
    fn key(&mut self, field: &Field) -> Option<&'static str> {
        let name = field.name();
        match (self.pass, name == "message") {
            (Pass::Message, true) => {
                self.pass = Pass::MessageDone;
                Some("msg")
            }
            (Pass::Attributes, false) => Some(name),
            _ => None,
        }
    }

    fn append_key(&mut self, key: &str) {
        match self.format {
            LogFormat::Json => {
                self.out.push(',');
                append_json_string(&mut self.out, key);
                self.out.push(':');
            }
            LogFormat::Text => {
                self.out.push(' ');
                append_text(&mut self.out, key);
                self.out.push('=');
            }
        }
    }

    fn text(&mut self, key: &str, value: &str) {
        self.append_key(key);
        let cut;
        let value = match value.char_indices().nth(MAX_VALUE) {
            Some((end, _)) => {
                cut = format!("{}…", &value[..end]);
                &cut
            }
            None => value,
        };
        match self.format {
            LogFormat::Json => append_json_string(&mut self.out, value),
            LogFormat::Text => append_text(&mut self.out, value),
        }
    }

    /// A number or boolean: the same in both formats, never quoted.
    fn bare(&mut self, field: &Field, value: &dyn fmt::Display) {
        if let Some(key) = self.key(field) {
            self.append_key(key);
            let _ = write!(self.out, "{value}");
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some(key) = self.key(field) {
            let mut capped = Capped { text: String::new(), left: MAX_VALUE + 1 };
            // It fails when the value is longer than what is kept of it.
            let _ = write!(capped, "{value:?}");
            self.text(key, &capped.text);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(key) = self.key(field) {
            self.text(key, value);
        }
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        // A character has at most four bytes.
        let kept = &value[..value.len().min(4 * (MAX_VALUE + 1))];
        self.record_str(field, &String::from_utf8_lossy(kept));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if let Some(key) = self.key(field) {
            self.append_key(key);
            match self.format {
                LogFormat::Json => append_json_float(&mut self.out, value),
                LogFormat::Text => append_text_float(&mut self.out, value),
            }
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, &value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.bare(field, &value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.bare(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, &value);
    }
}

/// Keeps the first characters that are written and then fails, so that a huge value is not
/// formatted to its end.
struct Capped {
    text: String,
    left: usize,
}

impl Write for Capped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.left == 0 {
                return Err(fmt::Error);
            }
            self.left -= 1;
            self.text.push(character);
        }
        Ok(())
    }
}
