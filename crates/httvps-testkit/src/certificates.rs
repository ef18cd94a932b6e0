//! A certificate authority for one test, and the server certificate that it signed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// Certificates in PEM files, good for `localhost`, `127.0.0.1` and `::1`.
pub struct TestCertificates {
    /// The authority's certificate, for clients to trust.
    pub ca_path: PathBuf,
    /// The server certificate (`CA:FALSE`).
    pub cert_path: PathBuf,
    /// The server's private key (PKCS #8).
    pub key_path: PathBuf,
    /// The authority's certificate in DER, for a root store.
    pub ca_der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// Makes an authority and a server certificate, valid from yesterday for 30 days, as `ca.pem`,
/// `cert.pem` and `key.pem` in `dir`.
///
/// # Panics
/// When `dir` cannot be written.
pub fn make(dir: &Path) -> TestCertificates {
    let key = KeyPair::generate().expect("a key can be generated");
    let mut ca = parameters("httvps test CA", &[], Validity::Current);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = ca.self_signed(&key).expect("the authority can sign itself");
    let made = TestCertificates {
        ca_path: dir.join("ca.pem"),
        cert_path: dir.join("cert.pem"),
        key_path: dir.join("key.pem"),
        ca_der: certificate.der().to_vec(),
        issuer: Issuer::new(ca, key),
    };
    fs::write(&made.ca_path, certificate.pem()).expect("the directory can be written");
    made.reissue();
    made
}

impl TestCertificates {
    /// Replaces certificate and key by fresh ones of the same authority; returns the new
    /// certificate in DER, to be recognised in a handshake.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn reissue(&self) -> Vec<u8> {
        self.issue("localhost", Validity::Current)
    }

    /// Replaces certificate and key by ones that were valid until yesterday.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn reissue_expired(&self) -> Vec<u8> {
        self.issue("localhost", Validity::Expired)
    }

    /// Replaces certificate and key by ones for another host only.
    ///
    /// # Panics
    /// When the files cannot be written, or `name` is no DNS name.
    pub fn reissue_for(&self, name: &str) -> Vec<u8> {
        self.issue(name, Validity::Current)
    }

    fn issue(&self, name: &str, validity: Validity) -> Vec<u8> {
        let names: &[&str] =
            if name == "localhost" { &["localhost", "127.0.0.1", "::1"] } else { &[name] };
        let key = KeyPair::generate().expect("a key can be generated");
        let mut leaf = parameters(name, names, validity);
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let certificate = leaf.signed_by(&key, &self.issuer).expect("the authority can sign");
        replace(&self.key_path, &key.serialize_pem());
        replace(&self.cert_path, &certificate.pem());
        certificate.der().to_vec()
    }
}

#[derive(Clone, Copy)]
enum Validity {
    Current,
    Expired,
}

fn parameters(name: &str, names: &[&str], validity: Validity) -> CertificateParams {
    const DAY: Duration = Duration::from_hours(24);
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut parameters = CertificateParams::new(names).expect("the names are well-formed");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = rcgen::date_time_ymd(1970, 1, 1) + now;
    (parameters.not_before, parameters.not_after) = match validity {
        Validity::Current => (now - DAY, now + 29 * DAY),
        Validity::Expired => (now - 30 * DAY, now - DAY),
    };
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name.to_owned()));
    parameters
}

/// Renames a whole file into place, as the tools that renew certificates do.
fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text).expect("the directory can be written");
    fs::rename(&fresh, path).expect("the file can be renamed");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::sign::CertifiedKey;

    use super::*;

    fn verify(made: &TestCertificates, name: &'static str) -> Result<(), rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(made.ca_der.clone()))?;
        let cert = CertificateDer::from_pem_file(&made.cert_path).unwrap();
        let key = PrivateKeyDer::from_pem_file(&made.key_path).unwrap();
        CertifiedKey::from_der(vec![cert.clone()], key, &provider)?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&cert, &[], &name, &[], UnixTime::now()).map(drop)
    }

    #[test]
    fn the_certificate_is_good_for_every_loopback_name() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(dir.path());
        for name in ["localhost", "127.0.0.1", "::1"] {
            verify(&made, name).unwrap();
        }
        assert!(verify(&made, "example.org").is_err());
        let ca = CertificateDer::from_pem_file(&made.ca_path).unwrap();
        assert_eq!(ca.as_ref(), made.ca_der);
    }

    #[test]
    fn a_reissued_certificate_is_another_of_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(dir.path());
        let first = CertificateDer::from_pem_file(&made.cert_path).unwrap();
        let second = made.reissue();
        assert_ne!(first.as_ref(), second);
        verify(&made, "localhost").unwrap();
        made.reissue_expired();
        assert!(verify(&made, "localhost").unwrap_err().to_string().contains("expired"));
        made.reissue_for("example.org");
        verify(&made, "example.org").unwrap();
        assert!(verify(&made, "localhost").is_err());
    }
}
