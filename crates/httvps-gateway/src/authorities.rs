//! The TLS of the gateway as a client: whom it trusts.

use httvps_transport::tls::{ClientTls, Roots};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;

/// A client's configuration that trusts the authorities of the system, if `needs_roots`, and those
/// of a PEM file. Blocks. The error is a phrase that names the file.
pub(crate) fn client_config(needs_roots: bool, ca: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if needs_roots {
        // Certificates that this system cannot load are no reason to refuse those that it can.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = ca {
        for certificate in authorities(path)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// A client that trusts the same: the authorities of the system and those of a PEM file; none when
/// there is no authority at all. Blocks. The error is a phrase that names the file.
pub(crate) fn client_tls(ca: Option<&Path>) -> Result<Option<ClientTls>, String> {
    let mut roots = rustls_native_certs::load_native_certs().certs;
    if let Some(path) = ca {
        roots.extend(authorities(path)?);
    }
    Ok(ClientTls::new(Roots::Bundle(roots)).ok())
}

fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |words: String| format!("{}: {words}", path.display());
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| failed(error.to_string()))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("no certificate in it; a PEM file with at least one is needed".into()));
    }
    Ok(certificates)
}
