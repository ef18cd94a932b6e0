//! Explanations of TLS and certificate errors.

use rustls::{AlertDescription, CertificateError, Error};
use rustls_pki_types::ServerName;

use super::facts::Date;

/// Most names of a certificate that an error repeats.
const MAX_NAMES: usize = 8;

/// Faults of a server's certificate. Each kind has its own remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFault {
    /// Its last day has gone.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// No authority that is trusted has issued it.
    UnknownIssuer,
    /// It is for other names.
    WrongName,
    /// It has no name at all but a common name, which does not count.
    Nameless,
    /// It is not for servers (its extended key usage).
    WrongPurpose,
    /// It is that of an authority and not trusted as such.
    IsAuthority,
    /// Its issuer is not allowed to issue it.
    BadIssuer,
    /// A signature in the chain is of a kind that is not accepted.
    WeakSignature,
    /// A signature in the chain is wrong: most often of another authority with the same name.
    BadSignature,
    /// It was revoked.
    Revoked,
    /// It says something critical that is not understood here.
    CriticalExtension,
    /// It cannot be parsed, or is of X.509 version 1.
    Unreadable,
    /// The server has sent none.
    Missing,
    /// Something else.
    Other,
}

impl CertificateFault {
    /// The fault, as a sentence about *the server's certificate*.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Expired => "the server's certificate has expired",
            Self::NotYetValid => "the server's certificate is not valid yet",
            Self::UnknownIssuer => {
                "the server's certificate is not trusted: it is not issued by an authority that is known here"
            }
            Self::WrongName => "the server's certificate is for another name",
            Self::Nameless => "the server's certificate has no name (subjectAltName)",
            Self::WrongPurpose => "the server's certificate is not meant for a server",
            Self::IsAuthority => {
                "the server's certificate is that of an authority (CA:TRUE) and not itself among the trusted ones"
            }
            Self::BadIssuer => "the authority of the server's certificate may not issue it",
            Self::WeakSignature => {
                "the chain of the server's certificate has a signature of a kind that is not accepted, such as SHA-1"
            }
            Self::BadSignature => {
                "the server's certificate is not signed by the authority that is trusted here under the name of its issuer"
            }
            Self::Revoked => "the server's certificate has been revoked",
            Self::CriticalExtension => {
                "the server's certificate has a critical extension that is not known here"
            }
            Self::Unreadable => {
                "the server's certificate cannot be parsed, or is not of X.509 version 3"
            }
            Self::Missing => "the server has sent no certificate",
            Self::Other => "the server's certificate is not acceptable",
        }
    }

    /// What can be done about it, whichever setting says who is trusted; empty where that setting is
    /// the remedy.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::UnknownIssuer | Self::IsAuthority | Self::BadSignature => "",
            Self::Expired => {
                "the server's operator has to renew it, unless the clock of this machine is wrong"
            }
            Self::NotYetValid => {
                "check the clock of this machine; otherwise the server's operator has to replace it"
            }
            Self::WrongName => "use a name that it is for, or have it issued for this name too",
            Self::Nameless => {
                "it has to be issued with a subjectAltName; the common name (CN) does not count"
            }
            Self::WrongPurpose => "its extended key usage has to have serverAuth in it",
            Self::BadIssuer => {
                "its issuer has to be an authority (CA:TRUE) without limits against it"
            }
            Self::WeakSignature => "it has to be issued again with SHA-256 and RSA 2048 or ECDSA",
            Self::Unreadable => {
                "it has to be issued again, as X.509 version 3 with a subjectAltName"
            }
            Self::CriticalExtension => "it has to be issued again without that extension",
            Self::Revoked | Self::Missing | Self::Other => {
                "the server's operator has to see to it; openssl s_client -showcerts shows it"
            }
        }
    }
}

/// What is wrong with the certificate, if that is what an error is about.
pub fn certificate_fault(error: &Error) -> Option<CertificateFault> {
    match error {
        Error::InvalidCertificate(problem) => Some(fault(problem)),
        Error::NoCertificatesPresented => Some(CertificateFault::Missing),
        _ => None,
    }
}

fn fault(problem: &CertificateError) -> CertificateFault {
    use CertificateError as E;
    match problem {
        E::Expired | E::ExpiredContext { .. } => CertificateFault::Expired,
        E::NotValidYet | E::NotValidYetContext { .. } => CertificateFault::NotYetValid,
        E::UnknownIssuer => CertificateFault::UnknownIssuer,
        E::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            CertificateFault::Nameless
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => CertificateFault::WrongName,
        E::Revoked => CertificateFault::Revoked,
        E::BadSignature => CertificateFault::BadSignature,
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => CertificateFault::WrongPurpose,
        E::UnhandledCriticalExtension => CertificateFault::CriticalExtension,
        E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            CertificateFault::WeakSignature
        }
        E::BadEncoding => CertificateFault::Unreadable,
        E::Other(other) => {
            other.0.downcast_ref::<webpki::Error>().map_or(CertificateFault::Other, unnamed_fault)
        }
        _ => CertificateFault::Other,
    }
}

/// What rustls has no name of its own for.
fn unnamed_fault(error: &webpki::Error) -> CertificateFault {
    use webpki::Error as E;
    match error {
        E::CaUsedAsEndEntity => CertificateFault::IsAuthority,
        E::EndEntityUsedAsCa | E::NameConstraintViolation | E::PathLenConstraintViolated => {
            CertificateFault::BadIssuer
        }
        E::SignatureAlgorithmMismatch => CertificateFault::WeakSignature,
        E::UnsupportedCriticalExtension => CertificateFault::CriticalExtension,
        E::UnsupportedCertVersion
        | E::ExtensionValueInvalid
        | E::MalformedExtensions
        | E::MalformedDnsIdentifier
        | E::MalformedNameConstraint
        | E::InvalidSerialNumber => CertificateFault::Unreadable,
        E::EmptyEkuExtension => CertificateFault::WrongPurpose,
        _ => CertificateFault::Other,
    }
}

/// Explains an error that a person can act on.
pub fn explain(error: &Error) -> Option<String> {
    Some(match error {
        Error::InvalidCertificate(problem) => explain_certificate(problem),
        Error::NoCertificatesPresented => CertificateFault::Missing.words().into(),
        Error::InvalidMessage(_) => "the peer does not speak TLS on this port".into(),
        Error::PeerIncompatible(_) => {
            "no common TLS version or suite; TLS 1.2 or 1.3 with an AEAD suite is needed".into()
        }
        Error::NoApplicationProtocol
        | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "the peer does not accept HTTP/1.1 inside TLS (ALPN http/1.1)".into()
        }
        Error::AlertReceived(alert) => {
            format!("the peer has refused the TLS handshake: {}", alert_words(*alert))
        }
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => {
            "the peer breaks the rules of TLS; something on the way may have changed the bytes"
                .into()
        }
        _ => return None,
    })
}

fn explain_certificate(problem: &CertificateError) -> String {
    use CertificateError as E;
    let fault = fault(problem);
    let words = fault.words();
    match problem {
        E::ExpiredContext { not_after, .. } => {
            format!("{words}, on {}", date(not_after.as_secs()))
        }
        E::NotValidYetContext { not_before, .. } => {
            format!("{words}, only from {} on", date(not_before.as_secs()))
        }
        E::NotValidForNameContext { expected, presented } if !presented.is_empty() => {
            let names: Vec<&str> =
                presented.iter().take(MAX_NAMES).map(|name| bare_name(name)).collect();
            format!("{words}: asked for {}, it names {}", shown(expected), names.join(", "))
        }
        E::NotValidForNameContext { expected, .. } => {
            format!("{words}; asked for {}", shown(expected))
        }
        _ => words.into(),
    }
}

fn date(seconds: u64) -> Date {
    Date(seconds.try_into().unwrap_or(i64::MAX))
}

fn shown(name: &ServerName<'_>) -> String {
    name.to_str().into_owned()
}

/// A name as people write it, of one that the library wrapped, as in `DnsName("a.example")`.
fn bare_name(name: &str) -> &str {
    let inside = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inside.trim_matches('"')
}

fn alert_words(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let words = match alert {
        A::HandshakeFailure => "no common settings (handshake failure)",
        A::ProtocolVersion => "it does not take this TLS version",
        A::InsufficientSecurity => "it wants stronger cryptography",
        A::UnrecognisedName => "it does not know the name that was asked for",
        A::InternalError => "it has a fault of its own (internal error)",
        A::AccessDenied => "access denied",
        A::CertificateRequired => "it wants a certificate of the client",
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown => {
            "it does not accept a certificate"
        }
        A::CertificateExpired => "a certificate has expired",
        A::UnknownCA => "it does not know the authority of a certificate",
        A::UnexpectedMessage | A::DecodeError | A::IllegalParameter | A::DecryptError => {
            "it could not make sense of a message; something on the way may have changed the bytes"
        }
        A::UserCanceled | A::CloseNotify => "it has ended the connection",
        other => return format!("alert {}", u8::from(other)),
    };
    words.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::OtherError;
    use rustls_pki_types::UnixTime;
    use std::sync::Arc;
    use std::time::Duration;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    fn other(error: webpki::Error) -> CertificateError {
        CertificateError::Other(OtherError(Arc::new(error)))
    }

    #[test]
    fn every_certificate_error_has_words_without_debug_text() {
        use CertificateError as E;
        use CertificateFault as F;
        let asked = ServerName::try_from("a.example").unwrap();
        let named = |presented: &[&str]| E::NotValidForNameContext {
            expected: asked.clone(),
            presented: presented.iter().map(|&name| name.to_owned()).collect(),
        };
        let weak = E::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: vec![42, 134, 72],
            supported_algorithms: Vec::new(),
        };
        let purpose = E::InvalidPurposeContext {
            required: rustls::ExtendedKeyPurpose::ServerAuth,
            presented: vec![rustls::ExtendedKeyPurpose::ClientAuth],
        };
        for (error, expected, part) in [
            (
                E::ExpiredContext { time: at(9), not_after: at(1) },
                F::Expired,
                "1970-01-01 00:00:01",
            ),
            (E::NotValidYetContext { time: at(1), not_before: at(9) }, F::NotYetValid, "00:00:09"),
            (E::UnknownIssuer, F::UnknownIssuer, "not issued by an authority"),
            (
                named(&["DnsName(\"b.example\")", "IpAddress(192.0.2.1)"]),
                F::WrongName,
                "asked for a.example, it names b.example, 192.0.2.1",
            ),
            (E::BadSignature, F::BadSignature, "not signed by the authority"),
            (named(&[]), F::Nameless, "subjectAltName"),
            (weak, F::WeakSignature, "SHA-1"),
            (purpose, F::WrongPurpose, "not meant for a server"),
            (other(webpki::Error::CaUsedAsEndEntity), F::IsAuthority, "CA:TRUE"),
            (other(webpki::Error::UnsupportedCertVersion), F::Unreadable, "version 3"),
            (other(webpki::Error::PathLenConstraintViolated), F::BadIssuer, "may not issue"),
            (E::UnhandledCriticalExtension, F::CriticalExtension, "critical extension"),
            (E::ApplicationVerificationFailure, F::Other, "not acceptable"),
        ] {
            let error = Error::InvalidCertificate(error);
            let words = explain(&error).unwrap();
            assert!(words.contains(part), "{words}");
            assert!(
                !words.contains(['{', '('])
                    || words.contains("(CA:TRUE)")
                    || words.contains("(subjectAltName)"),
                "{words}"
            );
            let fault = certificate_fault(&error).unwrap();
            assert_eq!(fault, expected);
            assert_eq!(
                fault.remedy().is_empty(),
                matches!(fault, F::UnknownIssuer | F::IsAuthority | F::BadSignature)
            );
        }
    }

    #[test]
    fn alerts_have_words_or_their_number() {
        for (alert, part) in [
            (AlertDescription::HandshakeFailure, "no common settings"),
            (AlertDescription::UnrecognisedName, "does not know the name"),
            (AlertDescription::Unknown(200), "alert 200"),
        ] {
            let words = explain(&Error::AlertReceived(alert)).unwrap();
            assert!(words.contains(part), "{words}");
        }
    }
}
