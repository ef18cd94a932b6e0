//! The addresses of a name; one family may arrive later than the other.

use std::net::IpAddr;

use tokio::sync::oneshot;

/// The addresses of a name.
///
/// When the name server has answered for one family and not for the other within 50 ms, the first family is returned at once
/// (RFC 8305 section 3), and the other one arrives through `late`.
#[derive(Debug)]
pub struct Addresses {
    /// Addresses that can be dialled now, IPv6 before IPv4.
    pub first: Vec<IpAddr>,
    /// The other family, if its answer is still outstanding.
    pub late: Option<Late>,
}

/// The addresses of the family that was slower.
#[derive(Debug)]
pub struct Late(oneshot::Receiver<Vec<IpAddr>>);

impl Late {
    /// The addresses; none if the name server did not answer or has none. Ends at the time-out of the last name server.
    pub async fn addresses(self) -> Vec<IpAddr> {
        self.0.await.unwrap_or_default()
    }
}

/// Waits for the later addresses; none if the sender was dropped.
impl From<oneshot::Receiver<Vec<IpAddr>>> for Late {
    fn from(receiver: oneshot::Receiver<Vec<IpAddr>>) -> Self {
        Self(receiver)
    }
}

/// A complete answer, without a late part.
impl From<Vec<IpAddr>> for Addresses {
    fn from(first: Vec<IpAddr>) -> Self {
        Self { first, late: None }
    }
}
