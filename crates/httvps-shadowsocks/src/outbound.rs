//! The sending direction of a stream, from the caller to the node, without I/O.

use std::io;

use httvps_proto::Target;

use crate::aead::{Direction, TAG_LEN};
use crate::area::AREA_LEN;
use crate::cipher::KEY_MAX;
use crate::{AccessKey, Error, salt};
use httvps_proto::address::{self, ADDRESS_MAX};

/// Most payload that is sealed at one time, in bytes.
const BATCH: usize = 64 * 1024;

/// Bytes that a chunk adds to its payload: the sealed length and the payload's tag.
const CHUNK_OVERHEAD: usize = 2 + TAG_LEN + TAG_LEN;

/// Type of a request's header, its time, and the length of what follows (SIP022 section 3.1.3).
const FIXED_LEN: usize = 1 + 8 + 2;

const REQUEST: u8 = 0;

/// Most bytes of padding (SIP022 section 3.1.3).
pub(crate) const PADDING_MAX: usize = 900;

// The largest batch is five chunks; its first packet has salt, headers and padding besides.
const _: () = assert!(
    AREA_LEN
        >= BATCH
            + 5 * CHUNK_OVERHEAD
            + KEY_MAX
            + FIXED_LEN
            + TAG_LEN
            + ADDRESS_MAX
            + 2
            + PADDING_MAX
);

/// The sending direction of a stream.
///
/// ```text
///  Addressing ── header whole ──▶ Held ── sealed with the first payload, or alone ──▶ Open
/// ```
pub(crate) struct Outbound {
    direction: Direction,
    salt: [u8; KEY_MAX],
    stage: Stage,
}

enum Stage {
    /// The caller's first bytes are the address header, which is incomplete.
    Addressing(Vec<u8>),
    /// The address header; no byte was sent yet. Empty when the caller's own bytes are sent as they are.
    Held(Vec<u8>),
    Open,
}

/// The result of sealing: bytes taken from the caller, and bytes of the area that are to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) taken: usize,
    pub(crate) len: usize,
}

impl Outbound {
    /// Starts a stream under a fresh random salt, which begins with the key's prefix.
    pub(crate) fn new(key: &AccessKey, target: Option<&Target>) -> io::Result<Self> {
        let mut salt = [0; KEY_MAX];
        let used = &mut salt[..key.cipher().key_len()];
        salt::fill(used, key.prefix())?;
        let mut header = Vec::new();
        let stage = match target {
            Some(target) => {
                address::encode(target, &mut header);
                Stage::Held(header)
            }
            // SIP022 puts the address into a header of its own, so it has to be found; SIP004 does not.
            None if key.cipher().is_2022() => Stage::Addressing(header),
            None => Stage::Held(header),
        };
        Ok(Self { direction: Direction::new(key, used), salt, stage })
    }

    /// The salt of the request, with which a node of 2022 proves that it answers this one.
    pub(crate) fn salt(&self, key: &AccessKey) -> &[u8] {
        &self.salt[..key.cipher().key_len()]
    }

    /// Whether a header waits to be sent with the first payload.
    pub(crate) fn holds_header(&self) -> bool {
        matches!(&self.stage, Stage::Held(header) if !header.is_empty())
    }

    /// Whether the caller's bytes ended within the address header.
    pub(crate) fn lacks_address(&self) -> bool {
        matches!(&self.stage, Stage::Addressing(header) if !header.is_empty())
    }

    /// Seals as much of `data` as one batch has, preceded by a held header, to the front of an area. With no data the
    /// header is sent alone.
    pub(crate) fn seal(
        &mut self,
        key: &AccessKey,
        data: &[u8],
        now: u64,
        area: &mut [u8],
    ) -> io::Result<Sealed> {
        let addressed = self.take_address(data)?;
        if matches!(self.stage, Stage::Addressing(_)) {
            return Ok(Sealed { taken: addressed, len: 0 });
        }
        let data = &data[addressed..];
        let data = &data[..data.len().min(BATCH)];
        let sealed = match std::mem::replace(&mut self.stage, Stage::Open) {
            Stage::Addressing(_) | Stage::Open => self.seal_chunks(key, &[], data, area),
            Stage::Held(header) => {
                let salt = key.cipher().key_len();
                area[..salt].copy_from_slice(&self.salt[..salt]);
                let area = &mut area[salt..];
                let sealed = if key.cipher().is_2022() {
                    self.seal_request(key, &header, data, now, area)?
                } else {
                    self.seal_chunks(key, &header, data, area)
                };
                Sealed { taken: sealed.taken, len: salt + sealed.len }
            }
        };
        Ok(Sealed { taken: addressed + sealed.taken, len: sealed.len })
    }

    /// Takes the missing bytes of the address header from the caller's first bytes; returns their number.
    fn take_address(&mut self, data: &[u8]) -> Result<usize, Error> {
        let Stage::Addressing(header) = &mut self.stage else { return Ok(0) };
        let before = header.len();
        loop {
            let rest = &data[header.len() - before..];
            // One more byte may determine the length.
            let whole = address::header_len(header).map_err(Error::Address)?;
            let missing = whole.unwrap_or(header.len() + 1) - header.len();
            if missing == 0 {
                let taken = header.len() - before;
                self.stage = Stage::Held(std::mem::take(header));
                return Ok(taken);
            }
            if rest.is_empty() {
                return Ok(header.len() - before);
            }
            header.extend_from_slice(&rest[..missing.min(rest.len())]);
        }
    }

    /// The request header of SIP022 with as much payload as fits into it, and chunks with the rest.
    fn seal_request(
        &mut self,
        key: &AccessKey,
        address: &[u8],
        data: &[u8],
        now: u64,
        area: &mut [u8],
    ) -> io::Result<Sealed> {
        // A request without payload is padded, so that its length does not give the target away.
        let padding = if data.is_empty() { random_padding()? } else { 0 };
        let before = address.len() + 2 + padding;
        let initial = &data[..data.len().min(key.cipher().chunk_max() - before)];
        let variable = before + initial.len();

        let (fixed, rest) = area.split_at_mut(FIXED_LEN + TAG_LEN);
        fixed[0] = REQUEST;
        fixed[1..9].copy_from_slice(&now.to_be_bytes());
        fixed[9..11].copy_from_slice(&(variable as u16).to_be_bytes());
        self.direction.seal(fixed);

        let (header, rest) = rest.split_at_mut(variable + TAG_LEN);
        header[..address.len()].copy_from_slice(address);
        header[address.len()..][..2].copy_from_slice(&(padding as u16).to_be_bytes());
        header[address.len() + 2..before].fill(0);
        header[before..variable].copy_from_slice(initial);
        self.direction.seal(header);

        let chunks = self.seal_chunks(key, &[], &data[initial.len()..], rest);
        let headers = FIXED_LEN + TAG_LEN + variable + TAG_LEN;
        Ok(Sealed { taken: initial.len() + chunks.taken, len: headers + chunks.len })
    }

    /// Seals `head` and `data` as chunks of about equal length: a batch must not end in a chunk of a few bytes.
    fn seal_chunks(
        &mut self,
        key: &AccessKey,
        head: &[u8],
        data: &[u8],
        area: &mut [u8],
    ) -> Sealed {
        let total = head.len() + data.len();
        let count = total.div_ceil(key.cipher().chunk_max()).max(1);
        let size = total.div_ceil(count);
        let (first, more) = data.split_at(size.saturating_sub(head.len()).min(data.len()));
        let mut len = if total > 0 { self.seal_chunk(head, first, area) } else { 0 };
        for chunk in more.chunks(size.max(1)) {
            len += self.seal_chunk(&[], chunk, &mut area[len..]);
        }
        Sealed { taken: data.len(), len }
    }

    fn seal_chunk(&mut self, head: &[u8], data: &[u8], area: &mut [u8]) -> usize {
        let payload = head.len() + data.len();
        let (length, rest) = area.split_at_mut(2 + TAG_LEN);
        length[..2].copy_from_slice(&(payload as u16).to_be_bytes());
        self.direction.seal(length);
        let sealed = &mut rest[..payload + TAG_LEN];
        if head.is_empty() {
            self.direction.seal_into(data, sealed);
        } else {
            sealed[..head.len()].copy_from_slice(head);
            sealed[head.len()..payload].copy_from_slice(data);
            self.direction.seal(sealed);
        }
        payload + CHUNK_OVERHEAD
    }
}

/// From 1 to [`PADDING_MAX`] bytes.
fn random_padding() -> io::Result<usize> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(io::Error::from)?;
    Ok(1 + u32::from_le_bytes(random) as usize % PADDING_MAX)
}
