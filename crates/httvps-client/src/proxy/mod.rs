//! A SOCKS5 and HTTP proxy on one port.

mod accept;
mod associate;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod prefixed;
mod socks5;
mod socks5_reply;

pub(crate) use accept::Serve;
pub use accept::{Accept, Rejected, ReportRejected};

use crate::relay::part;
use crate::{Open, Secret};
use base64_turbo::STANDARD;
use httvps_mux::Local;
use prefixed::Prefixed;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// From the accepted connection to the complete request of a program.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Who may use a proxy. There is no `Debug`, for the password's sake.
pub struct Credentials {
    user: Secret,
    password: Secret,
    /// `user:password` in base64, as HTTP carries it.
    basic: Secret,
}

impl Credentials {
    /// Takes a user name and a password; 255 bytes each are the most that SOCKS5 can carry.
    pub fn new(user: Secret, password: Secret) -> Self {
        let joined = Secret::new(format!("{}:{}", user.expose(), password.expose()));
        let basic = Secret::new(STANDARD.encode(joined.expose()));
        Self { user, password, basic }
    }

    /// Compares in a time that depends on the lengths only.
    fn is_user(&self, user: &[u8], password: &[u8]) -> bool {
        let user = self.user.expose().as_bytes().ct_eq(user);
        let password = self.password.expose().as_bytes().ct_eq(password);
        (user & password).into()
    }

    fn is_basic(&self, token: &[u8]) -> bool {
        self.basic.expose().as_bytes().ct_eq(token).into()
    }
}

/// Serves a listening port: SOCKS5 (RFC 1928, CONNECT and UDP ASSOCIATE; user and password by RFC 1929) and HTTP
/// (CONNECT and `http://` requests; Basic authentication) are told apart by the first byte.
/// Returns when `cancel` is.
pub async fn serve<O: Open>(
    accept: Accept,
    credentials: Option<Credentials>,
    opener: Arc<O>,
    cancel: CancellationToken,
) {
    let credentials = credentials.map(Arc::new);
    let (report, idle_origins) = (accept.report(), http::idle_origins());
    accept.run(Arc::new(Proxy { credentials, opener, report, idle_origins }), cancel).await;
}

struct Proxy<O> {
    credentials: Option<Arc<Credentials>>,
    opener: Arc<O>,
    /// For what does not end a connection.
    report: ReportRejected,
    /// Places of connections to origins that are kept without a request.
    idle_origins: Arc<Semaphore>,
}

/// The first byte of SOCKS4 and `SOCKS4a`.
const SOCKS4: u8 = 4;

/// The refusal of SOCKS4 and `SOCKS4a`, whose only byte with a meaning is the second.
const SOCKS4_REFUSAL: [u8; 8] = [0, 0x5B, 0, 0, 0, 0, 0, 0];

impl<O: Open> Serve for Proxy<O> {
    async fn serve<L: Local>(&self, mut local: L) -> Result<(), Rejected> {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let mut first = [0; 1];
        match timeout_at(deadline, local.read(&mut first)).await {
            Ok(Ok(1)) => {}
            Ok(_) => return Ok(()),
            Err(_) => return Err(Rejected::SLOW),
        }
        let mut local = Prefixed::new(&first, local);
        let credentials = self.credentials.as_deref();
        match first[0] {
            socks5::VERSION => {
                socks5_reply::serve(local, credentials, &self.opener, &self.report, deadline).await
            }
            SOCKS4 => {
                socks5_reply::send(&mut local, &SOCKS4_REFUSAL).await?;
                part(&mut local).await;
                Err(Rejected::SOCKS4)
            }
            first => {
                let places = &self.idle_origins;
                http::serve(local, first, credentials, &*self.opener, places, deadline).await
            }
        }
    }
}

#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod tests;
