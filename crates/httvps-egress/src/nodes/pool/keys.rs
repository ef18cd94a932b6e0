//! The keys of nodes: those that the backend gave, and dynamic ones.

use super::key_cache::{KeyCache, REFETCH};
use super::{NodePool, lock};
use crate::BoxFuture;
use crate::nodes::assignment::SessionKey;
use crate::nodes::fetch::Fetcher;
use crate::nodes::key::{KeyProblem, KeySource, KeyUrl};
use crate::nodes::node::Node;
use crate::nodes::protocol::NodeProtocol;
use httvps_config::Config;
use httvps_control::backend::OutlineNode;
use httvps_shadowsocks::AccessKey;
use httvps_telemetry::metrics::Metrics;
use std::sync::Arc;
use std::time::Instant;

impl NodePool {
    /// The protocol and key of a session with the key that the backend gave, and where that was fetched from. `suspect` is a key
    /// that seems not to work any more: if its key is what there is a copy of, a newer one is
    /// waited for.
    pub(super) async fn protocol_of_backend(
        &self,
        node: &OutlineNode,
        suspect: Option<&NodeProtocol>,
        deadline: Instant,
    ) -> Result<(SessionKey, Option<KeyUrl>), String> {
        match KeySource::of_backend(&node.key).map_err(|problem| problem.to_string())? {
            KeySource::Static(key) => Ok((SessionKey::new(NodeProtocol::of_key(key)), None)),
            KeySource::Proxy(_) => Err(KeyProblem::NoOutline.to_string()),
            KeySource::Dynamic(url) => {
                let suspect = suspect.and_then(key_of);
                let key = self.key_cache.get(&url, suspect, deadline.into()).await;
                let key = key.map_err(|error| error.to_string())?;
                Ok((self.key_cache.follow(&url, key), Some(url)))
            }
        }
    }

    /// A probe doubts the key of a node: a dynamic one may have changed.
    pub(in crate::nodes) fn doubt_key(&self, node: &Node) {
        if node.is_in_pool() {
            let pool = self.pool.load();
            let mut dynamic =
                pool.iter().filter(|entry| matches!(entry.spec.source, KeySource::Dynamic(_)));
            if dynamic.any(|entry| entry.spec.id == node.id()) {
                self.refresh_now.notify_one();
            }
            return;
        }
        let url = lock(&self.known).get(node.id()).and_then(|known| known.url.clone());
        let protocol = node.protocol();
        if let (Some(url), Some(suspect)) = (url, protocol.as_deref().and_then(key_of))
            && let Some(key) = self.key_cache.newer(&url, suspect)
            && node.set_protocol(NodeProtocol::of_key(key))
        {
            node.probe_now.notify_one();
        }
    }

    /// Fetches the dynamic keys of the pool, every so often and when asked; for ever.
    pub(super) async fn refresh_keys(&self) {
        loop {
            let mut is_missing = false;
            let pool = self.pool.load_full();
            for entry in pool.iter() {
                if let KeySource::Dynamic(url) = &entry.spec.source {
                    self.refresh_key(&entry.node, url).await;
                    is_missing |= entry.node.protocol().is_none();
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
                if node.set_protocol(NodeProtocol::of_key(key)) {
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
}

/// The cache of what the backend's URLs gave.
pub(super) fn key_cache(
    fetcher: &Arc<Fetcher>,
    config: &Config,
    metrics: &Metrics,
) -> Arc<KeyCache> {
    let fetcher = fetcher.clone();
    let fetch = move |url: &KeyUrl| -> BoxFuture<'static, _> {
        let (fetcher, url) = (fetcher.clone(), url.clone());
        Box::pin(async move { fetcher.fetch(&url).await })
    };
    let failures = metrics.outline_key_failures.clone();
    KeyCache::new(config.outline_key_refresh, failures, Box::new(fetch))
}

/// The key of an Outline node.
fn key_of(protocol: &NodeProtocol) -> Option<&AccessKey> {
    match protocol {
        NodeProtocol::Shadowsocks(client) => Some(client.key()),
        NodeProtocol::Proxy(_) => None,
    }
}
