//! Frames of RFC 6455 section 5, without I/O and without allocation.

use std::fmt;

pub use super::close::CloseCode;
use super::{Kind, Role};

/// Largest payload of a control frame, in bytes (section 5.5).
pub const CONTROL_MAX: usize = 125;

/// Longest header of a frame: 2 bytes, 8 of length, 4 of mask.
pub const HEADER_MAX: usize = 14;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message that has begun.
    Continuation,
    /// A message, or its first fragment.
    Data(Kind),
    /// The end of the connection.
    Close,
    /// A question whether the peer is there.
    Ping,
    /// The answer.
    Pong,
}

impl Opcode {
    /// Whether this is a control frame: short, whole, and allowed between fragments.
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Data(Kind::Text),
            0x2 => Self::Data(Kind::Binary),
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Data(Kind::Text) => 0x1,
            Self::Data(Kind::Binary) => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }
}

/// The header of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether this is the last (or only) frame of its message.
    pub is_final: bool,
    /// What it carries.
    pub opcode: Opcode,
    /// The mask of the payload, if it is masked.
    pub mask: Option<[u8; 4]>,
    /// Length of the payload in bytes; below 2^63.
    pub len: u64,
}

/// How a peer has broken the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A reserved bit is set, without an extension that would mean it.
    ReservedBit,
    /// An opcode that means nothing.
    ReservedOpcode,
    /// A client's frame that is not masked.
    Unmasked,
    /// A server's frame that is masked.
    Masked,
    /// A length that would have fit a shorter form.
    LongLength,
    /// A length of 2^63 or more.
    HugeLength,
    /// A control frame in fragments.
    FragmentedControl,
    /// A control frame of more than [`CONTROL_MAX`] bytes.
    LongControl,
    /// A continuation without a message to continue.
    StrayContinuation,
    /// A new message before the last has ended.
    InterruptedMessage,
    /// A Close frame with a body of one byte.
    CloseBody,
    /// A Close frame with a code that must not be sent.
    CloseCode,
    /// A Close frame whose reason is not UTF-8.
    CloseReason,
    /// A text message that is not UTF-8.
    TextNotUtf8,
    /// A message over [`Limits::max_message`](super::Limits::max_message).
    MessageTooBig,
    /// A message over [`Limits::max_fragments`](super::Limits::max_fragments).
    TooManyFragments,
}

impl Violation {
    /// The code to close the connection with.
    pub const fn code(self) -> CloseCode {
        match self {
            Self::CloseReason | Self::TextNotUtf8 => CloseCode::INVALID_DATA,
            Self::MessageTooBig | Self::TooManyFragments => CloseCode::TOO_BIG,
            _ => CloseCode::PROTOCOL,
        }
    }

    /// A few plain words; also the reason in the Close frame.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ReservedBit => "reserved bit set",
            Self::ReservedOpcode => "reserved opcode",
            Self::Unmasked => "frame from a client is not masked",
            Self::Masked => "frame from a server is masked",
            Self::LongLength => "length is not in its shortest form",
            Self::HugeLength => "length has its highest bit set",
            Self::FragmentedControl => "control frame is fragmented",
            Self::LongControl => "control frame is longer than 125 bytes",
            Self::StrayContinuation => "continuation without a message",
            Self::InterruptedMessage => "new message inside a fragmented one",
            Self::CloseBody => "close frame of one byte",
            Self::CloseCode => "close code must not be sent",
            Self::CloseReason => "close reason is not UTF-8",
            Self::TextNotUtf8 => "text is not UTF-8",
            Self::MessageTooBig => "message is too big",
            Self::TooManyFragments => "message has too many fragments",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Violation {}

/// Reads a frame header from the beginning of `bytes`, as received in `role`.
///
/// Returns the header and its length, or None if more bytes are needed. A violation is reported
/// as soon as the bytes that show it are there.
pub fn parse_header(role: Role, bytes: &[u8]) -> Result<Option<(Header, usize)>, Violation> {
    let [first, second, rest @ ..] = bytes else {
        return match bytes.first() {
            Some(first) => parse_first(*first).map(|_| None),
            None => Ok(None),
        };
    };
    let (is_final, opcode) = parse_first(*first)?;
    let is_masked = second & 0x80 != 0;
    match role {
        Role::Server if !is_masked => return Err(Violation::Unmasked),
        Role::Client if is_masked => return Err(Violation::Masked),
        _ => {}
    }
    let short = second & 0x7F;
    if opcode.is_control() && usize::from(short) > CONTROL_MAX {
        return Err(Violation::LongControl);
    }
    let (len, rest) = match short {
        126 => match rest.split_first_chunk::<2>() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest),
            None => return Ok(None),
        },
        _ => (u64::from(short), rest),
    };
    match (short, len) {
        (127, 0x8000_0000_0000_0000..) => return Err(Violation::HugeLength),
        (127, ..=0xFFFF) | (126, ..=125) => return Err(Violation::LongLength),
        _ => {}
    }
    let (mask, rest) = if is_masked {
        match rest.split_first_chunk::<4>() {
            Some((mask, rest)) => (Some(*mask), rest),
            None => return Ok(None),
        }
    } else {
        (None, rest)
    };
    Ok(Some((Header { is_final, opcode, mask, len }, bytes.len() - rest.len())))
}

fn parse_first(byte: u8) -> Result<(bool, Opcode), Violation> {
    if byte & 0x70 != 0 {
        return Err(Violation::ReservedBit);
    }
    let opcode = Opcode::from_bits(byte & 0x0F).ok_or(Violation::ReservedOpcode)?;
    let is_final = byte & 0x80 != 0;
    if opcode.is_control() && !is_final {
        return Err(Violation::FragmentedControl);
    }
    Ok((is_final, opcode))
}

impl Header {
    /// Writes the header in its shortest form; returns how many bytes it takes.
    pub fn encode(&self, out: &mut [u8; HEADER_MAX]) -> usize {
        out[0] = u8::from(self.is_final) << 7 | self.opcode.bits();
        let mask_bit = u8::from(self.mask.is_some()) << 7;
        let mut n = match self.len {
            0..=125 => {
                out[1] = mask_bit | self.len as u8;
                2
            }
            126..=0xFFFF => {
                out[1] = mask_bit | 0x7E;
                out[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
                4
            }
            _ => {
                out[1] = mask_bit | 0x7F;
                out[2..10].copy_from_slice(&self.len.to_be_bytes());
                10
            }
        };
        if let Some(mask) = self.mask {
            out[n..n + 4].copy_from_slice(&mask);
            n += 4;
        }
        n
    }
}

/// Masks or unmasks a part of a payload in place; `offset` is its place in the whole payload.
pub fn apply_mask(mask: [u8; 4], offset: usize, part: &mut [u8]) {
    // Blocks of a vector register's size, which the compiler turns into vector instructions.
    const BLOCK: usize = 32;
    let mut turned = mask;
    turned.rotate_left(offset % 4);
    let mut wide = [0; BLOCK];
    for four in wide.chunks_exact_mut(4) {
        four.copy_from_slice(&turned);
    }
    let mut blocks = part.chunks_exact_mut(BLOCK);
    for block in &mut blocks {
        for (byte, key) in block.iter_mut().zip(&wide) {
            *byte ^= key;
        }
    }
    for (byte, key) in blocks.into_remainder().iter_mut().zip(&wide) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(header: &Header) -> Vec<u8> {
        let mut out = [0; HEADER_MAX];
        let n = header.encode(&mut out);
        out[..n].to_vec()
    }

    #[test]
    fn headers_are_judged() {
        use Violation as V;
        let server: [(&[u8], V); 12] = [
            (&[0xC1, 0x80], V::ReservedBit),
            (&[0xA1], V::ReservedBit),
            (&[0x91], V::ReservedBit),
            (&[0x83], V::ReservedOpcode),
            (&[0x8B, 0x80], V::ReservedOpcode),
            (&[0x81, 0x05], V::Unmasked),
            (&[0x09], V::FragmentedControl),
            (&[0x89, 0xFE], V::LongControl),
            (&[0x88, 0xFF], V::LongControl),
            (&[0x82, 0xFE, 0, 125], V::LongLength),
            (&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], V::LongLength),
            (&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], V::HugeLength),
        ];
        for (bytes, violation) in server {
            assert_eq!(parse_header(Role::Server, bytes), Err(violation), "{bytes:x?}");
        }
        assert_eq!(parse_header(Role::Client, &[0x81, 0x85]), Err(V::Masked));
    }

    #[test]
    fn violations_have_their_codes() {
        assert_eq!(Violation::TextNotUtf8.code().get(), 1007);
        assert_eq!(Violation::CloseReason.code().get(), 1007);
        assert_eq!(Violation::MessageTooBig.code().get(), 1009);
        assert_eq!(Violation::TooManyFragments.code().get(), 1009);
        assert_eq!(Violation::CloseCode.code().get(), 1002);
        assert_eq!(Violation::HugeLength.code().get(), 1002);
    }

    proptest! {
        #[test]
        fn a_header_survives_and_needs_every_byte(
            is_final: bool,
            opcode in prop::sample::select(vec![
                Opcode::Continuation, Opcode::Data(Kind::Text), Opcode::Data(Kind::Binary),
                Opcode::Close, Opcode::Ping, Opcode::Pong,
            ]),
            mask: Option<[u8; 4]>,
            len in prop_oneof![0u64..300, 65_000u64..66_000, 0..1u64 << 63],
        ) {
            let mut header = Header { is_final, opcode, mask, len };
            if opcode.is_control() {
                header.is_final = true;
                header.len %= 126;
            }
            let role = if mask.is_some() { Role::Server } else { Role::Client };
            let bytes = encoded(&header);
            for cut in 0..bytes.len() {
                prop_assert_eq!(parse_header(role, &bytes[..cut]), Ok(None));
            }
            prop_assert_eq!(parse_header(role, &bytes), Ok(Some((header, bytes.len()))));
        }

        #[test]
        fn masking_in_parts_is_masking_byte_by_byte(
            mask: [u8; 4],
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 0usize..300,
        ) {
            let expected: Vec<u8> =
                payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]).collect();
            let mut ours = payload.clone();
            let cut = cut.min(ours.len());
            let (left, right) = ours.split_at_mut(cut);
            apply_mask(mask, 0, left);
            apply_mask(mask, cut, right);
            prop_assert_eq!(ours, expected);
        }
    }
}
