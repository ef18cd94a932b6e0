//! The server's certificate: where it is, how it is read, and how it is replaced while serving.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use super::facts::{CertFacts, DateProblem};
use super::pem::{self, PemError};

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
    /// One of the files cannot be read or is no PEM file with what it shall hold.
    File(PemError),
    /// The key is of a kind, size or encoding that cannot sign.
    UnusableKey(PathBuf),
    /// The first certificate cannot be parsed.
    UnusableCertificate(PathBuf),
    /// The key belongs to another certificate.
    Mismatch(CertSource),
    /// The key belongs to a later certificate of the chain, the one with this number.
    WrongOrder(CertSource, usize),
    /// No client accepts the new certificate today, and the one in use is good: why.
    NotValidNow(PathBuf, String),
    /// The cryptography library failed (out of randomness); not the fault of a file.
    Crypto(rustls::Error),
}

impl fmt::Display for CertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::UnusableKey(path) => write!(
                f,
                "the key in {} cannot be used; accepted: RSA of 2048 to 8192 bits, \
                 ECDSA P-256, P-384 or P-521, Ed25519",
                path.display()
            ),
            Self::UnusableCertificate(path) => write!(
                f,
                "the first certificate in {} cannot be used: it is damaged, of X.509 version 1, or has a \
                 critical extension that is not known; accepted: X.509 version 3",
                path.display()
            ),
            Self::Mismatch(source) => write!(
                f,
                "the key in {} does not belong to the first certificate in {}; \
                 accepted: the key that the certificate was issued for",
                source.key_path.display(),
                source.cert_path.display()
            ),
            Self::WrongOrder(source, number) => write!(
                f,
                "the key in {} belongs to certificate number {number} in {}, not to the first \
                 certificate; accepted: a chain in the order of its signatures, the server's \
                 certificate first",
                source.key_path.display(),
                source.cert_path.display()
            ),
            Self::NotValidNow(path, problem) => write!(
                f,
                "{}: {problem}; the one in use stays; accepted: a certificate that is valid today",
                path.display()
            ),
            Self::Crypto(error) => write!(f, "the cryptography library failed: {error}"),
        }
    }
}

impl std::error::Error for CertError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File(error) => Some(error),
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

    /// Reads the files again; on any error the certificate in use stays. A certificate that no
    /// client accepts at this time does not take the place of one that is good.
    pub(super) fn reload(
        &self,
        source: &CertSource,
        now: SystemTime,
    ) -> Result<ReloadOutcome, CertError> {
        let fresh = load(source)?;
        let current = self.current.load();
        // A chain names its public key, and `load` has matched the private key with it.
        if fresh.cert == current.cert {
            return Ok(ReloadOutcome::Unchanged);
        }
        if let Some(problem) = refusal(&fresh, now)
            && refusal(&current, now).is_none()
        {
            return Err(CertError::NotValidNow(source.cert_path.clone(), problem));
        }
        let chain_len = fresh.cert.len();
        self.current.store(Arc::new(fresh));
        Ok(ReloadOutcome::Replaced { chain_len })
    }

    /// What stands in the certificate in use.
    pub(super) fn facts(&self) -> Option<CertFacts> {
        facts(&self.current.load())
    }
}

fn facts(certified: &CertifiedKey) -> Option<CertFacts> {
    certified.cert.first().and_then(CertFacts::of)
}

/// Why clients refuse a certificate for its dates.
fn refusal(certified: &CertifiedKey, now: SystemTime) -> Option<String> {
    let facts = facts(certified)?;
    match facts.date_problem(now)? {
        DateProblem::Expired | DateProblem::NotYetValid => facts.date_words(now),
        DateProblem::ExpiresSoon => None,
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn load(source: &CertSource) -> Result<CertifiedKey, CertError> {
    let chain = pem::read_chain(&source.cert_path).map_err(CertError::File)?;
    let key = pem::read_key(&source.key_path).map_err(CertError::File)?;
    let signing_key = super::provider()
        .key_provider
        .load_private_key(key)
        .map_err(|_| CertError::UnusableKey(source.key_path.clone()))?;
    let certified = CertifiedKey::new(chain, signing_key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(rustls::Error::InconsistentKeys(_)) => Err(match later_owner(&certified) {
            Some(number) => CertError::WrongOrder(source.clone(), number),
            None => CertError::Mismatch(source.clone()),
        }),
        Err(_) => Err(CertError::UnusableCertificate(source.cert_path.clone())),
    }
}

/// The number of the certificate behind the first that the key belongs to; the first is number 1.
fn later_owner(certified: &CertifiedKey) -> Option<usize> {
    let owns = |certificate: &CertificateDer<'static>| {
        let alone = CertifiedKey::new(vec![certificate.clone()], Arc::clone(&certified.key));
        alone.keys_match().is_ok()
    };
    certified.cert.iter().skip(1).position(owns).map(|index| index + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

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
        assert_eq!(resolver.reload(&source, SystemTime::now()).unwrap(), ReloadOutcome::Unchanged);
        let first = resolver.current.load_full();

        // The certificate is renewed before its key: half of a replacement.
        write_pair(dir.path(), &other_cert, &key);
        assert!(matches!(resolver.reload(&source, SystemTime::now()), Err(CertError::Mismatch(_))));
        write_pair(dir.path(), "", &key);
        assert!(matches!(resolver.reload(&source, SystemTime::now()), Err(CertError::File(_))));
        std::fs::remove_file(&source.cert_path).unwrap();
        assert!(matches!(resolver.reload(&source, SystemTime::now()), Err(CertError::File(_))));
        assert!(Arc::ptr_eq(&first, &resolver.current.load_full()));

        write_pair(dir.path(), &format!("{other_cert}\n{cert}"), &other_key);
        let replaced = ReloadOutcome::Replaced { chain_len: 2 };
        assert_eq!(resolver.reload(&source, SystemTime::now()).unwrap(), replaced);
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
            (cert.as_str(), encrypted.as_str(), "encrypted"),
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
        let source = write_pair(dir.path(), &"x".repeat(1024 * 1024 + 1), &key);
        let message = Resolver::load(&source).unwrap_err().to_string();
        assert!(message.contains("larger than 1 MiB"), "{message}");
    }

    #[test]
    fn a_chain_in_the_wrong_order_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ((cert, key), (other, _)) = (generate(), generate());
        let source = write_pair(dir.path(), &format!("{other}{cert}"), &key);
        let message = Resolver::load(&source).unwrap_err().to_string();
        assert!(message.contains("number 2") && message.contains("order"), "{message}");
    }

    /// A pair that is valid in these years.
    fn from_to(first: i32, last: i32) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(first, 1, 1);
        params.not_after = rcgen::date_time_ymd(last, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_reload_to_a_certificate_that_is_not_valid_today_keeps_a_good_one() {
        let dir = tempfile::tempdir().unwrap();
        // 2030-01-01.
        let now = UNIX_EPOCH + Duration::from_hours(525_960);
        let (cert, key) = from_to(2025, 2035);
        let source = write_pair(dir.path(), &cert, &key);
        let resolver = Resolver::load(&source).unwrap();
        for ((first, last), part) in
            [((2020, 2029), "has expired"), ((2031, 2040), "not yet valid")]
        {
            let (cert, key) = from_to(first, last);
            write_pair(dir.path(), &cert, &key);
            let message = resolver.reload(&source, now).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("in use stays"), "{message}");
            assert_eq!(resolver.facts().unwrap().end().to_string(), "2035-01-01 00:00:00 UTC");
        }
        // When its day has come it is taken without a further change of the file.
        let later = now + Duration::from_hours(2 * 365 * 24);
        assert!(matches!(resolver.reload(&source, later), Ok(ReloadOutcome::Replaced { .. })));
        // Over one that is no better, the operator's latest word counts.
        let (cert, key) = from_to(2020, 2029);
        write_pair(dir.path(), &cert, &key);
        assert!(resolver.reload(&source, now).is_ok());
    }
}
