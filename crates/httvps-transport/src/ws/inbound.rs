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
use crate::buffers::{self, BULK, POOLED_FILL, RESERVED};

/// A read is worth its call if there is room for this much.
const ROOM_MIN: usize = 16 * 1024;

/// What one step of decoding has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Incoming {
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
    buffer: Vec<u8>,
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
            buffer: early.to_vec(),
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

    /// Whether undecoded bytes are there.
    pub(super) fn has_raw(&self) -> bool {
        self.raw < self.buffer.len()
    }

    /// Finds the next message or control frame; None if more bytes are needed. Must not be
    /// called again after an error.
    pub(super) fn decode(&mut self) -> Result<Option<Incoming>, Violation> {
        self.forget_delivered();
        loop {
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

    /// Makes room for a read and returns the buffer with the number of bytes to read at the most.
    /// `decode` must have returned None before.
    pub(super) fn room(&mut self) -> (&mut Vec<u8>, usize) {
        self.forget_delivered();
        self.close_gap();
        if self.buffer.capacity() < RESERVED {
            self.shift_into(buffers::take());
        }
        if self.spare() < ROOM_MIN && self.message.start > 0 {
            self.shift_down();
        }
        if self.spare() < ROOM_MIN {
            let remaining = self.frame.as_ref().map_or(0, |frame| frame.remaining);
            // Within the message limit, which is a usize: `begin_frame` has checked the claim.
            let claimed = self.buffer.len().saturating_add(remaining as usize);
            let wanted = (self.buffer.capacity() * 2).min(claimed + BULK);
            self.buffer.reserve_exact(wanted.saturating_sub(self.buffer.len()));
        }
        let room = self.spare().min(BULK);
        (&mut self.buffer, room)
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
        if buffers::park(&mut self.buffer, start) {
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
        buffers::give_back(std::mem::take(&mut self.buffer));
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
        self.buffer.drain(..start);
        self.message = 0..self.message.end - start;
        self.raw -= start;
        self.control = 0..0;
    }

    fn shift_into(&mut self, mut fresh: Vec<u8>) {
        let start = self.message.start;
        fresh.extend_from_slice(&self.buffer[start..]);
        self.buffer = fresh;
        self.message = 0..self.message.end - start;
        self.raw -= start;
        self.control = 0..0;
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        buffers::give_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::codec::{HEADER_MAX, Header};
    use super::*;

    /// What a peer says, as frames.
    #[derive(Debug, Clone)]
    enum Said {
        Message(Kind, Vec<Vec<u8>>),
        Ping(Vec<u8>),
    }

    fn frame(out: &mut Vec<u8>, is_final: bool, opcode: Opcode, payload: &[u8]) {
        let mask = [1, 2, 3, 250];
        let header = Header { is_final, opcode, mask: Some(mask), len: payload.len() as u64 };
        let mut bytes = [0; HEADER_MAX];
        let n = header.encode(&mut bytes);
        out.extend_from_slice(&bytes[..n]);
        let at = out.len();
        out.extend_from_slice(payload);
        apply_mask(mask, 0, &mut out[at..]);
    }

    fn encode(said: &[Said]) -> Vec<u8> {
        let mut out = Vec::new();
        for item in said {
            match item {
                Said::Ping(payload) => frame(&mut out, true, Opcode::Ping, payload),
                Said::Message(kind, fragments) => {
                    for (i, fragment) in fragments.iter().enumerate() {
                        let opcode =
                            if i == 0 { Opcode::Data(*kind) } else { Opcode::Continuation };
                        frame(&mut out, i + 1 == fragments.len(), opcode, fragment);
                        // Control frames may stand between fragments.
                        frame(&mut out, true, Opcode::Pong, b"between");
                    }
                }
            }
        }
        out
    }

    /// Feeds `bytes` in pieces as a connection does; returns what was heard.
    fn hear(
        inbound: &mut Inbound,
        bytes: &[u8],
        size: usize,
        is_parked: bool,
    ) -> Result<Vec<Said>, Violation> {
        let mut heard = Vec::new();
        let mut pieces = bytes.chunks(size);
        loop {
            match inbound.decode()? {
                Some(Incoming::Message(kind)) => {
                    heard.push(Said::Message(kind, vec![inbound.message().to_vec()]));
                }
                Some(Incoming::Ping) => heard.push(Said::Ping(inbound.control().to_vec())),
                Some(Incoming::Pong) => {}
                Some(Incoming::Close(_)) => return Ok(heard),
                None => {
                    if is_parked {
                        inbound.park();
                    }
                    let Some(mut piece) = pieces.next() else { return Ok(heard) };
                    while !piece.is_empty() {
                        let (buffer, room) = inbound.room();
                        assert!(room > 0 && buffer.len() + room <= buffer.capacity());
                        let (now, later) = piece.split_at(piece.len().min(room));
                        buffer.extend_from_slice(now);
                        piece = later;
                        if !piece.is_empty() {
                            assert_eq!(inbound.decode()?, None, "a piece is one read here");
                        }
                    }
                }
            }
        }
    }

    fn said() -> impl Strategy<Value = Said> {
        let fragment = proptest::collection::vec(any::<u8>(), 0..400);
        let long = proptest::collection::vec(any::<u8>(), 65_530..66_000);
        let fragments = proptest::collection::vec(prop_oneof![9 => fragment, 1 => long], 1..5);
        prop_oneof![
            fragments.prop_map(|f| Said::Message(Kind::Binary, f)),
            ("\\PC{0,60}", 1usize..8).prop_map(|(text, size)| {
                let mut pieces: Vec<_> = text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
                pieces.push(Vec::new());
                Said::Message(Kind::Text, pieces)
            }),
            proptest::collection::vec(any::<u8>(), 0..126).prop_map(Said::Ping),
        ]
    }

    fn new(limits: Limits) -> Inbound {
        Inbound::new(Role::Server, limits, &[])
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard_however_it_arrives(
            said in proptest::collection::vec(said(), 0..6),
            size in prop_oneof![1usize..20, 1usize..70_000],
            is_parked: bool,
        ) {
            // Control frames inside a piece end the inner loop of `hear` early; one byte more
            // than a read can hold is never in a piece.
            let size = size.min(ROOM_MIN);
            let mut inbound = new(Limits::default());
            let heard = hear(&mut inbound, &encode(&said), size, is_parked).unwrap();
            let flat = |list: &[Said]| -> Vec<(Option<Kind>, Vec<u8>)> {
                list.iter().map(|item| match item {
                    Said::Message(kind, fragments) => (Some(*kind), fragments.concat()),
                    Said::Ping(payload) => (None, payload.clone()),
                }).collect()
            };
            prop_assert_eq!(flat(&heard), flat(&said));
            inbound.park();
            prop_assert_eq!(inbound.capacity(), 0);
        }

        #[test]
        fn no_bytes_cause_a_panic_or_growth(
            bytes in proptest::collection::vec(
                prop_oneof![
                    any::<u8>(),
                    prop::sample::select(vec![0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0xFE, 0xFF]),
                ],
                0..400,
            ),
            size in 1usize..50,
        ) {
            let mut inbound = new(Limits { max_message: 300, max_fragments: 5, ..Limits::default() });
            let _ = hear(&mut inbound, &bytes, size, false);
            prop_assert!(inbound.capacity() <= RESERVED + 300 + 4 * BULK);
        }
    }

    #[test]
    fn a_claim_reserves_nothing() {
        let mut inbound = new(Limits::default());
        let claim = [0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 0, 9, 9, 9, 9, 1, 2, 3];
        assert!(hear(&mut inbound, &claim, 100, false).unwrap().is_empty());
        assert!(inbound.capacity() <= RESERVED);
        inbound.park();
        assert!(inbound.capacity() < 64, "{}", inbound.capacity());
        let over = [0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 1, 9, 9, 9, 9];
        assert_eq!(
            hear(&mut new(Limits::default()), &over, 100, false).unwrap_err(),
            Violation::MessageTooBig
        );
    }

    #[test]
    fn small_messages_fill_only_the_usual_part_of_the_buffer() {
        let mut inbound = new(Limits::default());
        let mut bytes = Vec::new();
        frame(&mut bytes, true, Opcode::Data(Kind::Binary), &vec![5; 100_000]);
        let mut fed = 0;
        while fed < 50 * bytes.len() {
            while inbound.decode().unwrap().is_some() {}
            let (buffer, room) = inbound.room();
            let start = buffer.len();
            let n = room.min(60_000);
            buffer.extend(bytes.iter().cycle().skip(fed % bytes.len()).take(n));
            fed += n;
            assert!(room >= ROOM_MIN && start + room <= POOLED_FILL, "{start} + {room}");
        }
    }

    #[test]
    fn the_buffer_grows_with_what_arrives_and_not_beyond_the_message() {
        let mut inbound = new(Limits::default());
        let mut bytes = Vec::new();
        frame(&mut bytes, true, Opcode::Data(Kind::Binary), &vec![5; 1024 * 1024]);
        let mut fed = 0;
        while fed < bytes.len() {
            assert_eq!(inbound.decode(), Ok(None));
            let (buffer, room) = inbound.room();
            let n = room.min(bytes.len() - fed);
            buffer.extend_from_slice(&bytes[fed..fed + n]);
            fed += n;
            assert!(inbound.capacity() <= (2 * fed).max(RESERVED), "{}", inbound.capacity());
            assert!(inbound.capacity() <= bytes.len() + 2 * BULK);
        }
        assert_eq!(inbound.decode(), Ok(Some(Incoming::Message(Kind::Binary))));
        assert_eq!(inbound.message(), vec![5; 1024 * 1024]);
        assert_eq!(inbound.decode(), Ok(None));
        inbound.park();
        assert_eq!(inbound.capacity(), 0);
    }

    #[test]
    fn fragments_are_counted_and_summed() {
        let limits = Limits { max_message: 10, max_fragments: 3, ..Limits::default() };
        let run = |fragments: &[&[u8]]| {
            let fragments = fragments.iter().map(|f| f.to_vec()).collect();
            let bytes = encode(&[Said::Message(Kind::Binary, fragments)]);
            hear(&mut new(limits), &bytes, 100, false).map(|heard| heard.len())
        };
        assert_eq!(run(&[b"01234", b"", b"56789"]), Ok(1));
        assert_eq!(run(&[b"", b"", b"", b""]), Err(Violation::TooManyFragments));
        assert_eq!(run(&[b"01234", b"567890"]), Err(Violation::MessageTooBig));
    }

    #[test]
    fn messages_do_not_mix() {
        let data = Opcode::Data(Kind::Text);
        let mut bytes = Vec::new();
        frame(&mut bytes, false, data, b"a");
        frame(&mut bytes, true, data, b"b");
        let verdict = hear(&mut new(Limits::default()), &bytes, 100, false);
        assert_eq!(verdict.unwrap_err(), Violation::InterruptedMessage);
        let mut bytes = Vec::new();
        frame(&mut bytes, true, Opcode::Continuation, b"a");
        let verdict = hear(&mut new(Limits::default()), &bytes, 100, false);
        assert_eq!(verdict.unwrap_err(), Violation::StrayContinuation);
    }

    #[test]
    fn text_fails_at_the_wrong_byte_even_in_the_middle_of_a_frame() {
        let mut bytes = Vec::new();
        frame(&mut bytes, false, Opcode::Data(Kind::Text), b"\xce\xba\xff and much more");
        for size in [9, 100] {
            let verdict = hear(&mut new(Limits::default()), &bytes[..9], size, true);
            assert_eq!(verdict.unwrap_err(), Violation::TextNotUtf8);
        }
        let mut bytes = Vec::new();
        frame(&mut bytes, true, Opcode::Data(Kind::Text), b"cut \xce");
        let verdict = hear(&mut new(Limits::default()), &bytes, 100, false);
        assert_eq!(verdict.unwrap_err(), Violation::TextNotUtf8);
    }
}
