//! One node: its health, its key and its metrics.

use super::health::{Health, Pass, State, Thresholds};
use super::protocol::NodeProtocol;
use crate::ConnectError;
use arc_swap::ArcSwapOption;
use httvps_telemetry::metrics::{NodeDial, NodeMetrics, NodeProbe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A node that sessions use, or that a pool offers. Health belongs to the node, whether the backend or the pool assigned it.
pub(super) struct Node {
    id: Box<str>,
    metrics: NodeMetrics,
    health: Mutex<Health>,
    /// The key that probes use, and the streams of sessions that the pool gave the node; none
    /// until a dynamic key was fetched.
    protocol: ArcSwapOption<NodeProtocol>,
    /// Requests a probe before its time.
    pub(super) probe_now: Arc<Notify>,
    /// Assignments that sessions and streams hold.
    users: AtomicUsize,
    is_in_pool: AtomicBool,
    /// It left the pool: new streams do not use it.
    is_drained: AtomicBool,
}

impl Node {
    pub(super) fn new(id: &str, metrics: NodeMetrics, thresholds: Thresholds) -> Self {
        Self {
            id: id.into(),
            metrics,
            health: Mutex::new(Health::new(thresholds)),
            protocol: ArcSwapOption::empty(),
            probe_now: Arc::default(),
            users: AtomicUsize::new(0),
            is_in_pool: AtomicBool::new(false),
            is_drained: AtomicBool::new(false),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn metrics(&self) -> &NodeMetrics {
        &self.metrics
    }

    pub(super) fn protocol(&self) -> Option<Arc<NodeProtocol>> {
        self.protocol.load_full()
    }

    /// Sets the key. True when it changed.
    pub(super) fn set_protocol(&self, protocol: Arc<NodeProtocol>) -> bool {
        let is_new = self.protocol.load().as_ref().is_none_or(|old| !old.is_same(&protocol));
        if is_new {
            self.protocol.store(Some(protocol));
        }
        is_new
    }

    /// Counts an assignment for as long as it lives.
    pub(super) fn enter(&self) {
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.users.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a session, a stream or the pool has the node; a probe does not count.
    pub(super) fn is_used(&self) -> bool {
        self.users.load(Ordering::Relaxed) > 0 || self.is_in_pool()
    }

    /// Records whether the pool has the node. A node that left the pool takes no new stream.
    pub(super) fn set_in_pool(&self, is_in_pool: bool) {
        let was = self.is_in_pool.swap(is_in_pool, Ordering::AcqRel);
        self.is_drained.store(was && !is_in_pool, Ordering::Release);
    }

    pub(super) fn is_in_pool(&self) -> bool {
        self.is_in_pool.load(Ordering::Acquire)
    }

    /// Records that a backend assigned the node; its place in the pool no longer matters.
    pub(super) fn set_assigned(&self) {
        self.is_drained.store(false, Ordering::Release);
    }

    pub(super) fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Acquire)
    }

    /// Reads the health.
    pub(super) fn health<R>(&self, look: impl FnOnce(&Health) -> R) -> R {
        look(&self.health.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the health; a change of the state is logged and shown in the metrics, with `cause`.
    fn change<R>(&self, cause: &'static str, change: impl FnOnce(&mut Health) -> R) -> R {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let before = health.state();
        let result = change(&mut health);
        let after = health.state();
        if before != after {
            // Under the lock, so that the last word of the metric and the log is the state.
            self.metrics.state.set(match after {
                State::Healthy => 0,
                State::Degraded => 1,
                State::Down => 2,
            });
            let (node, from, to) = (self.id(), before.as_str(), after.as_str());
            if after == State::Healthy {
                tracing::info!(node, from, to, cause, "outline_node_state");
            } else {
                tracing::warn!(node, from, to, cause, "outline_node_state");
            }
        }
        result
    }

    /// Asks to use the node for a stream.
    pub(super) fn try_pass(self: &Arc<Self>, now: Instant) -> Option<Permit> {
        let pass = self.change("trial", |health| health.try_pass(now))?;
        Some(Permit { node: self.clone(), pass: Some(pass) })
    }

    /// Asks to probe the node.
    pub(super) fn try_probe(self: &Arc<Self>, now: Instant) -> Option<Permit> {
        let pass = self.change("trial", |health| health.try_probe(now))?;
        Some(Permit { node: self.clone(), pass: Some(pass) })
    }

    /// Use of a node that is down, when there is no other.
    pub(super) fn last_resort(self: &Arc<Self>) -> Permit {
        Permit { node: self.clone(), pass: None }
    }

    /// Records the result of a dial.
    pub(super) fn dialed(&self, result: Result<Duration, ConnectError>) {
        let now = Instant::now();
        match result {
            Ok(latency) => {
                self.metrics.dialed(NodeDial::Ok);
                self.metrics.dial_duration.observe(latency.as_secs_f64());
                self.change("dialed", |health| health.handle_dialed(now, latency));
            }
            // Our own shortage is not the node's fault.
            Err(ConnectError::Overload) => self.metrics.dialed(NodeDial::Failed),
            Err(error) => {
                let is_timeout = error == ConnectError::TimedOut;
                let result = if is_timeout { NodeDial::Timeout } else { NodeDial::Failed };
                self.metrics.dialed(result);
                self.change("dial_failed", |health| health.handle_dial_failed(now));
            }
        }
    }

    /// Records the time of an answer to a probe.
    pub(super) fn probe_answered_after(&self, time: Duration) {
        self.change("probe_ok", |health| health.handle_answer_time(time));
    }

    /// Records the result of a probe that reached the node.
    pub(super) fn probed(&self, result: NodeProbe) {
        let now = Instant::now();
        match result {
            NodeProbe::Ok => self.change("probe_ok", |health| health.handle_probed(now)),
            // The dial told it already.
            NodeProbe::Unreachable => {}
            NodeProbe::Silent => {
                self.change("probe_silent", |health| health.handle_probe_failed(now));
            }
            NodeProbe::WrongKey => {
                self.change("probe_wrong_key", |health| health.handle_probe_failed(now));
            }
        }
        self.metrics.probed(result);
    }

    /// Records that a stream received its first byte.
    pub(super) fn answered(&self) {
        self.change("answered", |health| health.handle_answer(Instant::now()));
    }

    /// Records that a stream received nothing.
    pub(super) fn unanswered(&self) {
        if self.change("unanswered", Health::handle_doubt) {
            self.probe_now.notify_one();
        }
    }
}

/// The permission to use a node once. A trial without a result is returned when this is
/// dropped.
pub(super) struct Permit {
    node: Arc<Node>,
    pass: Option<Pass>,
}

impl Permit {
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Marks that the attempt had a result, which is reported to the health.
    pub(super) fn settle(mut self) {
        self.pass = None;
    }

    /// Records that the node was not reached. After a shortage of this host the trial is repeated.
    pub(super) fn dial_failed(mut self, error: ConnectError) {
        self.node.dialed(Err(error));
        let pass = self.pass.take().filter(|_| error == ConnectError::Overload);
        if let Some(pass) = pass {
            self.node.change("trial", |health| health.postpone(Instant::now(), pass));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(pass) = self.pass {
            self.node.change("trial", |health| health.give_back(pass));
        }
    }
}
