//! The keys of nodes: those that the backend gave, and dynamic ones.

use super::{LINGER, Outline, lock};
use crate::backend::OutlineNode;
use crate::nodes::fetch::FetchError;
use crate::nodes::key::{KeyProblem, KeySource, KeyUrl};
use crate::nodes::node::Node;
use crate::nodes::way::Way;
use httvps_shadowsocks::{AccessKey, Client};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Fetched keys of the backend's dynamic keys that are kept.
const MAX_FETCHED: usize = 4096;
/// How soon a key is fetched again at the earliest.
const REFETCH: Duration = Duration::from_secs(5);

/// A key that was fetched for the backend's answers.
pub(super) struct Fetched {
    key: AccessKey,
    at: Instant,
}

impl Outline {
    /// The key of a node that the backend gave. A dynamic one is fetched, or taken from what was
    /// fetched lately; the last good copy stands in when that fails.
    pub(super) async fn key_of(
        &self,
        node: &OutlineNode,
        deadline: Instant,
    ) -> Result<AccessKey, String> {
        let url = match KeySource::of_backend(&node.key).map_err(|problem| problem.to_string())? {
            KeySource::Static(key) => return Ok(key),
            KeySource::Proxy(_) => return Err(KeyProblem::NoOutline.to_string()),
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

    /// A probe doubts the key of a node: a dynamic one may have changed.
    pub(in crate::nodes) fn doubt_key(&self, id: &str) {
        let pool = self.pool.load();
        let mut dynamic =
            pool.iter().filter(|entry| matches!(entry.spec.source, KeySource::Dynamic(_)));
        if dynamic.any(|entry| entry.spec.id == id) {
            self.refresh_now.notify_one();
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
                if node.set_way(Arc::new(Way::Shadowsocks(Client::new(key)))) {
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
