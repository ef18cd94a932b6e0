//! The certificate authority and server certificate of `httvps dev`.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{error, fmt};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;

/// What the certificate is good for.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Validity of both certificates; browsers and some libraries refuse more than 398 days.
const VALIDITY: Duration = Duration::from_hours(397 * 24);

/// The validity begins this long before now, for peers whose clock is late.
const BACKDATED: Duration = Duration::from_hours(1);

/// Certificates that would not last this much longer are made anew.
const LEAST_REST: Duration = Duration::from_hours(7 * 24);

/// Paths of the development certificates; all files are PEM.
#[derive(Clone, Debug)]
pub(crate) struct DevCertificates {
    /// The authority's certificate, for clients to trust.
    pub(crate) ca: PathBuf,
    /// The server certificate for `localhost`, `127.0.0.1` and `::1`.
    pub(crate) cert: PathBuf,
    /// The server's private key, mode 0600.
    pub(crate) key: PathBuf,
}

/// Makes `ca.pem`, `cert.pem` and `key.pem` in `dir`, or keeps those that are there and good for
/// more than 7 days.
///
/// A fresh pair lasts 397 days. The key of the authority is never written: who trusts `ca.pem`
/// trusts this one server certificate and nothing that could be signed later, and so both are
/// renewed together. Blocks.
pub(crate) fn make(dir: &Path) -> Result<DevCertificates, DevCertificateError> {
    let paths = DevCertificates {
        ca: dir.join("ca.pem"),
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
    };
    let in_dir = |problem| DevCertificateError::Io(dir.to_owned(), problem);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(in_dir)?;
    if is_usable(&paths, SystemTime::now()) {
        let owner_only = Permissions::from_mode(0o600);
        fs::set_permissions(&paths.key, owner_only).map_err(in_dir)?;
    } else {
        issue(&paths, SystemTime::now())?;
    }
    Ok(paths)
}

/// Whether the files belong together, are good for every name, and will be for [`LEAST_REST`].
fn is_usable(paths: &DevCertificates, now: SystemTime) -> bool {
    let (Ok(ca), Ok(cert), Ok(key)) = (
        CertificateDer::from_pem_file(&paths.ca),
        CertificateDer::from_pem_file(&paths.cert),
        PrivateKeyDer::from_pem_file(&paths.key),
    ) else {
        return false;
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    if CertifiedKey::from_der(vec![cert.clone()], key, &provider).is_err() {
        return false;
    }
    let mut roots = RootCertStore::empty();
    if roots.add(ca).is_err() {
        return false;
    }
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    let Ok(verifier) = builder.build() else { return false };
    let since_1970 = |time: SystemTime| {
        UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    };
    let names = [
        ServerName::try_from("localhost").expect("localhost is a DNS name"),
        IpAddr::from(Ipv4Addr::LOCALHOST).into(),
        IpAddr::from(Ipv6Addr::LOCALHOST).into(),
    ];
    [now, now + LEAST_REST].into_iter().all(|time| {
        names.iter().all(|name| {
            verifier.verify_server_cert(&cert, &[], name, &[], since_1970(time)).is_ok()
        })
    })
}

fn issue(paths: &DevCertificates, now: SystemTime) -> Result<(), DevCertificateError> {
    let ca_key = KeyPair::generate()?;
    let mut ca = parameters(Vec::new(), now)?;
    // The number keeps two authorities apart in a trust store that looks them up by name.
    let key_id = ca.key_identifier(&ca_key);
    let number = u32::from_be_bytes(*key_id.first_chunk().expect("a key id has 20 bytes"));
    ca.distinguished_name.push(DnType::CommonName, format!("httvps development CA {number:08x}"));
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key)?;

    let key = KeyPair::generate()?;
    let mut leaf = parameters(NAMES.map(str::to_owned).to_vec(), now)?;
    leaf.distinguished_name.push(DnType::CommonName, "localhost");
    // An explicit CA:FALSE: without it some verifiers take the certificate for an authority.
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let certificate = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?;

    replace(&paths.ca, &ca_certificate.pem(), 0o644)?;
    replace(&paths.cert, &certificate.pem(), 0o644)?;
    replace(&paths.key, &key.serialize_pem(), 0o600)
}

fn parameters(names: Vec<String>, now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970.saturating_sub(BACKDATED);
    parameters.not_after = parameters.not_before + VALIDITY;
    Ok(parameters)
}

/// Replaces a file in one step, so that no reader sees half of it.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), DevCertificateError> {
    let failed = |problem| DevCertificateError::Io(path.to_owned(), problem);
    let fresh = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)
}

/// The development certificates could not be made.
#[derive(Debug)]
pub(crate) enum DevCertificateError {
    /// A file or directory could not be written.
    Io(PathBuf, io::Error),
    /// The certificate could not be signed.
    Signing(rcgen::Error),
}

impl fmt::Display for DevCertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, problem) => write!(f, "cannot write {}: {problem}", path.display()),
            Self::Signing(problem) => write!(f, "cannot make a certificate: {problem}"),
        }
    }
}

impl error::Error for DevCertificateError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io(_, problem) => Some(problem),
            Self::Signing(problem) => Some(problem),
        }
    }
}

impl From<rcgen::Error> for DevCertificateError {
    fn from(problem: rcgen::Error) -> Self {
        Self::Signing(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(paths: &DevCertificates) -> [String; 3] {
        [&paths.ca, &paths.cert, &paths.key].map(|path| fs::read_to_string(path).unwrap())
    }

    #[test]
    fn fresh_certificates_are_good_for_every_name_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let paths = make(&dir.path().join("tls")).unwrap();
        assert!(is_usable(&paths, SystemTime::now()));
        let before = contents(&paths);
        fs::set_permissions(&paths.key, Permissions::from_mode(0o644)).unwrap();
        make(&dir.path().join("tls")).unwrap();
        assert_eq!(contents(&paths), before);
        let mode = fs::metadata(&paths.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("tls")).unwrap().count(), 3);
    }

    #[test]
    fn certificates_near_their_end_are_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = make(dir.path()).unwrap();
        let day = Duration::from_hours(24);
        assert!(is_usable(&paths, SystemTime::now() + 389 * day));
        assert!(!is_usable(&paths, SystemTime::now() + 391 * day));
        issue(&paths, SystemTime::now() - 391 * day).unwrap();
        let old = contents(&paths);
        make(dir.path()).unwrap();
        assert_ne!(contents(&paths), old);
        assert!(is_usable(&paths, SystemTime::now()));
    }

    #[test]
    fn files_that_do_not_belong_together_are_replaced() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let paths = make(dir.path()).unwrap();
        let others = make(other.path()).unwrap();
        for (path, foreign) in
            [(&paths.ca, &others.ca), (&paths.cert, &others.cert), (&paths.key, &others.key)]
        {
            fs::copy(foreign, path).unwrap();
            assert!(!is_usable(&paths, SystemTime::now()), "{}", path.display());
            make(dir.path()).unwrap();
            assert!(is_usable(&paths, SystemTime::now()), "{}", path.display());
        }
        fs::write(&paths.cert, "nonsense").unwrap();
        make(dir.path()).unwrap();
        assert!(is_usable(&paths, SystemTime::now()));
    }
}
