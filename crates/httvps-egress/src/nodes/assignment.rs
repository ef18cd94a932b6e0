//! The node of a session.

use super::node::Node;
use super::protocol::NodeProtocol;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Streams of a session in a row without an answer after which it asks for another node or key.
const DOUBTS: u32 = 3;

/// The protocol and key of a session whose key came from the backend. Clones share it.
#[derive(Clone)]
pub(super) struct SessionKey(Arc<ArcSwap<NodeProtocol>>);

impl SessionKey {
    pub(super) fn new(protocol: Arc<NodeProtocol>) -> Self {
        Self(Arc::new(ArcSwap::new(protocol)))
    }

    pub(super) fn get(&self) -> Arc<NodeProtocol> {
        self.0.load_full()
    }

    /// The protocol and key that new streams use, if it was replaced.
    pub(super) fn set(&self, protocol: Arc<NodeProtocol>) {
        if !self.0.load().is_same(&protocol) {
            self.0.store(protocol);
        }
    }
}

/// A node that is assigned to a session and its streams.
pub(super) struct Assignment {
    node: Arc<Node>,
    /// The key of this session alone, from the backend; none = that of the pool's node.
    own: Option<SessionKey>,
    /// Streams in a row without an answer.
    doubts: AtomicU32,
}

impl Assignment {
    /// A node of the pool, with its current key.
    pub(super) fn of_pool(node: Arc<Node>) -> Self {
        Self::new(node, None)
    }

    /// A node of the backend, with the key that came with it, or its replacement.
    pub(super) fn of_backend(node: Arc<Node>, protocol: SessionKey) -> Self {
        Self::new(node, Some(protocol))
    }

    fn new(node: Arc<Node>, own: Option<SessionKey>) -> Self {
        node.enter();
        Self { node, own, doubts: AtomicU32::new(0) }
    }

    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(super) fn protocol(&self) -> Option<Arc<NodeProtocol>> {
        self.own.as_ref().map(SessionKey::get).or_else(|| self.node.protocol())
    }

    /// Whether new streams should use another node: this one left the pool, or this session's
    /// key seems to be wrong although the node works.
    pub(super) fn is_stale(&self) -> bool {
        let is_of_pool = self.own.is_none();
        (is_of_pool && self.node.is_drained()) || self.doubts.load(Ordering::Relaxed) >= DOUBTS
    }

    /// Resets the count of streams without an answer.
    pub(super) fn reassure(&self) {
        self.doubts.store(0, Ordering::Relaxed);
    }

    /// Records that a stream received its first byte.
    pub(super) fn answered(&self) {
        self.reassure();
        self.node.answered();
    }

    /// Records that a stream received nothing.
    pub(super) fn unanswered(&self) {
        // With a key of its own a session doubts the key too, which a probe with another one does
        // not test. With the pool's key the probe decides.
        if self.own.is_some() {
            self.doubts.fetch_add(1, Ordering::Relaxed);
        }
        self.node.unanswered();
    }
}

impl Drop for Assignment {
    fn drop(&mut self) {
        self.node.leave();
    }
}
