//! The one error of the configuration, and how foreign text is shown in it.

use std::fmt;

/// Most characters of a value that an error shows.
const MAX_SHOWN: usize = 80;

/// Why the settings do not make a configuration.
///
/// `Display` is at most two lines: which setting, named as it was given, and what is wrong with it;
/// then what would be accepted. Secret values are never shown; other values are escaped and cut at
/// 80 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    place: String,
    problem: String,
    accepted: String,
}

impl ConfigError {
    /// An error about `place`; each part is made one line, `accepted` may be empty.
    pub(super) fn new(place: &str, problem: &str, accepted: &str) -> Self {
        Self { place: one_line(place), problem: one_line(problem), accepted: one_line(accepted) }
    }

    /// The setting, as the one who gave it knows it: environment variable, YAML key with file and
    /// line, or flag.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)?;
        if !self.accepted.is_empty() {
            write!(f, "\naccepted: {}", self.accepted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A value in quotes, escaped, cut at 80 characters.
pub(super) fn shown(value: &str) -> String {
    let mut out = String::from("\"");
    let mut characters = value.chars();
    for character in characters.by_ref().take(MAX_SHOWN) {
        match character {
            '\'' => out.push('\''),
            other => out.extend(other.escape_debug()),
        }
    }
    if characters.next().is_some() {
        out.push('…');
    }
    out.push('"');
    out
}

/// The text without any character that could start a new line or move a cursor.
pub(super) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_plain(character) {
            out.push(character);
        } else {
            out.extend(character.escape_debug());
        }
    }
    out
}

fn is_plain(character: char) -> bool {
    // escape_debug also escapes quotes and backslashes, which are harmless here.
    matches!(character, '"' | '\'' | '\\') || character.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_cut_and_escaped() {
        assert_eq!(shown("a\nb\u{1b}[2J"), r#""a\nb\u{1b}[2J""#);
        assert_eq!(shown("it's \"x\""), r#""it's \"x\"""#);
        let long = shown(&"ä".repeat(81));
        assert_eq!(long.chars().count(), 80 + 3);
        assert!(long.ends_with("…\""));
        assert!(!shown(&"ä".repeat(80)).contains('…'));
    }

    #[test]
    fn an_error_is_two_lines_whatever_is_in_it() {
        let error = ConfigError::new("a\nb\u{2028}", "c\r\nd", "e\u{85}\nf");
        let text = error.to_string();
        assert_eq!(text, "a\\nb\\u{2028}: c\\r\\nd\naccepted: e\\u{85}\\nf");
        assert_eq!(error.place(), "a\\nb\\u{2028}");
        assert_eq!(ConfigError::new("a", "b", "").to_string(), "a: b");
    }
}
