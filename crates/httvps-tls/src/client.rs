//! The client's side.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};

use super::engine::Engine;
use super::handshake::{Bounds, handshake};
use super::verifier::trusting;
use super::{ALPN, Attempt, KeyShares, TlsError, TlsStream};

/// Most bytes of a server's unfinished handshake that are kept: certificate chains are long.
const SERVER_MAX: usize = 64 * 1024;

/// Whom a client believes.
#[derive(Debug, Clone)]
pub enum Roots {
    /// Certificates issued under one of these authorities, and a server that shows one of them
    /// itself; name and dates are checked in both cases. Entries that do not parse are skipped,
    /// as system bundles hold some; if none parses, every handshake fails.
    Bundle(Vec<CertificateDer<'static>>),
    /// **ANY** certificate, by any issuer, for any name. An attacker between the client and the
    /// gateway can read and change everything, the device's token first of all. Only for a test
    /// on a trusted network.
    Insecure,
}

/// Connects to servers over TLS. Cheap to clone; clones share the tickets for resumption (of at
/// most 256 sessions).
///
/// The post-quantum key exchange is offered. Where a handshake breaks or is given up without an
/// answer, the next one with that server goes without, see [`KeyShares`].
#[derive(Clone)]
pub struct ClientTls {
    hybrid: Arc<ClientConfig>,
    /// Without the post-quantum key exchange.
    small: Arc<ClientConfig>,
    /// None where it is never offered.
    shares: Option<KeyShares>,
}

impl ClientTls {
    /// Builds the configuration. The only possible error is that `roots` is a bundle in which no
    /// certificate can be used.
    pub fn new(roots: Roots) -> Result<Self, TlsError> {
        let verifier: Arc<dyn ServerCertVerifier> = match roots {
            Roots::Bundle(certificates) => trusting(certificates)?,
            Roots::Insecure => Arc::new(BelieveAnybody(super::provider())),
        };
        let small = Arc::clone(&super::SMALL_PROVIDER);
        Ok(Self {
            hybrid: configure(super::provider(), verifier.clone())?,
            small: configure(small, verifier)?,
            shares: Some(KeyShares::default()),
        })
    }

    /// Never offers the post-quantum key exchange.
    pub fn without_post_quantum(self) -> Self {
        Self { shares: None, ..self }
    }

    /// Runs the handshake over a connected stream, for the server called `name`.
    ///
    /// Has no time-out of its own. Cancel safe in that dropping the future drops the connection.
    pub async fn connect<IO>(
        &self,
        name: ServerName<'static>,
        io: IO,
    ) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let attempt = self.shares.as_ref().map(|shares| shares.begin(&name));
        let is_small = attempt.as_ref().is_none_or(Attempt::is_small);
        let config = if is_small { &self.small } else { &self.hybrid };
        let connection = UnbufferedClientConnection::new(Arc::clone(config), name)?;
        let bounds = Bounds { max: SERVER_MAX, held: &|_| {}, turns: None };
        let result = handshake(io, Engine::Client(connection), bounds).await;
        match (attempt, &result) {
            (Some(attempt), Err(TlsError::Io(_))) => attempt.lost(),
            (Some(attempt), _) => attempt.answered(),
            (None, _) => {}
        }
        result
    }
}

fn configure(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    // The records after the handshake are ours, see `session.rs`.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

/// The name to verify for a host as it stands in a URL: a DNS name, an IPv4 address, or an IPv6
/// address with or without brackets.
pub fn server_name(host: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare).map(|name| name.to_owned())
}

/// Accepts every certificate; the signature of the handshake is still checked, so that at least
/// the peer owns the key of the certificate it shows.
#[derive(Debug)]
struct BelieveAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for BelieveAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
