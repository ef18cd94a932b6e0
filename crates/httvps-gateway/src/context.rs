//! The state that all connections of one gateway share.

use crate::admission::{Admission, Bounds};
use crate::device::DeviceLimits;
use crate::memory_budget::MemoryBudget;
use crate::overload::DescriptorReserve;
use crate::registry::Registry;
use crate::session::Crowd;
use httvps_config::Config;
use httvps_control::backend::BackendClient;
use httvps_egress::Connector;
use httvps_egress::nodes::{NodePool, NodePoolSetup};
use httvps_proto::{Bucket, Limits, v2};
use httvps_telemetry::metrics::Metrics;
use httvps_tls::ServerTls;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use crate::admission::HalfOpen;

/// The shared state of a gateway.
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) limits: Arc<Limits>,
    /// Limits of sessions in the second wire format, and what all their windows may grow by.
    pub(crate) window_limits: v2::Limits,
    pub(crate) window_budget: v2::Budget,
    pub(crate) metrics: Metrics,
    pub(crate) backend: Arc<BackendClient>,
    pub(crate) egress: Egress,
    pub(crate) registry: Arc<Registry>,
    pub(crate) crowd: Crowd,
    pub(crate) admission: Arc<Admission>,
    pub(crate) descriptors: DescriptorReserve,
    pub(crate) tls: ServerTls,
    /// Every task that a connection runs in; the process ends when all are done.
    pub(crate) tasks: TaskTracker,
    /// Places for closed streams whose last bytes are being delivered, over all sessions.
    pub(crate) deliveries: Arc<Semaphore>,
    /// Ends the connections that are no session yet, when the gateway drains.
    pub(crate) handshakes: CancellationToken,
    log_budget: Mutex<Bucket>,
    is_draining: AtomicBool,
}

/// Log lines about refused or failed handshakes, a second and at once: any peer can cause them.
const LOG_RATE: u32 = 50;
const LOG_BURST: u32 = 500;

/// The egress of sessions.
pub(crate) enum Egress {
    /// One connector for all sessions.
    Common(Arc<dyn Connector>),
    /// Through the session's node.
    Nodes(Arc<NodePool>),
}

/// The parts of [`Egress`].
pub(crate) enum EgressSetup {
    Common(Arc<dyn Connector>),
    Nodes(Box<NodePoolSetup>),
}

/// Threads of the runtime that polls the sessions.
fn workers() -> usize {
    tokio::runtime::Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers())
}

/// The parts that [`Context::new`] puts together.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) backend: BackendClient,
    pub(crate) egress: EgressSetup,
    pub(crate) tls: ServerTls,
}

impl Context {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, metrics, backend, egress, tls } = parts;
        let (config, backend) = (Arc::new(config), Arc::new(backend));
        let egress = match egress {
            EgressSetup::Common(connector) => Egress::Common(connector),
            EgressSetup::Nodes(setup) => {
                let (config, backend) = (config.clone(), backend.clone());
                Egress::Nodes(NodePool::new(*setup, config, metrics.clone(), backend))
            }
        };
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
        let window_limits = v2::Limits {
            max_streams: config.max_streams_per_session,
            max_opens_per_second: config.max_stream_opens_per_second,
            max_open_burst: config.max_stream_open_burst,
            max_stream_window: config.max_stream_window_bytes as u32,
            max_session_window: config.max_session_window_bytes as u32,
        };
        let window_budget = v2::Budget::shared(config.window_budget_bytes);
        let device_limits =
            DeviceLimits::new(&config, window_budget.clone(), crate::overload::descriptor_limit());
        Self {
            limits: Arc::new(limits),
            window_limits,
            window_budget,
            registry: Arc::new(Registry::new(device_limits)),
            crowd: Crowd::new(workers()),
            admission: Arc::new(Admission::new(handshake_bounds(&config), metrics.clone())),
            descriptors: DescriptorReserve::new(config.descriptor_reserve),
            tasks: TaskTracker::new(),
            deliveries: Arc::new(Semaphore::new(config.max_deliveries)),
            handshakes: CancellationToken::new(),
            log_budget: Mutex::new(Bucket::new(LOG_RATE, LOG_BURST, Instant::now())),
            is_draining: AtomicBool::new(false),
            config,
            metrics,
            backend,
            egress,
            tls,
        }
    }

    /// Whether one more line about a handshake may be logged. The metrics count them all.
    pub(crate) fn may_log(&self) -> bool {
        let mut budget = self.log_budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.try_take(Instant::now())
    }

    /// Whether the gateway drains and accepts no new sessions.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    pub(crate) fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Release);
        self.handshakes.cancel();
        self.metrics.set_draining(true);
    }
}

/// Bounds of the connections that are not sessions yet. On a small memory budget they must leave room for sessions.
fn handshake_bounds(config: &Config) -> Bounds {
    let budget = MemoryBudget::resolve(config.memory_budget_bytes).bytes;
    let quarter = usize::try_from(budget / 4).unwrap_or(usize::MAX);
    Bounds {
        places: config.max_handshakes,
        places_of_source: config.max_handshakes_per_source,
        exempt: config.max_handshakes_per_source_exempt.clone(),
        bytes: config.handshake_budget_bytes.min(quarter),
    }
}
