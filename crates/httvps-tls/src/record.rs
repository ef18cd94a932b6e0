//! The record layer without I/O: TLS 1.3 (RFC 8446 section 5) and the AEAD suites of TLS 1.2
//! (RFC 5246 section 6.2.3.3, RFC 5288, RFC 7905).

use std::ops::Range;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, UnboundKey};
use rustls::{ConnectionTrafficSecrets, Error, InvalidMessage, PeerMisbehaved};
use zeroize::Zeroizing;

/// Content types, RFC 8446 appendix B.1.
pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// Type, version and length.
pub(super) const HEADER_LEN: usize = 5;

/// Most content of a record, in both versions, in bytes.
pub(super) const FRAGMENT_MAX: usize = 16 * 1024;

/// Most bytes that a record adds to its content: header, explicit nonce of 1.2, tag.
pub(super) const OVERHEAD_MAX: usize = HEADER_LEN + EXPLICIT_LEN + TAG_LEN;

/// All AEADs of TLS that we offer have tags of this length.
const TAG_LEN: usize = 16;
const NONCE_LEN: usize = aead::NONCE_LEN;

/// The part of the nonce that AES-GCM sends along in TLS 1.2 (RFC 5288 section 3).
const EXPLICIT_LEN: usize = 8;

/// Records under one key of a suite that has no limit of its own: the sequence number must not wrap.
const RECORDS_MAX: u64 = 1 << 62;

/// The protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

/// How nonce and additional data are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Tls13,
    /// The last eight bytes of the nonce are in the record.
    Tls12Explicit,
    Tls12Implicit,
}

impl Format {
    fn explicit_len(self) -> usize {
        if self == Self::Tls12Explicit { EXPLICIT_LEN } else { 0 }
    }

    /// Bytes of the real content type within the cipher text.
    fn type_len(self) -> usize {
        usize::from(self == Self::Tls13)
    }

    /// Payload of a record over its content.
    fn expansion(self) -> usize {
        self.explicit_len() + self.type_len() + TAG_LEN
    }

    /// The additional data: the header in 1.3; sequence number, type, version and length of the
    /// content in 1.2. Both versions authenticate the header as it is on the wire.
    fn aad(self, seq: u64, header: [u8; HEADER_LEN]) -> Aad<AadBytes> {
        let mut bytes = [0; 8 + HEADER_LEN];
        bytes[..8].copy_from_slice(&seq.to_be_bytes());
        bytes[8..].copy_from_slice(&header);
        if self != Self::Tls13 {
            let payload = u16::from_be_bytes([header[3], header[4]]);
            let content = payload.saturating_sub(self.expansion() as u16);
            bytes[11..].copy_from_slice(&content.to_be_bytes());
        }
        Aad::from(AadBytes { bytes, start: if self == Self::Tls13 { 8 } else { 0 } })
    }
}

struct AadBytes {
    bytes: [u8; 8 + HEADER_LEN],
    start: usize,
}

impl AsRef<[u8]> for AadBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// What both directions consist of.
struct Half {
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    seq: u64,
    format: Format,
}

impl Half {
    fn new(version: Version, seq: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, Error> {
        use ConnectionTrafficSecrets as S;
        let (algorithm, key, iv) = match secrets {
            S::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            S::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            S::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a suite without record layer".into())),
        };
        Self::from_parts(version, algorithm, key.as_ref(), iv.as_ref(), seq)
    }

    fn from_parts(
        version: Version,
        algorithm: &'static aead::Algorithm,
        key: &[u8],
        iv: &[u8],
        seq: u64,
    ) -> Result<Self, Error> {
        let format = match version {
            Version::Tls13 => Format::Tls13,
            Version::Tls12 if *algorithm == aead::CHACHA20_POLY1305 => Format::Tls12Implicit,
            Version::Tls12 => Format::Tls12Explicit,
        };
        let wrong = |_| Error::General("key material of the wrong length".into());
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(wrong)?);
        let iv =
            <[u8; NONCE_LEN]>::try_from(iv).map_err(|_| wrong(aws_lc_rs::error::Unspecified))?;
        Ok(Self { key, iv: Zeroizing::new(iv), seq, format })
    }

    /// IV XOR sequence number, in every format. As the sender of an explicit nonce we are free to
    /// choose it (RFC 5288 section 3 only asks that it be unique), and rustls' keys come with a
    /// random start for it.
    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = *self.iv;
        for (byte, seq) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.seq.to_be_bytes()) {
            *byte ^= seq;
        }
        nonce
    }
}

/// The sending direction.
pub(super) struct Sealer {
    half: Half,
    limit: u64,
}

impl Sealer {
    /// Seals from record number `seq` on. `limit` bounds the records under one key: the confidentiality limit of the
    /// suite (RFC 8446 section 5.5).
    pub(super) fn new(
        version: Version,
        (seq, secrets): &(u64, ConnectionTrafficSecrets),
        limit: u64,
    ) -> Result<Self, Error> {
        Ok(Self { half: Half::new(version, *seq, secrets)?, limit: limit.min(RECORDS_MAX) })
    }

    /// Records that this key may still seal.
    pub(super) fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.half.seq)
    }

    /// Length of a record with `content` bytes in it.
    pub(super) fn sealed_len(&self, content: usize) -> usize {
        HEADER_LEN + content + self.half.format.expansion()
    }

    /// Writes one record of type `typ` to the front of `out` and returns its length.
    ///
    /// `content` is at most [`FRAGMENT_MAX`] long. The only errors are a key at its limit, and an
    /// `out` that is too short.
    pub(super) fn seal(&mut self, typ: u8, content: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        debug_assert!(content.len() <= FRAGMENT_MAX);
        let length = self.sealed_len(content.len());
        if self.remaining() == 0 || out.len() < length {
            return Err(Error::EncryptError);
        }
        let half = &mut self.half;
        let format = half.format;
        let (header, payload) = out[..length].split_at_mut(HEADER_LEN);
        let [high, low] = (payload.len() as u16).to_be_bytes();
        let outer = if format == Format::Tls13 { APPLICATION_DATA } else { typ };
        let bytes = [outer, 3, 3, high, low];
        header.copy_from_slice(&bytes);
        let nonce = half.nonce();
        let (explicit, body) = payload.split_at_mut(format.explicit_len());
        explicit.copy_from_slice(&nonce[NONCE_LEN - explicit.len()..]);
        let (cipher, tail) = body.split_at_mut(content.len());
        let inner = [typ];
        half.key
            .seal_out_of_place_scatter(
                aead::Nonce::assume_unique_for_key(nonce),
                format.aad(half.seq, bytes),
                content,
                cipher,
                &inner[..format.type_len()],
                tail,
            )
            .map_err(|_| Error::EncryptError)?;
        half.seq += 1;
        Ok(length)
    }
}

#[cfg(test)]
impl Sealer {
    /// Lowers the limit of this key.
    pub(super) fn limit_records(&mut self, limit: u64) {
        self.limit = limit;
    }
}

/// A record that has been opened: its real type, and the length of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) typ: u8,
    pub(super) len: usize,
}

/// The receiving direction. After an error it must not be used again.
pub(super) struct Opener {
    half: Half,
}

impl Opener {
    pub(super) fn new(
        version: Version,
        (seq, secrets): &(u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Error> {
        Ok(Self { half: Half::new(version, *seq, secrets)? })
    }

    /// Length of a record with full content.
    pub(super) fn record_max(&self) -> usize {
        HEADER_LEN + FRAGMENT_MAX + self.half.format.expansion()
    }

    /// Length of the whole record at the front of `input`, as soon as its header is there. An
    /// unacceptable header is an error before the rest has arrived.
    pub(super) fn record_len(&self, input: &[u8]) -> Result<Option<usize>, Error> {
        let Some(&[typ, major, _, high, low]) = input.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let format = self.half.format;
        match typ {
            APPLICATION_DATA => {}
            ALERT | HANDSHAKE if format != Format::Tls13 => {}
            // After the handshake nothing is sent in the clear, RFC 8446 section 5.
            CHANGE_CIPHER_SPEC => {
                return Err(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into());
            }
            ALERT | HANDSHAKE => return Err(PeerMisbehaved::IllegalTlsInnerPlaintext.into()),
            _ => return Err(InvalidMessage::InvalidContentType.into()),
        }
        if major != 3 {
            return Err(InvalidMessage::UnknownProtocolVersion.into());
        }
        let payload = usize::from(u16::from_be_bytes([high, low]));
        // Our AEADs expand by a fixed length, so the bound on the content bounds the record.
        if payload > FRAGMENT_MAX + format.expansion() {
            return Err(Error::PeerSentOversizedRecord);
        }
        if payload < format.explicit_len() + TAG_LEN {
            return Err(Error::DecryptError);
        }
        Ok(Some(HEADER_LEN + payload))
    }

    /// Room that [`open_into`](Self::open_into) needs for a record of this length.
    pub(super) fn opened_len(&self, record_len: usize) -> usize {
        let around = HEADER_LEN + self.half.format.explicit_len() + TAG_LEN;
        record_len.saturating_sub(around)
    }

    /// Most content that a record of this length can have, in bytes.
    pub(super) fn content_max(&self, record_len: usize) -> usize {
        self.opened_len(record_len).saturating_sub(self.half.format.type_len())
    }

    /// Opens `record`, one whole record, to the front of `out`, which is exactly
    /// [`opened_len`](Self::opened_len) long: type and padding of 1.3 go there as well.
    pub(super) fn open_into(&mut self, record: &[u8], out: &mut [u8]) -> Result<Opened, Error> {
        let parts = self.parts(record)?;
        let (nonce, aad) = (parts.nonce, parts.aad);
        let (cipher, tag) = record[parts.body].split_at(out.len());
        self.half
            .key
            .open_separate_gather(nonce, aad, cipher, tag, out)
            .map_err(|_| Error::DecryptError)?;
        self.finish(record[0], out)
    }

    /// Opens `record`, one whole record, where it is. The content begins at the second value.
    pub(super) fn open_in_place(&mut self, record: &mut [u8]) -> Result<(Opened, usize), Error> {
        let parts = self.parts(record)?;
        let start = parts.body.start;
        let typ = record[0];
        let plain = self
            .half
            .key
            .open_in_place(parts.nonce, parts.aad, &mut record[parts.body])
            .map_err(|_| Error::DecryptError)?;
        Ok((self.finish(typ, plain)?, start))
    }

    fn parts(&self, record: &[u8]) -> Result<Parts, Error> {
        let half = &self.half;
        let Some(&header) = record.first_chunk::<HEADER_LEN>() else {
            return Err(Error::DecryptError);
        };
        let mut nonce = half.nonce();
        let start = HEADER_LEN + half.format.explicit_len();
        if half.format == Format::Tls12Explicit {
            let Some(explicit) = record.get(HEADER_LEN..start) else {
                return Err(Error::DecryptError);
            };
            nonce[NONCE_LEN - EXPLICIT_LEN..].copy_from_slice(explicit);
        }
        Ok(Parts {
            nonce: aead::Nonce::assume_unique_for_key(nonce),
            aad: half.format.aad(half.seq, header),
            body: start..record.len(),
        })
    }

    /// Counts the record and finds its real type behind the padding (RFC 8446 section 5.4).
    fn finish(&mut self, outer: u8, plain: &[u8]) -> Result<Opened, Error> {
        self.half.seq += 1;
        if self.half.format != Format::Tls13 {
            return Ok(Opened { typ: outer, len: plain.len() });
        }
        match plain.iter().rposition(|&byte| byte != 0) {
            Some(len) => Ok(Opened { typ: plain[len], len }),
            None => Err(PeerMisbehaved::IllegalTlsInnerPlaintext.into()),
        }
    }
}

struct Parts {
    nonce: aead::Nonce,
    aad: Aad<AadBytes>,
    body: Range<usize>,
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
