//! Salts of streams and datagrams, made so that our own are recognised when they come back.
//!
//! The AEAD ciphers of SIP004 derive the same key for both directions, so a request that a middle box without the key
//! sends back opens as an authentic answer: the device would get its own bytes, or another device's. A salt therefore
//! ends in a mark that only this process can compute. To others the mark is as random as the rest of the salt.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::OnceLock;

use crate::key::MIN_RANDOM_LEN;

/// Longest mark, in bytes: one output of the hash.
const MARK_MAX: usize = 8;

/// Fills a salt: `prefix`, random bytes, and as much of a mark as fits behind [`MIN_RANDOM_LEN`] random bytes. A salt of
/// 16 bytes with a prefix of 4 has no mark.
pub(crate) fn fill(salt: &mut [u8], prefix: &[u8]) -> io::Result<()> {
    let (head, rest) = salt.split_at_mut(prefix.len());
    head.copy_from_slice(prefix);
    getrandom::fill(rest).map_err(io::Error::from)?;
    let mark_at = salt.len() - mark_len(salt.len(), prefix.len());
    let (marked, place) = salt.split_at_mut(mark_at);
    place.copy_from_slice(&mark(marked)[..place.len()]);
    Ok(())
}

/// Whether [`fill`] of this process made the salt of a key with this prefix. A foreign salt passes for ours once in 2^32
/// or less often; a salt too short for a mark is never recognised.
pub(crate) fn is_ours(salt: &[u8], prefix: &[u8]) -> bool {
    let len = mark_len(salt.len(), prefix.len());
    let (marked, found) = salt.split_at(salt.len() - len);
    len > 0 && found == &mark(marked)[..len]
}

fn mark_len(salt: usize, prefix: usize) -> usize {
    salt.saturating_sub(prefix + MIN_RANDOM_LEN).min(MARK_MAX)
}

fn mark(marked: &[u8]) -> [u8; MARK_MAX] {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    KEYS.get_or_init(RandomState::new).hash_one(marked).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_salts_are_recognised_and_others_are_not() {
        for (len, prefix) in [(16, ""), (24, "POST "), (32, ""), (32, "HTTP/1.1 200 OK\r")] {
            let mut salt = vec![0; len];
            fill(&mut salt, prefix.as_bytes()).unwrap();
            assert!(salt.starts_with(prefix.as_bytes()));
            assert!(is_ours(&salt, prefix.as_bytes()), "{len} {prefix}");
            for at in prefix.len()..len {
                let mut other = salt.clone();
                other[at] ^= 1;
                assert!(!is_ours(&other, prefix.as_bytes()), "{len} {prefix} {at}");
            }
        }
    }

    #[test]
    fn short_salt_with_a_prefix_keeps_its_random_bytes() {
        let mut salt = [0; 16];
        fill(&mut salt, b"GET ").unwrap();
        assert!(!is_ours(&salt, b"GET "), "there is no room for a mark");
    }
}
