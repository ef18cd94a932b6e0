//! One direction of a stream: a key and the number of the next nonce.

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::AccessKey;
use crate::cipher::KEY_MAX;

/// Length of the authentication tag, in bytes, for every cipher.
pub(crate) const TAG_LEN: usize = 16;

/// The data is not authentic: it was altered, or sealed with another key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotAuthentic;

/// The key of one direction. Nonces count from 0, little-endian (SIP004, SIP022 section 2.3).
pub(crate) struct Direction {
    key: LessSafeKey,
    next: u64,
}

/// Derives the key of a direction from its salt.
pub(crate) fn session_key(key: &AccessKey, salt: &[u8]) -> LessSafeKey {
    let mut space = Zeroizing::new([0; KEY_MAX]);
    let subkey = &mut space[..key.cipher().key_len()];
    key.cipher().derive(key.secret(), salt, subkey);
    let unbound = UnboundKey::new(key.cipher().algorithm(), subkey);
    LessSafeKey::new(unbound.expect("each cipher's key is as long as its algorithm wants it"))
}

impl Direction {
    pub(crate) fn new(key: &AccessKey, salt: &[u8]) -> Self {
        Self { key: session_key(key, salt), next: 0 }
    }

    /// Whether nothing has been sealed or opened yet.
    pub(crate) fn is_unused(&self) -> bool {
        self.next == 0
    }

    /// A counter of 64 bits does not wrap within the life of a stream.
    fn nonce(&self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&self.next.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals all of `piece` but its last [`TAG_LEN`] bytes in place; the tag goes there.
    pub(crate) fn seal(&mut self, piece: &mut [u8]) {
        let (plain, tag) = piece.split_at_mut(piece.len() - TAG_LEN);
        let sealed = self.key.seal_in_place_separate_tag(self.nonce(), Aad::empty(), plain);
        tag.copy_from_slice(sealed.expect("a chunk is far below what an AEAD can seal").as_ref());
        self.next += 1;
    }

    /// Seals `plain` into `out`, which is [`TAG_LEN`] longer.
    pub(crate) fn seal_into(&mut self, plain: &[u8], out: &mut [u8]) {
        let (cipher, tag) = out.split_at_mut(plain.len());
        self.key
            .seal_out_of_place_scatter(self.nonce(), Aad::empty(), plain, cipher, &[], tag)
            .expect("the output is as long as the input and its tag");
        self.next += 1;
    }

    /// Opens `piece`, whose tag comes last, in place. After an error the nonce is unchanged and the piece is lost.
    pub(crate) fn open<'a>(&mut self, piece: &'a mut [u8]) -> Result<&'a mut [u8], NotAuthentic> {
        let opened = self.key.open_in_place(self.nonce(), Aad::empty(), piece);
        let plain = opened.map_err(|_| NotAuthentic)?;
        self.next += 1;
        Ok(plain)
    }

    /// Opens `piece`, whose tag comes last, into `out`, which is [`TAG_LEN`] shorter. After an error nothing in `out`
    /// may be used.
    pub(crate) fn open_into(&mut self, piece: &[u8], out: &mut [u8]) -> Result<(), NotAuthentic> {
        let (cipher, tag) = piece.split_at(out.len());
        self.key
            .open_separate_gather(self.nonce(), Aad::empty(), cipher, tag, out)
            .map_err(|_| NotAuthentic)?;
        self.next += 1;
        Ok(())
    }
}
