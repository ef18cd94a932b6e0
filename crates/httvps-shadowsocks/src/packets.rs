//! Datagrams as a node has them: each packet is sealed by itself. No I/O.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey,
};
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};
use httvps_proto::Target;
use rustix::io::Errno;

use crate::aead::{NotAuthentic, TAG_LEN, session_key};
use crate::area::AREA_LEN;
use crate::cipher::KEY_MAX;
use crate::inbound::CLOCK_TOLERANCE;
use crate::replay::Window;
use crate::{AccessKey, Cipher, salt};
use httvps_proto::address;

/// Longest payload of a datagram, as the length field of UDP has it.
const PAYLOAD_MAX: usize = 0xffff;

/// Session and packet id, which AES encrypts as one block.
pub(crate) const IDS_LEN: usize = 16;

pub(crate) const XNONCE_LEN: usize = 24;

const REQUEST: u8 = 0;
pub(crate) const ANSWER: u8 = 1;

// Nonce, ids, type, time, length of the padding: the longest that stands before address and payload.
const _: () = assert!(
    AREA_LEN
        >= XNONCE_LEN
            + IDS_LEN
            + 1
            + 8
            + 2
            + address::ADDRESS_MAX
            + PAYLOAD_MAX
            + TAG_LEN
            + KEY_MAX
);

/// Datagrams to and from one target through one node; without a target each payload begins with its address header, in
/// both directions.
pub(crate) struct Packets {
    key: Arc<AccessKey>,
    /// The target as each packet has it; empty without a target.
    header: Box<[u8]>,
    target: Option<Target>,
    /// Absent with the ciphers that have no sessions.
    session: Option<Box<Session>>,
}

/// The session of this client with a node of 2022, and those of the node with it (SIP022 section 3.2).
struct Session {
    id: [u8; 8],
    next_packet: u64,
    protection: Protection,
    /// The node's sessions, newest first. A node starts a new one after each restart.
    peers: [Option<Peer>; 2],
    /// When the newest began, in seconds since 1970.
    newest_since: u64,
}

enum Protection {
    Aes(Box<AesKeys>),
    XChaCha(Box<XChaCha20Poly1305>),
}

struct AesKeys {
    /// Ids are a block of their own, encrypted under the node's key.
    ids: EncryptingKey,
    peer_ids: DecryptingKey,
    body: LessSafeKey,
}

struct Peer {
    id: [u8; 8],
    /// Absent for ciphers that do not derive a key from the session id.
    key: Option<LessSafeKey>,
    window: Window,
}

impl Packets {
    pub(crate) fn new(key: Arc<AccessKey>, target: Option<&Target>) -> io::Result<Self> {
        let mut header = Vec::new();
        if let Some(target) = target {
            address::encode(target, &mut header);
        }
        let session =
            if key.cipher().is_2022() { Some(Box::new(Session::new(&key)?)) } else { None };
        Ok(Self { key, header: header.into(), target: target.cloned(), session })
    }

    /// The id of our session, where the cipher has sessions.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn session_id(&self) -> Option<[u8; 8]> {
        self.session.as_ref().map(|session| session.id)
    }

    /// Seals one datagram to the front of an area; returns the length.
    ///
    /// An error affects this datagram only: too long, no random bytes, or no address header where it must have one.
    pub(crate) fn seal(&mut self, payload: &[u8], now: u64, area: &mut [u8]) -> io::Result<usize> {
        if payload.len() > PAYLOAD_MAX {
            return Err(Errno::MSGSIZE.into());
        }
        if self.target.is_none() && address::split(payload).is_none() {
            return Err(Errno::DESTADDRREQ.into());
        }
        let parts: [&[u8]; 2] = [&self.header, payload];
        if let Some(session) = &mut self.session {
            return session.seal(&parts, now, area);
        }
        let salt_len = self.key.cipher().key_len();
        let (salt, body) = area.split_at_mut(salt_len);
        salt::fill(salt, &[])?;
        let len = place(body, &parts);
        seal_body(&session_key(&self.key, salt), [0; NONCE_LEN], &mut body[..len]);
        Ok(salt_len + len)
    }

    /// Opens one packet in place and returns the range of its payload; `None` when it is not authentic, was seen before, is
    /// too old, or does not come from the target.
    pub(crate) fn open(&mut self, packet: &mut [u8], now: u64) -> Option<Range<usize>> {
        let end = packet.len().checked_sub(TAG_LEN)?;
        let start = if let Some(session) = &mut self.session {
            session.open(&self.key, packet, now)?
        } else {
            let salt_len = self.key.cipher().key_len();
            let (salt, body) = packet.split_at_mut_checked(salt_len)?;
            // Both directions share a key: what we sent would pass for an answer.
            if salt::is_ours(salt, &[]) {
                return None;
            }
            open_body(&session_key(&self.key, salt), [0; NONCE_LEN], body).ok()?;
            salt_len
        };
        let (source, payload) = address::split(packet.get(start..end)?)?;
        match &self.target {
            None => Some(start..end),
            Some(target) => source.fits(target).then(|| end - payload.len()..end),
        }
    }
}

impl Session {
    fn new(key: &AccessKey) -> io::Result<Self> {
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(io::Error::from)?;
        let (next_packet, peers, newest_since) = (0, [None, None], 0);
        Ok(Self { id, next_packet, protection: Protection::new(key, id), peers, newest_since })
    }

    fn seal(&mut self, parts: &[&[u8]; 2], now: u64, area: &mut [u8]) -> io::Result<usize> {
        let mut ids = [0; IDS_LEN];
        ids[..8].copy_from_slice(&self.id);
        ids[8..].copy_from_slice(&self.next_packet.to_be_bytes());
        self.next_packet += 1;
        let [address, payload] = parts;
        let time = now.to_be_bytes();
        // No padding: the payload's own length is what it is.
        let about: [&[u8]; 5] = [&[REQUEST], &time, &[0, 0], address, payload];
        match &self.protection {
            Protection::Aes(keys) => {
                let (head, body) = area.split_at_mut(IDS_LEN);
                let len = place(body, &about);
                seal_body(&keys.body, nonce_of(&ids), &mut body[..len]);
                keys.ids.encrypt(&mut ids).map_err(|_| io::ErrorKind::Other)?;
                head.copy_from_slice(&ids);
                Ok(IDS_LEN + len)
            }
            Protection::XChaCha(key) => {
                let (nonce, body) = area.split_at_mut(XNONCE_LEN);
                getrandom::fill(nonce).map_err(io::Error::from)?;
                body[..IDS_LEN].copy_from_slice(&ids);
                let len = IDS_LEN + place(&mut body[IDS_LEN..], &about);
                let nonce = XNonce::try_from(&*nonce).map_err(|_| io::ErrorKind::Other)?;
                let (plain, tag) = body[..len].split_at_mut(len - TAG_LEN);
                let sealed = key.encrypt_inout_detached(&nonce, &[], plain.into());
                tag.copy_from_slice(&sealed.map_err(|_| io::ErrorKind::Other)?);
                Ok(XNONCE_LEN + len)
            }
        }
    }

    /// Opens a packet in place and returns the offset of its address.
    fn open(&mut self, key: &AccessKey, packet: &mut [u8], now: u64) -> Option<usize> {
        let (ids, start, fresh_peer) = match &self.protection {
            Protection::Aes(keys) => {
                let (head, body) = packet.split_first_chunk_mut::<IDS_LEN>()?;
                keys.peer_ids.decrypt(head, DecryptionContext::None).ok()?;
                let ids = *head;
                let (id, packet_id) = split_ids(&ids);
                // An old packet is not decrypted.
                let known = self.peers.iter().flatten().find(|peer| peer.id == id);
                if known.is_some_and(|peer| !peer.window.is_fresh(packet_id)) {
                    return None;
                }
                let fresh = known.is_none().then(|| session_key(key, &id));
                let with = known.and_then(|peer| peer.key.as_ref()).or(fresh.as_ref())?;
                open_body(with, nonce_of(&ids), body).ok()?;
                (ids, IDS_LEN, fresh)
            }
            Protection::XChaCha(key) => {
                let (nonce, body) = packet.split_at_mut_checked(XNONCE_LEN)?;
                let nonce = XNonce::try_from(&*nonce).ok()?;
                let (sealed, tag) = body.split_last_chunk_mut::<TAG_LEN>()?;
                let tag = chacha20poly1305::Tag::from(*tag);
                key.decrypt_inout_detached(&nonce, &[], sealed.into(), &tag).ok()?;
                (*sealed.first_chunk::<IDS_LEN>()?, XNONCE_LEN + IDS_LEN, None)
            }
        };
        let end = packet.len() - TAG_LEN;
        let rest = self.check_answer(packet.get(start..end)?, now)?.len();
        let (id, packet_id) = split_ids(&ids);
        self.note(id, packet_id, fresh_peer, now).then_some(end - rest)
    }

    /// Checks type, time and session; returns the offset after the padding.
    fn check_answer<'a>(&self, about: &'a [u8], now: u64) -> Option<&'a [u8]> {
        let (kind, rest) = about.split_first()?;
        let (time, rest) = rest.split_first_chunk()?;
        let (ours, rest) = rest.split_first_chunk::<8>()?;
        let (padding, rest) = rest.split_first_chunk()?;
        let is_timely = u64::from_be_bytes(*time).abs_diff(now) <= CLOCK_TOLERANCE;
        if *kind != ANSWER || !is_timely || *ours != self.id {
            return None;
        }
        rest.get(usize::from(u16::from_be_bytes(*padding))..)
    }

    /// Records an authentic packet; false when it was seen before.
    ///
    /// A third session within a minute is refused (SIP022 section 3.2.5): its packets may be those of a session that was
    /// forgotten, whose times are still good.
    fn note(&mut self, id: [u8; 8], packet: u64, key: Option<LessSafeKey>, now: u64) -> bool {
        if let Some(peer) = self.peers.iter_mut().flatten().find(|peer| peer.id == id) {
            return peer.window.insert(packet);
        }
        let is_soon = now.saturating_sub(self.newest_since) < 2 * CLOCK_TOLERANCE;
        if self.peers.iter().all(Option::is_some) && is_soon {
            return false;
        }
        let mut window = Window::default();
        let is_fresh = window.insert(packet);
        self.peers.swap(0, 1);
        self.peers[0] = Some(Peer { id, key, window });
        self.newest_since = now;
        is_fresh
    }
}

impl Protection {
    fn new(key: &AccessKey, session: [u8; 8]) -> Self {
        let algorithm = match key.cipher() {
            Cipher::Blake3Chacha20Poly1305 => {
                let cipher = XChaCha20Poly1305::new_from_slice(key.secret());
                return Self::XChaCha(Box::new(cipher.expect("the cipher's key is 32 bytes long")));
            }
            Cipher::Blake3Aes128Gcm => &AES_128,
            _ => &AES_256,
        };
        let unbound = || UnboundCipherKey::new(algorithm, key.secret());
        let ids = unbound().and_then(EncryptingKey::ecb);
        let peer_ids = unbound().and_then(DecryptingKey::ecb);
        Self::Aes(Box::new(AesKeys {
            ids: ids.expect("the cipher's key is as long as AES wants it"),
            peer_ids: peer_ids.expect("the cipher's key is as long as AES wants it"),
            body: session_key(key, &session),
        }))
    }
}

fn split_ids(ids: &[u8; IDS_LEN]) -> ([u8; 8], u64) {
    let (mut session, mut packet) = ([0; 8], [0; 8]);
    session.copy_from_slice(&ids[..8]);
    packet.copy_from_slice(&ids[8..]);
    (session, u64::from_be_bytes(packet))
}

/// The last bytes of both ids in the clear (SIP022 section 3.2.3).
pub(crate) fn nonce_of(ids: &[u8; IDS_LEN]) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&ids[IDS_LEN - NONCE_LEN..]);
    nonce
}

/// Writes the parts one after the other; gives their length with room for a tag.
fn place(area: &mut [u8], parts: &[&[u8]]) -> usize {
    let mut len = 0;
    for part in parts {
        area[len..][..part.len()].copy_from_slice(part);
        len += part.len();
    }
    len + TAG_LEN
}

pub(crate) fn seal_body(key: &LessSafeKey, nonce: [u8; NONCE_LEN], body: &mut [u8]) {
    let (plain, tag) = body.split_at_mut(body.len() - TAG_LEN);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let sealed = key.seal_in_place_separate_tag(nonce, Aad::empty(), plain);
    tag.copy_from_slice(sealed.expect("a datagram is far below what an AEAD can seal").as_ref());
}

pub(crate) fn open_body(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    body: &mut [u8],
) -> Result<(), NotAuthentic> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.open_in_place(nonce, Aad::empty(), body).map(drop).map_err(|_| NotAuthentic)
}

#[cfg(test)]
#[path = "packets_tests.rs"]
mod tests;
