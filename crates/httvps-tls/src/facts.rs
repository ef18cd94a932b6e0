//! The names and dates of a certificate.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// Most names that are shown.
const MAX_NAMES: usize = 8;

/// A certificate ends soon when it has less than this left, and less than a third of its life: one
/// of 90 days should have been renewed 30 days before its end, one of six days after four.
const SOON: Duration = Duration::from_hours(14 * 24);

/// The names and dates of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertFacts {
    /// The DNS names and addresses that it is for, at most eight; empty when it has none.
    pub names: Vec<String>,
    /// The first second of its life, since 1970.
    pub not_before: i64,
    /// The last second of its life, since 1970.
    pub not_after: i64,
}

/// A problem with the dates of a certificate, now or soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateProblem {
    /// Its last day has gone: no client accepts it.
    Expired,
    /// It is not valid yet: no client accepts it.
    NotYetValid,
    /// It has less than 14 days left, and less than a third of its life.
    ExpiresSoon,
}

impl CertFacts {
    /// Reads a certificate; none if it cannot be parsed.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        Some(Self {
            names: names.iter().filter_map(name).take(MAX_NAMES).collect(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        })
    }

    /// What is wrong with its dates at this time.
    pub fn date_problem(&self, now: SystemTime) -> Option<DateProblem> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).cast_signed();
        let left = self.not_after.saturating_sub(now);
        let life = self.not_after.saturating_sub(self.not_before);
        if left < 0 {
            Some(DateProblem::Expired)
        } else if now < self.not_before {
            Some(DateProblem::NotYetValid)
        } else if left < SOON.as_secs().cast_signed().min(life / 3) {
            Some(DateProblem::ExpiresSoon)
        } else {
            None
        }
    }

    /// Says in words what is wrong with its dates at this time. The words stay the same until the
    /// problem is another one.
    pub fn date_words(&self, now: SystemTime) -> Option<String> {
        let problem = self.date_problem(now)?;
        let (begin, end) = (Date(self.not_before), Date(self.not_after));
        Some(match problem {
            DateProblem::Expired => format!(
                "the certificate has expired on {end}: no client accepts it; renew it (or correct \
                 the clock of this machine)"
            ),
            DateProblem::NotYetValid => format!(
                "the certificate is not yet valid, only from {begin} on: no client accepts it; \
                 correct the clock of this machine, or wait"
            ),
            DateProblem::ExpiresSoon => {
                format!("the certificate expires soon, on {end}; renew it")
            }
        })
    }

    /// When it ends.
    pub fn end(&self) -> Date {
        Date(self.not_after)
    }
}

/// A second since 1970 in words for people, as `2026-03-01 12:00:00 UTC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date(pub i64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ASN1Time::from_timestamp(self.0) {
            Ok(time) => {
                let time = time.to_datetime();
                let (hour, minute, second) = time.to_hms();
                write!(f, "{} {hour:02}:{minute:02}:{second:02} UTC", time.date())
            }
            Err(_) => write!(f, "second {} since 1970", self.0),
        }
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.escape_debug().to_string()),
        GeneralName::IPAddress(bytes) => {
            let address = match <[u8; 4]>::try_from(*bytes) {
                Ok(bytes) => IpAddr::from(bytes),
                Err(_) => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
            };
            Some(address.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn at(day: i64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs((day * DAY) as u64)
    }

    fn from_to(not_before: i64, not_after: i64) -> CertFacts {
        CertFacts { names: Vec::new(), not_before: not_before * DAY, not_after: not_after * DAY }
    }

    #[test]
    fn dates_are_judged_by_the_life_of_the_certificate() {
        let (of_90_days, of_6_days) = (from_to(100, 190), from_to(100, 106));
        for (facts, day, expected) in [
            (&of_90_days, 99, Some(DateProblem::NotYetValid)),
            (&of_90_days, 100, None),
            (&of_90_days, 176, None),
            (&of_90_days, 177, Some(DateProblem::ExpiresSoon)),
            (&of_90_days, 190, Some(DateProblem::ExpiresSoon)),
            (&of_90_days, 191, Some(DateProblem::Expired)),
            (&of_6_days, 104, None),
            (&of_6_days, 105, Some(DateProblem::ExpiresSoon)),
        ] {
            assert_eq!(facts.date_problem(at(day)), expected, "day {day}");
            assert_eq!(facts.date_words(at(day)).is_some(), expected.is_some());
        }
        let words = of_90_days.date_words(at(200)).unwrap();
        assert!(words.contains("expired on 1970-07-10 00:00:00 UTC"), "{words}");
    }

    #[test]
    fn names_and_dates_are_read_from_a_certificate() {
        let mut params =
            rcgen::CertificateParams::new(["a.example".to_owned(), "192.0.2.1".to_owned()])
                .unwrap();
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2024, 3, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let facts = CertFacts::of(made.der()).unwrap();
        assert_eq!(facts.names, ["a.example", "192.0.2.1"]);
        assert_eq!(Date(facts.not_before).to_string(), "2024-01-01 00:00:00 UTC");
        assert_eq!(facts.end().to_string(), "2024-03-01 00:00:00 UTC");
        assert_eq!(CertFacts::of(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
