//! Numbers of bytes.

const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Reads a number of bytes: digits, then nothing, `KiB`, `MiB` or `GiB` (any case, a space may
/// stand between).
///
/// The error is a phrase that follows the value.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err("is not a number of bytes".to_owned());
    }
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let factor = match UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() && digits.len() == text.len() => 1,
        None => return Err(format!("has the unknown unit {}", super::error::shown(unit))),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| "is too large".to_owned())
}

/// Writes a number of bytes with the largest unit that divides it.
pub(super) fn show(bytes: u64) -> String {
    for (name, factor) in UNITS {
        if bytes > 0 && bytes.is_multiple_of(factor) {
            return format!("{}{name}", bytes / factor);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_plain_numbers_and_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1_000),
            ("16KiB", 16_384),
            ("16 kib", 16_384),
            ("1MiB", 1 << 20),
            ("2GIB", 2 << 30),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for (text, part) in [
            ("", "not a number"),
            ("-1", "not a number"),
            ("KiB", "not a number"),
            ("1 ", "unknown unit"),
            ("1KB", "unknown unit"),
            ("1.5MiB", "unknown unit"),
            ("1k", "unknown unit"),
            ("99999999999999999999", "too large"),
            ("99999999999GiB", "too large"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse(&show(bytes)), Ok(bytes));
            let rounded = bytes & !0x3ff;
            prop_assert_eq!(parse(&show(rounded)), Ok(rounded));
        }
    }
}
