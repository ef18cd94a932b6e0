//! Certificates, and configurations of an independent TLS peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use httvps_tls::{CertSource, ClientTls, Roots, ServerTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// An authority and one server certificate of it.
pub(crate) struct Pki {
    pub(crate) authority: CertificateDer<'static>,
    pub(crate) certificate: CertificateDer<'static>,
    key: KeyPair,
    pub(crate) files: CertSource,
    _dir: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// Lets `change` alter the server's certificate before it is signed.
    pub(crate) fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut authority = CertificateParams::new([]).unwrap();
        // Names of their own, so that a stranger's authority is unknown rather than forged.
        let name = format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        authority.distinguished_name.push(DnType::CommonName, name);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let files = CertSource {
            cert_path: dir.path().join("cert.pem"),
            key_path: dir.path().join("key.pem"),
        };
        std::fs::write(&files.cert_path, certificate.pem()).unwrap();
        std::fs::write(&files.key_path, key.serialize_pem()).unwrap();
        Self {
            authority: authority.der().clone(),
            certificate: certificate.der().clone(),
            key,
            files,
            _dir: dir,
        }
    }

    pub(crate) fn our_server(&self) -> ServerTls {
        ServerTls::new(&self.files).unwrap()
    }

    pub(crate) fn our_client(&self) -> ClientTls {
        ClientTls::new(Roots::Bundle(vec![self.authority.clone()])).unwrap()
    }

    pub(crate) fn their_client(
        &self,
        version: &'static SupportedProtocolVersion,
    ) -> tokio_rustls::TlsConnector {
        Arc::new(self.client_config(version, None)).into()
    }

    pub(crate) fn their_server(
        &self,
        version: &'static SupportedProtocolVersion,
    ) -> tokio_rustls::TlsAcceptor {
        Arc::new(self.server_config(version, None)).into()
    }

    /// A client of one version, and of one suite if that is given.
    pub(crate) fn client_config(
        &self,
        version: &'static SupportedProtocolVersion,
        suite: Option<CipherSuite>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(provider(suite))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    /// A server of one version, and of one suite if that is given.
    pub(crate) fn server_config(
        &self,
        version: &'static SupportedProtocolVersion,
        suite: Option<CipherSuite>,
    ) -> ServerConfig {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider(suite))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap();
        // Their handshake waits until its tickets are read; over a pipe of one byte, for ever.
        config.send_tls13_tickets = 0;
        config
    }
}

fn provider(suite: Option<CipherSuite>) -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|offered| suite.is_none_or(|suite| offered.suite() == suite));
    Arc::new(provider)
}
