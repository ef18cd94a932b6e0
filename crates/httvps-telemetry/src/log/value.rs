//! Texts and numbers as the two slog handlers write them.

use std::fmt::Write;

/// Whether a character moves the cursor, changes the terminal or turns the direction of the text
/// instead of being shown: the controls of ASCII and Latin-1, the separators of lines and
/// paragraphs, and the controls of bidirectional text (UAX #9).
pub fn controls_terminal(character: char) -> bool {
    match character {
        // Nearly everything.
        ' '..='~' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        _ => character.is_control(),
    }
}

/// Appends a JSON string as `encoding/json` writes it with `SetEscapeHTML(false)`.
///
/// One difference: DEL and what else [controls a terminal](controls_terminal) is escaped, too. A
/// reader of JSON gets the same string.
pub(super) fn append_json_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (at, character) in text.char_indices() {
        let escape = match character {
            '"' => "\\\"",
            '\\' => "\\\\",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            _ if controls_terminal(character) => "",
            _ => continue,
        };
        out.push_str(&text[plain_from..at]);
        if escape.is_empty() {
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        } else {
            out.push_str(escape);
        }
        plain_from = at + character.len_utf8();
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

/// Appends a text as slog's `TextHandler` does: bare where that is clear, otherwise as
/// `strconv.Quote` writes it.
///
/// One difference: DEL is quoted, too.
pub(super) fn append_text(out: &mut String, text: &str) {
    if !needs_quotes(text) {
        return out.push_str(text);
    }
    out.push('"');
    for character in text.chars() {
        let _ = match character {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            '\u{7}' => out.write_str("\\a"),
            '\u{8}' => out.write_str("\\b"),
            '\u{c}' => out.write_str("\\f"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            '\u{b}' => out.write_str("\\v"),
            '\0'..' ' | '\u{7f}' => write!(out, "\\x{:02x}", u32::from(character)),
            _ if is_printable(character) => out.write_char(character),
            '\u{80}'..='\u{ffff}' => write!(out, "\\u{:04x}", u32::from(character)),
            _ => write!(out, "\\U{:08x}", u32::from(character)),
        };
    }
    out.push('"');
}

fn needs_quotes(text: &str) -> bool {
    let needs = |character: char| match character {
        ' ' | '=' | '"' | '\u{fffd}' => true,
        // Nearly everything: decided without a table.
        '!'..='~' => false,
        _ => character.is_whitespace() || !is_printable(character),
    };
    text.is_empty() || text.chars().any(needs)
}

/// Whether a character prints, as Go's `strconv.IsPrint` means it.
fn is_printable(character: char) -> bool {
    // The standard library escapes what does not print. Behind another character, a combining mark
    // prints.
    let mut buffer = [b'x'; 5];
    let length = character.encode_utf8(&mut buffer[1..]).len();
    let pair = std::str::from_utf8(&buffer[..=length]).unwrap_or_default();
    matches!(character, '"' | '\'' | '\\') || pair.escape_debug().nth(1) == Some(character)
}

/// Appends a number as `encoding/json` writes it. What JSON has no number for becomes a string.
pub(super) fn append_json_float(out: &mut String, number: f64) {
    if !number.is_finite() {
        let _ = write!(out, "\"{}\"", infinite(number));
    } else if number != 0.0 && !(1e-6..1e21).contains(&number.abs()) {
        let (digits, exponent) = scientific(number);
        let _ = write!(out, "{digits}e{exponent:+}");
    } else {
        let _ = write!(out, "{number}");
    }
}

/// Appends a number as `strconv.AppendFloat(…, 'g', -1, 64)` writes it.
pub(super) fn append_text_float(out: &mut String, number: f64) {
    if !number.is_finite() {
        return out.push_str(infinite(number));
    }
    let (digits, exponent) = scientific(number);
    if number != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{digits}e{sign}{:02}", exponent.unsigned_abs());
    } else {
        let _ = write!(out, "{number}");
    }
}

fn infinite(number: f64) -> &'static str {
    match number {
        _ if number.is_nan() => "NaN",
        _ if number > 0.0 => "+Inf",
        _ => "-Inf",
    }
}

/// The shortest digits that read back, with one before the point, and the exponent.
fn scientific(number: f64) -> (String, i32) {
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => (digits.to_owned(), exponent.parse().unwrap_or(0)),
        None => (text, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE_ENDS: [char; 4] = ['\n', '\r', '\u{2028}', '\u{2029}'];

    fn json(text: &str) -> String {
        let mut out = String::new();
        append_json_string(&mut out, text);
        out
    }

    fn text(text: &str) -> String {
        let mut out = String::new();
        append_text(&mut out, text);
        out
    }

    #[test]
    fn json_strings_are_those_of_go() {
        for (value, expected) in [
            ("", r#""""#),
            ("plain <b>&", "\"plain <b>&\""),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("\n\r\t\0\u{8}\u{1b}", r#""\n\r\t\u0000\u0008\u001b""#),
            ("\u{2028}\u{2029}", r#""\u2028\u2029""#),
            ("ü😀\u{fffd}", "\"ü😀\u{fffd}\""),
            ("\u{a0}\u{ad}\u{202f}", "\"\u{a0}\u{ad}\u{202f}\""),
        ] {
            assert_eq!(json(value), expected, "{value:?}");
        }
    }

    #[test]
    fn what_controls_a_terminal_is_escaped_in_both_formats() {
        let controls = ('\0'..=char::MAX).filter(|character| controls_terminal(*character));
        let controls: Vec<char> = controls.collect();
        assert_eq!(controls.len(), 32 + 1 + 32 + 3 + 7 + 4);
        for control in controls {
            let value = format!("a{control}b");
            for written in [json(&value), text(&value)] {
                assert!(!written.contains(control), "{written:?}");
                assert!(written.starts_with("\"a\\") && written.ends_with("b\""), "{written}");
            }
            assert_eq!(serde_json::from_str::<String>(&json(&value)).unwrap(), value);
        }
        assert_eq!(json("\u{9b}1m\u{7f}\u{202e}"), r#""\u009b1m\u007f\u202e""#);
    }

    #[test]
    fn texts_are_quoted_when_go_quotes_them() {
        for value in ["plain", "a\\b", "'x'", "a,b:{c}", "ü😀", "e\u{301}", "5%"] {
            assert_eq!(text(value), value);
        }
        for (value, expected) in [
            ("", r#""""#),
            ("a b", r#""a b""#),
            ("a=b", r#""a=b""#),
            ("a\"b\\ ", r#""a\"b\\ ""#),
            ("\n\r\t\0", r#""\n\r\t\x00""#),
            ("\u{7}\u{8}\u{c}\u{b}\u{1b}\u{7f}", r#""\a\b\f\v\x1b\x7f""#),
            ("\u{2028}\u{a0}\u{85}", r#""\u2028\u00a0\u0085""#),
            ("\u{fffd}", "\"\u{fffd}\""),
            ("\u{e0001}", r#""\U000e0001""#),
        ] {
            assert_eq!(text(value), expected, "{value:?}");
        }
    }

    #[test]
    fn floats_are_those_of_go() {
        for (number, json, text) in [
            (0.0, "0", "0"),
            (1.0, "1", "1"),
            (-1.5, "-1.5", "-1.5"),
            (0.25, "0.25", "0.25"),
            (0.000_012_5, "0.0000125", "1.25e-05"),
            (123_456.0, "123456", "123456"),
            (1_234_567.0, "1234567", "1.234567e+06"),
            (1e-7, "1e-7", "1e-07"),
            (1e21, "1e+21", "1e+21"),
            (1e20, "100000000000000000000", "1e+20"),
            (1.5e300, "1.5e+300", "1.5e+300"),
            (f64::NAN, "\"NaN\"", "NaN"),
            (f64::INFINITY, "\"+Inf\"", "+Inf"),
            (f64::NEG_INFINITY, "\"-Inf\"", "-Inf"),
        ] {
            let (mut as_json, mut as_text) = (String::new(), String::new());
            append_json_float(&mut as_json, number);
            append_text_float(&mut as_text, number);
            assert_eq!((as_json.as_str(), as_text.as_str()), (json, text));
        }
    }

    proptest! {
        #[test]
        fn json_reads_back_and_is_one_line(value in any::<String>()) {
            let written = json(&value);
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), value);
            prop_assert!(!written.contains(LINE_ENDS) && !written.contains(controls_terminal));
        }

        #[test]
        fn text_is_one_token_of_one_line(value in any::<String>()) {
            let written = text(&value);
            prop_assert!(!written.contains(LINE_ENDS) && !written.contains(controls_terminal));
            prop_assert!(written.starts_with('"') || !written.contains([' ', '=', '"']));
        }

        #[test]
        fn finite_floats_read_back(number in any::<f64>()) {
            prop_assume!(number.is_finite());
            for append in [append_json_float, append_text_float] {
                let mut out = String::new();
                append(&mut out, number);
                prop_assert_eq!(out.parse::<f64>().unwrap().to_bits(), number.to_bits());
            }
        }
    }
}
