//! Points in time as Go's slog writes them: RFC 3339 in UTC.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;

/// How much of a second is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    /// As many digits as there are, up to nine, without zeros at the end.
    Nanoseconds,
    /// Always three digits.
    Milliseconds,
}

/// Appends a point in time. What lies before 1970 is written as 1970; a clock that is that wrong
/// tells nothing.
pub(super) fn append(out: &mut String, time: SystemTime, precision: Precision) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / SECONDS_PER_DAY, since.as_secs() % SECONDS_PER_DAY);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    let nanos = since.subsec_nanos();
    match precision {
        Precision::Milliseconds => {
            let _ = write!(out, ".{:03}", nanos / 1_000_000);
        }
        Precision::Nanoseconds if nanos > 0 => {
            let _ = write!(out, ".{nanos:09}");
            out.truncate(out.trim_end_matches('0').len());
        }
        Precision::Nanoseconds => {}
    }
    out.push('Z');
}

/// The date of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted in years that begin in March, so that the leap day is the last of its year; from
    // 0000-03-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March: 153 days make five of them, whichever come first.
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn written(seconds: u64, nanos: u32, precision: Precision) -> String {
        let mut out = String::new();
        append(&mut out, UNIX_EPOCH + Duration::new(seconds, nanos), precision);
        out
    }

    #[test]
    fn zeros_at_the_end_are_trimmed_as_go_does() {
        for (nanos, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (123_456_789, "1970-01-01T00:00:00.123456789Z"),
            (120_000_000, "1970-01-01T00:00:00.12Z"),
            (1, "1970-01-01T00:00:00.000000001Z"),
            (100, "1970-01-01T00:00:00.0000001Z"),
        ] {
            assert_eq!(written(0, nanos, Precision::Nanoseconds), expected);
        }
        assert_eq!(written(0, 0, Precision::Milliseconds), "1970-01-01T00:00:00.000Z");
        assert_eq!(written(59, 999_999_999, Precision::Milliseconds), "1970-01-01T00:00:59.999Z");
    }

    #[test]
    fn dates_of_every_kind_of_year() {
        for (seconds, expected) in [
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_078_012_800, "2004-02-29T00:00:00Z"),
            (1_795_401_540, "2026-11-23T02:39:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(written(seconds, 0, Precision::Nanoseconds), expected);
        }
    }

    #[test]
    fn every_day_of_800_years_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..292_194 {
            assert_eq!(civil(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn a_time_before_1970_does_not_panic() {
        let mut out = String::new();
        append(&mut out, UNIX_EPOCH - Duration::from_secs(1), Precision::Nanoseconds);
        assert_eq!(out, "1970-01-01T00:00:00Z");
    }
}
