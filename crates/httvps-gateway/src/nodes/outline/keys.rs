//! The keys of nodes: those that the backend gave, and dynamic ones.

use super::copies::Copies;
use super::{Outline, lock};
use crate::backend::OutlineNode;
use crate::nodes::assignment::OwnWay;
use crate::nodes::fetch::Fetcher;
use crate::nodes::key::{KeyProblem, KeySource, KeyUrl};
use crate::nodes::node::Node;
use crate::nodes::way::Way;
use httvps_config::Config;
use httvps_shadowsocks::{AccessKey, Client};
use httvps_telemetry::metrics::Metrics;
use httvps_upstream::BoxFuture;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon a key is fetched again at the earliest.
pub(super) const REFETCH: Duration = Duration::from_secs(5);

impl Outline {
    /// What a session goes by with the key that the backend gave, and where that was fetched from. `doubted` is a way
    /// that seems not to work any more: if its key is what there is a copy of, a newer one is
    /// waited for.
    pub(super) async fn way_of_backend(
        &self,
        node: &OutlineNode,
        doubted: Option<&Way>,
        deadline: Instant,
    ) -> Result<(OwnWay, Option<KeyUrl>), String> {
        match KeySource::of_backend(&node.key).map_err(|problem| problem.to_string())? {
            KeySource::Static(key) => Ok((OwnWay::new(way_of(key)), None)),
            KeySource::Proxy(_) => Err(KeyProblem::NoOutline.to_string()),
            KeySource::Dynamic(url) => {
                let doubted = doubted.and_then(key_in);
                let key = self.copies.get(&url, doubted, deadline.into()).await;
                let key = key.map_err(|error| error.to_string())?;
                Ok((self.copies.follow(&url, key), Some(url)))
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
        let way = node.way();
        if let (Some(url), Some(doubted)) = (url, way.as_deref().and_then(key_in))
            && let Some(key) = self.copies.newer(&url, doubted)
            && node.set_way(way_of(key))
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
                    is_missing |= entry.node.way().is_none();
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
                if node.set_way(way_of(key)) {
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

/// The copies of what the backend's URLs gave.
pub(super) fn copies(fetcher: &Arc<Fetcher>, config: &Config, metrics: &Metrics) -> Arc<Copies> {
    let fetcher = fetcher.clone();
    let fetch = move |url: &KeyUrl| -> BoxFuture<'static, _> {
        let (fetcher, url) = (fetcher.clone(), url.clone());
        Box::pin(async move { fetcher.fetch(&url).await })
    };
    let failures = metrics.outline_key_failures.clone();
    Copies::new(config.outline_key_refresh, failures, Box::new(fetch))
}

/// The way by an Outline node.
pub(super) fn way_of(key: AccessKey) -> Arc<Way> {
    Arc::new(Way::Shadowsocks(Client::new(key)))
}

/// The key of an Outline node.
fn key_in(way: &Way) -> Option<&AccessKey> {
    match way {
        Way::Shadowsocks(client) => Some(client.key()),
        Way::Proxy(_) => None,
    }
}
