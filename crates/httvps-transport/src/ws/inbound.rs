//! What has been received: bytes in, messages and control frames out, in one buffer.
//!
//! ```text
//!   0        message.start     message.end     raw           buffer.len()
//!   | unused |  payload so far  |  headers used  |  not decoded  |  room
//! ```
//! A single frame's payload is already where the message is, so that it is unmasked in place. A
//! later fragment is moved down over the headers between, once per byte.

use std::ops::Range;

use super::close;
use super::codec::{CONTROL_MAX, CloseCode, Opcode, Violation, apply_mask, parse_header};
use super::utf8::Utf8;
use super::{Kind, Limits, Role};
use crate::buffers::{BULK, POOLED_FILL, RESERVED};
use store::Store;

mod store;

/// A read is worth its call if there is room for this much.
const ROOM_MIN: usize = 16 * 1024;

/// Frames of one message that are decoded before [`Incoming::Pause`]: a message may be in many fragments without content.
const FRAGMENTS_MAX: usize = 256;

/// What one step of decoding has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Nothing yet, after [`FRAGMENTS_MAX`] frames; there may be more to decode.
    Pause,
    Message(Kind),
    /// The payload is in [`Inbound::control`].
    Ping,
    Pong,
    Close(Option<CloseCode>),
}

/// A receiving half without I/O.
pub(super) struct Inbound {
    role: Role,
    limits: Limits,
    buffer: Store,
    /// Payload of the message that is being received, or that has been delivered last.
    message: Range<usize>,
    /// Where the bytes begin that have not been decoded.
    raw: usize,
    /// The payload of the last control frame, inside the undecoded part's past.
    control: Range<usize>,
    /// The data frame whose payload is arriving.
    frame: Option<Frame>,
    /// The message whose fragments are arriving.
    partial: Option<Partial>,
    is_delivered: bool,
}

struct Frame {
    remaining: u64,
    mask: Option<[u8; 4]>,
    offset: usize,
    is_final: bool,
}

struct Partial {
    kind: Kind,
    fragments: usize,
    utf8: Utf8,
}

impl Inbound {
    pub(super) fn new(role: Role, limits: Limits, early: &[u8]) -> Self {
        Self {
            role,
            limits,
            buffer: Store::exact(early),
            message: 0..0,
            raw: 0,
            control: 0..0,
            frame: None,
            partial: None,
            is_delivered: false,
        }
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The payload of the last message; empty if there is none.
    pub(super) fn message(&mut self) -> &mut [u8] {
        let range = if self.is_delivered { self.message.clone() } else { 0..0 };
        &mut self.buffer[range]
    }

    /// The payload of the last ping or pong; valid until the next call of `decode`.
    pub(super) fn control(&self) -> &[u8] {
        &self.buffer[self.control.clone()]
    }

    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether a message has begun and is not complete.
    pub(super) fn is_inside_message(&self) -> bool {
        self.partial.is_some()
    }

    /// Whether undecoded bytes are there.
    pub(super) fn has_raw(&self) -> bool {
        self.raw < self.buffer.len()
    }

    /// Finds the next message or control frame; None if more bytes are needed. Must not be
    /// called again after an error.
    pub(super) fn decode(&mut self) -> Result<Option<Incoming>, Violation> {
        self.forget_delivered();
        for _ in 0..FRAGMENTS_MAX {
            if self.frame.is_some() {
                if !self.take_payload()? {
                    return Ok(None);
                }
                if let Some(kind) = self.finish_frame()? {
                    return Ok(Some(Incoming::Message(kind)));
                }
            }
            let bytes = &self.buffer[self.raw..];
            let Some((header, header_len)) = parse_header(self.role, bytes)? else {
                return Ok(None);
            };
            if header.opcode.is_control() {
                let end = header_len + header.len as usize;
                if bytes.len() < end {
                    return Ok(None);
                }
                let start = self.raw + header_len;
                self.control = start..self.raw + end;
                self.raw += end;
                let body = &mut self.buffer[self.control.clone()];
                if let Some(mask) = header.mask {
                    apply_mask(mask, 0, body);
                }
                return Ok(Some(match header.opcode {
                    Opcode::Ping => Incoming::Ping,
                    Opcode::Pong => Incoming::Pong,
                    _ => Incoming::Close(close::parse(body)?),
                }));
            }
            self.begin_frame(header.opcode, header.len)?;
            self.raw += header_len;
            if self.message.is_empty() {
                self.message = self.raw..self.raw;
            }
            self.frame = Some(Frame {
                remaining: header.len,
                mask: header.mask,
                offset: 0,
                is_final: header.is_final,
            });
        }
        Ok(Some(Incoming::Pause))
    }

    /// Checks a data frame's place in its message, and its claim before anything is reserved.
    fn begin_frame(&mut self, opcode: Opcode, len: u64) -> Result<(), Violation> {
        match (opcode, &mut self.partial) {
            (Opcode::Data(kind), None) => {
                self.partial = Some(Partial { kind, fragments: 1, utf8: Utf8::default() });
            }
            (Opcode::Data(_), Some(_)) => return Err(Violation::InterruptedMessage),
            (_, None) => return Err(Violation::StrayContinuation),
            (_, Some(partial)) => partial.fragments += 1,
        }
        if len > (self.limits.max_message.saturating_sub(self.message.len())) as u64 {
            return Err(Violation::MessageTooBig);
        }
        let fragments = self.partial.as_ref().map_or(0, |partial| partial.fragments);
        if fragments > self.limits.max_fragments {
            return Err(Violation::TooManyFragments);
        }
        Ok(())
    }

    /// Moves what has arrived of the frame's payload into the message. True when it is complete.
    fn take_payload(&mut self) -> Result<bool, Violation> {
        let (Some(frame), Some(partial)) = (&mut self.frame, &mut self.partial) else {
            return Ok(true);
        };
        let arrived = self.buffer.len() - self.raw;
        let n = arrived.min(usize::try_from(frame.remaining).unwrap_or(usize::MAX));
        let place = self.message.end..self.message.end + n;
        if place.start != self.raw {
            self.buffer.copy_within(self.raw..self.raw + n, place.start);
        }
        let fresh = &mut self.buffer[place.clone()];
        if let Some(mask) = frame.mask {
            apply_mask(mask, frame.offset, fresh);
        }
        if partial.kind == Kind::Text && partial.utf8.push(fresh).is_err() {
            return Err(Violation::TextNotUtf8);
        }
        self.message.end = place.end;
        self.raw += n;
        frame.offset += n;
        frame.remaining -= n as u64;
        Ok(frame.remaining == 0)
    }

    /// Ends the frame; the kind of the message if it was its last.
    fn finish_frame(&mut self) -> Result<Option<Kind>, Violation> {
        let is_final = self.frame.take().is_some_and(|frame| frame.is_final);
        if !is_final {
            return Ok(None);
        }
        let Some(partial) = self.partial.take() else {
            return Ok(None);
        };
        if partial.kind == Kind::Text && !partial.utf8.is_complete() {
            return Err(Violation::TextNotUtf8);
        }
        self.is_delivered = true;
        Ok(Some(partial.kind))
    }

    fn forget_delivered(&mut self) {
        if self.is_delivered {
            self.is_delivered = false;
            self.message = self.raw..self.raw;
        }
    }

    /// Room for a read, which is told to [`commit`](Self::commit). `decode` must have returned None
    /// before.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.forget_delivered();
        self.close_gap();
        if self.buffer.capacity() < RESERVED {
            self.borrow_store();
        }
        if self.spare() < ROOM_MIN && self.message.start > 0 {
            self.shift_down();
        }
        if self.spare() < ROOM_MIN {
            let remaining = self.frame.as_ref().map_or(0, |frame| frame.remaining);
            // Within the message limit, which is a usize: `begin_frame` has checked the claim.
            let claimed = self.buffer.len().saturating_add(remaining as usize);
            let wanted = (self.buffer.capacity() * 2).min(claimed + BULK);
            self.buffer.reserve(wanted);
        }
        let most = self.spare().min(BULK);
        self.buffer.room(most)
    }

    /// Notes that `n` bytes have been put at the front of the room.
    pub(super) fn commit(&mut self, n: usize) {
        self.buffer.commit(n);
    }

    /// Gives the buffer back if it is empty or nearly so; called when the connection waits.
    /// `decode` must have returned None before.
    pub(super) fn park(&mut self) {
        if self.buffer.capacity() == 0 {
            return;
        }
        self.forget_delivered();
        self.close_gap();
        let start = self.message.start;
        if self.buffer.park(start) {
            self.message = 0..self.message.end - start;
            self.raw -= start;
            self.control = 0..0;
        }
    }

    /// Throws away everything that has been received.
    pub(super) fn discard(&mut self) {
        self.is_delivered = false;
        self.frame = None;
        self.partial = None;
        self.message = 0..0;
        self.control = 0..0;
        self.raw = 0;
        self.buffer = Store::exact(&[]);
    }

    /// Moves the undecoded bytes (a partial header or control frame) to the end of the message.
    fn close_gap(&mut self) {
        if self.message.is_empty() {
            // No payload yet pins the place.
            self.message = 0..0;
        }
        let end = self.message.end;
        if self.raw > end {
            debug_assert!(self.buffer.len() - self.raw < super::codec::HEADER_MAX + CONTROL_MAX);
            self.buffer.copy_within(self.raw.., end);
            let len = self.buffer.len() - (self.raw - end);
            self.buffer.truncate(len);
            self.raw = end;
            self.control = 0..0;
        }
    }

    /// Bytes that fit behind the buffer's content: within its usual fill, as long as what is held
    /// leaves room there.
    fn spare(&self) -> usize {
        let held = self.buffer.len() - self.message.start;
        let mut end = self.buffer.capacity();
        if held + ROOM_MIN <= POOLED_FILL {
            end = end.min(POOLED_FILL);
        }
        end.saturating_sub(self.buffer.len())
    }

    fn shift_down(&mut self) {
        let start = self.message.start;
        self.buffer.shift_down(start);
        self.message = 0..self.message.end - start;
        self.raw -= start;
        self.control = 0..0;
    }

    fn borrow_store(&mut self) {
        let start = self.message.start;
        self.buffer = Store::borrowed(&self.buffer[start..]);
        self.message = 0..self.message.end - start;
        self.raw -= start;
        self.control = 0..0;
    }
}

#[cfg(test)]
mod tests;
