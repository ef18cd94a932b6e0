//! What waits to be sent: frames, encoded one after the other into one corked buffer.

use std::cell::RefCell;

use super::codec::{CONTROL_MAX, HEADER_MAX, Header, Opcode, apply_mask};
use super::{Kind, Role};
use crate::buffers::{self, POOLED_FILL};

/// A sending half without I/O.
pub(super) struct Outbound {
    role: Role,
    buffer: Vec<u8>,
    /// Where the bytes begin that the transport has not taken.
    start: usize,
    written: u64,
    /// The newest ping that has not been answered.
    pong: Option<Box<[u8]>>,
    /// Value of `written` at which the last encoded pong has left.
    pong_leaves_at: u64,
    is_closed: bool,
}

impl Outbound {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            buffer: Vec::new(),
            start: 0,
            written: 0,
            pong: None,
            pong_leaves_at: 0,
            is_closed: false,
        }
    }

    /// Bytes that wait, a pending pong included.
    pub(super) fn len(&self) -> usize {
        let pong = self.pong.as_ref().map_or(0, |payload| 2 + payload.len());
        self.buffer.len() - self.start + pong
    }

    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether a Close has been queued; nothing is queued after it.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(super) fn has_pong(&self) -> bool {
        self.pong.is_some()
    }

    /// Remembers a ping to answer, in place of any older one.
    pub(super) fn set_pong(&mut self, payload: &[u8]) {
        if !self.is_closed {
            self.pong = Some(payload.into());
        }
    }

    /// Appends one whole frame whose payload of `len` bytes is written by `fill`.
    pub(super) fn push<R>(
        &mut self,
        opcode: Opcode,
        len: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> R {
        if self.is_closed {
            return fill(&mut Vec::new());
        }
        self.encode_pong();
        if opcode == Opcode::Close {
            self.is_closed = true;
            self.pong = None;
        }
        let (mut header, header_at, payload_at) = self.begin_frame(opcode, len);
        let result = fill(&mut self.buffer);
        let filled = self.buffer.len().saturating_sub(payload_at);
        debug_assert_eq!(filled, len, "a message has the announced length");
        self.seal_frame(&mut header, header_at, payload_at);
        result
    }

    /// Appends one whole data frame of at most `max` bytes, whose length is known only once `fill`
    /// has appended its payload; none if that is nothing.
    pub(super) fn push_measured<R>(
        &mut self,
        kind: Kind,
        max: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> R,
    ) -> R {
        if self.is_closed {
            return fill(&mut Vec::new());
        }
        let (mut header, header_at, payload_at) = self.begin_frame(Opcode::Data(kind), max);
        let result = fill(&mut self.buffer);
        if self.buffer.len() <= payload_at {
            self.buffer.truncate(header_at);
            if self.buffer.len() == self.start {
                self.start = 0;
                buffers::give_back(std::mem::take(&mut self.buffer));
            }
        } else {
            self.seal_frame(&mut header, header_at, payload_at);
        }
        result
    }

    /// Puts a header for a payload of `len` bytes in front of it; returns it, its place, and that
    /// of the payload.
    fn begin_frame(&mut self, opcode: Opcode, len: usize) -> (Header, usize, usize) {
        self.encode_pong();
        if self.buffer.capacity() == 0 {
            self.buffer = buffers::take();
        }
        let mask = match self.role {
            Role::Server => None,
            Role::Client => Some(random_mask()),
        };
        let header = Header { is_final: true, opcode, mask, len: len as u64 };
        let mut bytes = [0; HEADER_MAX];
        let header_len = header.encode(&mut bytes);
        self.make_room(header_len + len);
        let header_at = self.buffer.len();
        self.buffer.extend_from_slice(&bytes[..header_len]);
        (header, header_at, self.buffer.len())
    }

    /// Makes the header say how long the payload behind it has become, and masks that.
    fn seal_frame(&mut self, header: &mut Header, header_at: usize, payload_at: usize) {
        let len = self.buffer.len() - payload_at;
        if header.len != len as u64 {
            header.len = len as u64;
            let mut bytes = [0; HEADER_MAX];
            let header_len = header.encode(&mut bytes);
            // Only a payload that is short for its announced length has another header's length:
            // the few bytes of it move, or in case of a bug many.
            self.buffer.splice(header_at..payload_at, bytes[..header_len].iter().copied());
        }
        if let Some(mask) = header.mask {
            let start = self.buffer.len() - len;
            apply_mask(mask, 0, &mut self.buffer[start..]);
        }
    }

    /// Reserves room behind what waits. Bytes that have left are dropped rather than that more than
    /// the usual part of the buffer is filled, as soon as they are the greater part: each byte is
    /// moved at most once.
    fn make_room(&mut self, len: usize) {
        let waiting = self.buffer.len() - self.start;
        if self.buffer.len() + len > POOLED_FILL && self.start >= waiting {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.reserve(len);
    }

    /// What the transport should take next; empty if nothing waits.
    pub(super) fn chunk(&mut self) -> &[u8] {
        self.encode_pong();
        &self.buffer[self.start..]
    }

    /// Notes that the transport has taken the first `n` bytes of the chunk.
    pub(super) fn advance(&mut self, n: usize) {
        self.start += n;
        self.written += n as u64;
        if self.start == self.buffer.len() {
            self.start = 0;
            buffers::give_back(std::mem::take(&mut self.buffer));
        }
    }

    /// Gives back a buffer that is nearly empty; called when the transport takes no more.
    pub(super) fn park(&mut self) {
        if self.buffer.capacity() > 0 && buffers::park(&mut self.buffer, self.start) {
            self.start = 0;
        }
    }

    /// Appends the pending pong, unless an older one is still in the buffer.
    fn encode_pong(&mut self) {
        if self.written < self.pong_leaves_at {
            return;
        }
        if let Some(payload) = self.pong.take() {
            debug_assert!(payload.len() <= CONTROL_MAX);
            self.push(Opcode::Pong, payload.len(), |out| out.extend_from_slice(&payload));
            self.pong_leaves_at = self.written + (self.buffer.len() - self.start) as u64;
        }
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        buffers::give_back(std::mem::take(&mut self.buffer));
    }
}

/// Masks drawn from the system's generator at once.
const MASKS: usize = 64;

/// An unpredictable mask (section 10.3), from a batch per thread.
fn random_mask() -> [u8; 4] {
    thread_local! {
        static BATCH: RefCell<([u8; MASKS * 4], usize)> = const { RefCell::new(([0; MASKS * 4], 0)) };
    }
    BATCH
        .try_with(|batch| {
            let (bytes, left) = &mut *batch.borrow_mut();
            if *left == 0 {
                draw(bytes);
                *left = MASKS;
            }
            *left -= 1;
            let at = *left * 4;
            [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
        })
        .unwrap_or_else(|_| {
            // The thread is ending and its storage is gone.
            let mut mask = [0; 4];
            draw(&mut mask);
            mask
        })
}

fn draw(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system's random generator works; TLS would not be up else");
}

#[cfg(test)]
mod tests {
    use super::super::codec::parse_header;
    use super::*;

    /// The payloads of all queued frames, as the peer would read them.
    fn payloads(outbound: &mut Outbound, peer: Role) -> Vec<Vec<u8>> {
        let mut bytes = outbound.chunk().to_vec();
        let mut found = Vec::new();
        while let Some((header, len)) = parse_header(peer, &bytes).unwrap() {
            let mut rest = bytes.split_off(len);
            bytes = rest.split_off(header.len as usize);
            if let Some(mask) = header.mask {
                apply_mask(mask, 0, &mut rest);
            }
            found.push(rest);
        }
        assert!(bytes.is_empty());
        found
    }

    #[test]
    fn a_message_may_turn_out_shorter_than_announced_or_empty() {
        for (role, peer) in [(Role::Server, Role::Client), (Role::Client, Role::Server)] {
            let mut outbound = Outbound::new(role);
            let lengths = [65_535, 65_534, 126, 125, 1, 0, 70_000];
            for len in lengths {
                let max = len.max(65_535);
                outbound.push_measured(Kind::Binary, max, |buffer| {
                    assert!(buffer.capacity() - buffer.len() >= max, "no reallocation");
                    buffer.resize(buffer.len() + len, len as u8);
                });
            }
            let expected: Vec<Vec<u8>> =
                lengths.iter().filter(|len| **len > 0).map(|len| vec![*len as u8; *len]).collect();
            assert!(payloads(&mut outbound, peer) == expected);
        }
    }

    #[test]
    fn what_has_left_makes_room_before_more_of_the_buffer_is_filled() {
        let mut outbound = Outbound::new(Role::Server);
        for _ in 0..100 {
            outbound
                .push(Opcode::Data(Kind::Binary), 60_000, |out| out.resize(out.len() + 60_000, 3));
            assert!(outbound.buffer.len() <= POOLED_FILL);
            let leaving = outbound.len().saturating_sub(1000);
            outbound.advance(leaving);
        }
    }

    #[test]
    fn a_message_that_is_not_queued_leaves_no_buffer_behind() {
        let mut outbound = Outbound::new(Role::Server);
        outbound.push_measured(Kind::Binary, 1000, |_| ());
        assert_eq!((outbound.len(), outbound.capacity()), (0, 0));
    }
}
