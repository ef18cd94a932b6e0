//! The fast path: a flat object of plain strings.
//!
//! What it does not understand (escapes, numbers, nesting, other keys, a syntax error) it leaves
//! to the full parser, so it can be strict and small: it never decides that a frame is bad.

use memchr::memchr2;

/// The string fields of a frame, as they stand in the message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields<'m> {
    pub(super) kind: Option<&'m str>,
    pub(super) stream_id: Option<&'m str>,
    pub(super) data: Option<&'m [u8]>,
}

/// Reads `{"type":"…","stream_id":"…","data":"…"}` in any order and with any white space.
///
/// None: not of that simple form; the full parser decides. The message must be UTF-8.
pub(super) fn scan(message: &[u8]) -> Option<Fields<'_>> {
    let mut fields = Fields::default();
    let mut rest = expect(skip_space(message), b'{')?;
    loop {
        let (key, after) = string(skip_space(rest))?;
        let (value, after) = string(skip_space(expect(skip_space(after), b':')?))?;
        match key {
            b"type" if fields.kind.is_none() => fields.kind = Some(plain(value)?),
            b"stream_id" if fields.stream_id.is_none() => fields.stream_id = Some(plain(value)?),
            b"data" if fields.data.is_none() => fields.data = Some(value),
            _ => return None,
        }
        let after = skip_space(after);
        match after.first()? {
            b',' => rest = &after[1..],
            b'}' if skip_space(&after[1..]).is_empty() => return Some(fields),
            _ => return None,
        }
    }
}

fn skip_space(bytes: &[u8]) -> &[u8] {
    let spaces = bytes.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
    &bytes[spaces..]
}

fn expect(bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    (*bytes.first()? == wanted).then(|| &bytes[1..])
}

/// A string without escapes, and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let bytes = expect(bytes, b'"')?;
    let end = memchr2(b'"', b'\\', bytes)?;
    (bytes[end] == b'"').then(|| (&bytes[..end], &bytes[end + 1..]))
}

/// A short string that may stand in JSON as it is: UTF-8 without control characters.
fn plain(bytes: &[u8]) -> Option<&str> {
    if bytes.iter().any(|b| *b < 0x20) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_and_white_space_is_read() {
        let fields =
            scan(b" { \"data\" : \"QQ==\" ,\n\"stream_id\":\"a\",\"type\":\"stream_data\" } \n");
        assert_eq!(
            fields,
            Some(Fields { kind: Some("stream_data"), stream_id: Some("a"), data: Some(b"QQ==") })
        );
    }

    #[test]
    fn what_is_not_simple_is_left_to_the_full_parser() {
        for message in [
            "",
            "{}",
            "{\"type\":\"ping\"",
            "{\"type\":\"ping\"}x",
            "{\"type\":\"ping\",}",
            "{\"type\":\"pi\\u006eg\"}",
            "{\"type\":\"ping\",\"extra\":\"1\"}",
            "{\"type\":\"ping\",\"type\":\"ping\"}",
            "{\"type\":1}",
            "{\"type\":\"a\nb\"}",
            "[\"type\"]",
        ] {
            assert_eq!(scan(message.as_bytes()), None, "{message}");
        }
    }
}
