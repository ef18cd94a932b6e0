//! All nodes of a gateway: the pool, those of the backend, and who gets which.

use super::assignment::Assignment;
use super::fetch::{FetchError, Fetcher};
use super::file::{self, NodeSpec};
use super::health::{Health, State, Thresholds};
use super::key::{KeySource, KeyUrl};
use super::node::Node;
use super::probe;
use super::select::{Candidate, choose};
use super::session::SessionNodes;
use crate::backend::{AssignOutlineResult, BackendClient, OutlineNode};
use crate::config::Config;
use crate::metrics::{self, Metrics};
use arc_swap::ArcSwap;
use httvps_shadowsocks::{AccessKey, Client};
use httvps_upstream::{Connector, Direct};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use uuid::Uuid;

/// Nodes that are known at once. What a backend assigns beyond is refused.
const MAX_NODES: usize = 4096;
/// How long a node is remembered that no session uses and that is in no pool.
const LINGER: Duration = Duration::from_mins(10);
/// Fetched keys of the backend's dynamic keys that are kept.
const MAX_FETCHED: usize = 4096;
/// How soon a key is fetched again at the earliest.
const REFETCH: Duration = Duration::from_secs(5);

/// What the mode `outline` needs, checked and not yet running.
pub(crate) struct OutlineSetup {
    specs: Vec<NodeSpec>,
    fetcher: Fetcher,
}

impl OutlineSetup {
    /// Reads the pool's file and the authorities. Blocks. The error names the setting.
    pub(crate) fn new(config: &Config) -> Result<Self, String> {
        let specs = match &config.outline_nodes_path {
            Some(path) if config.outline_assign.uses_pool() => {
                file::load(path).map_err(|problem| format!("outline_nodes_path: {problem}"))?
            }
            _ => Vec::new(),
        };
        let fetcher = Fetcher::new(config.outline_ca_path.as_deref())
            .map_err(|problem| format!("outline_ca_path: {problem}"))?;
        Ok(Self { specs, fetcher })
    }
}

/// The nodes of one gateway.
pub(crate) struct Outline {
    config: Arc<Config>,
    metrics: Metrics,
    backend: Arc<BackendClient>,
    dialer: Direct,
    fetcher: Fetcher,
    pool: ArcSwap<Vec<Entry>>,
    known: Mutex<HashMap<Box<str>, Known>>,
    fetched: Mutex<HashMap<KeyUrl, Fetched>>,
    /// Asks for the dynamic keys of the pool to be fetched before their time.
    refresh_now: Notify,
    is_running: AtomicBool,
}

/// A node of the pool.
struct Entry {
    spec: NodeSpec,
    node: Arc<Node>,
}

struct Known {
    node: Arc<Node>,
    used_at: Instant,
}

struct Fetched {
    key: AccessKey,
    at: Instant,
}

/// Why a session has no node. [`Unavailable::as_str`] is the reason that the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// The backend has no node, or all nodes of the pool are down.
    NoneAvailable,
    /// The backend failed.
    Backend,
    /// The key that the backend gave cannot be used.
    BadKey,
}

impl Unavailable {
    pub(crate) fn as_str(self) -> &'static str {
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

/// What a session was given.
pub(crate) struct Assigned {
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) node_id: Box<str>,
}

impl Outline {
    pub(crate) fn new(
        setup: OutlineSetup,
        config: Arc<Config>,
        metrics: Metrics,
        backend: Arc<BackendClient>,
    ) -> Arc<Self> {
        let outline = Arc::new(Self {
            dialer: probe::dialer(),
            fetcher: setup.fetcher,
            pool: ArcSwap::from_pointee(Vec::new()),
            known: Mutex::default(),
            fetched: Mutex::default(),
            refresh_now: Notify::new(),
            is_running: AtomicBool::new(false),
            config,
            metrics,
            backend,
        });
        outline.take_over(setup.specs);
        outline
    }

    /// Begins to probe, to fetch and to follow the file; until `self` is dropped.
    pub(crate) async fn run(self: Arc<Self>, told: Arc<Notify>) {
        self.is_running.store(true, Ordering::Release);
        let nodes: Vec<_> = lock(&self.known).values().map(|known| known.node.clone()).collect();
        for node in nodes {
            self.watch(&node);
        }
        tokio::join!(self.follow_file(&told), self.refresh_keys(), self.forget_unused());
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn dialer(&self) -> &Direct {
        &self.dialer
    }

    /// Gives a new session its node.
    pub(crate) async fn assign(
        self: &Arc<Self>,
        device_id: &Arc<str>,
        region: Option<&str>,
        deadline: Instant,
    ) -> Result<Assigned, Unavailable> {
        let first = self.find(device_id, region, &[], true, deadline).await?;
        let node_id = first.node().id().into();
        let nodes = SessionNodes::new(self.clone(), device_id.clone(), region, first);
        Ok(Assigned { connector: Arc::new(nodes), node_id })
    }

    /// Gives a session another node than those in `tried`, if there is one.
    pub(super) async fn replace(
        self: &Arc<Self>,
        device_id: &str,
        region: Option<&str>,
        tried: &[Box<str>],
        may_ask: bool,
        deadline: Instant,
    ) -> Option<Assignment> {
        self.find(device_id, region, tried, may_ask, deadline).await.ok()
    }

    async fn find(
        self: &Arc<Self>,
        device_id: &str,
        region: Option<&str>,
        tried: &[Box<str>],
        may_ask: bool,
        deadline: Instant,
    ) -> Result<Assignment, Unavailable> {
        let who = self.config.outline_assign;
        if !may_ask && !who.uses_pool() {
            return Err(Unavailable::NoneAvailable);
        }
        let mut result = Err(Unavailable::NoneAvailable);
        let mut given_by = metrics::Assignment::Backend;
        if who.asks_backend() && may_ask {
            result = self.ask_backend(device_id, region, deadline).await;
            if let Ok(assignment) = &result {
                let node = assignment.node();
                let is_tried = tried.iter().any(|id| **id == *node.id());
                let is_first = tried.is_empty();
                let may_use = node.health(|health| health.is_eligible(Instant::now()));
                if is_tried || (!may_use && (!is_first || who.uses_pool())) {
                    result = Err(Unavailable::NoneAvailable);
                }
            }
        }
        if result.is_err() && who.uses_pool() {
            given_by = metrics::Assignment::Pool;
            let from_pool = self.choose(region, tried).map(Assignment::of_pool);
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
        device_id: &str,
        region: Option<&str>,
        deadline: Instant,
    ) -> Result<Assignment, Unavailable> {
        let given = match self.backend.assign_outline(device_id, region, deadline).await {
            Ok(AssignOutlineResult::Node(node)) => node,
            Ok(AssignOutlineResult::NoneAvailable) => return Err(Unavailable::NoneAvailable),
            Err(_) => return Err(Unavailable::Backend),
        };
        let key = self.key_of(&given, deadline).await.map_err(|problem| {
            let (node, problem) = (given.node_id.as_str(), problem.as_str());
            tracing::warn!(node, problem, "outline_key_unusable");
            Unavailable::BadKey
        })?;
        let node = self.register(&given.node_id).ok_or(Unavailable::NoneAvailable)?;
        let client = Arc::new(Client::new(key));
        if !node.is_in_pool() {
            node.set_assigned();
            let is_sound = node.health(Health::state) == State::Healthy;
            // Where each device has a key of its own, every assignment brings another one.
            if node.set_client(client.clone()) && !is_sound {
                node.probe_now.notify_one();
            }
        }
        Ok(Assignment::of_backend(node, client))
    }

    /// The key of a node that the backend gave. A dynamic one is fetched, or taken from what was
    /// fetched lately; the last good copy stands in when that fails.
    async fn key_of(&self, node: &OutlineNode, deadline: Instant) -> Result<AccessKey, String> {
        let url = match KeySource::of_backend(&node.key).map_err(|problem| problem.to_string())? {
            KeySource::Static(key) => return Ok(key),
            KeySource::Dynamic(url) => url,
        };
        let known = lock(&self.fetched).get(&url).map(|known| (known.key.clone(), known.at));
        if let Some((key, at)) = &known
            && at.elapsed() < self.config.outline_key_refresh.min(REFETCH)
        {
            return Ok(key.clone());
        }
        let fetching = self.fetcher.fetch(&url);
        let fetched = tokio::time::timeout_at(deadline.into(), fetching).await;
        match fetched.unwrap_or(Err(FetchError::Timeout)) {
            Ok(key) => {
                let mut fetched = lock(&self.fetched);
                if fetched.len() >= MAX_FETCHED {
                    fetched.retain(|_, known| known.at.elapsed() < LINGER);
                }
                if fetched.len() < MAX_FETCHED {
                    fetched.insert(url, Fetched { key: key.clone(), at: Instant::now() });
                }
                Ok(key)
            }
            Err(error) => {
                self.metrics.outline_key_failures.inc();
                known.map(|(key, _)| key).ok_or_else(|| error.to_string())
            }
        }
    }

    /// Chooses from the pool, a node that is down only as the last resort.
    fn choose(&self, region: Option<&str>, tried: &[Box<str>]) -> Option<Arc<Node>> {
        let pool = self.pool.load();
        let now = Instant::now();
        let is_free = |entry: &Entry| {
            entry.node.client().is_some() && !tried.iter().any(|id| **id == *entry.node.id())
        };
        let chance = Uuid::new_v4().as_u64_pair().1 << 2;
        let pick = |is_eligible: &dyn Fn(&Health) -> bool| {
            let candidates: Vec<_> = pool
                .iter()
                .map(|entry| {
                    entry.node.health(|health| Candidate {
                        region: entry.spec.region.as_deref(),
                        priority: entry.spec.priority,
                        weight: entry.spec.weight,
                        state: health.state(),
                        is_eligible: is_free(entry) && is_eligible(health),
                        latency: health.latency(),
                    })
                })
                .collect();
            choose(&candidates, region, chance).map(|index| pool[index].node.clone())
        };
        pick(&|health| health.is_eligible(now)).or_else(|| pick(&Health::is_reachable))
    }

    /// The node of this id, known or new; none when there are too many.
    fn register(self: &Arc<Self>, id: &str) -> Option<Arc<Node>> {
        let mut known = lock(&self.known);
        if let Some(known) = known.get_mut(id) {
            known.used_at = Instant::now();
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
        known.insert(id.into(), Known { node: node.clone(), used_at: Instant::now() });
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

    /// Makes the pool what the file says. Nodes that stay keep their health and their streams.
    fn take_over(self: &Arc<Self>, specs: Vec<NodeSpec>) {
        let entries: Vec<_> = specs
            .into_iter()
            .filter_map(|spec| {
                let node = self.register(&spec.id)?;
                node.set_in_pool(true);
                if let KeySource::Static(key) = &spec.source
                    && node.set_client(Arc::new(Client::new(key.clone())))
                {
                    node.probe_now.notify_one();
                }
                Some(Entry { spec, node })
            })
            .collect();
        let old = self.pool.swap(Arc::new(entries));
        let pool = self.pool.load();
        for gone in old.iter().filter(|old| !pool.iter().any(|e| Arc::ptr_eq(&e.node, &old.node))) {
            gone.node.set_in_pool(false);
        }
        self.refresh_now.notify_one();
    }

    /// Reads the pool's file again when told to, and every so often; for ever. A broken file leaves
    /// the pool as it is.
    async fn follow_file(self: &Arc<Self>, told: &Notify) {
        let path = self.config.outline_nodes_path.clone();
        // A file that nobody chooses from must not say what keys the backend's nodes have.
        let Some(path) = path.filter(|_| self.config.outline_assign.uses_pool()) else { return };
        let interval = self.config.outline_nodes_reload_interval;
        let mut last_problem = None;
        loop {
            let due = async {
                if interval.is_zero() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(interval).await;
            };
            tokio::select! {
                () = told.notified() => {}
                () = due => {}
            }
            let path = path.clone();
            let Ok(loaded) = tokio::task::spawn_blocking(move || file::load(&path)).await else {
                continue;
            };
            match loaded {
                Ok(specs) => {
                    last_problem = None;
                    let pool = self.pool.load();
                    if pool.iter().map(|entry| &entry.spec).eq(specs.iter()) {
                        continue;
                    }
                    let nodes = specs.len();
                    self.take_over(specs);
                    tracing::info!(nodes, "outline_nodes_reloaded");
                }
                // A file that stays broken is one event, not one in every interval.
                Err(problem) if last_problem.as_ref() != Some(&problem) => {
                    tracing::error!(problem = problem.as_str(), "outline_nodes_reload_failed");
                    last_problem = Some(problem);
                }
                Err(_) => {}
            }
        }
    }

    /// A probe doubts the key of a node: a dynamic one may have changed.
    pub(super) fn doubt_key(&self, id: &str) {
        let pool = self.pool.load();
        let mut dynamic =
            pool.iter().filter(|entry| matches!(entry.spec.source, KeySource::Dynamic(_)));
        if dynamic.any(|entry| entry.spec.id == id) {
            self.refresh_now.notify_one();
        }
    }

    /// Fetches the dynamic keys of the pool, every so often and when asked; for ever.
    async fn refresh_keys(&self) {
        loop {
            let mut is_missing = false;
            let pool = self.pool.load_full();
            for entry in pool.iter() {
                if let KeySource::Dynamic(url) = &entry.spec.source {
                    self.refresh_key(&entry.node, url).await;
                    is_missing |= entry.node.client().is_none();
                }
            }
            drop(pool);
            let refresh = self.config.outline_key_refresh;
            let spacing = refresh.min(REFETCH);
            tokio::time::sleep(spacing).await;
            if !is_missing {
                let rest = tokio::time::sleep(refresh.saturating_sub(spacing));
                tokio::select! {
                    () = self.refresh_now.notified() => {}
                    () = rest => {}
                }
            }
        }
    }

    async fn refresh_key(&self, node: &Node, url: &KeyUrl) {
        match self.fetcher.fetch(url).await {
            Ok(key) => {
                if node.set_client(Arc::new(Client::new(key))) {
                    tracing::info!(node = node.id(), "outline_key_replaced");
                    node.probe_now.notify_one();
                }
            }
            Err(error) => {
                self.metrics.outline_key_failures.inc();
                let problem = error.to_string();
                tracing::warn!(node = node.id(), problem, "outline_key_refresh_failed");
            }
        }
    }

    /// Forgets nodes that nothing uses any more; for ever.
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

/// What is behind these locks is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
