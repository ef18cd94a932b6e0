//! Durations as Go writes them.

use std::fmt::Write;
use std::time::Duration;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The units of Go's `time.ParseDuration`, in nanoseconds. Both spellings of µ: U+00B5 and U+03BC.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS_PER_SECOND),
    ("m", 60 * NANOS_PER_SECOND),
    ("h", 3_600 * NANOS_PER_SECOND),
];

/// Reads a duration by the grammar of Go's `time.ParseDuration`: `[+-](digits[.digits]unit)+`, or a
/// bare `0`.
///
/// A fraction of a nanosecond is dropped. The error is a phrase that follows the value; negative
/// durations are errors here, and so is what Go cannot hold (2^63 ns, about 292 years).
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err("is not a duration".to_owned());
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (nanos, after) = part(rest, text)?;
        total = total
            .checked_add(nanos)
            .filter(|total| i64::try_from(*total).is_ok())
            .ok_or("is too long for a duration")?;
        rest = after;
    }
    if negative && total > 0 {
        return Err("is negative".to_owned());
    }
    Ok(Duration::from_nanos(total))
}

/// Reads one number with its unit; gives its nanoseconds and what follows.
fn part<'a>(rest: &'a str, whole: &str) -> Result<(u64, &'a str), String> {
    let (integer, after) = digits(rest);
    let (fraction, after) = match after.strip_prefix('.') {
        Some(after) => digits(after),
        None => ("", after),
    };
    if integer.is_empty() && fraction.is_empty() {
        return Err("is not a duration".to_owned());
    }
    let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
    let (unit, after) = after.split_at(end);
    if unit.is_empty() {
        // A bare number is the usual mistake of those who think in seconds.
        return Err(if after.is_empty() && rest.len() == whole.len() {
            format!("has no unit; write {whole}s for seconds")
        } else {
            "has a number without a unit".to_owned()
        });
    }
    let Some(&(_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(match unit {
            "d" => "has the unit \"d\", which Go does not know; write 24h for a day".to_owned(),
            _ => format!("has the unknown unit {}", super::error::shown(unit)),
        });
    };
    let value = scaled(integer, fraction, nanos).ok_or("is too long for a duration")?;
    Ok((value, after))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// `integer.fraction` times `unit`, rounded down; nothing when it does not fit.
fn scaled(integer: &str, fraction: &str, unit: u64) -> Option<u64> {
    let integer: u64 = if integer.is_empty() { 0 } else { integer.parse().ok()? };
    let whole = integer.checked_mul(unit)?;
    let (mut part, mut weight) = (0_u128, 1_u128);
    // 18 digits decide the nanoseconds of an hour's fraction; more cannot change them.
    for digit in fraction.bytes().take(18) {
        part = part * 10 + u128::from(digit - b'0');
        weight *= 10;
    }
    whole.checked_add(u64::try_from(part * u128::from(unit) / weight).ok()?)
}

/// Writes a duration in Go's grammar, short: `1h30m`, `1.5s`, `300ms`, `0s`.
pub(super) fn show(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let second = u128::from(NANOS_PER_SECOND);
    if nanos < second {
        let (name, unit) = match nanos {
            _ if nanos.is_multiple_of(1_000_000) => ("ms", 1_000_000),
            _ if nanos.is_multiple_of(1_000) => ("us", 1_000),
            _ => ("ns", 1),
        };
        return format!("{}{name}", nanos / unit);
    }
    let mut out = String::new();
    for (name, unit) in [("h", 3_600 * second), ("m", 60 * second)] {
        if nanos >= unit {
            let _ = write!(out, "{}{name}", nanos / unit);
            nanos %= unit;
        }
    }
    if nanos > 0 {
        let _ = write!(out, "{}", nanos / second);
        let fraction = format!("{:09}", nanos % second);
        let fraction = fraction.trim_end_matches('0');
        if !fraction.is_empty() {
            let _ = write!(out, ".{fraction}");
        }
        out.push('s');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, nanos) in [
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("-0s", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("300ms", 300_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("1.0000000009s", 1_000_000_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("10us", 10_000),
            ("10\u{b5}s", 10_000),
            ("10\u{3bc}s", 10_000),
            ("7ns", 7),
            ("1s1h1s", 3_602_000_000_000),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses_and_says_why() {
        for (text, part) in [
            ("", "not a duration"),
            ("-", "not a duration"),
            (".s", "not a duration"),
            ("s", "not a duration"),
            (" 5s", "not a duration"),
            ("+-5s", "not a duration"),
            ("5", "write 5s"),
            ("1.5", "write 1.5s"),
            ("1h5", "without a unit"),
            ("5 s", "unknown unit"),
            ("5S", "unknown unit"),
            ("3d", "24h"),
            ("-5s", "negative"),
            ("9223372036854775808ns", "too long"),
            ("2562048h", "too long"),
            ("99999999999999999999s", "too long"),
            ("1e3s", "unknown unit"),
            ("٣s", "not a duration"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn writes_short() {
        for text in ["0s", "1ns", "1us", "300ms", "1.5s", "1m30s", "1h", "1h30m", "168h", "1h0.25s"]
        {
            assert_eq!(show(parse(text).unwrap()), text);
        }
        assert_eq!(show(Duration::from_nanos(1_500)), "1500ns");
        assert_eq!(show(Duration::from_secs(3_661)), "1h1m1s");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in 0..=i64::MAX as u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&show(duration)), Ok(duration));
        }

        #[test]
        fn sums_of_whole_parts_agree_with_a_plain_model(
            parts in proptest::collection::vec((0..10_000_u64, 0..UNITS.len()), 1..6),
        ) {
            let text: Vec<_> = parts.iter().map(|(n, unit)| format!("{n}{}", UNITS[*unit].0)).collect();
            let model: u64 = parts.iter().map(|(n, unit)| n * UNITS[*unit].1).sum();
            prop_assert_eq!(parse(&text.concat()), Ok(Duration::from_nanos(model)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", near in "[-+]?([0-9.]{0,24}[a-zµ]{0,3}){0,4}") {
            let _ = parse(&text);
            let _ = parse(&near);
        }
    }
}
