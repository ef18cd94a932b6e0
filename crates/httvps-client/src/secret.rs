//! Texts that must not be shown.

use zeroize::Zeroizing;

/// A token or password. It has neither `Debug` nor `Display`, and its memory is overwritten when
/// it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the one place that sends or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
