//! The server's certificate: where it is, how it is read, and how it is replaced while serving.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate or key file larger than this is refused. A long chain is about 10 KiB.
const FILE_MAX: u64 = 1024 * 1024;

/// Where the certificate chain and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertSource {
    /// PEM file with the server's certificate first, then its intermediates.
    pub cert_path: PathBuf,
    /// PEM file with the private key (PKCS #8, SEC 1 or PKCS #1), not encrypted.
    pub key_path: PathBuf,
}

/// What a reload changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The files hold the chain that is in use.
    Unchanged,
    /// New handshakes use the new chain, of this many certificates. Connections that are up are
    /// not touched.
    Replaced {
        /// Certificates in the new chain.
        chain_len: usize,
    },
}

/// Why a certificate cannot be used. Messages name the file and what is accepted, never content.
#[derive(Debug)]
pub enum CertError {
    /// The file cannot be read.
    Unreadable(PathBuf, io::Error),
    /// The file is larger than 1 MiB.
    TooLarge(PathBuf),
    /// The file is not PEM, or is damaged.
    NotPem(PathBuf),
    /// There is no `CERTIFICATE` section.
    NoCertificate(PathBuf),
    /// There is no usable private key section.
    NoKey(PathBuf),
    /// The key is of a kind, size or encoding that cannot sign.
    UnusableKey(PathBuf),
    /// The first certificate cannot be parsed.
    UnusableCertificate(PathBuf),
    /// The key belongs to another certificate.
    Mismatch(CertSource),
    /// The cryptography library failed (out of randomness); not the fault of a file.
    Crypto(rustls::Error),
}

impl fmt::Display for CertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::TooLarge(path) => {
                write!(f, "{} is larger than 1 MiB; accepted: one PEM chain or key", path.display())
            }
            Self::NotPem(path) => write!(
                f,
                "{} is not valid PEM; accepted: sections like -----BEGIN CERTIFICATE-----",
                path.display()
            ),
            Self::NoCertificate(path) => write!(
                f,
                "{} holds no certificate; accepted: a PEM chain, the server's certificate first",
                path.display()
            ),
            Self::NoKey(path) => write!(
                f,
                "{} holds no private key; accepted: an unencrypted PEM key \
                 (PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY)",
                path.display()
            ),
            Self::UnusableKey(path) => write!(
                f,
                "the key in {} cannot be used; accepted: RSA of 2048 to 8192 bits, \
                 ECDSA P-256, P-384 or P-521, Ed25519",
                path.display()
            ),
            Self::UnusableCertificate(path) => write!(
                f,
                "the first certificate in {} cannot be parsed; accepted: X.509 version 3",
                path.display()
            ),
            Self::Mismatch(source) => write!(
                f,
                "the key in {} does not belong to the first certificate in {}; \
                 accepted: the key that the certificate was issued for",
                source.key_path.display(),
                source.cert_path.display()
            ),
            Self::Crypto(error) => write!(f, "the cryptography library failed: {error}"),
        }
    }
}

impl std::error::Error for CertError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(_, error) => Some(error),
            Self::Crypto(error) => Some(error),
            _ => None,
        }
    }
}

/// Serves the current certificate to every handshake, whatever name it asks for.
#[derive(Debug)]
pub(super) struct Resolver {
    current: ArcSwap<CertifiedKey>,
}

impl Resolver {
    pub(super) fn load(source: &CertSource) -> Result<Self, CertError> {
        Ok(Self { current: ArcSwap::from_pointee(load(source)?) })
    }

    /// Reads the files again; on any error the certificate in use stays.
    pub(super) fn reload(&self, source: &CertSource) -> Result<ReloadOutcome, CertError> {
        let fresh = load(source)?;
        // A chain names its public key, and `load` has matched the private key with it.
        if fresh.cert == self.current.load().cert {
            return Ok(ReloadOutcome::Unchanged);
        }
        let chain_len = fresh.cert.len();
        self.current.store(Arc::new(fresh));
        Ok(ReloadOutcome::Replaced { chain_len })
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn load(source: &CertSource) -> Result<CertifiedKey, CertError> {
    let cert_path = &source.cert_path;
    let chain = CertificateDer::pem_slice_iter(&read(cert_path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| CertError::NotPem(cert_path.clone()))?;
    if chain.is_empty() {
        return Err(CertError::NoCertificate(cert_path.clone()));
    }
    let key_path = &source.key_path;
    let key = PrivateKeyDer::from_pem_slice(&read(key_path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => CertError::NoKey(key_path.clone()),
        _ => CertError::NotPem(key_path.clone()),
    })?;
    let signing_key = super::provider()
        .key_provider
        .load_private_key(key)
        .map_err(|_| CertError::UnusableKey(key_path.clone()))?;
    let certified = CertifiedKey::new(chain, signing_key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertError::Mismatch(source.clone())),
        Err(_) => Err(CertError::UnusableCertificate(cert_path.clone())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertError> {
    let unreadable = |error| CertError::Unreadable(path.to_owned(), error);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut content = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > FILE_MAX {
        return Err(CertError::TooLarge(path.to_owned()));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pair(dir: &Path, cert: &str, key: &str) -> CertSource {
        let source = CertSource { cert_path: dir.join("cert.pem"), key_path: dir.join("key.pem") };
        std::fs::write(&source.cert_path, cert).unwrap();
        std::fs::write(&source.key_path, key).unwrap();
        source
    }

    fn generate() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn reload_replaces_a_good_pair_and_keeps_the_old_one_on_failure() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = generate();
        let (other_cert, other_key) = generate();
        let source = write_pair(dir.path(), &cert, &key);
        let resolver = Resolver::load(&source).unwrap();
        assert_eq!(resolver.reload(&source).unwrap(), ReloadOutcome::Unchanged);
        let first = resolver.current.load_full();

        // The certificate is renewed before its key: half of a replacement.
        write_pair(dir.path(), &other_cert, &key);
        assert!(matches!(resolver.reload(&source), Err(CertError::Mismatch(_))));
        write_pair(dir.path(), "", &key);
        assert!(matches!(resolver.reload(&source), Err(CertError::NoCertificate(_))));
        std::fs::remove_file(&source.cert_path).unwrap();
        assert!(matches!(resolver.reload(&source), Err(CertError::Unreadable(..))));
        assert!(Arc::ptr_eq(&first, &resolver.current.load_full()));

        write_pair(dir.path(), &format!("{other_cert}\n{cert}"), &other_key);
        let replaced = ReloadOutcome::Replaced { chain_len: 2 };
        assert_eq!(resolver.reload(&source).unwrap(), replaced);
        assert_ne!(first.cert, resolver.current.load_full().cert);
    }

    #[test]
    fn bad_files_are_named_without_their_content() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = generate();
        let body = key.lines().nth(1).unwrap().to_owned();
        let broken_key = key.replace(&body, "AAAA");
        let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
        let damaged = cert.replace("END CERTIFICATE", "END");
        let cases = [
            (cert.as_str(), "", "holds no private key"),
            (cert.as_str(), encrypted.as_str(), "holds no private key"),
            (cert.as_str(), cert.as_str(), "holds no private key"),
            (cert.as_str(), broken_key.as_str(), "cannot be used"),
            (key.as_str(), key.as_str(), "holds no certificate"),
            (damaged.as_str(), key.as_str(), "not valid PEM"),
        ];
        for (cert, key, expected) in cases {
            let source = write_pair(dir.path(), cert, key);
            let message = Resolver::load(&source).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("accepted:") && message.contains(".pem"), "{message}");
            assert!(!message.contains(&body), "{message}");
        }
        let source = write_pair(dir.path(), &"x".repeat(FILE_MAX as usize + 1), &key);
        assert!(matches!(Resolver::load(&source), Err(CertError::TooLarge(_))));
    }
}
