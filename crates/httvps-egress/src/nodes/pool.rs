//! All nodes of a gateway, those of the pool and of the backend, and their assignment to sessions.

mod entries;
mod key_cache;
mod keys;

use self::entries::Entry;
use self::key_cache::KeyCache;
use super::assignment::Assignment;
use super::fetch::Fetcher;
use super::file::{self, NodeSpec};
use super::health::{Health, State, Thresholds};
use super::key::KeyUrl;
use super::node::Node;
use super::probe;
use super::protocol::{Dialer, NodeProtocol};
use super::session::SessionNodes;
use crate::{Connector, EgressPolicy, Source};
use arc_swap::ArcSwap;
use httvps_config::{Config, UpstreamMode};
use httvps_control::backend::{Asker, AssignOutlineResult, BackendClient};
use httvps_telemetry::metrics::{self, Metrics};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Most nodes that are known at once. Further ones from a backend are refused.
const MAX_NODES: usize = 4096;
/// How long an unused node that is not in the pool is remembered.
const LINGER: Duration = Duration::from_mins(10);
/// The validated configuration of the modes `outline` and `proxy`, not yet running.
pub struct NodePoolSetup {
    specs: Vec<NodeSpec>,
    fetcher: Fetcher,
    dialer: Dialer,
}

impl NodePoolSetup {
    /// Reads the pool's file and the authorities. `source` is where connections to nodes leave from. Blocks. The error
    /// names the setting.
    pub fn new(config: &Config, source: Source) -> Result<Self, String> {
        let specs = match &config.outline_nodes_path {
            Some(path) if config.assigner().uses_pool() => {
                file::load(path).map_err(|problem| format!("outline_nodes_path: {problem}"))?
            }
            _ => Vec::new(),
        };
        let ca = config.outline_ca_path.as_deref();
        let named = |problem| format!("outline_ca_path: {problem}");
        let fetcher = Fetcher::new(ca).map_err(named)?;
        let relays = EgressPolicy::new(config.egress_allow.clone());
        Ok(Self { specs, fetcher, dialer: Dialer::new(ca, relays, source).map_err(named)? })
    }
}

/// The nodes of one gateway.
pub struct NodePool {
    config: Arc<Config>,
    metrics: Metrics,
    backend: Arc<BackendClient>,
    dialer: Dialer,
    fetcher: Arc<Fetcher>,
    key_cache: Arc<KeyCache>,
    pool: ArcSwap<Vec<Entry>>,
    known: Mutex<HashMap<Box<str>, Known>>,
    /// Requests a fetch of the dynamic keys of the pool before their time.
    refresh_now: Notify,
    is_running: AtomicBool,
}

struct Known {
    node: Arc<Node>,
    used_at: Instant,
    /// The URL of the key that the backend assigned last, if it was fetched.
    url: Option<KeyUrl>,
}

/// Why a session has no node. [`Unavailable::as_str`] is the reason that the client receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The backend has no node, or all nodes of the pool are down.
    NoneAvailable,
    /// The backend failed.
    Backend,
    /// The key from the backend cannot be used.
    BadKey,
}

impl Unavailable {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoneAvailable => "no_outline_nodes_available",
            Self::Backend => "backend_unavailable",
            Self::BadKey => "bad_access_key",
        }
    }

    fn label(self) -> metrics::Assignment {
        match self {
            Self::NoneAvailable => metrics::Assignment::NoneAvailable,
            Self::Backend => metrics::Assignment::BackendError,
            Self::BadKey => metrics::Assignment::BadKey,
        }
    }
}

/// The assignment of a session.
pub struct Assigned {
    /// Opens the session's streams through the node.
    pub connector: Arc<dyn Connector>,
    /// The node, for the log.
    pub node_id: Box<str>,
}

impl NodePool {
    /// Creates the pool of `setup`; [`Self::run`] starts its tasks.
    pub fn new(
        setup: NodePoolSetup,
        config: Arc<Config>,
        metrics: Metrics,
        backend: Arc<BackendClient>,
    ) -> Arc<Self> {
        let fetcher = Arc::new(setup.fetcher);
        let outline = Arc::new(Self {
            dialer: setup.dialer,
            key_cache: keys::key_cache(&fetcher, &config, &metrics),
            fetcher,
            pool: ArcSwap::from_pointee(Vec::new()),
            known: Mutex::default(),
            refresh_now: Notify::new(),
            is_running: AtomicBool::new(false),
            config,
            metrics,
            backend,
        });
        outline.take_over(setup.specs);
        outline
    }

    /// Probes, fetches keys and watches the file until `self` is dropped.
    pub async fn run(self: Arc<Self>, told: Arc<Notify>) {
        self.is_running.store(true, Ordering::Release);
        let nodes: Vec<_> = lock(&self.known).values().map(|known| known.node.clone()).collect();
        for node in nodes {
            self.watch(&node);
        }
        tokio::join!(self.follow_file(&told), self.refresh_keys(), self.forget_unused());
    }

    /// The name of this egress in settings and logs.
    pub fn name(&self) -> &'static str {
        match self.config.upstream_mode {
            UpstreamMode::Proxy => "proxy",
            _ => "outline",
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Assigns a node to a new session.
    pub async fn assign(
        self: &Arc<Self>,
        peer: IpAddr,
        device_id: &Arc<str>,
        region: Option<&str>,
        deadline: Instant,
    ) -> Result<Assigned, Unavailable> {
        let asker = Asker { peer, device_id };
        let first = self.find(asker, region, &[], true, None, deadline).await?;
        let node_id = first.node().id().into();
        let nodes = SessionNodes::new(self.clone(), peer, device_id.clone(), region, first);
        Ok(Assigned { connector: Arc::new(nodes), node_id })
    }

    /// Assigns a session a node that is not in `tried`, or a key other than the one in
    /// `suspect`, if there is one.
    pub(super) async fn replace(
        self: &Arc<Self>,
        asker: Asker<'_>,
        region: Option<&str>,
        tried: &[Box<str>],
        may_ask: bool,
        suspect: Option<&NodeProtocol>,
        deadline: Instant,
    ) -> Option<Assignment> {
        self.find(asker, region, tried, may_ask, suspect, deadline).await.ok()
    }

    /// A node of the pool that supports datagrams, for a session whose own does not.
    pub(super) fn for_datagrams(&self, region: Option<&str>) -> Option<Assignment> {
        self.choose(region, &[], NodeProtocol::carries_datagrams).map(Assignment::of_pool)
    }

    async fn find(
        self: &Arc<Self>,
        asker: Asker<'_>,
        region: Option<&str>,
        tried: &[Box<str>],
        may_ask: bool,
        suspect: Option<&NodeProtocol>,
        deadline: Instant,
    ) -> Result<Assignment, Unavailable> {
        let who = self.config.assigner();
        if !may_ask && !who.uses_pool() {
            return Err(Unavailable::NoneAvailable);
        }
        let mut result = Err(Unavailable::NoneAvailable);
        let mut given_by = metrics::Assignment::Backend;
        if who.asks_backend() && may_ask {
            let is_first = tried.is_empty();
            result = self.ask_backend(asker, region, suspect, deadline).await;
            if is_first && !who.uses_pool() && result.as_ref().is_ok_and(|given| !may_use(given)) {
                // Backends that send devices to their nodes in turn know nothing of the node's state. What it
                // says the second time holds, unless it fails only then.
                let again = self.ask_backend(asker, region, suspect, deadline).await;
                result = again.or(result);
            }
            if let Ok(given) = &result {
                let is_tried = tried.iter().any(|id| **id == *given.node().id());
                if is_tried || (!may_use(given) && (!is_first || who.uses_pool())) {
                    result = Err(Unavailable::NoneAvailable);
                }
            }
        }
        if result.is_err() && who.uses_pool() {
            given_by = metrics::Assignment::Pool;
            let from_pool = self.choose(region, tried, |_| true).map(Assignment::of_pool);
            result = from_pool.ok_or(result.err().unwrap_or(Unavailable::NoneAvailable));
        }
        self.metrics.outline_assignments.inc(match &result {
            Ok(_) => given_by,
            Err(unavailable) => unavailable.label(),
        });
        result
    }

    async fn ask_backend(
        self: &Arc<Self>,
        asker: Asker<'_>,
        region: Option<&str>,
        suspect: Option<&NodeProtocol>,
        deadline: Instant,
    ) -> Result<Assignment, Unavailable> {
        let given = match self.backend.assign_outline(asker, region, deadline).await {
            Ok(AssignOutlineResult::Node(node)) => node,
            Ok(AssignOutlineResult::NoneAvailable) => return Err(Unavailable::NoneAvailable),
            Err(_) => return Err(Unavailable::Backend),
        };
        let protocol =
            self.protocol_of_backend(&given, suspect, deadline).await.map_err(|problem| {
                let (node, problem) = (given.node_id.as_str(), problem.as_str());
                tracing::warn!(node, problem, "outline_key_unusable");
                Unavailable::BadKey
            });
        let (protocol, url) = protocol?;
        let node = self.register(&given.node_id, url).ok_or(Unavailable::NoneAvailable)?;
        if !node.is_in_pool() {
            node.set_assigned();
            let is_sound = node.health(Health::state) == State::Healthy;
            // Where each device has a key of its own, every assignment brings another one.
            if node.set_protocol(protocol.get()) && !is_sound {
                node.probe_now.notify_one();
            }
        }
        Ok(Assignment::of_backend(node, protocol))
    }

    /// The node of this id, known or new; none when there are too many. `url` is where the backend's
    /// key for it came from.
    fn register(self: &Arc<Self>, id: &str, url: Option<KeyUrl>) -> Option<Arc<Node>> {
        let mut known = lock(&self.known);
        if let Some(known) = known.get_mut(id) {
            (known.used_at, known.url) = (Instant::now(), url);
            return Some(known.node.clone());
        }
        if known.len() >= MAX_NODES {
            known.retain(|_, known| Arc::strong_count(&known.node) > 1);
        }
        if known.len() >= MAX_NODES {
            tracing::warn!(nodes = MAX_NODES, "outline_too_many_nodes");
            return None;
        }
        let node = Arc::new(Node::new(id, self.metrics.node(id), self.thresholds()));
        known.insert(id.into(), Known { node: node.clone(), used_at: Instant::now(), url });
        if self.is_running.load(Ordering::Acquire) {
            self.watch(&node);
        }
        Some(node)
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds {
            down_failures: self.config.outline_down_failures,
            recover_successes: self.config.outline_recover_successes,
            cooldown: self.config.outline_cooldown,
            slow: self.config.outline_slow_dial,
            has_probes: !self.config.outline_probe_interval.is_zero(),
        }
    }

    fn watch(self: &Arc<Self>, node: &Arc<Node>) {
        if !self.config.outline_probe_interval.is_zero() {
            tokio::spawn(probe::run(Arc::downgrade(self), Arc::downgrade(node)));
        }
    }

    /// Removes unused nodes periodically; never returns.
    async fn forget_unused(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            lock(&self.known).retain(|_, known| {
                if known.node.is_used() {
                    known.used_at = Instant::now();
                    return true;
                }
                // A node that a probe still holds must be gone before its id comes again: there is
                // one set of metrics for an id.
                let is_held = Arc::strong_count(&known.node) > 1;
                is_held || (!known.node.is_drained() && known.used_at.elapsed() < LINGER)
            });
        }
    }
}

/// Whether streams may be sent to a node now: it is not known to be down.
fn may_use(assignment: &Assignment) -> bool {
    assignment.node().health(|health| health.is_eligible(Instant::now()))
}

/// What is behind these locks is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
