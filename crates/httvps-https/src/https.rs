//! The connections of an HTTP client, in TLS where the URL says so.

use crate::authorities::TlsConfigs;
use crate::dial::Dial;
use httvps_tls::{KeyShares, server_name};
use hyper::Uri;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

/// Connects to the servers of URLs. The post-quantum key exchange is offered; where a handshake breaks
/// or is given up without an answer, the next one with that server goes without, see [`KeyShares`].
#[derive(Clone)]
pub struct Https {
    dial: Dial,
    hybrid: TlsConnector,
    small: TlsConnector,
    shares: KeyShares,
}

impl Https {
    /// `protocols` are those that are offered inside TLS (ALPN), the preferred one first.
    pub fn new(dial: Dial, configs: TlsConfigs, protocols: &[&[u8]]) -> Self {
        let connector = |mut config: rustls::ClientConfig| {
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        Self {
            dial,
            hybrid: connector(configs.hybrid),
            small: connector(configs.small),
            shares: KeyShares::default(),
        }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

impl Service<Uri> for Https {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.dial.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        let is_tls = uri.scheme_str() != Some("http");
        let name = server_name(uri.host().unwrap_or_default());
        let dialling = self.dial.call(uri);
        Box::pin(async move {
            let tcp = dialling.await?;
            if !is_tls {
                return Ok(MaybeHttpsStream::Http(tcp));
            }
            let name = name?;
            let attempt = this.shares.begin(&name);
            let tls = if attempt.is_small() { &this.small } else { &this.hybrid };
            let connecting = tls.connect(name, TokioIo::new(tcp));
            // The HTTP client goes on with a connection whose request is over, and has no bound for it.
            let connected = tokio::time::timeout(this.dial.deadline(), connecting).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    attempt.answered();
                    Ok(MaybeHttpsStream::Https(TokioIo::new(stream)))
                }
                Err(error) => {
                    // What TLS itself says is wrong stands in an error of this kind.
                    if error.kind() == io::ErrorKind::InvalidData {
                        attempt.answered();
                    } else {
                        attempt.lost();
                    }
                    Err(error.into())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorities::client_config;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    /// The length of the first message of each connection, which is then closed.
    async fn hello(listener: &TcpListener) -> usize {
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut header = [0; 5];
        peer.read_exact(&mut header).await.unwrap();
        let mut rest = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        peer.read_exact(&mut rest).await.unwrap();
        header.len() + rest.len()
    }

    #[tokio::test]
    async fn after_a_lost_handshake_the_next_hello_fits_into_one_segment() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("https://{}/x", listener.local_addr().unwrap()).parse().unwrap();
        let configs = client_config(false, None).unwrap();
        let mut https = Https::new(Dial::new(Duration::from_mins(1)), configs, &[b"http/1.1"]);
        for is_small in [false, true, false] {
            let (result, length) = tokio::join!(https.call(url.clone()), hello(&listener));
            assert!(result.is_err());
            assert_eq!(length < 1_300, is_small, "{length}");
        }
    }

    #[tokio::test]
    async fn a_handshake_without_an_answer_ends_by_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("https://{}/x", listener.local_addr().unwrap()).parse().unwrap();
        let configs = client_config(false, None).unwrap();
        let mut https = Https::new(Dial::new(Duration::from_millis(300)), configs, &[b"http/1.1"]);
        let ended = tokio::time::timeout(Duration::from_secs(30), https.call(url)).await;
        let error = ended.expect("it ends").map(|_| ()).unwrap_err();
        let error = error.downcast_ref::<io::Error>().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_alert_is_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("https://{}/x", listener.local_addr().unwrap()).parse().unwrap();
        let configs = client_config(false, None).unwrap();
        let mut https = Https::new(Dial::new(Duration::from_mins(1)), configs, &[b"http/1.1"]);
        let refusing = async {
            use tokio::io::AsyncWriteExt;
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut hello = [0; 64];
            peer.read_exact(&mut hello).await.unwrap();
            // handshake_failure
            peer.write_all(&[21, 3, 3, 0, 2, 2, 40]).await.unwrap();
            let _ = peer.read_to_end(&mut Vec::new()).await;
        };
        let (result, ()) = tokio::join!(https.call(url.clone()), refusing);
        assert!(result.is_err());
        let (_, length) = tokio::join!(https.call(url), hello(&listener));
        assert!(length > 1_300, "{length}");
    }
}
