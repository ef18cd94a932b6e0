//! What all connections of one gateway share.

use crate::admission::Admission;
use crate::backend::BackendClient;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::registry::Registry;
use httvps_proto::Limits;
use httvps_transport::tls::ServerTls;
use httvps_upstream::Connector;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_util::task::TaskTracker;

pub(crate) use crate::admission::HalfOpen;

/// The shared state of a gateway.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: Metrics,
    pub(crate) backend: BackendClient,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) tls: ServerTls,
    /// Every task that a connection runs in; the process ends when all are done.
    pub(crate) tasks: TaskTracker,
    is_draining: AtomicBool,
}

/// The parts that [`Context::new`] puts together.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) backend: BackendClient,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) tls: ServerTls,
}

impl Context {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, metrics, backend, connector, tls } = parts;
        let limits = Limits {
            max_streams: config.max_streams_per_session,
            max_stream_opens_per_second: config.max_stream_opens_per_second,
            max_stream_open_burst: config.max_stream_open_burst,
            max_errors_per_second: config.max_errors_per_second,
            max_error_burst: config.max_error_burst,
            max_stream_id: config.max_stream_id_bytes,
            max_device_id: config.max_device_id_bytes,
            max_token: config.max_token_bytes,
        };
        Self {
            limits: Arc::new(limits),
            registry: Arc::default(),
            admission: Arc::new(Admission::new(
                config.max_handshakes,
                config.max_handshakes_per_source,
            )),
            tasks: TaskTracker::new(),
            is_draining: AtomicBool::new(false),
            config,
            metrics,
            backend,
            connector,
            tls,
        }
    }

    /// Whether the gateway is on its way out and takes nobody new.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    pub(crate) fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Release);
        self.metrics.set_draining(true);
    }
}
