//! A node's half of the datagrams, for tests and the fuzzer.

use aws_lc_rs::aead::NONCE_LEN;
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, UnboundCipherKey};
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};
use httvps_proto::{Target, address};

use crate::aead::{TAG_LEN, session_key};
use crate::packets::{IDS_LEN, XNONCE_LEN, nonce_of, seal_body};
use crate::{AccessKey, Cipher};

/// An answer of a node.
#[derive(Clone, Copy)]
pub(crate) struct Answer<'a> {
    pub(crate) kind: u8,
    pub(crate) time: u64,
    pub(crate) session: u64,
    pub(crate) packet: u64,
    pub(crate) client: [u8; 8],
    pub(crate) padding: u16,
    pub(crate) source: &'a str,
    pub(crate) payload: &'a [u8],
}

/// What a node sends for an answer.
pub(crate) fn sealed(key: &AccessKey, answer: Answer<'_>) -> Vec<u8> {
    let mut address = Vec::new();
    let source = Target::parse(answer.source).expect("a source is a target");
    address::encode(&source, &mut address);
    let (time, padding) = (answer.time.to_be_bytes(), answer.padding.to_be_bytes());
    let zeros = vec![0; usize::from(answer.padding)];
    let mut ids = [0; IDS_LEN];
    ids[..8].copy_from_slice(&answer.session.to_be_bytes());
    ids[8..].copy_from_slice(&answer.packet.to_be_bytes());
    let about: [&[u8]; 7] =
        [&[answer.kind], &time, &answer.client, &padding, &zeros, &address, answer.payload];
    match key.cipher() {
        Cipher::Blake3Chacha20Poly1305 => {
            let cipher = XChaCha20Poly1305::new_from_slice(key.secret());
            let cipher = cipher.expect("the cipher's key is 32 bytes long");
            let mut body = [&ids[..], &about.concat()].concat();
            let nonce = XNonce::from([3; XNONCE_LEN]);
            let tag = cipher
                .encrypt_inout_detached(&nonce, &[], body.as_mut_slice().into())
                .expect("a datagram is short");
            [&nonce[..], &body, &tag].concat()
        }
        Cipher::Blake3Aes128Gcm | Cipher::Blake3Aes256Gcm => {
            let mut body = about.concat();
            body.extend_from_slice(&[0; TAG_LEN]);
            seal_body(&session_key(key, &ids[..8]), nonce_of(&ids), &mut body);
            let aes = if key.cipher().key_len() == 16 { &AES_128 } else { &AES_256 };
            UnboundCipherKey::new(aes, key.secret())
                .and_then(EncryptingKey::ecb)
                .and_then(|block| block.encrypt(&mut ids))
                .expect("the cipher's key is as long as AES wants it");
            [&ids[..], &body].concat()
        }
        _ => {
            let salt = vec![9; key.cipher().key_len()];
            let mut body = [&address, answer.payload, &[0; TAG_LEN]].concat();
            seal_body(&session_key(key, &salt), [0; NONCE_LEN], &mut body);
            [salt, body].concat()
        }
    }
}
