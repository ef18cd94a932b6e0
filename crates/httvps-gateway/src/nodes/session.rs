//! A session's way out: the node that it has, and another one when that fails.

use super::assignment::Assignment;
use super::datagrams::{NodeDatagrams, NodeSocket};
use super::health::Health;
use super::node::Permit;
use super::outline::Outline;
use super::stream::NodeStream;
use arc_swap::ArcSwap;
use httvps_proto::Target;
use httvps_shadowsocks::Client;
use httvps_upstream::{
    BoxFuture, ConnectError, Connector, DatagramDial, DatagramUpstream, NoDatagrams, OpenRequest,
    Upstream,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// Nodes that one stream tries at the most.
const MAX_TRIES: usize = 3;
/// How long a session does not ask the backend again after it asked.
const REASK: Duration = Duration::from_secs(1);

/// The connector of one session in the mode `outline`.
pub(super) struct SessionNodes {
    shared: Arc<Shared>,
}

struct Shared {
    outline: Arc<Outline>,
    device_id: Arc<str>,
    region: Option<Box<str>>,
    current: ArcSwap<Assignment>,
    /// When the backend was asked last. One stream at a time moves the session; the others wait for
    /// what it finds.
    moving: Mutex<Option<Instant>>,
}

impl SessionNodes {
    pub(super) fn new(
        outline: Arc<Outline>,
        device_id: Arc<str>,
        region: Option<&str>,
        first: Assignment,
    ) -> Self {
        let shared = Shared {
            outline,
            device_id,
            region: region.map(Into::into),
            current: ArcSwap::from_pointee(first),
            moving: Mutex::new(None),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Connector for SessionNodes {
    fn connect(&self, request: OpenRequest) -> BoxFuture<'static, Result<Upstream, ConnectError>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let until = Instant::now() + request.deadline;
            let opened = shared.open(request.target.as_ref(), until);
            let opened = tokio::time::timeout_at(until.into(), opened).await;
            let stream = opened.unwrap_or(Err(ConnectError::TimedOut))?;
            Ok(Upstream::Stream(Box::new(stream)))
        })
    }

    fn connect_datagrams(&self, request: OpenRequest) -> Result<DatagramDial, NoDatagrams> {
        let shared = self.shared.clone();
        Ok(Box::pin(async move {
            let target = request.target.ok_or(ConnectError::NoTarget)?;
            let until = Instant::now() + request.deadline;
            let opened = shared.open_datagrams(&target, until);
            let opened = tokio::time::timeout_at(until.into(), opened).await;
            let socket = opened.unwrap_or(Err(ConnectError::TimedOut))?;
            Ok(DatagramUpstream::Socket(Box::new(socket)))
        }))
    }

    fn name(&self) -> &'static str {
        self.shared.outline.name()
    }
}

impl Shared {
    async fn open(
        &self,
        target: Option<&Target>,
        until: Instant,
    ) -> Result<NodeStream, ConnectError> {
        let mut tried = Vec::new();
        let mut last = ConnectError::Unreachable;
        while tried.len() < MAX_TRIES {
            let Some((assignment, client, permit)) = self.usable(&tried, until).await else {
                return Err(last);
            };
            match self.dial(&client, permit, until).await {
                Ok(tcp) => {
                    let stream = client.start(tcp, target).map_err(|_| ConnectError::Io)?;
                    let patience = self.outline.config().outline_first_byte_timeout;
                    return Ok(NodeStream::new(stream, assignment, patience));
                }
                // That nobody listens at the node's port is not what the client asked about.
                Err(ConnectError::Overload) => return Err(ConnectError::Overload),
                Err(ConnectError::TimedOut) => last = ConnectError::TimedOut,
                Err(_) => last = ConnectError::Unreachable,
            }
            tried.push(Box::from(assignment.node().id()));
        }
        Err(last)
    }

    /// Opening a socket shows nothing of the node, so there is no second try.
    async fn open_datagrams(
        &self,
        target: &Target,
        until: Instant,
    ) -> Result<NodeDatagrams, ConnectError> {
        let usable = self.usable(&[], until).await;
        let (assignment, client, _permit) = usable.ok_or(ConnectError::Unreachable)?;
        let socket = self.outline.dialer().dial_datagrams(client.key().node()).await?;
        let datagrams = client.start_datagrams(NodeSocket(socket), Some(target));
        Ok(NodeDatagrams::new(datagrams.map_err(|_| ConnectError::Io)?, assignment))
    }

    async fn dial(
        &self,
        client: &Client,
        permit: Permit,
        until: Instant,
    ) -> Result<TcpStream, ConnectError> {
        let start = Instant::now();
        let timeout = self.outline.config().outline_dial_timeout;
        let dial = self.outline.dialer().dial(client.key().node());
        let dialed = tokio::time::timeout_at((start + timeout).min(until).into(), dial).await;
        let dialed = dialed.unwrap_or(Err(ConnectError::TimedOut));
        permit.node().dialed(dialed.as_ref().map(|_| start.elapsed()).map_err(|error| *error));
        permit.settle();
        dialed
    }

    /// The session's node if it can be used, or else another one, which the session then has.
    async fn usable(
        &self,
        tried: &[Box<str>],
        until: Instant,
    ) -> Option<(Arc<Assignment>, Arc<Client>, Permit)> {
        let seen = self.current.load_full();
        if let Some((client, permit)) = pass(&seen, tried) {
            return Some((seen, client, permit));
        }
        let mut asked = self.moving.lock().await;
        let current = self.current.load_full();
        if !Arc::ptr_eq(&seen, &current)
            && let Some((client, permit)) = pass(&current, tried)
        {
            return Some((current, client, permit));
        }
        let now = Instant::now();
        let may_ask = asked.is_none_or(|at| now.saturating_duration_since(at) >= REASK);
        if may_ask && self.outline.config().assigner().asks_backend() {
            *asked = Some(now);
        }
        let (device_id, region) = (&*self.device_id, self.region.as_deref());
        let next = self.outline.replace(device_id, region, tried, may_ask, until).await;
        if let Some(next) = next.map(Arc::new)
            && let Some((client, permit)) = pass(&next, tried).or_else(|| last_resort(&next, tried))
        {
            let (from, to) = (current.node().id(), next.node().id());
            if from != to {
                self.outline.metrics().outline_moves.inc();
                tracing::debug!(device_id, from, to, "outline_session_moved");
            }
            self.current.store(next.clone());
            return Some((next, client, permit));
        }
        // Nothing better: what there is, unless it cannot even be reached.
        current.reassure();
        let usable = pass(&current, tried).or_else(|| last_resort(&current, tried));
        usable.map(|(client, permit)| (current, client, permit))
    }
}

/// The key and the permission to use an assignment's node now.
fn pass(assignment: &Assignment, tried: &[Box<str>]) -> Option<(Arc<Client>, Permit)> {
    let node = assignment.node();
    if tried.iter().any(|id| **id == *node.id()) || assignment.is_stale() {
        return None;
    }
    Some((assignment.client()?, node.try_pass(Instant::now())?))
}

/// The same for a node that is down, when there is no other: one that can be reached is down for
/// what probes say, whose target or key may be what fails.
fn last_resort(assignment: &Assignment, tried: &[Box<str>]) -> Option<(Arc<Client>, Permit)> {
    let node = assignment.node();
    let is_tried = tried.iter().any(|id| **id == *node.id());
    if is_tried || assignment.is_stale() || !node.health(Health::is_reachable) {
        return None;
    }
    Some((assignment.client()?, node.last_resort()))
}
