//! The known name that is nearest to a misspelt one.

/// Most characters of a name that are compared.
const MAX_COMPARED: usize = 64;

/// The candidate that takes the fewest insertions, deletions and replacements to come to from
/// `name`.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates.min_by_key(|candidate| distance(name, candidate))
}

/// The edit distance (Levenshtein), without regard to case and to the kind of dash.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let plain = |text: &str| -> Vec<char> {
        let plain = |c: char| if c == '-' || c == '.' { '_' } else { c.to_ascii_lowercase() };
        text.chars().take(MAX_COMPARED).map(plain).collect()
    };
    let (a, b) = (plain(a), plain(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("listen-addr", "LISTEN_ADDR", 0),
            ("listen_adr", "listen_addr", 1),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
        assert_eq!(distance(&"x".repeat(10_000), ""), MAX_COMPARED);
    }

    #[test]
    fn finds_the_nearest() {
        let names = ["log_level", "log_format", "listen_addr"];
        assert_eq!(nearest("loglevel", names.into_iter()), Some("log_level"));
        assert_eq!(nearest("x", [].into_iter()), None);
    }
}
