//! Device tokens and what the file keeps of them.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 32;

/// A fresh device token: 256 random bits as 64 lower-case hex digits.
///
/// It has no `Debug` and no `Display`, so that it cannot slip into a log; the text is wiped when
/// the value is dropped.
pub struct Token(Zeroizing<String>);

impl Token {
    /// Draws a token from the operating system's random generator.
    pub fn generate() -> Result<Self, RandomError> {
        let mut bytes = Zeroizing::new([0_u8; TOKEN_BYTES]);
        getrandom::fill(bytes.as_mut()).map_err(RandomError)?;
        Ok(Self(Zeroizing::new(to_hex(bytes.as_ref()))))
    }

    /// The secret text, to be shown to its owner once.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What the devices file keeps of this token.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::of(&self.0)
    }
}

/// The SHA-256 of a token's text (UTF-8 bytes), as the devices file stores it: 64 hex digits.
///
/// `printf %s "$TOKEN" | sha256sum` makes the same.
///
/// `Eq` and `Hash` exist for the map from digest to owner and take a time that depends on the
/// digests. That tells a stranger nothing: he chooses the token, but cannot choose its digest bit by
/// bit. The check of a token against its device is [`TokenDigest::matches`].
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// A digest that no known token has, to compare with when the device is unknown.
    pub(crate) const OF_NO_DEVICE: Self = Self([0; 32]);

    /// Hashes the text of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Whether both are the same digest, in a time that does not depend on where they differ.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

impl From<TokenDigest> for String {
    fn from(digest: TokenDigest) -> Self {
        to_hex(&digest.0)
    }
}

impl TryFrom<String> for TokenDigest {
    // The text is left out of the message: it may be a plain token.
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WANTED: &str = "token_sha256 must be 64 hex digits: the SHA-256 of the token";
        let digits: &[u8; 64] = text.as_bytes().try_into().map_err(|_| WANTED)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = hex_value(pair[0]).ok_or(WANTED)?;
            let low = hex_value(pair[1]).ok_or(WANTED)?;
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

/// The operating system gave no random bytes.
#[derive(Debug)]
pub struct RandomError(getrandom::Error);

impl fmt::Display for RandomError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the operating system gives no random numbers: {}", self.0)
    }
}

impl std::error::Error for RandomError {}

/// `N` random bytes as hex digits, for names that need not be secret.
pub(crate) fn random_hex<const N: usize>() -> Result<String, RandomError> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).map_err(RandomError)?;
    Ok(to_hex(&bytes))
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0xf)]));
    }
    text
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_sha256_of_the_text() {
        // FIPS 180-4, the example for "abc".
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(String::from(TokenDigest::of("abc")), expected);
        assert!(
            TokenDigest::try_from(expected.to_uppercase())
                .unwrap()
                .matches(&TokenDigest::of("abc"))
        );
        assert!(!TokenDigest::of("abd").matches(&TokenDigest::of("abc")));
    }

    #[test]
    fn tokens_have_256_bits_and_differ() {
        let (first, second) = (Token::generate().unwrap(), Token::generate().unwrap());
        assert_eq!(first.expose().len(), 64);
        assert!(first.expose().bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(first.expose(), second.expose());
        assert!(first.digest().matches(&TokenDigest::of(first.expose())));
    }

    #[test]
    fn a_malformed_digest_is_refused_without_repeating_it() {
        for bad in ["", "secret", &"g".repeat(64), &"ä".repeat(32), &"a".repeat(65)] {
            let problem = TokenDigest::try_from(bad.to_owned()).unwrap_err();
            assert!(problem.contains("64 hex digits"));
            assert!(!problem.contains("secret"));
        }
    }
}
