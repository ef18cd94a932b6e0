//! The addresses of a name, of which one family may come later than the other.

use std::net::IpAddr;

use tokio::sync::oneshot;

/// The addresses of a name.
///
/// When the name server has answered for one family and not for the other within 50 ms, the first half is given at once
/// (RFC 8305 section 3), and what still comes of the other is in `late`.
#[derive(Debug)]
pub struct Addresses {
    /// What can be dialled now; IPv6 before IPv4.
    pub first: Vec<IpAddr>,
    /// The other family, if its answer is still outstanding.
    pub late: Option<Late>,
}

/// The addresses of the family that was slower.
#[derive(Debug)]
pub struct Late(oneshot::Receiver<Vec<IpAddr>>);

impl Late {
    /// What came; nothing if the name server did not answer or has none. Ends when the last name server's time is over.
    pub async fn addresses(self) -> Vec<IpAddr> {
        self.0.await.unwrap_or_default()
    }
}

/// What is sent later; nothing if the sender goes without.
impl From<oneshot::Receiver<Vec<IpAddr>>> for Late {
    fn from(receiver: oneshot::Receiver<Vec<IpAddr>>) -> Self {
        Self(receiver)
    }
}

/// The whole answer at once.
impl From<Vec<IpAddr>> for Addresses {
    fn from(first: Vec<IpAddr>) -> Self {
        Self { first, late: None }
    }
}
