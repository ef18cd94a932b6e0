//! The pool: its file, and who is chosen from it.

use super::NodePool;
use crate::nodes::file::{self, NodeSpec};
use crate::nodes::health::Health;
use crate::nodes::key::KeySource;
use crate::nodes::node::Node;
use crate::nodes::protocol::NodeProtocol;
use crate::nodes::select::{Candidate, choose};
use httvps_shadowsocks::Client;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;
use uuid::Uuid;

/// A node of the pool.
pub(super) struct Entry {
    pub(super) spec: NodeSpec,
    pub(super) node: Arc<Node>,
}

impl NodePool {
    /// Chooses from the pool what `fits`, a node that is down only as the last resort.
    pub(super) fn choose(
        &self,
        region: Option<&str>,
        tried: &[Box<str>],
        fits: impl Fn(&NodeProtocol) -> bool,
    ) -> Option<Arc<Node>> {
        let pool = self.pool.load();
        let now = Instant::now();
        let is_free = |entry: &Entry| {
            entry.node.protocol().is_some_and(|protocol| fits(&protocol))
                && !tried.iter().any(|id| **id == *entry.node.id())
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

    /// Makes the pool what the file says. Nodes that stay keep their health and their streams.
    pub(super) fn take_over(self: &Arc<Self>, specs: Vec<NodeSpec>) {
        let entries: Vec<_> = specs
            .into_iter()
            .filter_map(|spec| {
                let node = self.register(&spec.id, None)?;
                node.set_in_pool(true);
                let protocol = match &spec.source {
                    KeySource::Static(key) => {
                        Some(NodeProtocol::Shadowsocks(Client::new(key.clone())))
                    }
                    KeySource::Proxy(key) => Some(NodeProtocol::Proxy(key.clone())),
                    KeySource::Dynamic(_) => None,
                };
                if protocol.is_some_and(|protocol| node.set_protocol(Arc::new(protocol))) {
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
    pub(super) async fn follow_file(self: &Arc<Self>, told: &Notify) {
        let path = self.config.outline_nodes_path.clone();
        // A file that is not used for assignment must not define the keys of the backend's nodes.
        let Some(path) = path.filter(|_| self.config.assigner().uses_pool()) else { return };
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
}
