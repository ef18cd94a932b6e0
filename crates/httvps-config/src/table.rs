//! The table of all settings.
//!
//! The reference page, the example YAML, `--help`, the parsing and the [`Config`] struct all come
//! from here.

use super::choice::Choice;
use super::kind::{
    Address, Endpoint, File, Hidden, Maybe, Networks, Origins, Route, Size, Switch, Time, Url,
    Whole, YamlFile,
};
use super::listen::ListenAddr;
use super::secret::Secret;
use super::setting::settings;
use super::source::{Addresses, Interface};
use super::url::BackendUrl;
use crate::{OutlineAssign, UpstreamMode};
use httvps_proto::Target;
use httvps_telemetry::log::{LogFormat, LogLevel};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

settings! {
    "Listening and TLS" {
        /// Where devices connect, over TLS. An empty host means every address of this host, IPv6
        /// and IPv4.
        listen_addr: ListenAddr as Address, env GATEWAY_LISTEN_ADDR, default ":8443";

        /// Where `/metrics`, `/healthz` and `/readyz` are served, over plain HTTP. When it is set,
        /// the main listener does not serve them. Recommended.
        admin_addr: Option<ListenAddr> as Maybe<Address>, env GATEWAY_ADMIN_ADDR;

        /// The certificate chain of the gateway, PEM, its own certificate first.
        tls_cert_path: PathBuf as File, env GATEWAY_TLS_CERT_PATH;

        /// The private key of the certificate, PEM.
        tls_key_path: PathBuf as File, env GATEWAY_TLS_KEY_PATH;

        /// How often the certificate and key files are looked at; a change is loaded without
        /// dropping a session.
        tls_reload_interval: Duration as Time, env GATEWAY_TLS_RELOAD_INTERVAL, default "10s",
            range "100ms" to "24h", zero "load only on SIGHUP";

        /// The `Origin` headers that may open sessions; empty lets in every one. Requests without
        /// the header, which do not come from browsers, are let in always.
        allowed_origins: Vec<String> as Origins, env GATEWAY_ALLOWED_ORIGINS;
    }

    "Backend" {
        /// The base URL of the subscription backend. The paths of the backend API are added to its
        /// path.
        backend_base_url: BackendUrl as Url, env BACKEND_BASE_URL;

        /// How long one backend request may take in all, connecting included. It lies inside
        /// `handshake_timeout`.
        backend_timeout: Duration as Time, env BACKEND_TIMEOUT, default "5s", range "10ms" to "10m";

        /// The secret that the backend shares with this gateway, sent as `X-Internal-Secret`. Not a
        /// flag, because other users of the host can read command lines.
        backend_secret: Option<Secret> as Maybe<Hidden>, env BACKEND_GATEWAY_SECRET;

        /// Certificates, PEM, that are trusted for an `https` backend besides those of the system.
        backend_ca_path: Option<PathBuf> as Maybe<File>, env BACKEND_CA_PATH;

        /// Backend requests at once; further handshakes wait for one to end, and those of the source
        /// address that has the fewest requests under way come first.
        backend_max_concurrent: usize as Whole, env BACKEND_MAX_CONCURRENT, default "256",
            range "1" to "65536";

        /// How long a connection to the backend is kept that is not used. Keep it below the time after
        /// which the backend, or what stands in front of it, closes such a connection.
        backend_idle_timeout: Duration as Time, env BACKEND_IDLE_TIMEOUT, default "4s",
            range "100ms" to "10m", zero "a new connection for each request";

        /// Bytes of a backend answer; a larger one is a backend error.
        backend_max_body_bytes: usize as Size, env BACKEND_MAX_BODY_BYTES, default "64KiB",
            range "1KiB" to "16MiB";

        /// Failed backend requests in a row after which handshakes fail at once, until a probe
        /// succeeds.
        backend_breaker_failures: u32 as Whole, env BACKEND_BREAKER_FAILURES, default "16",
            range "1" to "1000000", zero "never";

        /// How long the backend is left alone before it is probed again.
        backend_breaker_cooldown: Duration as Time, env BACKEND_BREAKER_COOLDOWN, default "1s",
            range "10ms" to "10m";
    }

    "Upstream" {
        /// Where streams go: `fake` and `echo` send every byte back, `blackhole` drops them,
        /// `direct` opens TCP connections and UDP sockets to the targets that clients name, `outline`
        /// does so through an Outline (Shadowsocks) node that each session is given, `proxy` through
        /// a node of the pool (`outline_nodes_path`), most often a SOCKS5 or HTTP proxy.
        upstream_mode: UpstreamMode as Choice, env GATEWAY_UPSTREAM_MODE, default "fake";

        /// Networks that `direct` may reach although they are not public, and to which a SOCKS5 proxy
        /// (`outline`, `proxy`) may have its datagrams sent. A bare address is a network of one.
        egress_allow: Vec<IpNet> as Networks, env GATEWAY_EGRESS_ALLOW;

        /// The address of this host that the connections and datagrams of `direct` leave from: one
        /// of IPv4, of IPv6, or one of each. Targets of a family without one cannot be reached then.
        direct_source_address: Vec<IpAddr> as Addresses, env GATEWAY_DIRECT_SOURCE_ADDRESS;

        /// The network interface that the connections and datagrams of `direct` leave by. Questions to
        /// name servers do not.
        direct_interface: Option<String> as Maybe<Interface>, env GATEWAY_DIRECT_INTERFACE;

        /// How long opening one upstream may take, name resolution included.
        dial_timeout: Duration as Time, env GATEWAY_DIAL_TIMEOUT, default "10s",
            range "10ms" to "5m";

        /// A stream of bytes on which no byte moved for so long is ended.
        stream_idle_timeout: Duration as Time, env GATEWAY_STREAM_IDLE_TIMEOUT, default "1h",
            range "100ms" to "168h";

        /// A stream of datagrams on which none moved for so long is ended; to port 53 (DNS) it is at most
        /// 17 s.
        datagram_idle_timeout: Duration as Time, env GATEWAY_DATAGRAM_IDLE_TIMEOUT, default "5m",
            range "100ms" to "168h";

        /// A stream whose target takes no byte for so long while bytes wait for it is ended.
        stream_stall_timeout: Duration as Time, env GATEWAY_STREAM_STALL_TIMEOUT, default "30s",
            range "10ms" to "1h";
    }

    "Nodes (upstream_mode outline and proxy)" {
        /// Who gives a session its node, with `upstream_mode` `outline`: the backend
        /// (`assign-outline`), the pool of `outline_nodes_path`, or the pool only when the backend
        /// has no answer. With `proxy` it is the pool.
        outline_assign: OutlineAssign as Choice, env GATEWAY_OUTLINE_ASSIGN, default "backend";

        /// The file with the pool: `nodes:`, a list of `id`, `key`, and optionally `region`, `weight`
        /// (1) and `priority` (0, the lowest number is used first). A key is Outline's (`ss://`,
        /// `ssconf://` or `https://` with a path) or a proxy's (`socks5://`, `http://` or `https://`
        /// with `[user:password@]host:port` and nothing behind). The file holds secrets.
        outline_nodes_path: Option<PathBuf> as Maybe<YamlFile>, env GATEWAY_OUTLINE_NODES_PATH;

        /// How often that file is looked at; a change is taken over without dropping a stream.
        outline_nodes_reload_interval: Duration as Time, env GATEWAY_OUTLINE_NODES_RELOAD_INTERVAL,
            default "10s", range "100ms" to "24h", zero "load only on SIGHUP";

        /// How often `ssconf://` and `https://` keys are fetched again; the last good copy stays in
        /// use when that fails.
        outline_key_refresh: Duration as Time, env GATEWAY_OUTLINE_KEY_REFRESH, default "10m",
            range "1s" to "168h";

        /// Certificates, PEM, that are trusted for `ssconf://` and `https://` keys and for `https://`
        /// proxies besides those of the system.
        outline_ca_path: Option<PathBuf> as Maybe<File>, env GATEWAY_OUTLINE_CA_PATH;

        /// How long connecting to one node may take, with TLS and password where it has them; then the next one is tried, within
        /// `dial_timeout`.
        outline_dial_timeout: Duration as Time, env GATEWAY_OUTLINE_DIAL_TIMEOUT, default "3s",
            range "10ms" to "5m";

        /// A stream that has sent something and for so long got nothing back makes its node suspect:
        /// three in a row ask for a probe. The stream itself goes on.
        outline_first_byte_timeout: Duration as Time, env GATEWAY_OUTLINE_FIRST_BYTE_TIMEOUT,
            default "10s", range "10ms" to "10m";

        /// Where probes go through each node: a web server, which is asked for `HEAD /` in plain
        /// HTTP.
        outline_probe_target: Target as Endpoint, env GATEWAY_OUTLINE_PROBE_TARGET,
            default "example.com:80";

        /// How often each node is probed.
        outline_probe_interval: Duration as Time, env GATEWAY_OUTLINE_PROBE_INTERVAL,
            default "15s", range "100ms" to "24h", zero "never: streams find out";

        /// How long the answer to a probe may take.
        outline_probe_timeout: Duration as Time, env GATEWAY_OUTLINE_PROBE_TIMEOUT, default "5s",
            range "10ms" to "5m";

        /// Failed dials in a row, or failed probes in a row, that take a node down.
        outline_down_failures: u32 as Whole, env GATEWAY_OUTLINE_DOWN_FAILURES, default "3",
            range "1" to "1000";

        /// Successes in a row that make a node healthy again.
        outline_recover_successes: u32 as Whole, env GATEWAY_OUTLINE_RECOVER_SUCCESSES,
            default "2", range "1" to "1000";

        /// How long a node that went down is left alone before it is tried again; doubled up to 8
        /// times as long while it stays down.
        outline_cooldown: Duration as Time, env GATEWAY_OUTLINE_COOLDOWN, default "5s",
            range "10ms" to "1h";

        /// Mean time to connect above which a node counts as degraded.
        outline_slow_dial: Duration as Time, env GATEWAY_OUTLINE_SLOW_DIAL, default "1s",
            range "1ms" to "1m", zero "never";
    }

    "Sessions and streams" {
        /// Streams that one session may have open at once.
        max_streams_per_session: usize as Whole, env GATEWAY_MAX_STREAMS, default "8",
            range "1" to "65536";

        /// `stream_open` frames that one session may send in a second.
        max_stream_opens_per_second: u32 as Whole, env GATEWAY_MAX_STREAM_OPENS_PER_SECOND,
            default "200", range "1" to "1000000", zero "no limit";

        /// `stream_open` frames that may come at once before the rate holds.
        max_stream_open_burst: u32 as Whole, env GATEWAY_MAX_STREAM_OPEN_BURST, default "500",
            range "1" to "1000000";

        /// Sessions at once; newcomers beyond are refused.
        max_sessions: usize as Whole, env GATEWAY_MAX_SESSIONS, default "0",
            range "1" to "100000000",
            zero "only the limits of descriptors and memory";

        /// Sessions that one device may have at once; newcomers beyond are refused.
        max_sessions_per_device: usize as Whole, env GATEWAY_MAX_SESSIONS_PER_DEVICE, default "64",
            range "1" to "1000000", zero "no limit";

        /// Streams that all sessions of one device together may have open at once. The default
        /// is no lower than `max_streams_per_session`.
        max_streams_per_device: usize as Whole, env GATEWAY_MAX_STREAMS_PER_DEVICE, default "512",
            range "1" to "1000000", zero "no limit";

        /// Streams that all sessions of one device together may open in a second, also when it comes back with new
        /// sessions. The default is no lower than `max_stream_opens_per_second`.
        max_device_opens_per_second: u32 as Whole, env GATEWAY_MAX_DEVICE_OPENS_PER_SECOND,
            default "1000", range "1" to "1000000", zero "no limit";

        /// Streams that one device may open at once before the rate holds. The default is no
        /// lower than `max_stream_open_burst`.
        max_device_open_burst: u32 as Whole, env GATEWAY_MAX_DEVICE_OPEN_BURST, default "2000",
            range "1" to "1000000";

        /// File descriptors that one device may use: one a session, and one a stream that leaves over the network, also
        /// while its last bytes are being delivered. The default is no lower than what one session needs; it is never more
        /// than a quarter of the process's limit.
        max_descriptors_per_device: usize as Whole, env GATEWAY_MAX_DESCRIPTORS_PER_DEVICE,
            default "1024", range "1" to "1000000", zero "a quarter of the process's limit";

        /// Closed streams of all sessions whose last bytes are being delivered at once. Beyond it the gateway closes a
        /// target's connection at once: in order when the system has taken everything, else with a reset.
        max_deliveries: usize as Whole, env GATEWAY_MAX_DELIVERIES, default "4096",
            range "1" to "1000000";

        /// The same for the streams of one device.
        max_deliveries_per_device: usize as Whole, env GATEWAY_MAX_DELIVERIES_PER_DEVICE,
            default "256", range "1" to "1000000", zero "no limit";

        /// Bytes of a `stream_id`.
        max_stream_id_bytes: usize as Size, env GATEWAY_MAX_STREAM_ID_BYTES, default "64",
            range "1" to "1KiB";

        /// Bytes of a `device_id`.
        max_device_id_bytes: usize as Size, env GATEWAY_MAX_DEVICE_ID_BYTES, default "128",
            range "1" to "1KiB";

        /// Bytes of a `token`.
        max_token_bytes: usize as Size, env GATEWAY_MAX_TOKEN_BYTES, default "8KiB",
            range "16" to "64KiB";

        /// `error` frames that one client may cause in a second; a client that causes more is
        /// closed.
        max_errors_per_second: u32 as Whole, env GATEWAY_MAX_ERRORS_PER_SECOND, default "100",
            range "1" to "1000000";

        /// `error` frames that may be caused at once before the rate holds.
        max_error_burst: u32 as Whole, env GATEWAY_MAX_ERROR_BURST, default "1000",
            range "1" to "1000000";
    }

    "Handshake" {
        /// From accept to an authenticated session, one absolute deadline: TLS, headers, `hello`
        /// and the backend's answer lie inside, and nothing that the client sends extends it.
        handshake_timeout: Duration as Time, env GATEWAY_HANDSHAKE_TIMEOUT, default "10s",
            range "100ms" to "10m";

        /// How long the TLS handshake may take; `handshake_timeout` caps it.
        tls_handshake_timeout: Duration as Time, env GATEWAY_TLS_HANDSHAKE_TIMEOUT, default "5s",
            range "100ms" to "10m";

        /// How long the request headers may take; `handshake_timeout` caps it.
        header_timeout: Duration as Time, env GATEWAY_HEADER_TIMEOUT, default "5s",
            range "100ms" to "10m";

        /// Bytes of the request line and headers.
        max_header_bytes: usize as Size, env GATEWAY_MAX_HEADER_BYTES, default "16KiB",
            range "8KiB" to "1MiB";

        /// Header fields of a request.
        max_headers: usize as Whole, env GATEWAY_MAX_HEADERS, default "100", range "16" to "1024";

        /// Connections at once that are not yet sessions; a newcomer beyond takes the place of the
        /// oldest of the busiest address.
        max_handshakes: usize as Whole, env GATEWAY_MAX_HANDSHAKES, default "4096",
            range "1" to "1000000";

        /// Connections at once from one address that are not yet sessions; a newcomer beyond takes the
        /// place of the oldest of them that does not wait for the backend. Carriers put thousands
        /// of devices behind one address. With IPv6 a /64 counts as one address; a /56 may have
        /// twice as many, a /48 four times.
        max_handshakes_per_source: usize as Whole, env GATEWAY_MAX_HANDSHAKES_PER_SOURCE,
            default "256",
            range "1" to "1000000", zero "no limit";

        /// Bytes that all connections together may hold that are not yet sessions; above it, and above a quarter of
        /// the memory budget, the largest are closed first. One counts 16 KiB and what it has sent that is not
        /// complete, or does not read.
        handshake_budget_bytes: usize as Size, env GATEWAY_HANDSHAKE_BUDGET_BYTES,
            default "128MiB", range "1MiB" to "64GiB";

        /// Requests that are no upgrade, or WebSocket pings, that one connection may send before it is a session.
        max_exchanges_before_auth: usize as Whole, env GATEWAY_MAX_EXCHANGES_BEFORE_AUTH,
            default "100", range "1" to "1000000";

        /// Networks to which `max_handshakes_per_source` does not apply: those of a proxy or load
        /// balancer in front of the gateway, from which all devices seem to come.
        max_handshakes_per_source_exempt: Vec<IpNet> as Networks,
            env GATEWAY_MAX_HANDSHAKES_PER_SOURCE_EXEMPT;
    }

    "Messages and queues" {
        /// Bytes of a message before the device is authenticated; a larger one closes the
        /// connection with 1009.
        max_message_bytes_before_auth: usize as Size, env GATEWAY_MAX_MESSAGE_BYTES_BEFORE_AUTH,
            default "16KiB",
            range "1KiB" to "1MiB";

        /// Bytes of a message of a session; a larger one closes the connection with 1009.
        max_message_bytes: usize as Size, env GATEWAY_MAX_MESSAGE_BYTES, default "1MiB",
            range "4KiB" to "64MiB";

        /// How long a message of a session may take from its first byte to its last; beyond, the session ends with
        /// 1008. Time in which the gateway does not read, because targets or the client do not, does not count.
        message_timeout: Duration as Time, env GATEWAY_MESSAGE_TIMEOUT, default "1m",
            range "100ms" to "1h", zero "never";

        /// WebSocket fragments of one message; more close the connection with 1009.
        max_message_fragments: usize as Whole, env GATEWAY_MAX_MESSAGE_FRAGMENTS, default "1024",
            range "1" to "65536";

        /// Bytes that may wait for one client; then its streams are not read any further. The same bound holds for
        /// bytes of one client that wait for its targets; then the client is not read any further.
        max_session_queue_bytes: usize as Size, env GATEWAY_MAX_SESSION_QUEUE_BYTES,
            default "256KiB",
            range "16KiB" to "64MiB";

        /// Bytes that a client of the JSON format sent on one stream and that wait for its target; then the
        /// client is not read any further. The wire format v2 has credit instead.
        max_stream_queue_bytes: usize as Size, env GATEWAY_MAX_STREAM_QUEUE_BYTES, default "64KiB",
            range "4KiB" to "16MiB";

        /// Bytes that a client of the wire format v2 may have under way on one stream towards its
        /// target. Windows begin at 64 KiB and grow as the path and the target need it.
        max_stream_window_bytes: usize as Size, env GATEWAY_MAX_STREAM_WINDOW_BYTES,
            default "16MiB", range "64KiB" to "1GiB";

        /// The same for all streams of one session, which begin at 256 KiB. It is also the most
        /// memory that stuck targets of one session can hold.
        max_session_window_bytes: usize as Size, env GATEWAY_MAX_SESSION_WINDOW_BYTES,
            default "32MiB", range "256KiB" to "1GiB";

        /// What the windows of all sessions together may grow by above their beginning. A session
        /// has no more of it than a quarter of what it leaves, the sessions of a device no more than half; with all used
        /// up windows stay as they are. What a session has not used for 10 seconds is there for others.
        window_budget_bytes: usize as Size, env GATEWAY_WINDOW_BUDGET_BYTES, default "256MiB",
            range "256KiB" to "64GiB";

        /// The same for the sessions of one device.
        window_budget_per_device_bytes: usize as Size, env GATEWAY_WINDOW_BUDGET_PER_DEVICE_BYTES,
            default "64MiB", range "256KiB" to "64GiB", zero "only the budget of all";

        /// A client that takes no byte for so long while bytes wait for it loses its session.
        write_timeout: Duration as Time, env GATEWAY_WRITE_TIMEOUT, default "30s",
            range "10ms" to "1h";

        /// How often a silent client is pinged.
        keepalive_interval: Duration as Time, env GATEWAY_KEEPALIVE_INTERVAL, default "25s",
            range "10ms" to "1h";

        /// Pings in a row without an answer that end a session.
        keepalive_max_missed: u32 as Whole, env GATEWAY_KEEPALIVE_MAX_MISSED, default "2",
            range "1" to "100";
    }

    "Process" {
        /// The memory that the gateway may use. Its own resident size is held against it.
        memory_budget_bytes: u64 as Size, env GATEWAY_MEMORY_BUDGET_BYTES, default "0",
            range "16MiB" to "16384GiB",
            zero "the smallest limit of the control groups, or else the host's memory";

        /// Percent of the memory budget above which the largest connections that are no sessions yet are closed, and newcomers
        /// are refused; sessions stay.
        memory_refuse_percent: u32 as Whole, env GATEWAY_MEMORY_REFUSE_PERCENT, default "95",
            range "10" to "100";

        /// File descriptors that are kept free: with fewer left under the process limit, newcomers
        /// are refused, and with fewer than twice as many, streams that need a socket.
        descriptor_reserve: u64 as Whole, env GATEWAY_DESCRIPTOR_RESERVE, default "64",
            range "0" to "1000000";

        /// How long accepting rests when the system has no descriptor left.
        accept_pause: Duration as Time, env GATEWAY_ACCEPT_PAUSE, default "500ms",
            range "1ms" to "1m";

        /// After SIGTERM: how long until the process ends, whatever is still open.
        drain_timeout: Duration as Time, env GATEWAY_DRAIN_TIMEOUT, default "30s",
            range "0s" to "1h";

        /// After SIGTERM: the time over which the sessions are closed one by one, so that the
        /// clients do not come back all at once.
        drain_spread: Duration as Time, env GATEWAY_DRAIN_SPREAD, default "10s", range "0s" to "1h";

        /// Threads that do the work.
        worker_threads: usize as Whole, env GATEWAY_WORKER_THREADS, default "0",
            range "1" to "1024",
            zero "one per processor";
    }

    "Logs and metrics" {
        /// The least level that is logged.
        log_level: LogLevel as Choice, env GATEWAY_LOG_LEVEL, default "info";

        /// The shape of the log lines on standard output: those of the JSON or the text handler of
        /// Go's `log/slog`.
        log_format: LogFormat as Choice, env GATEWAY_LOG_FORMAT, default "json";

        /// Whether the metrics are served.
        metrics_enabled: bool as Switch, env GATEWAY_METRICS_ENABLED, default "true";

        /// Where the metrics are served.
        metrics_path: String as Route, env GATEWAY_METRICS_PATH, default "/metrics";
    }
}
