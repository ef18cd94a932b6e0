//! Accepting local connections, not too many at once.

use crate::{OpenError, Target};
use httvps_mux::Local;
use httvps_transport::socket::{self, Bind};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause after an error of `accept`, which is mostly a want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Receives what a local connection failed of, or what was ignored on it; must not block.
pub type ReportRejected = Arc<dyn Fn(&Rejected) + Send + Sync>;

/// A listening port.
pub struct Accept {
    listener: TcpListener,
    places: Arc<Semaphore>,
    report: ReportRejected,
}

/// What happens to an accepted connection.
pub(crate) trait Serve: Send + Sync + 'static {
    fn serve<L: Local>(&self, local: L) -> impl Future<Output = Result<(), Rejected>> + Send;
}

impl Accept {
    /// Local connections at once, by default.
    pub const DEFAULT_CONNECTIONS: usize = 1024;

    /// Opens a port; must be called inside a tokio runtime.
    ///
    /// `places` are the local connections at once, over all ports that share it
    /// ([`Self::DEFAULT_CONNECTIONS`] is a good number); further ones wait in the kernel's queue.
    pub fn bind(bind: Bind, places: Arc<Semaphore>, report: ReportRejected) -> io::Result<Self> {
        Ok(Self { listener: socket::listen(bind)?, places, report })
    }

    /// The address of the port, with the number that the system chose if it was to choose.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where rejected connections are reported to.
    pub(crate) fn report(&self) -> ReportRejected {
        self.report.clone()
    }

    /// Accepts until `cancel` is, then ends the connections.
    pub(crate) async fn run<S: Serve>(self, service: Arc<S>, cancel: CancellationToken) {
        let tasks = TaskTracker::new();
        loop {
            let place = tokio::select! {
                place = self.places.clone().acquire_owned() => place,
                () = cancel.cancelled() => break,
            };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = cancel.cancelled() => break,
            };
            let Ok((local, _)) = accepted else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (service, cancel, report) = (service.clone(), cancel.clone(), self.report.clone());
            tasks.spawn(async move {
                let _place = place;
                tokio::select! {
                    result = service.serve(local) => if let Err(rejected) = result {
                        report(&rejected);
                    },
                    () = cancel.cancelled() => {}
                }
            });
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// A local connection that came to nothing, or what was ignored on one; `Display` says why.
#[derive(Debug)]
pub struct Rejected(std::borrow::Cow<'static, str>);

impl Rejected {
    pub(crate) const SLOW: Self = Self::because("a program did not complete its request in 10 s");
    pub(crate) const SOCKS4: Self = Self::because("a program spoke SOCKS4; SOCKS5 is accepted");

    pub(crate) const fn because(words: &'static str) -> Self {
        Self(std::borrow::Cow::Borrowed(words))
    }

    pub(crate) fn not_opened(target: &Target, error: &OpenError) -> Self {
        Self(format!("no stream to {target}: {error}").into())
    }

    pub(crate) fn broken(target: &Target, error: &io::Error) -> Self {
        Self(format!("the stream to {target} broke: {error}").into())
    }

    pub(crate) fn datagram(source: SocketAddr, reason: &str) -> Self {
        let ignored = "UDP ASSOCIATE ignores datagrams like one from";
        Self(format!("{ignored} {source}: {reason}").into())
    }

    pub(crate) fn local(error: &dyn fmt::Display) -> Self {
        Self(format!("a local connection failed: {error}").into())
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
