//! The connections of HTTP clients: to the backend and to key servers.

use httvps_resolve::{Addresses, Resolve, SystemResolver, connect, is_localhost};
use httvps_transport::socket;
use hyper::Uri;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

/// Opens the TCP connections of an HTTP client. Names are those of the operator, looked up like all others.
#[derive(Clone)]
pub struct Dial {
    resolver: Arc<SystemResolver>,
    deadline: Duration,
}

impl Dial {
    /// Whatever a connection needs, its name included, is to be done within `deadline`.
    pub fn new(deadline: Duration) -> Self {
        Self { resolver: SystemResolver::shared(), deadline }
    }

    /// How long a connection may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { resolver, deadline } = self.clone();
        Box::pin(async move {
            let connecting = async {
                let host = uri.host().unwrap_or_default();
                let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
                let port = uri.port_u16().unwrap_or(default);
                let addresses = addresses(&resolver, host).await?;
                connect(addresses, port, socket::connect).await
            };
            let connected = tokio::time::timeout(deadline, connecting).await;
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(TokioIo::new)
        })
    }
}

/// Whether a name server has to be asked for the host of a URL.
pub fn needs_name(url: &str) -> bool {
    let uri = url.parse::<Uri>().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    ip(host).is_none() && !is_localhost(host)
}

async fn addresses(resolver: &SystemResolver, host: &str) -> io::Result<Addresses> {
    match ip(host) {
        Some(address) => Ok(vec![address].into()),
        None => resolver.resolve_own(host).await.map_err(io::Error::other),
    }
}

/// The host of a URI as an address, if it is one.
fn ip(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn addresses_and_names_lead_to_the_port_of_the_uri() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut dial = Dial::new(Duration::from_secs(30));
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            let uri: Uri = format!("http://{host}:{port}/path").parse().unwrap();
            let stream = dial.call(uri).await.expect(host);
            assert_eq!(stream.inner().peer_addr().unwrap().port(), port);
        }
        drop(listener);
        let uri: Uri = format!("http://127.0.0.1:{port}/").parse().unwrap();
        let error = dial.call(uri).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_backend_by_name_needs_a_name_server() {
        assert!(needs_name("https://backend.example:8443/api"));
        for url in ["http://127.0.0.1:8082", "https://[::1]/", "http://localhost:8082/"] {
            assert!(!needs_name(url), "{url}");
        }
    }
}
