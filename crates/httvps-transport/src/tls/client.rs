//! The client's side, and certificate trouble in plain words.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};

use super::engine::Engine;
use super::handshake::handshake;
use super::{ALPN, TlsError, TlsStream};

/// Whom a client believes.
#[derive(Debug, Clone)]
pub enum Roots {
    /// Certificates issued under one of these authorities. Entries that do not parse are skipped,
    /// as system bundles hold some; if none parses, every handshake fails.
    Bundle(Vec<CertificateDer<'static>>),
    /// **ANY** certificate, by **ANYBODY**, for any name. Whoever sits between the client and the
    /// gateway can read and change everything, the device's token first of all. Only for a test
    /// on a link that nobody else can touch.
    Insecure,
}

/// Connects to servers over TLS. Cheap to clone; clones share the tickets for resumption (of at
/// most 256 sessions).
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
}

impl ClientTls {
    /// Builds the configuration. The only possible error is that `roots` is a bundle in which no
    /// certificate can be used.
    pub fn new(roots: Roots) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(super::provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let mut config = match roots {
            Roots::Bundle(certificates) => {
                let mut store = RootCertStore::empty();
                if store.add_parsable_certificates(certificates).0 == 0 {
                    return Err(Error::InvalidCertificate(CertificateError::BadEncoding).into());
                }
                builder.with_root_certificates(store)
            }
            Roots::Insecure => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(BelieveAnybody(super::provider()))),
        }
        .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        // The records after the handshake are ours, see `session.rs`.
        config.enable_secret_extraction = true;
        Ok(Self { config: Arc::new(config) })
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
        let connection = UnbufferedClientConnection::new(Arc::clone(&self.config), name)?;
        handshake(io, Engine::Client(connection)).await
    }
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

/// Says in plain words what is wrong, if it is something a person can act on.
pub fn explain(error: &Error) -> Option<String> {
    Some(match error {
        Error::InvalidCertificate(problem) => explain_certificate(problem),
        Error::InvalidMessage(_) => "the peer does not speak TLS on this port".into(),
        Error::NoCertificatesPresented => "the server has sent no certificate".into(),
        Error::PeerIncompatible(_) => {
            "no common TLS version or suite; TLS 1.2 or 1.3 with an AEAD suite is needed".into()
        }
        Error::NoApplicationProtocol
        | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "the peer does not accept HTTP/1.1 inside TLS (ALPN http/1.1)".into()
        }
        Error::AlertReceived(alert) => format!("the peer has refused the TLS handshake: {alert:?}"),
        _ => return None,
    })
}

fn explain_certificate(problem: &CertificateError) -> String {
    use CertificateError as E;
    let words = match problem {
        E::Expired | E::ExpiredContext { .. } => {
            "the server's certificate has expired (or the clock of this machine is wrong)"
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet (or the clock of this machine is wrong)"
        }
        E::UnknownIssuer => {
            "the server's certificate is not issued by an authority that this machine trusts"
        }
        E::NotValidForName => "the server's certificate is for another name",
        E::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().take(8).map(String::as_str).collect();
            return format!(
                "the server's certificate is for another name: asked for {}, it names {}",
                expected.to_str(),
                if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
            );
        }
        E::Revoked => "the server's certificate has been revoked",
        E::BadSignature => "the signature of the server's certificate is wrong",
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "the server's certificate is not meant for a server"
        }
        E::BadEncoding => "a certificate cannot be parsed",
        other => return format!("the server's certificate is not acceptable: {other:?}"),
    };
    words.into()
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
