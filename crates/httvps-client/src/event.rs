//! What a client reports.

use crate::ConnectError;
use httvps_mux::ConnectionEnd;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a client tells about itself. `sessions` is how many are up after the event.
#[derive(Debug, Clone)]
pub enum Event {
    /// A session stands.
    Connected {
        /// The session's UUID.
        session_id: String,
        /// The address of the gateway.
        peer: Option<SocketAddr>,
        /// Streams it may have at once.
        max_streams: usize,
        /// What the backend says of the subscription.
        subscription_status: Option<String>,
        /// Whether it speaks the binary wire format.
        has_v2: bool,
        /// Sessions up.
        sessions: usize,
    },
    /// The gateway drains a session; new streams go to another one.
    Draining {
        /// Sessions up.
        sessions: usize,
    },
    /// The gateway does not answer on a session that is being used; new streams go to another one.
    Silent {
        /// Sessions up.
        sessions: usize,
    },
    /// A session that was silent has been heard again.
    Heard {
        /// Sessions up.
        sessions: usize,
    },
    /// Streams wait although no further session can be had; reported once in 30 s.
    Full {
        /// How many wait.
        waiting: usize,
        /// Streams that each session may have at once.
        max_streams: usize,
        /// Sessions up.
        sessions: usize,
    },
    /// Flows of datagrams had to give their places to others; reported once in 30 s.
    Displaced {
        /// How many since the last report.
        flows: u64,
        /// Sessions up.
        sessions: usize,
    },
    /// A session is over.
    Ended {
        /// Why.
        end: Arc<ConnectionEnd>,
        /// Sessions up.
        sessions: usize,
    },
    /// An attempt to connect failed.
    Failed {
        /// Why.
        error: Arc<ConnectError>,
        /// When the next attempt follows.
        retry_in: Duration,
        /// Sessions up.
        sessions: usize,
    },
}

/// Where a [`Client`](crate::Client) reports to; called from its task, so it must not block.
pub type Report = Box<dyn Fn(&Event) + Send + Sync>;
