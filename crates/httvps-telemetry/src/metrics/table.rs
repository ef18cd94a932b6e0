//! The table of all metrics of the gateway.

use super::instrument::{Build, Counts, Instrument};
use super::labels::{
    Assignment, BackendErrorCode, ClientErrorCode, Direction, HandshakePhase, HandshakeResult,
    Limit, MissingUpgrade, NodeDial, NodeProbe, RefusalReason, ReloadResult, SessionEnd,
};
use super::nodes::{CountsPerNode, PerNode};
use httvps_proto::StreamEnd;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What the reference page says of one metric.
pub(super) struct Family {
    /// The name as it is served in the classic format.
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
    pub(super) label: fn() -> Option<(&'static str, Vec<&'static str>)>,
    /// Whether it has the label `node` besides.
    pub(super) is_per_node: bool,
}

impl Family {
    pub(super) fn description(&self) -> String {
        sentence(self.help) + "."
    }
}

/// The help as one line, without its last full stop, which the encoder adds.
fn sentence(help: &str) -> String {
    let line = help.split_whitespace().collect::<Vec<_>>().join(" ");
    line.trim_end_matches('.').to_owned()
}

macro_rules! families {
    ($( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $name:literal; )+) => {
        /// The metrics of one gateway. Handles may be cloned; clones count together.
        #[derive(Debug)]
        pub struct Families {
            $( $(#[doc = $doc])+ pub $field: $type, )+
        }

        pub(super) static FAMILIES: &[Family] = &[$(
            Family {
                name: $name,
                kind: <$type as Instrument>::TYPE,
                help: concat!($($doc,)+),
                label: <$type as Instrument>::label,
                is_per_node: <$type as Instrument>::IS_PER_NODE,
            },
        )+];

        impl Families {
            /// Makes all metrics and puts them into the registry, in the order of the table.
            pub(super) fn register(registry: &mut Registry) -> Self {
                let families = Self { $( $field: <$type as Instrument>::create(), )+ };
                $(
                    let name = $name.trim_end_matches(<$type as Instrument>::SUFFIX);
                    registry.register(name, sentence(concat!($($doc,)+)), families.$field.handle());
                )+
                families
            }
        }
    };
}

families! {
    /// Sessions that are authenticated and open.
    active_sessions: Gauge = "httvps_gateway_active_sessions";
    /// Streams that are open.
    active_streams: Gauge = "httvps_gateway_active_streams";
    /// Bytes that clients sent and that wait for their targets, in both formats.
    target_queue: Gauge = "httvps_gateway_target_queue_bytes";
    /// Bytes that wait until clients take them: frames of what targets sent, and answers.
    client_queue: Gauge = "httvps_gateway_client_queue_bytes";
    /// Bytes by which windows have grown, of `GATEWAY_WINDOW_BUDGET_BYTES`.
    window_growth: Gauge = "httvps_gateway_window_growth_bytes";
    /// Handshakes with a verdict, by result.
    handshakes: Counts<HandshakeResult> = "httvps_gateway_handshakes_total";
    /// Time from accept to the verdict in seconds.
    handshake_duration: Histogram = "httvps_gateway_handshake_duration_seconds";
    /// Failed backend requests, by cause.
    backend_errors: Counts<BackendErrorCode> = "httvps_gateway_backend_errors_total";
    /// Payload bytes from clients.
    bytes_in: Counter = "httvps_gateway_bytes_in_total";
    /// Payload bytes to clients.
    bytes_out: Counter = "httvps_gateway_bytes_out_total";
    /// Devices that were refused, by reason; a subset of the rejected handshakes' causes.
    refusals: Counts<RefusalReason> = "httvps_gateway_refusals_total";
    /// Connections that ended before a verdict, by phase.
    handshake_failures: Counts<HandshakePhase> = "httvps_gateway_handshake_failures_total";
    /// Time of a backend request in seconds.
    backend_request_duration: Histogram = "httvps_gateway_backend_request_duration_seconds";
    /// Streams that were opened.
    streams: Counter = "httvps_gateway_streams_total";
    /// Streams that ended, by reason.
    stream_ends: Counts<StreamEnd> = "httvps_gateway_stream_ends_total";
    /// Datagrams that streams dropped for want of room, the oldest first, or because the system did not
    /// take them, by direction.
    datagrams_dropped: Counts<Direction> = "httvps_gateway_datagrams_dropped_total";
    /// Sessions that ended, by reason.
    session_ends: Counts<SessionEnd> = "httvps_gateway_session_ends_total";
    /// How often a limit applied, by the key of its setting.
    limits_hit: Counts<Limit> = "httvps_gateway_limits_hit_total";
    /// Error frames that clients caused, by code.
    client_errors: Counts<ClientErrorCode> = "httvps_gateway_client_errors_total";
    /// Connections that were accepted.
    connections: Counter = "httvps_gateway_connections_total";
    /// Connections that are open, with or without a session.
    open_connections: Gauge = "httvps_gateway_open_connections";
    /// Sessions that asked for a node, at their start or to replace a failing one, by its source
    /// or the reason why there was none.
    outline_assignments: Counts<Assignment> = "httvps_gateway_outline_assignments_total";
    /// Sessions that moved to another node because theirs failed or was removed.
    outline_moves: Counter = "httvps_gateway_outline_moves_total";
    /// Fetches of `ssconf://` and `https://` keys that failed.
    outline_key_failures: Counter = "httvps_gateway_outline_key_failures_total";
    /// Whether a node is healthy (0), degraded (1) or down (2).
    outline_node_state: PerNode<Gauge> = "httvps_gateway_outline_node_state";
    /// Streams that are open through a node.
    outline_active_streams: PerNode<Gauge> = "httvps_gateway_outline_active_streams";
    /// Dials to a node, by result.
    outline_dials: CountsPerNode<NodeDial> = "httvps_gateway_outline_dials_total";
    /// Time of a dial to a node in seconds.
    outline_dial_duration: PerNode<Histogram> = "httvps_gateway_outline_dial_duration_seconds";
    /// Time from the first byte of a stream to the first byte back in seconds.
    outline_first_byte_duration: PerNode<Histogram> = "httvps_gateway_outline_first_byte_duration_seconds";
    /// Payload bytes to a node.
    outline_bytes_in: PerNode<Counter> = "httvps_gateway_outline_bytes_in_total";
    /// Payload bytes from a node.
    outline_bytes_out: PerNode<Counter> = "httvps_gateway_outline_bytes_out_total";
    /// Probes of a node, by result.
    outline_probes: CountsPerNode<NodeProbe> = "httvps_gateway_outline_probes_total";
    /// Requests for the WebSocket's path that were not an upgrade, by what was missing: a proxy in front may not pass it on.
    not_upgraded: Counts<MissingUpgrade> = "httvps_gateway_not_upgraded_total";
    /// Reloads of the certificate, by result.
    certificate_reloads: Counts<ReloadResult> = "httvps_gateway_certificate_reloads_total";
    /// When the certificate in use ends, in seconds since 1970.
    certificate_expiry: Gauge = "httvps_gateway_certificate_expiry_timestamp_seconds";
    /// Panics that were caught.
    panics: Counter = "httvps_gateway_panics_total";
    /// Whether the gateway is shutting down: 0 or 1.
    draining: Gauge = "httvps_gateway_draining";
    /// Log lines that were lost because standard output did not keep up.
    log_lines_dropped: Counter = "httvps_gateway_log_lines_dropped_total";
    /// The version of the gateway, in a label; always 1.
    build: Build = "httvps_gateway_build_info";
}
