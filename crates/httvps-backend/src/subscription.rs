//! Subscription status and end.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// The status of a subscription: 1 to 64 characters of `a`–`z`, `0`–`9`, `_` and `-`.
///
/// `active` and `trialing` let a device in; every other word (`past_due`, `paused`, `canceled`,
/// `expired`, …) is passed on in the answer and refuses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubscriptionStatus(String);

impl SubscriptionStatus {
    /// Longest status, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Whether devices with this status may connect.
    pub fn allows(&self) -> bool {
        matches!(self.0.as_str(), "active" | "trialing")
    }

    /// The word itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SubscriptionStatus {
    /// `active`.
    fn default() -> Self {
        Self("active".to_owned())
    }
}

impl FromStr for SubscriptionStatus {
    type Err = InvalidSubscriptionStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let well_formed = (1..=Self::MAX_LEN).contains(&text.len())
            && text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if well_formed { Ok(Self(text.to_owned())) } else { Err(InvalidSubscriptionStatus) }
    }
}

impl TryFrom<String> for SubscriptionStatus {
    type Error = InvalidSubscriptionStatus;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SubscriptionStatus> for String {
    fn from(status: SubscriptionStatus) -> Self {
        status.0
    }
}

impl fmt::Display for SubscriptionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The text is not a [`SubscriptionStatus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSubscriptionStatus;

impl fmt::Display for InvalidSubscriptionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a subscription status is 1 to 64 characters of a-z, 0-9, _ and -, for example active",
        )
    }
}

impl std::error::Error for InvalidSubscriptionStatus {}

/// When a subscription ends: `2027-01-31` (through that day, UTC) or `2027-01-31T12:00:00Z` (RFC
/// 3339 in UTC; from that moment on it is over). Years 1970 to 9999; fractions of a second are
/// accepted and ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubscriptionEnd {
    text: String,
    /// The first second, since 1970, at which the subscription is over.
    over_at: u64,
}

impl SubscriptionEnd {
    /// Whether the subscription is over at `now`.
    pub fn is_past(&self, now: SystemTime) -> bool {
        now >= SystemTime::UNIX_EPOCH + Duration::from_secs(self.over_at)
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for SubscriptionEnd {
    type Err = InvalidSubscriptionEnd;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let over_at = parse_end(text.as_bytes()).ok_or(InvalidSubscriptionEnd)?;
        Ok(Self { text: text.to_owned(), over_at })
    }
}

impl TryFrom<String> for SubscriptionEnd {
    type Error = InvalidSubscriptionEnd;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SubscriptionEnd> for String {
    fn from(end: SubscriptionEnd) -> Self {
        end.text
    }
}

impl fmt::Display for SubscriptionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// The text is not a [`SubscriptionEnd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSubscriptionEnd;

impl fmt::Display for InvalidSubscriptionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a subscription end is a date such as 2027-01-31 or a UTC time such as \
             2027-01-31T12:00:00Z",
        )
    }
}

impl std::error::Error for InvalidSubscriptionEnd {}

const DAY: u64 = 86_400;

fn parse_end(text: &[u8]) -> Option<u64> {
    let (date, time) = text.split_at_checked(10)?;
    let midnight = parse_date(date)? * DAY;
    if time.is_empty() {
        return Some(midnight + DAY);
    }
    parse_time(time).map(|seconds| midnight + seconds)
}

/// Days from 1970-01-01 to `YYYY-MM-DD`.
fn parse_date(text: &[u8]) -> Option<u64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *text else { return None };
    let year = number(&[y1, y2, y3, y4])?;
    let month = number(&[m1, m2])?;
    let day = number(&[d1, d2])?;
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let index = usize::try_from(month).ok()?.checked_sub(1)?;
    if year < 1970 || day < 1 || day > *lengths.get(index)? {
        return None;
    }
    let days_before_month: u64 = lengths[..index].iter().sum();
    Some(days_before_year(year) - days_before_year(1970) + days_before_month + day - 1)
}

/// Days of the Gregorian calendar from year 1 up to the first of January of `year`.
fn days_before_year(year: u64) -> u64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

/// Seconds since midnight of `THH:MM:SS[.fraction]Z`; a leap second counts as the second after it.
fn parse_time(text: &[u8]) -> Option<u64> {
    let [b'T' | b't', h1, h2, b':', m1, m2, b':', s1, s2, rest @ .., b'Z' | b'z'] = text else {
        return None;
    };
    let fraction_is_sound = match rest {
        [] => true,
        [b'.', digits @ ..] => (1..=9).contains(&digits.len()) && number(digits).is_some(),
        _ => false,
    };
    let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
    let seconds = number(&[*s1, *s2])?;
    (fraction_is_sound && hours < 24 && minutes < 60 && seconds <= 60)
        .then_some(hours * 3600 + minutes * 60 + seconds)
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over_at(text: &str) -> u64 {
        text.parse::<SubscriptionEnd>().unwrap().over_at
    }

    #[test]
    fn a_date_lasts_through_its_day() {
        // `date -u -d 2027-02-01 +%s` and the like.
        assert_eq!(over_at("2027-01-31"), 1_801_440_000);
        assert_eq!(over_at("2024-02-29"), 1_709_251_200);
        assert_eq!(over_at("1970-01-01"), DAY);
        assert_eq!(over_at("2000-12-31"), 978_307_200);
        assert_eq!(over_at("9999-12-31"), 253_402_300_800);
    }

    #[test]
    fn a_timestamp_ends_at_that_second() {
        assert_eq!(over_at("2027-01-31T12:00:00Z"), 1_801_396_800);
        assert_eq!(over_at("2027-01-31t12:00:00.125z"), 1_801_396_800);
        let end: SubscriptionEnd = "1970-01-01T00:00:10Z".parse().unwrap();
        assert!(!end.is_past(SystemTime::UNIX_EPOCH + Duration::from_millis(9_999)));
        assert!(end.is_past(SystemTime::UNIX_EPOCH + Duration::from_secs(10)));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bad in [
            "",
            "tomorrow",
            "2027-1-31",
            "2027-02-29",
            "2100-02-29",
            "2027-13-01",
            "2027-00-01",
            "2027-01-00",
            "1969-12-31",
            "2027-01-31T12:00:00",
            "2027-01-31T12:00:00+02:00",
            "2027-01-31T24:00:00Z",
            "2027-01-31T12:60:00Z",
            "2027-01-31T12:00:61Z",
            "2027-01-31T12:00:00.Z",
            "2027-01-31T12:00:00.1234567890Z",
            "2027-01-31 12:00:00Z",
            "2027-01-31Z",
            "２027-01-31",
            "202７-01-3",
        ] {
            assert_eq!(bad.parse::<SubscriptionEnd>(), Err(InvalidSubscriptionEnd), "{bad}");
        }
    }

    #[test]
    fn only_active_and_trialing_let_devices_in() {
        for (status, allows) in
            [("active", true), ("trialing", true), ("past_due", false), ("expired", false)]
        {
            assert_eq!(status.parse::<SubscriptionStatus>().unwrap().allows(), allows, "{status}");
        }
        for bad in ["", "Active", "active ", "a\nb", "aktiv\u{e9}", &"a".repeat(65)] {
            assert!(bad.parse::<SubscriptionStatus>().is_err(), "{bad:?}");
        }
    }
}
