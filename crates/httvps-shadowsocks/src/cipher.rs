//! The ciphers, and what each of them makes of a password and a salt.

use std::fmt;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305};
use aws_lc_rs::hkdf;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

/// Longest key and longest salt of any cipher, in bytes.
pub(crate) const KEY_MAX: usize = 32;

/// Domain separation of SIP004 section "Key Derivation".
const SUBKEY_INFO: &[u8] = b"ss-subkey";

/// Domain separation of SIP022 section 2.2.
const SUBKEY_CONTEXT_2022: &str = "shadowsocks 2022 session subkey";

/// How a node encrypts. `Display` gives the method's name as keys have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// `chacha20-ietf-poly1305`, what Outline servers use.
    Chacha20IetfPoly1305,
    /// `aes-128-gcm`.
    Aes128Gcm,
    /// `aes-256-gcm`.
    Aes256Gcm,
    /// `2022-blake3-aes-128-gcm`.
    Blake3Aes128Gcm,
    /// `2022-blake3-aes-256-gcm`.
    Blake3Aes256Gcm,
    /// `2022-blake3-chacha20-poly1305`.
    Blake3Chacha20Poly1305,
}

impl Cipher {
    /// All ciphers.
    pub const ALL: [Self; 6] = [
        Self::Chacha20IetfPoly1305,
        Self::Aes128Gcm,
        Self::Aes256Gcm,
        Self::Blake3Aes128Gcm,
        Self::Blake3Aes256Gcm,
        Self::Blake3Chacha20Poly1305,
    ];

    /// Finds a cipher by its method name, in upper or lower case. The `AEAD_…` names of the first three, which stand
    /// in old keys, are known too.
    pub fn from_name(name: &str) -> Option<Self> {
        let alias = match name.to_ascii_uppercase().as_str() {
            "AEAD_CHACHA20_POLY1305" | "CHACHA20-POLY1305" => Self::Chacha20IetfPoly1305,
            "AEAD_AES_128_GCM" => Self::Aes128Gcm,
            "AEAD_AES_256_GCM" => Self::Aes256Gcm,
            _ => return Self::ALL.into_iter().find(|c| c.name().eq_ignore_ascii_case(name)),
        };
        Some(alias)
    }

    /// The method's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chacha20IetfPoly1305 => "chacha20-ietf-poly1305",
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Blake3Aes128Gcm => "2022-blake3-aes-128-gcm",
            Self::Blake3Aes256Gcm => "2022-blake3-aes-256-gcm",
            Self::Blake3Chacha20Poly1305 => "2022-blake3-chacha20-poly1305",
        }
    }

    /// Length of the key in bytes: 16 or 32. A salt is as long.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Blake3Aes128Gcm => 16,
            _ => 32,
        }
    }

    /// Whether this is one of the ciphers of 2022 (SIP022), whose password is a key in base64.
    pub fn is_2022(self) -> bool {
        matches!(self, Self::Blake3Aes128Gcm | Self::Blake3Aes256Gcm | Self::Blake3Chacha20Poly1305)
    }

    /// Most payload bytes of one chunk of a stream.
    pub(crate) fn chunk_max(self) -> usize {
        if self.is_2022() { 0xffff } else { 0x3fff }
    }

    pub(crate) fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm | Self::Blake3Aes128Gcm => &AES_128_GCM,
            Self::Aes256Gcm | Self::Blake3Aes256Gcm => &AES_256_GCM,
            Self::Chacha20IetfPoly1305 | Self::Blake3Chacha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    /// The key that OpenSSL's `EVP_BytesToKey` makes of a password with MD5, one round and no salt; for the AEAD
    /// ciphers only.
    pub(crate) fn key_of_password(self, password: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(Vec::with_capacity(KEY_MAX));
        while key.len() < self.key_len() {
            let last = key.len().saturating_sub(16);
            let digest = Md5::new().chain_update(&key[last..]).chain_update(password).finalize();
            key.extend_from_slice(&digest);
        }
        key
    }

    /// Writes the key of one session (or packet) to `subkey`, which is as long as the key.
    pub(crate) fn derive(self, key: &[u8], salt: &[u8], subkey: &mut [u8]) {
        if self.is_2022() {
            let mut hasher = blake3::Hasher::new_derive_key(SUBKEY_CONTEXT_2022);
            hasher.update(key).update(salt).finalize_xof().fill(subkey);
            return;
        }
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA1_FOR_LEGACY_USE_ONLY, salt).extract(key);
        prk.expand(&[SUBKEY_INFO], Length(subkey.len()))
            .and_then(|okm| okm.fill(subkey))
            .expect("HKDF-SHA1 gives up to 5,100 bytes, and at most 32 are asked for");
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_their_ciphers_and_nothing_else_does() {
        for cipher in Cipher::ALL {
            assert_eq!(Cipher::from_name(cipher.name()), Some(cipher));
            assert_eq!(Cipher::from_name(&cipher.name().to_ascii_uppercase()), Some(cipher));
        }
        assert_eq!(Cipher::from_name("AEAD_AES_256_GCM"), Some(Cipher::Aes256Gcm));
        for name in ["", "aes-256-cfb", "rc4-md5", "plain", "none", "aes-192-gcm", "aes-256-gcm "] {
            assert_eq!(Cipher::from_name(name), None, "{name}");
        }
    }

    /// MD5("foobar") begins the key; its second half is MD5 of that and the password (OpenSSL's `enc -k foobar
    /// -nosalt -md md5 -P`).
    #[test]
    fn a_password_becomes_the_key_that_openssl_makes() {
        let key = Cipher::Aes256Gcm.key_of_password(b"foobar");
        let (first, second) = (
            0x3858_f622_30ac_3c91_5f30_0c66_4312_c63f_u128,
            0x5683_7852_9614_d22d_db49_237d_2f60_bfdf_u128,
        );
        assert_eq!(key[..], [first.to_be_bytes(), second.to_be_bytes()].concat());
        assert_eq!(Cipher::Aes128Gcm.key_of_password(b"foobar")[..], first.to_be_bytes());
    }
}
