//! The egress of a session: its node, and another one when that fails.

use super::assignment::Assignment;
use super::datagrams::NodeDatagrams;
use super::error::NodeError;
use super::header_first::HeaderFirst;
use super::health::Health;
use super::node::Permit;
use super::pool::NodePool;
use super::protocol::{Link, NodeProtocol};
use super::stream::{NodeStream, NodeStreamIo};
use crate::{
    BoxFuture, ByteStream, ConnectError, Connector, DatagramDial, DatagramUpstream, NoDatagrams,
    OpenRequest, Upstream,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use httvps_control::backend::Asker;
use httvps_proto::Target;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// The largest number of nodes that one stream tries.
const MAX_TRIES: usize = 3;
/// Shortest time between two requests of one session to the backend.
const REASK: Duration = Duration::from_secs(1);

/// The connector of one session in the mode `outline`.
pub(super) struct SessionNodes {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Arc<NodePool>,
    /// Where the session comes from, see [`Asker`].
    peer: IpAddr,
    device_id: Arc<str>,
    region: Option<Box<str>>,
    current: ArcSwap<Assignment>,
    /// What the session's datagrams go by while `current` carries none.
    for_datagrams: ArcSwapOption<Assignment>,
    /// When the backend was asked last. One stream at a time moves the session; the others wait for
    /// what it finds.
    moving: Mutex<Option<Instant>>,
}

impl SessionNodes {
    pub(super) fn new(
        pool: Arc<NodePool>,
        peer: IpAddr,
        device_id: Arc<str>,
        region: Option<&str>,
        first: Assignment,
    ) -> Self {
        let shared = Shared {
            pool,
            peer,
            device_id,
            region: region.map(Into::into),
            current: ArcSwap::from_pointee(first),
            for_datagrams: ArcSwapOption::empty(),
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
            match shared.open(request.target.as_ref(), until).await? {
                Opened::Stream(stream) => Ok(Upstream::Stream(stream)),
                Opened::NeedsTarget => {
                    let deadline = request.deadline;
                    Ok(Upstream::Stream(Box::new(HeaderFirst::new(move |target| {
                        shared.dial_late(target, deadline)
                    }))))
                }
            }
        })
    }

    fn connect_datagrams(&self, request: OpenRequest) -> Result<DatagramDial, NoDatagrams> {
        let shared = self.shared.clone();
        Ok(Box::pin(async move {
            let until = Instant::now() + request.deadline;
            let opened = shared.open_datagrams(request.target.as_ref(), until);
            let opened = tokio::time::timeout_at(until.into(), opened).await;
            let socket = opened.unwrap_or(Err(ConnectError::TimedOut))?;
            Ok(DatagramUpstream::Socket(Box::new(socket)))
        }))
    }

    fn name(&self) -> &'static str {
        self.shared.pool.name()
    }
}

/// What came of opening a stream.
enum Opened {
    Stream(Box<dyn ByteStream>),
    /// The node wants to know the target first, and it stands in the bytes that are still to come.
    NeedsTarget,
}

impl Shared {
    /// Opens a stream whose target came with its first bytes.
    fn dial_late(
        self: Arc<Self>,
        target: Target,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Upstream, ConnectError>> {
        Box::pin(async move {
            match self.open(Some(&target), Instant::now() + deadline).await? {
                Opened::Stream(stream) => Ok(Upstream::Stream(stream)),
                Opened::NeedsTarget => Err(ConnectError::NoTarget),
            }
        })
    }

    async fn open(
        self: &Arc<Self>,
        target: Option<&Target>,
        until: Instant,
    ) -> Result<Opened, ConnectError> {
        let mut tried = Vec::new();
        let mut last = ConnectError::NodeUnreachable;
        while tried.len() < MAX_TRIES {
            let usable = tokio::time::timeout_at(until.into(), self.usable(&tried, until)).await;
            let (assignment, protocol, permit) = match usable {
                Err(_) => return Err(ConnectError::NodeUnreachable),
                Ok(None) => return Err(last),
                Ok(Some(usable)) => usable,
            };
            if target.is_none() && protocol.needs_target() {
                return Ok(Opened::NeedsTarget);
            }
            match self.dial_and_start(&assignment, &protocol, permit, target, until).await {
                Ok(stream) => {
                    let patience = self.pool.config().outline_first_byte_timeout;
                    let stream = NodeStream::new(stream, assignment, patience);
                    return Ok(Opened::Stream(Box::new(stream)));
                }
                Err(Failure::Stream(error)) => return Err(error),
                Err(Failure::Node(error)) => last = error,
            }
            tried.push(Box::from(assignment.node().id()));
        }
        Err(last)
    }

    async fn dial_and_start(
        &self,
        assignment: &Assignment,
        protocol: &NodeProtocol,
        permit: Permit,
        target: Option<&Target>,
        until: Instant,
    ) -> Result<NodeStreamIo, Failure> {
        let Dialed { link, latency, permit } = self.dial(protocol, permit, until).await?;
        let started = tokio::time::timeout_at(until.into(), protocol.start(link, target)).await;
        judge(assignment, permit, latency, started.unwrap_or(Err(NodeError::Silent)))
    }

    /// Opening a socket shows nothing of the node, so there is no second try.
    async fn open_datagrams(
        &self,
        target: Option<&Target>,
        until: Instant,
    ) -> Result<NodeDatagrams, ConnectError> {
        let (assignment, protocol, permit) = self.usable_for_datagrams(until).await?;
        let dialer = self.pool.dialer();
        let is_dialed = protocol.dials_for_datagrams().ok_or(ConnectError::NotOffered)?;
        let started = if is_dialed {
            let Dialed { link, latency, permit } = self.dial(&protocol, permit, until).await?;
            let starting = protocol.start_datagrams(dialer, Some(link), target);
            let started = tokio::time::timeout_at(until.into(), starting).await;
            judge(&assignment, permit, latency, started.unwrap_or(Err(NodeError::Silent)))?
        } else {
            protocol.start_datagrams(dialer, None, target).await.map_err(Failure::of)?
        };
        Ok(NodeDatagrams::new(started, assignment))
    }

    /// The session's node, or while that one carries no datagrams another one of the pool, which the
    /// session keeps for them. Its streams of bytes stay where they are.
    async fn usable_for_datagrams(
        &self,
        until: Instant,
    ) -> Result<(Arc<Assignment>, Arc<NodeProtocol>, Permit), ConnectError> {
        let own = self.usable(&[], until).await.ok_or(ConnectError::NodeUnreachable)?;
        if own.1.carries_datagrams() {
            self.for_datagrams.store(None);
            return Ok(own);
        }
        if let Some(kept) = self.for_datagrams.load_full()
            && let Some((protocol, permit)) = pass(&kept, &[])
            && protocol.carries_datagrams()
        {
            return Ok((kept, protocol, permit));
        }
        let other = self.pool.for_datagrams(self.region.as_deref());
        let other = Arc::new(other.ok_or(ConnectError::NotOffered)?);
        let usable = pass(&other, &[]).or_else(|| last_resort(&other, &[]));
        let (protocol, permit) = usable.ok_or(ConnectError::NodeUnreachable)?;
        self.for_datagrams.store(Some(other.clone()));
        Ok((other, protocol, permit))
    }

    /// Dials the node. A failure is noted at once; a success is to the node's credit only when it has
    /// done what it was asked for then, see [`judge`].
    async fn dial(
        &self,
        protocol: &NodeProtocol,
        permit: Permit,
        until: Instant,
    ) -> Result<Dialed, Failure> {
        let start = Instant::now();
        let timeout = self.pool.config().outline_dial_timeout;
        let dial = protocol.dial(self.pool.dialer());
        let dialed = tokio::time::timeout_at((start + timeout).min(until).into(), dial).await;
        match dialed.unwrap_or(Err(NodeError::Unreachable(ConnectError::TimedOut))) {
            Ok(link) => Ok(Dialed { link, latency: start.elapsed(), permit }),
            Err(error) => {
                permit.dial_failed(error.of_dial());
                Err(Failure::of(error))
            }
        }
    }

    /// The session's node if it can be used, or else another one, which the session then has.
    async fn usable(
        &self,
        tried: &[Box<str>],
        until: Instant,
    ) -> Option<(Arc<Assignment>, Arc<NodeProtocol>, Permit)> {
        let seen = self.current.load_full();
        if let Some((protocol, permit)) = pass(&seen, tried) {
            return Some((seen, protocol, permit));
        }
        let mut asked = self.moving.lock().await;
        let current = self.current.load_full();
        if !Arc::ptr_eq(&seen, &current)
            && let Some((protocol, permit)) = pass(&current, tried)
        {
            return Some((current, protocol, permit));
        }
        let now = Instant::now();
        let may_ask = asked.is_none_or(|at| now.saturating_duration_since(at) >= REASK);
        if may_ask && self.pool.config().assigner().asks_backend() {
            *asked = Some(now);
        }
        let (device_id, region) = (&*self.device_id, self.region.as_deref());
        let suspect = current.protocol().filter(|_| current.is_stale());
        let suspect = suspect.as_deref();
        let who = Asker { peer: self.peer, device_id };
        let next = self.pool.replace(who, region, tried, may_ask, suspect, until).await;
        if let Some(next) = next.map(Arc::new)
            && let Some((protocol, permit)) =
                pass(&next, tried).or_else(|| last_resort(&next, tried))
        {
            let (from, to) = (current.node().id(), next.node().id());
            if from != to {
                self.pool.metrics().outline_moves.inc();
                tracing::debug!(device_id, from, to, "outline_session_moved");
            }
            self.current.store(next.clone());
            return Some((next, protocol, permit));
        }
        // Nothing better: what there is, unless it cannot even be reached.
        current.reassure();
        let usable = pass(&current, tried).or_else(|| last_resort(&current, tried));
        usable.map(|(protocol, permit)| (current, protocol, permit))
    }
}

/// A node that was reached.
struct Dialed {
    link: Link,
    latency: Duration,
    permit: Permit,
}

/// Why a stream did not open.
pub(super) enum Failure {
    /// Another node may do better.
    Node(ConnectError),
    /// The node is good and the stream cannot be had.
    Stream(ConnectError),
}

impl Failure {
    fn of(error: NodeError) -> Self {
        match error {
            NodeError::Target(error) => Self::Stream(error),
            NodeError::Unsupported | NodeError::Relay => Self::Stream(ConnectError::NotOffered),
            // The time for the whole stream is over.
            NodeError::Silent => Self::Stream(ConnectError::TimedOut),
            // Our own shortage; another node would not help.
            NodeError::Unreachable(ConnectError::Overload) => Self::Stream(ConnectError::Overload),
            // The target was not asked, and is not to be blamed.
            NodeError::Unreachable(_) | NodeError::Certificate(_) => {
                Self::Node(ConnectError::NodeUnreachable)
            }
            // A proxy may say so of one target, see [`judge`].
            _ => Self::Node(ConnectError::Unreachable),
        }
    }
}

impl From<Failure> for ConnectError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Node(error) | Failure::Stream(error) => error,
        }
    }
}

/// Notes what a node did with a stream after it was dialled, which is a dial that went well.
///
/// Clients choose targets, and no answer about a target is a failure of the node. That it ends the
/// connection, is silent, or wants a password is a doubt, as with a stream that gets no answer: an
/// HTTP proxy asks for a password only together with a target, and may pass on what another proxy
/// or the target itself says. Whether the password is wrong, the probe finds out.
pub(super) fn judge<T>(
    assignment: &Assignment,
    permit: Permit,
    latency: Duration,
    started: Result<T, NodeError>,
) -> Result<T, Failure> {
    permit.node().dialed(Ok(latency));
    permit.settle();
    if let Err(
        NodeError::Closed
        | NodeError::OtherProtocol
        | NodeError::Silent
        | NodeError::Credentials
        | NodeError::NoCredentials,
    ) = &started
    {
        assignment.unanswered();
    }
    started.map_err(Failure::of)
}

/// The key and the permission to use an assignment's node now.
fn pass(assignment: &Assignment, tried: &[Box<str>]) -> Option<(Arc<NodeProtocol>, Permit)> {
    let node = assignment.node();
    if tried.iter().any(|id| **id == *node.id()) || assignment.is_stale() {
        return None;
    }
    Some((assignment.protocol()?, node.try_pass(Instant::now())?))
}

/// The same for a node that is down, when there is no other: one that can be reached is down for
/// what probes say, whose target or key may be what fails.
fn last_resort(assignment: &Assignment, tried: &[Box<str>]) -> Option<(Arc<NodeProtocol>, Permit)> {
    let node = assignment.node();
    let is_tried = tried.iter().any(|id| **id == *node.id());
    if is_tried || assignment.is_stale() || !node.health(Health::is_reachable) {
        return None;
    }
    Some((assignment.protocol()?, node.last_resort()))
}
