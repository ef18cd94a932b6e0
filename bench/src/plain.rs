//! Echoes that look at nothing: over TCP behind the relay, and over TLS as a process of its own.

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What is read at once.
const PIECE: usize = 64 * 1024;

/// Echoes over TCP on a free loopback port for as long as the program runs.
pub(crate) async fn start_echo() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(accept(listener, |stream| async { Ok(stream) }));
    Ok(address)
}

/// Echoes over TLS until the process is ended; the certificate is in `folder`.
pub(crate) async fn serve_tls(port: u16, folder: &Path) -> io::Result<()> {
    let acceptor = acceptor(folder)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    accept(listener, move |stream| acceptor.accept(stream)).await;
    Ok(())
}

/// A TLS server on the gateway's TLS library, with the certificate in `folder`.
pub(crate) fn acceptor(folder: &Path) -> io::Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_file(folder.join("cert.pem"));
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"));
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.map_err(io::Error::other)?],
            key.map_err(io::Error::other)?,
        )
        .map_err(io::Error::other)?;
    // One ticket and nothing kept for it, as the gateway does.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new().map_err(io::Error::other)?;
    config.send_tls13_tickets = 1;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept<S, F>(listener: TcpListener, prepare: impl Fn(TcpStream) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let ready = prepare(stream);
        // The peer's end of it is the end of the measurement.
        tokio::spawn(async move { echo(ready.await?).await });
    }
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
        stream.flush().await?;
    }
}
