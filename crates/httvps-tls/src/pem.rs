//! PEM files: certificates and keys, and what a file that is none holds instead.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use httvps_text::TextError;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// A certificate or key file larger than this is refused. A long chain is about 10 KiB.
const FILE_MAX: u64 = 1024 * 1024;

/// A file of authorities larger than this is refused. Those of a system are about 250 KiB.
const AUTHORITIES_MAX: u64 = 16 * 1024 * 1024;

/// The byte-order mark of UTF-8. PEM is ASCII, so that it can be left out wherever it stands: a
/// chain that was put together from two files has the mark of the second in its middle.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a PEM file cannot be used. `Display` names the file, what is wrong and what is accepted, never
/// content.
#[derive(Debug)]
pub struct PemError {
    path: PathBuf,
    problem: PemProblem,
}

/// The fault of a PEM file.
#[derive(Debug)]
enum PemProblem {
    /// It cannot be read, is too large, or is UTF-16.
    Text(TextError),
    /// A section is damaged.
    Damaged,
    /// It is DER, the same in binary.
    Binary,
    /// There is no certificate but what these words name.
    NoCertificate(&'static str),
    /// There is no private key but what these words name.
    NoKey(&'static str),
    /// The key is encrypted with a pass phrase.
    Encrypted,
    /// A certificate with OpenSSL's trust settings behind it.
    TrustedCertificate,
    /// The label that certificates had before they had the present one.
    OldLabel,
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.problem {
            PemProblem::Text(TextError::Io(error)) => write!(f, "cannot read {path}: {error}"),
            PemProblem::Text(error) => write!(f, "{path} {error}; accepted: a PEM file"),
            PemProblem::Damaged => write!(
                f,
                "{path} is not valid PEM; accepted: sections like -----BEGIN CERTIFICATE-----"
            ),
            PemProblem::Binary => write!(
                f,
                "{path} is binary (DER); accepted: PEM, which openssl x509 -inform DER (openssl pkey \
                 for a key) makes of it"
            ),
            PemProblem::NoCertificate(instead) => write!(
                f,
                "{path} holds no certificate{instead}; accepted: PEM certificates, the server's own \
                 first"
            ),
            PemProblem::NoKey(instead) => write!(
                f,
                "{path} holds no private key{instead}; accepted: an unencrypted PEM key \
                 (PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY)"
            ),
            PemProblem::Encrypted => write!(
                f,
                "{path} holds a private key that is encrypted with a pass phrase; accepted: an \
                 unencrypted PEM key, which openssl pkey -in FILE -out NEW makes of it"
            ),
            PemProblem::TrustedCertificate => write!(
                f,
                "{path} holds a TRUSTED CERTIFICATE, a form of OpenSSL's own; accepted: CERTIFICATE, \
                 which openssl x509 -in FILE -out NEW makes of each"
            ),
            PemProblem::OldLabel => write!(
                f,
                "{path} holds an X509 CERTIFICATE, an old name; accepted: CERTIFICATE, which \
                 openssl x509 -in FILE -out NEW makes of each"
            ),
        }
    }
}

impl std::error::Error for PemError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            PemProblem::Text(TextError::Io(error)) => Some(error),
            _ => None,
        }
    }
}

/// Reads the authorities of a PEM file of at most 16 MiB; there is at least one. Blocks.
pub fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    certificates(path, AUTHORITIES_MAX)
}

/// Reads a chain from a PEM file; there is at least one certificate.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    certificates(path, FILE_MAX)
}

/// Reads the first private key of a PEM file.
pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let failed = |problem| PemError { path: path.to_owned(), problem };
    let bytes = read(path, FILE_MAX).map_err(failed)?;
    let labels = Labels::of(&bytes);
    let is_old_form = has(&bytes, b"Proc-Type:") && has(&bytes, b"ENCRYPTED");
    let is_plain =
        |label: &[u8]| matches!(label, b"PRIVATE KEY" | b"EC PRIVATE KEY" | b"RSA PRIVATE KEY");
    if is_old_form
        || (labels.any(b"ENCRYPTED PRIVATE KEY") && !labels.0.iter().any(|l| is_plain(l)))
    {
        return Err(failed(PemProblem::Encrypted));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        failed(match error {
            rustls_pki_types::pem::Error::NoItemsFound if is_der(&bytes) => PemProblem::Binary,
            rustls_pki_types::pem::Error::NoItemsFound => PemProblem::NoKey(labels.instead()),
            _ => PemProblem::Damaged,
        })
    })
}

fn certificates(path: &Path, max: u64) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let failed = |problem| PemError { path: path.to_owned(), problem };
    let bytes = read(path, max).map_err(failed)?;
    let labels = Labels::of(&bytes);
    // The parser passes over these, and the first certificate of a chain would be another one.
    if labels.any(b"TRUSTED CERTIFICATE") {
        return Err(failed(PemProblem::TrustedCertificate));
    }
    if labels.any(b"X509 CERTIFICATE") {
        return Err(failed(PemProblem::OldLabel));
    }
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| failed(PemProblem::Damaged))?;
    if certificates.is_empty() {
        return Err(failed(if is_der(&bytes) {
            PemProblem::Binary
        } else {
            PemProblem::NoCertificate(labels.instead())
        }));
    }
    Ok(certificates)
}

fn read(path: &Path, max: u64) -> Result<Zeroizing<Vec<u8>>, PemProblem> {
    let file = File::open(path).map_err(|error| PemProblem::Text(error.into()))?;
    let bytes = httvps_text::read_bytes(file, max).map_err(PemProblem::Text)?;
    Ok(without_marks(bytes))
}

fn without_marks(bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if !has(&bytes, MARK) {
        return bytes;
    }
    let mut rest = bytes.as_slice();
    let mut kept = Zeroizing::new(Vec::with_capacity(bytes.len()));
    while let Some(&byte) = rest.first() {
        if let Some(behind) = rest.strip_prefix(MARK) {
            rest = behind;
        } else {
            kept.push(byte);
            rest = &rest[1..];
        }
    }
    kept
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Whether it begins as a certificate or key in DER does: a sequence with a length of several bytes.
fn is_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x81..=0x83, ..])
}

/// What the sections of a file are called.
struct Labels<'a>(Vec<&'a [u8]>);

impl<'a> Labels<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let label = |line: &'a [u8]| {
            let rest = line.strip_prefix(b"-----BEGIN ")?;
            let end = rest.windows(5).position(|window| window == b"-----")?;
            Some(&rest[..end])
        };
        Self(bytes.split(|byte| matches!(byte, b'\n' | b'\r')).filter_map(label).collect())
    }

    fn any(&self, label: &[u8]) -> bool {
        self.0.contains(&label)
    }

    /// What the file holds instead of what was looked for, as the end of a sentence.
    fn instead(&self) -> &'static str {
        let any = |end: &[u8]| self.0.iter().any(|label| label.ends_with(end));
        if any(b"CERTIFICATE REQUEST") {
            " but a request for one (CSR), which an authority has yet to sign"
        } else if any(b"OPENSSH PRIVATE KEY") {
            " but a key of OpenSSH"
        } else if any(b"PRIVATE KEY") {
            " but a private key"
        } else if any(b"PUBLIC KEY") {
            " but a public key"
        } else if any(b"CERTIFICATE") {
            " but a certificate"
        } else {
            ""
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn file(&self, content: &[u8]) -> PathBuf {
            let path = self.0.path().join("file.pem");
            std::fs::write(&path, content).unwrap();
            path
        }

        fn chain(&self, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
            read_chain(&self.file(content)).map_err(|error| error.to_string())
        }

        fn key(&self, content: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
            read_key(&self.file(content)).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn byte_order_marks_lose_no_certificate_and_no_key() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let ((first, key), (second, _)) = (made(), made());
        let plain = folder.chain(format!("{first}{second}").as_bytes()).unwrap();
        assert_eq!(plain.len(), 2);
        let marked = format!("\u{feff}{first}\u{feff}{second}");
        assert_eq!(folder.chain(marked.as_bytes()).unwrap(), plain);
        assert!(folder.key(format!("\u{feff}{key}").as_bytes()).is_ok());
        // Comments of a bundle are in any encoding.
        let mut latin = b"# F\xf5tan\xfas\xedtv\xe1ny\n".to_vec();
        latin.extend_from_slice(first.as_bytes());
        assert_eq!(folder.chain(&latin).unwrap(), plain[..1]);
    }

    #[test]
    fn what_a_file_holds_instead_is_named() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let (cert, key) = made();
        let der = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        let relabelled = |label: &str| cert.replace("CERTIFICATE", label).into_bytes();
        let utf16: Vec<u8> = cert.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let trusted = [relabelled("TRUSTED CERTIFICATE"), cert.clone().into_bytes()].concat();
        let old_form = key.replace("PRIVATE", "EC PRIVATE").replacen(
            "KEY-----\n",
            "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n",
            1,
        );
        for (content, part) in [
            (trusted.as_slice(), "TRUSTED CERTIFICATE"),
            (&relabelled("X509 CERTIFICATE"), "X509 CERTIFICATE"),
            (&relabelled("CERTIFICATE REQUEST"), "no certificate but a request"),
            (key.as_bytes(), "no certificate but a private key"),
            (&der, "DER"),
            (&utf16, "UTF-16"),
            (b"", "holds no certificate;"),
        ] {
            let words = folder.chain(content).unwrap_err();
            assert!(words.contains(part) && words.contains("accepted:"), "{words}");
        }
        for (content, part) in [
            (old_form.as_bytes(), "encrypted"),
            (key.replace("PRIVATE", "ENCRYPTED PRIVATE").as_bytes(), "encrypted"),
            (key.replace("PRIVATE", "OPENSSH PRIVATE").as_bytes(), "a key of OpenSSH"),
            (cert.as_bytes(), "no private key but a certificate"),
            (&der, "DER"),
        ] {
            let words = folder.key(content).unwrap_err();
            assert!(words.contains(part) && words.contains("accepted:"), "{words}");
        }
    }
}
