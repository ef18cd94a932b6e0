//! The receiving direction of a stream, from the node to the caller, without I/O.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tokio::io::ReadBuf;

use crate::aead::{Direction, TAG_LEN};
use crate::area::{AREA_LEN, Waiting};
use crate::{AccessKey, Error, salt};

/// Bytes of a sealed length.
const LENGTH_LEN: usize = 2 + TAG_LEN;

/// Type of a response header (SIP022 section 3.1.3).
pub(crate) const ANSWER: u8 = 1;

/// Seconds that the clocks may differ (SIP022 section 3.1.5).
pub(crate) const CLOCK_TOLERANCE: u64 = 30;

/// When at least this many bytes of a piece are missing, only these are read, so that the bytes after the piece need not be moved.
const ALIGNED: usize = AREA_LEN / 2;

/// The receiving direction of a stream. It returns authentic bytes only.
///
/// ```text
///  Salt ──▶ Length ◀──▶ Payload        2022: Salt ──▶ Header ──▶ Payload ◀──▶ Length
/// ```
#[derive(Default)]
pub(crate) struct Inbound {
    direction: Option<Direction>,
    stage: Stage,
    waiting: Waiting,
    /// Bytes at the front of `waiting` that are decrypted; their tag follows.
    open: usize,
}

#[derive(Clone, Copy, Default)]
enum Stage {
    #[default]
    Salt,
    Header,
    Length,
    Payload(usize),
    Failed(Failure),
}

/// Why a stream ended.
#[derive(Clone, Copy)]
enum Failure {
    WrongKey,
    Integrity,
    Protocol,
    Clock(u64),
    Replay,
    Reflected,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::WrongKey => Self::WrongKey,
            Failure::Integrity => Self::Integrity,
            Failure::Protocol => Self::Protocol,
            Failure::Clock(seconds) => Self::Clock(seconds),
            Failure::Replay => Self::Replay,
            Failure::Reflected => Self::Reflected,
        }
    }
}

impl Inbound {
    /// Opens the pending chunks that are complete, as far as `out` has room.
    ///
    /// `salt` is the request's. After an error every further call returns the same error.
    pub(crate) fn open(
        &mut self,
        key: &AccessKey,
        salt: &[u8],
        now: fn() -> u64,
        out: &mut ReadBuf<'_>,
    ) -> Result<(), Error> {
        let opened = self.try_open(key, salt, now, out);
        if let Err(failure) = opened {
            self.stage = Stage::Failed(failure);
        }
        Ok(opened?)
    }

    fn try_open(
        &mut self,
        key: &AccessKey,
        salt: &[u8],
        now: fn() -> u64,
        out: &mut ReadBuf<'_>,
    ) -> Result<(), Failure> {
        let before = out.filled().len();
        self.give_open(out);
        while self.open == 0 && self.waiting.len() >= self.piece_len(key) {
            let piece = self.piece_len(key);
            match self.stage {
                Stage::Salt => {
                    let salt_of_node = &self.waiting.filled()[..piece];
                    if salt_of_node == salt || salt::is_ours(salt_of_node, key.prefix()) {
                        return Err(Failure::Reflected);
                    }
                    self.direction = Some(Direction::new(key, salt_of_node));
                    self.stage = if key.cipher().is_2022() { Stage::Header } else { Stage::Length };
                }
                Stage::Header => self.open_header(piece, salt, now())?,
                Stage::Length => self.open_length(key)?,
                Stage::Failed(failure) => return Err(failure),
                Stage::Payload(len) => {
                    // The next call may have more room, which avoids a copy.
                    if out.remaining() < len && out.filled().len() > before {
                        break;
                    }
                    if !self.open_payload(len, out)? {
                        return Ok(());
                    }
                }
            }
            self.waiting.consume(piece);
        }
        Ok(())
    }

    /// Opens a payload into `out`; false when it did not fit and its rest stays at the front.
    fn open_payload(&mut self, len: usize, out: &mut ReadBuf<'_>) -> Result<bool, Failure> {
        let direction = self.direction.as_mut().ok_or(Failure::Protocol)?;
        self.stage = Stage::Length;
        if out.remaining() >= len {
            let sealed = &self.waiting.filled()[..len + TAG_LEN];
            let opened = direction.open_into(sealed, out.initialize_unfilled_to(len));
            opened.map_err(|_| Failure::Integrity)?;
            out.advance(len);
            return Ok(true);
        }
        let sealed = &mut self.waiting.filled_mut()[..len + TAG_LEN];
        direction.open(sealed).map_err(|_| Failure::Integrity)?;
        self.open = len;
        self.give_open(out);
        Ok(false)
    }

    /// Copies out bytes that are already decrypted.
    fn give_open(&mut self, out: &mut ReadBuf<'_>) {
        let count = self.open.min(out.remaining());
        if count == 0 {
            return;
        }
        out.put_slice(&self.waiting.filled()[..count]);
        self.open -= count;
        let tag = if self.open == 0 { TAG_LEN } else { 0 };
        self.waiting.consume(count + tag);
    }

    fn open_length(&mut self, key: &AccessKey) -> Result<(), Failure> {
        let length = self.open_front(LENGTH_LEN)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        if length > key.cipher().chunk_max() {
            return Err(Failure::Protocol);
        }
        self.stage = Stage::Payload(length);
        Ok(())
    }

    fn open_header(&mut self, len: usize, salt: &[u8], now: u64) -> Result<(), Failure> {
        let header = self.open_front(len)?;
        let (kind, rest) = header.split_first().ok_or(Failure::Protocol)?;
        let (time, rest) = rest.split_first_chunk().ok_or(Failure::Protocol)?;
        let (echo, length) = rest.split_last_chunk().ok_or(Failure::Protocol)?;
        if *kind != ANSWER {
            return Err(Failure::Protocol);
        }
        let differs = u64::from_be_bytes(*time).abs_diff(now);
        if differs > CLOCK_TOLERANCE {
            return Err(Failure::Clock(differs));
        }
        if verify_slices_are_equal(echo, salt).is_err() {
            return Err(Failure::Replay);
        }
        self.stage = Stage::Payload(usize::from(u16::from_be_bytes(*length)));
        Ok(())
    }

    /// Opens the piece of this length at the front, in place.
    fn open_front(&mut self, len: usize) -> Result<&[u8], Failure> {
        let direction = self.direction.as_mut().ok_or(Failure::Protocol)?;
        let failure = if direction.is_unused() { Failure::WrongKey } else { Failure::Integrity };
        let opened = direction.open(&mut self.waiting.filled_mut()[..len]);
        opened.map(|plain| &*plain).map_err(|_| failure)
    }

    /// Length of the piece that comes next.
    fn piece_len(&self, key: &AccessKey) -> usize {
        match self.stage {
            Stage::Salt => key.cipher().key_len(),
            Stage::Header => 1 + 8 + key.cipher().key_len() + 2 + TAG_LEN,
            Stage::Length => LENGTH_LEN,
            Stage::Payload(len) => len + TAG_LEN,
            Stage::Failed(_) => 0,
        }
    }

    /// Room to read bytes of the node into; report their number with [`fill`](Self::fill).
    pub(crate) fn room(&mut self, key: &AccessKey) -> &mut [u8] {
        let missing = self.piece_len(key).saturating_sub(self.waiting.len());
        // A piece always fits into an area, so that there is room for at least one byte.
        self.waiting.room((missing >= ALIGNED).then_some(missing + LENGTH_LEN))
    }

    pub(crate) fn fill(&mut self, count: usize) {
        self.waiting.fill(count);
    }

    /// Returns a buffer that holds few or no bytes to the pool.
    pub(crate) fn park(&mut self) {
        self.waiting.park();
    }

    /// Whether no bytes are pending.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Handles the end of the node's bytes: an orderly end, or an error inside a chunk.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        let is_between = self.waiting.is_empty();
        match self.stage {
            Stage::Salt if is_between => Ok(()),
            Stage::Length if is_between && self.is_proven() => Ok(()),
            _ if self.is_proven() => Err(Error::Truncated),
            _ => Err(Error::WrongKey),
        }
    }

    /// Whether at least one chunk of the node was authentic.
    pub(crate) fn is_proven(&self) -> bool {
        self.direction.as_ref().is_some_and(|direction| !direction.is_unused())
    }
}

#[cfg(test)]
impl Inbound {
    /// Bytes of memory held.
    pub(crate) fn held(&self) -> usize {
        self.waiting.held()
    }
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
