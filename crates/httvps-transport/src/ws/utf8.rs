//! UTF-8 validation of text that arrives in pieces.

/// Validates a text byte by byte as early as possible: the first byte that no valid text can
/// contain at its place is an error, even in the middle of a character.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character whose end has not arrived.
    partial: [u8; 4],
    partial_len: u8,
}

/// The text is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl Utf8 {
    /// Judges the next piece of the text.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.partial_len > 0 {
            let Some((&byte, rest)) = piece.split_first() else {
                return Ok(());
            };
            piece = rest;
            self.partial[usize::from(self.partial_len)] = byte;
            self.partial_len += 1;
            match std::str::from_utf8(&self.partial[..usize::from(self.partial_len)]) {
                Ok(_) => self.partial_len = 0,
                // A prefix of four bytes is always complete or wrong, so the array suffices.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(NotUtf8),
            }
        }
        match simdutf8::compat::from_utf8(piece) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                let tail = &piece[error.valid_up_to()..];
                self.partial[..tail.len()].copy_from_slice(tail);
                self.partial_len = tail.len() as u8;
                Ok(())
            }
            Err(_) => Err(NotUtf8),
        }
    }

    /// Whether the text so far ends between two characters.
    pub(super) fn is_complete(self) -> bool {
        self.partial_len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fails_at_the_first_impossible_byte() {
        // U+110000 would begin F4 90; the second byte alone decides.
        let mut text = Utf8::default();
        assert_eq!(text.push(b"ok \xf4"), Ok(()));
        assert!(!text.is_complete());
        assert_eq!(text.push(b"\x90"), Err(NotUtf8));
        // A surrogate.
        assert_eq!(Utf8::default().push(b"\xed\xa0"), Err(NotUtf8));
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library_however_it_is_cut(
            text in prop_oneof![
                any::<String>().prop_map(String::into_bytes),
                proptest::collection::vec(any::<u8>(), 0..12),
                (any::<String>(), any::<u8>()).prop_map(|(s, b)| {
                    let mut bytes = s.into_bytes(); bytes.push(b); bytes
                }),
            ],
            size in 1usize..6,
        ) {
            let mut state = Utf8::default();
            let verdict = text.chunks(size).try_for_each(|piece| state.push(piece));
            let ours = verdict.is_ok() && state.is_complete();
            prop_assert_eq!(ours, std::str::from_utf8(&text).is_ok());
        }
    }
}
