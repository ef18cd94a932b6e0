//! The server's side: one configuration, many handshakes.

use std::num::NonZero;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::certificate::Resolver;
use super::engine::Engine;
use super::handshake::{Bounds, handshake};
use super::{ALPN, CertError, CertFacts, CertSource, ReloadOutcome, TlsError, TlsStream};

/// Tickets sent after a TLS 1.3 handshake. One: a device resumes one connection at a time.
const TICKETS: usize = 1;

/// Most bytes of a client's unfinished handshake that are kept: two records of full size. A `ClientHello` has
/// 2 KiB, and there are no client certificates.
const CLIENT_MAX: usize = 32 * 1024;

/// Accepts TLS connections with a certificate that can be replaced while serving.
///
/// Cheap to clone; clones share the certificate.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    resolver: Arc<Resolver>,
    source: Arc<CertSource>,
    /// Handshakes that may do their cryptography at once.
    turns: Arc<Semaphore>,
}

impl ServerTls {
    /// Reads the certificate and builds the configuration.
    ///
    /// The key that protects tickets is made here, changes every six hours and never leaves the
    /// process: tickets do not survive a restart.
    pub fn new(source: &CertSource) -> Result<Self, CertError> {
        let resolver = Arc::new(Resolver::load(source)?);
        let mut config = ServerConfig::builder_with_provider(super::provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(CertError::Crypto)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&resolver) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        // The records after the handshake are ours, see `session.rs`.
        config.enable_secret_extraction = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Ticketer::new().map_err(CertError::Crypto)?;
        config.send_tls13_tickets = TICKETS;
        let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
        let turns = Arc::new(Semaphore::new(workers));
        Ok(Self { config: Arc::new(config), resolver, source: Arc::new(source.clone()), turns })
    }

    /// Runs the handshake of an accepted connection.
    ///
    /// Has no time-out of its own; at most 32 KiB of the peer's bytes are held. On an error the
    /// alert is offered to the peer without waiting for it. Cancel safe in that dropping the
    /// future drops the connection.
    ///
    /// Handshakes take turns, one for each processor, and each turn waits until what was ready to
    /// run before has run: a flood of handshakes costs established connections little.
    pub async fn accept<IO>(&self, io: IO) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_watched(io, &|_| {}).await
    }

    /// As [`accept`](Self::accept); `held` is told how many bytes the handshake holds whenever that
    /// changes.
    pub async fn accept_watched<IO>(
        &self,
        io: IO,
        held: &(dyn Fn(usize) + Sync),
    ) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connection = UnbufferedServerConnection::new(Arc::clone(&self.config))?;
        let bounds = Bounds { max: CLIENT_MAX, held, turns: Some(&self.turns) };
        handshake(io, Engine::Server(connection), bounds).await
    }

    /// The turns of handshakes, for tests.
    #[cfg(test)]
    pub(super) fn turns(&self) -> &Arc<Semaphore> {
        &self.turns
    }

    /// Sends no tickets, for tests: a handshake of 1.3 then ends with the client's word.
    #[cfg(test)]
    pub(super) fn without_tickets(mut self) -> Self {
        Arc::make_mut(&mut self.config).send_tls13_tickets = 0;
        self
    }

    /// Reads the certificate files again. Blocks on the file system for a moment.
    ///
    /// The new pair is used only if it is complete and the key matches; on any error the one in
    /// use stays, and the call may be repeated. A pair that no client accepts today, for its dates,
    /// does not replace one that is good.
    pub fn reload(&self) -> Result<ReloadOutcome, CertError> {
        self.resolver.reload(&self.source, SystemTime::now())
    }

    /// The names and dates of the certificate in use; none if they cannot be read.
    pub fn facts(&self) -> Option<CertFacts> {
        self.resolver.facts()
    }

    /// The files that [`reload`](Self::reload) reads.
    pub fn source(&self) -> &CertSource {
        &self.source
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("source", &self.source).finish_non_exhaustive()
    }
}
