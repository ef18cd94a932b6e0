//! Prometheus metrics of the gateway.
//!
//! [`Metrics`] is cheap to clone; its fields (see [`Families`]) are the metrics, all of them
//! present from the start with every label value at 0. The names of the founding design are fixed:
//! dashboards and alerts stand on them.

mod exposition;
mod instrument;
mod labels;
mod nodes;
mod process;
mod reference;
mod table;

use crate::log::DroppedLines;
use prometheus_client::registry::Registry;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use httvps_proto::StreamEnd;

pub use instrument::Counts;
pub use labels::{
    Assignment, BackendErrorCode, ClientErrorCode, Direction, HandshakePhase, HandshakeResult,
    Label, Limit, MissingUpgrade, NodeDial, NodeProbe, RefusalReason, ReloadResult, SessionEnd,
};
pub use nodes::NodeMetrics;
pub use reference::reference_markdown;
pub use table::Families;

/// The metrics of one gateway; clones are the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    families: Families,
    registry: Registry,
    dropped_lines: OnceLock<DroppedLines>,
}

impl Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0.families
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Makes the metrics of a gateway, all at 0.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        registry.register_collector(Box::new(process::Process));
        Self(Arc::new(Inner { families, registry, dropped_lines: OnceLock::new() }))
    }

    /// Writes all metrics: the content type and the body.
    ///
    /// The format is Prometheus text 0.0.4, or OpenMetrics 1.0.0 when `accept`, the request's
    /// `Accept` header, names it. Reads a few files of `/proc`, which takes well under a
    /// millisecond.
    pub fn encode(&self, accept: Option<&str>) -> (&'static str, String) {
        if let Some(dropped) = self.0.dropped_lines.get() {
            self.log_lines_dropped.inner().store(dropped.count(), Ordering::Relaxed);
        }
        let mut text = String::with_capacity(16 * 1024);
        let encoded = prometheus_client::encoding::text::encode(&mut text, &self.0.registry);
        debug_assert!(encoded.is_ok(), "a String takes everything");
        if exposition::wants_open_metrics(accept) {
            (exposition::OPEN_METRICS, text)
        } else {
            (exposition::CLASSIC, exposition::classic(&text))
        }
    }

    /// Takes the number of lost log lines from here; the first call holds.
    pub fn count_dropped_lines(&self, dropped: DroppedLines) {
        let _ = self.0.dropped_lines.set(dropped);
    }

    /// Counts a connection that was accepted.
    pub fn connection_accepted(&self) {
        self.connections.inc();
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn track_connection(&self) -> OpenConnection {
        self.open_connections.inc();
        OpenConnection(self.clone())
    }

    /// Counts a handshake with a verdict.
    pub fn handshake(&self, result: HandshakeResult) {
        self.handshakes.inc(result);
    }

    /// Notes how long a handshake took, from accept to the verdict.
    pub fn handshake_duration(&self, duration: Duration) {
        self.handshake_duration.observe(duration.as_secs_f64());
    }

    /// Counts a connection that ended before a verdict.
    pub fn handshake_failed(&self, phase: HandshakePhase) {
        self.handshake_failures.inc(phase);
    }

    /// Counts a device that was refused.
    pub fn refusal(&self, reason: RefusalReason) {
        self.refusals.inc(reason);
    }

    /// Notes a backend request: how long it took, and the code of its failure, which may say that a
    /// limit applied.
    pub fn backend_request(&self, duration: Duration, failure: Option<BackendErrorCode>) {
        self.backend_request_duration.observe(duration.as_secs_f64());
        if let Some(code) = failure {
            self.backend_errors.inc(code);
        }
        match failure {
            Some(BackendErrorCode::Timeout) => self.limit_hit(Limit::BackendTimeout),
            Some(BackendErrorCode::BodyTooLarge) => self.limit_hit(Limit::BackendBody),
            Some(BackendErrorCode::CircuitOpen) => self.limit_hit(Limit::BackendBreaker),
            _ => {}
        }
    }

    /// Counts a stream that was opened.
    pub fn stream_opened(&self) {
        self.streams.inc();
        self.active_streams.inc();
    }

    /// Counts the end of a stream that was opened.
    pub fn stream_ended(&self, end: StreamEnd) {
        self.stream_ends.inc(end);
        self.active_streams.dec();
    }

    /// Counts the end of a session; the gauge of sessions is the caller's.
    pub fn session_ended(&self, end: SessionEnd) {
        self.session_ends.inc(end);
    }

    /// Counts that a limit applied.
    pub fn limit_hit(&self, limit: Limit) {
        self.limits_hit.inc(limit);
    }

    /// Counts datagrams that were dropped, if any.
    pub fn datagrams_dropped(&self, direction: Direction, count: u64) {
        if count > 0 {
            self.datagrams_dropped.inc_by(direction, count);
        }
    }

    /// Counts an `error` frame that a client caused.
    pub fn client_error(&self, code: ClientErrorCode) {
        self.client_errors.inc(code);
    }

    /// Counts a reload of the certificate.
    pub fn certificate_reloaded(&self, result: ReloadResult) {
        self.certificate_reloads.inc(result);
    }

    /// Notes when the certificate in use ends, in seconds since 1970.
    pub fn set_certificate_expiry(&self, seconds: i64) {
        self.certificate_expiry.set(seconds);
    }

    /// Counts a panic.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Notes whether the gateway is shutting down.
    pub fn set_draining(&self, is_draining: bool) {
        self.draining.set(i64::from(is_draining));
    }
}

/// A connection that counts as open until this is dropped.
#[derive(Debug)]
pub struct OpenConnection(Metrics);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open_connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Reads the classic format: family → (type, samples); strict about order and repetition.
    fn parse(text: &str) -> BTreeMap<String, (String, Vec<(String, f64)>)> {
        let mut families: BTreeMap<String, (String, Vec<(String, f64)>)> = BTreeMap::new();
        let (mut helped, mut current) = (BTreeSet::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(helped.insert(name.to_owned()), "two HELP lines: {name}");
                assert!(help.ends_with('.') && !help.ends_with(".."), "{line}");
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current, "HELP and TYPE of one family stand together");
                let known = ["counter", "gauge", "histogram"].contains(&kind);
                assert!(known, "{line}");
                let old = families.insert(name.to_owned(), (kind.to_owned(), Vec::new()));
                assert!(old.is_none(), "two TYPE lines: {name}");
            } else {
                assert!(!line.starts_with('#'), "{line}");
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let name = sample.split('{').next().unwrap();
                let (kind, samples) = families.get_mut(&current).unwrap();
                let fits = match kind.as_str() {
                    "histogram" => ["_bucket", "_sum", "_count"]
                        .iter()
                        .any(|suffix| name.strip_suffix(suffix) == Some(&current)),
                    _ => name == current,
                };
                assert!(fits, "{line} in {current}");
                let value = value.parse().unwrap();
                assert!(samples.iter().all(|(other, _)| other != sample), "twice: {sample}");
                samples.push((sample.to_owned(), value));
            }
        }
        families
    }

    fn value(text: &str, sample: &str) -> f64 {
        let line =
            text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(s, _)| s == sample));
        line.unwrap_or_else(|| panic!("no {sample}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    #[test]
    fn the_classic_format_has_every_family_once_and_every_label_value_at_zero() {
        let metrics = Metrics::new();
        // Families without a member are not written.
        let _node = metrics.node("fra-1");
        let (content_type, text) = metrics.encode(None);
        assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
        let families = parse(&text);
        for family in table::FAMILIES {
            let (kind, samples) = &families[family.name];
            assert_eq!(kind, family.kind);
            if family.name.ends_with("_info") || family.is_per_node {
                continue;
            }
            if let Some((label, values)) = (family.label)() {
                let expected: Vec<_> =
                    values.iter().map(|v| format!("{}{{{label}=\"{v}\"}}", family.name)).collect();
                let found: Vec<_> = samples.iter().map(|(sample, _)| sample.clone()).collect();
                assert_eq!(found, expected);
            }
            assert!(samples.iter().all(|(_, value)| *value == 0.0), "{}", family.name);
        }
        assert_eq!(families.len(), table::FAMILIES.len() + process::ROWS.len());
    }

    #[test]
    fn the_founding_names_are_there_to_the_letter() {
        let (_, text) = Metrics::new().encode(Some("text/plain"));
        for sample in [
            "httvps_gateway_active_sessions",
            "httvps_gateway_active_streams",
            "httvps_gateway_handshakes_total{result=\"accepted\"}",
            "httvps_gateway_handshakes_total{result=\"rejected\"}",
            "httvps_gateway_handshakes_total{result=\"error\"}",
            "httvps_gateway_handshake_duration_seconds_count",
            "httvps_gateway_handshake_duration_seconds_sum",
            "httvps_gateway_handshake_duration_seconds_bucket{le=\"+Inf\"}",
            "httvps_gateway_backend_errors_total{code=\"timeout\"}",
            "httvps_gateway_bytes_in_total",
            "httvps_gateway_bytes_out_total",
        ] {
            assert!(value(&text, sample) == 0.0, "{sample}");
        }
        let build =
            format!("httvps_gateway_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
        assert!((value(&text, &build) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn open_metrics_ends_with_its_mark_and_types_families_by_base_name() {
        let (content_type, text) = Metrics::new().encode(Some("application/openmetrics-text"));
        assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"));
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("# TYPE httvps_gateway_handshakes counter\n"));
        assert!(text.contains("# TYPE httvps_gateway_build info\n"));
    }

    #[test]
    fn what_is_counted_shows() {
        let metrics = Metrics::new();
        metrics.connection_accepted();
        let open = metrics.track_connection();
        metrics.handshake(HandshakeResult::Rejected);
        metrics.handshake_duration(Duration::from_millis(3));
        metrics.handshake_failed(HandshakePhase::Hello);
        metrics.refusal(RefusalReason::from_token("invalid_token"));
        metrics.backend_request(Duration::from_secs(20), Some(BackendErrorCode::Timeout));
        metrics.backend_request(Duration::from_millis(1), None);
        metrics.stream_opened();
        metrics.stream_opened();
        metrics.stream_ended(StreamEnd::Stalled);
        metrics.session_ended(SessionEnd::Drain);
        metrics.limit_hit(Limit::Dial);
        metrics.datagrams_dropped(Direction::Out, 3);
        metrics.client_error(ClientErrorCode::from(httvps_proto::ErrorCode::BadFrame));
        metrics.certificate_reloaded(ReloadResult::Failed);
        metrics.panicked();
        metrics.set_draining(true);
        metrics.bytes_in.inc_by(7);
        let (_, text) = metrics.encode(None);
        for (sample, expected) in [
            ("connections_total", 1.0),
            ("open_connections", 1.0),
            ("handshakes_total{result=\"rejected\"}", 1.0),
            ("handshake_duration_seconds_bucket{le=\"0.0025\"}", 0.0),
            ("handshake_duration_seconds_bucket{le=\"0.005\"}", 1.0),
            ("handshake_failures_total{phase=\"hello\"}", 1.0),
            ("refusals_total{reason=\"invalid_token\"}", 1.0),
            ("backend_errors_total{code=\"timeout\"}", 1.0),
            ("backend_request_duration_seconds_bucket{le=\"10.0\"}", 1.0),
            ("backend_request_duration_seconds_count", 2.0),
            ("streams_total", 2.0),
            ("active_streams", 1.0),
            ("stream_ends_total{reason=\"stalled\"}", 1.0),
            ("session_ends_total{reason=\"drain\"}", 1.0),
            ("limits_hit_total{limit=\"dial_timeout\"}", 1.0),
            ("datagrams_dropped_total{direction=\"in\"}", 0.0),
            ("datagrams_dropped_total{direction=\"out\"}", 3.0),
            ("limits_hit_total{limit=\"backend_timeout\"}", 1.0),
            ("client_errors_total{code=\"bad_frame\"}", 1.0),
            ("certificate_reloads_total{result=\"failed\"}", 1.0),
            ("panics_total", 1.0),
            ("draining", 1.0),
            ("bytes_in_total", 7.0),
        ] {
            let found = value(&text, &format!("httvps_gateway_{sample}"));
            assert!((found - expected).abs() < 1e-9, "{sample}: {found}");
        }
        drop(open);
        assert!(value(&metrics.encode(None).1, "httvps_gateway_open_connections") == 0.0);
    }
}
