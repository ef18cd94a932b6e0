//! Whom a TLS client trusts: authorities, and certificates that are themselves named as trusted.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, ExtendedKeyPurpose, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// How trusted certificates are told apart.
const FINGERPRINT: &aws_lc_rs::digest::Algorithm = &aws_lc_rs::digest::SHA256;

/// A verifier that believes certificates issued under one of `trusted`, and a server that shows one
/// of `trusted` itself: the common self-signed certificate is an authority and a server in one, which
/// the rules of chains do not have. Its name, dates and purpose are checked all the same.
///
/// Entries that do not parse are skipped; if none parses, that is the error.
pub fn trusting(
    trusted: Vec<CertificateDer<'static>>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    let mut fingerprints: Vec<_> = trusted.iter().map(fingerprint).collect();
    fingerprints.sort_unstable();
    if roots.add_parsable_certificates(trusted).0 == 0 {
        return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
    }
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), super::provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    Ok(Arc::new(Trusting { chains, fingerprints: fingerprints.into() }))
}

#[derive(Debug)]
struct Trusting {
    chains: Arc<WebPkiServerVerifier>,
    /// Sorted. A system trusts some 150 certificates; their digests are 5 KiB.
    fingerprints: Box<[[u8; 32]]>,
}

fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(FINGERPRINT, certificate).as_ref());
    out
}

/// Checks what holds for a certificate without its chain.
fn verify_alone(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let unix = |time: x509_parser::time::ASN1Time| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            time.timestamp().try_into().unwrap_or(0),
        ))
    };
    let (not_before, not_after) =
        (unix(parsed.validity().not_before), unix(parsed.validity().not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before });
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after });
    }
    let usage = parsed.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        return Err(CertificateError::InvalidPurposeContext {
            required: ExtendedKeyPurpose::ServerAuth,
            presented: Vec::new(),
        });
    }
    let own =
        ParsedCertificate::try_from(certificate).and_then(|own| verify_server_name(&own, name));
    match own {
        Ok(()) => Ok(()),
        Err(Error::InvalidCertificate(problem)) => Err(problem),
        Err(_) => Err(CertificateError::BadEncoding),
    }
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chains.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            Err(_) if self.fingerprints.binary_search(&fingerprint(end_entity)).is_ok() => {
                verify_alone(end_entity, server_name, now)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::explain::{CertificateFault, certificate_fault};
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    use std::time::Duration;

    /// A certificate as `openssl req -x509` makes it: self-signed, CA:TRUE.
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2034, 1, 1);
        params
    }

    fn made(params: &CertificateParams) -> CertificateDer<'static> {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    /// 2030-01-01, or as many years later.
    fn in_years(years: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_893_456_000 + years * 31_557_600))
    }

    fn verify(
        trusted: &CertificateDer<'static>,
        shown: &CertificateDer<'static>,
        now: UnixTime,
    ) -> Result<(), CertificateFault> {
        let name = ServerName::try_from("vpn.example").unwrap();
        trusting(vec![trusted.clone()])
            .unwrap()
            .verify_server_cert(shown, &[], &name, &[], now)
            .map(drop)
            .map_err(|error| certificate_fault(&error).unwrap())
    }

    #[test]
    fn a_server_that_shows_a_trusted_certificate_is_believed() {
        let own = made(&params("vpn.example"));
        assert_eq!(verify(&own, &own, in_years(0)), Ok(()));
        let mut leaf = params("vpn.example");
        leaf.is_ca = IsCa::ExplicitNoCa;
        let leaf = made(&leaf);
        assert_eq!(verify(&leaf, &leaf, in_years(0)), Ok(()));
    }

    #[test]
    fn a_trusted_certificate_has_its_name_dates_and_purpose_checked() {
        let own = made(&params("vpn.example"));
        assert_eq!(verify(&own, &own, in_years(5)), Err(CertificateFault::Expired));
        let early = UnixTime::since_unix_epoch(Duration::from_secs(1_600_000_000));
        assert_eq!(verify(&own, &own, early), Err(CertificateFault::NotYetValid));
        let other = made(&params("other.example"));
        assert_eq!(verify(&other, &other, in_years(0)), Err(CertificateFault::WrongName));
        let mut client = params("vpn.example");
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client = made(&client);
        assert_eq!(verify(&client, &client, in_years(0)), Err(CertificateFault::WrongPurpose));
    }

    #[test]
    fn another_certificate_of_the_same_name_is_not_believed() {
        let (own, stranger) = (made(&params("vpn.example")), made(&params("vpn.example")));
        assert!(verify(&own, &stranger, in_years(0)).is_err());
    }
}
