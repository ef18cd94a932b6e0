//! Files with a token or a password.

use httvps_client::Secret;
use httvps_text::without_mark_str;
use std::path::Path;

/// Largest token or password file, in bytes; a gateway takes no token beyond 8 KiB.
const MAX_FILE: u64 = 16 * 1024;

/// Reads a file of at most 16 KiB as it is, without a byte-order mark. The error names the file.
pub(crate) fn read(path: &Path) -> Result<Secret, String> {
    let text = httvps_text::read_file(path, MAX_FILE)
        .map_err(|error| format!("{} {error}", path.display()))?;
    Ok(Secret::new(text.to_string()))
}

/// A token without the white space and the byte-order mark around it.
pub(crate) fn trimmed(token: &Secret) -> Secret {
    Secret::new(without_mark_str(token.expose().trim()).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_byte_order_mark_and_white_space_are_no_part_of_a_token() {
        for text in ["abc", "\u{feff}abc\r\n", " \u{feff} abc\n", "\tabc"] {
            assert_eq!(trimmed(&secret(text)).expose(), "abc", "{text:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "\u{feff}abc\r\n").unwrap();
        assert_eq!(read(&path).unwrap().expose(), "abc\r\n");
    }

    #[test]
    fn a_file_in_utf_16_is_named_and_its_content_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let wide: Vec<u8> = "\u{feff}hunter2".encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(&path, wide).unwrap();
        let words = read(&path).err().unwrap();
        assert!(words.contains("UTF-16") && words.contains("token"), "{words}");
        assert!(!words.contains("hunter2"), "{words}");
    }
}
