//! Reading text from people and other programs: UTF-8, with or without a byte-order mark.
//!
//! Editors and shells of Windows put a byte-order mark before a text, or save it as UTF-16. The mark
//! is not part of the text; UTF-16 is an error that names it. Every text file of httvps, and every
//! text from a foreign server, is read by this crate.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use zeroize::Zeroizing;

/// The byte-order mark in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The byte-order mark as a character.
const MARK_CHARACTER: char = '\u{feff}';

/// Why a text cannot be used. `Display` is a phrase that follows the name of the
/// file: *cannot be read: …*, *is UTF-16; …*. It repeats nothing of the content.
#[derive(Debug)]
pub enum TextError {
    /// It cannot be read.
    Io(io::Error),
    /// It has more than this many bytes.
    TooLarge(u64),
    /// It is UTF-16, as its byte-order mark or its zero bytes show.
    Utf16,
    /// It is in another encoding, or no text.
    NotUtf8,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::TooLarge(max) => write!(f, "is larger than {}", Bytes(*max)),
            Self::Utf16 => f.write_str(
                "is UTF-16; save it as UTF-8 (in PowerShell: Set-Content -Encoding utf8, not >)",
            ),
            Self::NotUtf8 => f.write_str("is not UTF-8"),
        }
    }
}

impl std::error::Error for TextError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::TooLarge(_) | Self::Utf16 | Self::NotUtf8 => None,
        }
    }
}

impl From<io::Error> for TextError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        match self.0 {
            bytes if bytes >= MIB && bytes.is_multiple_of(MIB) => write!(f, "{} MiB", bytes / MIB),
            bytes if bytes >= 1024 && bytes.is_multiple_of(1024) => {
                write!(f, "{} KiB", bytes / 1024)
            }
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

/// Reads a text file of at most `max` bytes. Blocks. What was read is wiped when it is dropped, since
/// it may be a secret.
pub fn read_file(path: &Path, max: u64) -> Result<Zeroizing<String>, TextError> {
    read(File::open(path)?, max)
}

/// Reads a text of at most `max` bytes to its end, as [`read_file`] does.
pub fn read(source: impl Read, max: u64) -> Result<Zeroizing<String>, TextError> {
    let bytes = read_bytes(source, max)?;
    decode(&bytes).map(|text| Zeroizing::new(text.to_owned()))
}

/// Reads at most `max` bytes to their end, for a format whose comments may be in any encoding with
/// ASCII in it. UTF-16 is an error here too; a byte-order mark stays.
pub fn read_bytes(source: impl Read, max: u64) -> Result<Zeroizing<Vec<u8>>, TextError> {
    let mut bytes = Zeroizing::new(Vec::new());
    source.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(TextError::TooLarge(max));
    }
    if is_utf16(&bytes) {
        return Err(TextError::Utf16);
    }
    Ok(bytes)
}

/// The text in these bytes, without a byte-order mark before it.
pub fn decode(bytes: &[u8]) -> Result<&str, TextError> {
    if is_utf16(bytes) {
        return Err(TextError::Utf16);
    }
    std::str::from_utf8(without_mark(bytes)).map_err(|_| TextError::NotUtf8)
}

/// The bytes without a byte-order mark before them, for a parser that takes bytes.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}

/// The text without a byte-order mark before it.
pub fn without_mark_str(text: &str) -> &str {
    text.strip_prefix(MARK_CHARACTER).unwrap_or(text)
}

/// Whether the bytes are UTF-16: they begin with its mark, or with an ASCII character of two bytes,
/// one of which is zero.
fn is_utf16(bytes: &[u8]) -> bool {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [0, second, ..] => *second != 0,
        [first, 0, ..] => *first != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(to_bytes).collect()
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_text() {
        assert_eq!(decode(b"\xef\xbb\xbfabc").unwrap(), "abc");
        assert_eq!(decode(b"\xef\xbb\xbf").unwrap(), "");
        assert_eq!(decode(b"").unwrap(), "");
        assert_eq!(without_mark(b"\xef\xbb\xbf{}"), b"{}");
        assert_eq!(without_mark_str("\u{feff}abc"), "abc");
        // Only the first one is a mark.
        assert_eq!(decode("\u{feff}\u{feff}a".as_bytes()).unwrap(), "\u{feff}a");
    }

    #[test]
    fn utf_16_is_named_with_and_without_its_mark() {
        for text in ["\u{feff}token", "token", "t"] {
            for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
                let error = decode(&utf16(text, to_bytes)).unwrap_err();
                assert!(matches!(error, TextError::Utf16), "{text:?}: {error}");
                assert!(error.to_string().contains("UTF-16"));
            }
        }
        assert!(matches!(decode(b"caf\xe9"), Err(TextError::NotUtf8)));
        assert!(matches!(decode(b"\0\0"), Ok("\0\0")));
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, b"\xef\xbb\xbf12345").unwrap();
        assert_eq!(&**read_file(&path, 8).unwrap(), "12345");
        let error = read_file(&path, 7).unwrap_err();
        assert_eq!(error.to_string(), "is larger than 7 bytes");
        assert_eq!(TextError::TooLarge(16 << 10).to_string(), "is larger than 16 KiB");
        assert_eq!(TextError::TooLarge(1 << 20).to_string(), "is larger than 1 MiB");
        let missing = read_file(&folder.path().join("none"), 1).unwrap_err();
        assert!(missing.to_string().starts_with("cannot be read: "), "{missing}");
    }
}
