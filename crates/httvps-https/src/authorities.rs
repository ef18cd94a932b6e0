//! The TLS of the gateway as a client: whom it trusts, and what is wrong with those it does not.

use httvps_tls::{
    CertificateFault, ClientTls, Roots, certificate_fault, read_authorities, trusting,
    without_post_quantum,
};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Two configurations of a client that trust the same; see [`Https`](crate::https::Https).
pub struct TlsConfigs {
    /// Offers the post-quantum key exchange.
    pub hybrid: ClientConfig,
    /// Does not, so that its first message fits into one segment.
    pub small: ClientConfig,
}

/// A client's configurations that trust the authorities of the system, if `needs_roots`, and the
/// certificates of a PEM file, which may be the server's own. Blocks. The error is a phrase that names
/// the file.
pub fn client_config(needs_roots: bool, ca: Option<&Path>) -> Result<TlsConfigs, String> {
    let mut trusted = Vec::new();
    if needs_roots {
        trusted = rustls_native_certs::load_native_certs().certs;
    }
    if let Some(path) = ca {
        trusted.extend(authorities(path)?);
    }
    let verifier = trusting(trusted);
    let configure = |provider: CryptoProvider| {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        // A system without any authority is no reason not to start: every handshake will say so.
        let builder = match &verifier {
            Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(verifier.clone()),
            Err(_) => builder.with_root_certificates(RootCertStore::empty()),
        };
        Ok::<_, String>(builder.with_no_client_auth())
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Ok(TlsConfigs {
        small: configure(without_post_quantum(provider.clone()))?,
        hybrid: configure(provider)?,
    })
}

/// A client that trusts the same: the authorities of the system and the certificates of a PEM file;
/// none when there is no authority at all. Blocks. The error is a phrase that names the file.
pub fn client_tls(ca: Option<&Path>) -> Result<Option<ClientTls>, String> {
    let mut roots = rustls_native_certs::load_native_certs().certs;
    if let Some(path) = ca {
        roots.extend(authorities(path)?);
    }
    Ok(ClientTls::new(Roots::Bundle(roots)).ok())
}

/// What an operator named must be usable; of the system's certificates some may not be.
fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = read_authorities(path).map_err(|error| error.to_string())?;
    let is_usable = |certificate: &CertificateDer<'static>| {
        RootCertStore::empty().add(certificate.clone()).is_ok()
    };
    match certificates.iter().position(|certificate| !is_usable(certificate)) {
        Some(index) => Err(format!(
            "{}: certificate number {} cannot be used; accepted: X.509 version 3",
            path.display(),
            index + 1
        )),
        None => Ok(certificates),
    }
}

/// What is wrong with the server's certificate, if that is behind an error.
pub fn fault_behind(error: &(dyn Error + 'static)) -> Option<CertificateFault> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return certificate_fault(error);
        }
        // The source of an I/O error is that of the error in it, and not that one itself.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// What is wrong and what to do; `setting` is where further certificates are named as trusted.
pub fn fault_words(fault: CertificateFault, setting: &str) -> String {
    match fault.remedy() {
        "" => format!("{}; {setting} names further ones", fault.words()),
        remedy => format!("{}; {remedy}", fault.words()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_found_behind_errors_of_io() {
        let wrapped = |error| io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(fault_behind(&wrapped(unknown)), Some(CertificateFault::UnknownIssuer));
        assert_eq!(fault_behind(&wrapped(rustls::Error::DecryptError)), None);
        assert_eq!(fault_behind(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }

    #[test]
    fn each_fault_has_its_own_advice() {
        let words = fault_words(CertificateFault::UnknownIssuer, "backend_ca_path");
        assert!(words.contains("backend_ca_path"), "{words}");
        let words = fault_words(CertificateFault::Expired, "backend_ca_path");
        assert!(!words.contains("backend_ca_path") && words.contains("renew"), "{words}");
    }

    #[test]
    fn an_unusable_file_of_authorities_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        for (content, part) in [
            ("-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n", "number 1"),
            ("", "no certificate"),
        ] {
            std::fs::write(&path, content).unwrap();
            let words = client_config(false, Some(&path)).map(|_| ()).unwrap_err();
            assert!(words.contains(part) && words.contains("ca.pem"), "{words}");
        }
        assert!(client_config(false, None).is_ok());
    }
}
