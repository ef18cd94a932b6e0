//! The little of RFC 6455 that a load generator needs, cheap enough not to be what is measured.

use std::io;

const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x8e];
const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
const CLOSE: u8 = 8;
/// Set where a frame is masked.
const MASKED: u8 = 0x80;
/// The payload length is in the next 2 or 8 bytes.
const LENGTH_16: u8 = 0x7e;
const LENGTH_64: u8 = 0x7f;

/// One masked text message in one frame.
pub(crate) fn text_frame(payload: &[u8]) -> Vec<u8> {
    message_frame(TEXT, payload)
}

/// One masked message in one frame; `opcode` is that of text or [`BINARY`].
pub(crate) fn message_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(MASKED | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(MASKED | LENGTH_16);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(MASKED | LENGTH_64);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A whole data message: its length, and as many of its first bytes as were asked for.
pub(crate) struct Message<'a> {
    pub(crate) length: usize,
    pub(crate) start: &'a [u8],
}

/// Finds the messages in what a peer sends, in pieces of any size.
pub(crate) struct Frames {
    /// Whether the peer masks, as our own frames are when they come back from a plain echo.
    is_masked: bool,
    /// How many bytes of each message are kept.
    keep: usize,
    /// The frame header, as far as it is there.
    header: Vec<u8>,
    /// Payload bytes of the current frame that are still to come; None within a header.
    left: Option<usize>,
    length: usize,
    start: Vec<u8>,
}

impl Frames {
    pub(crate) fn new(is_masked: bool, keep: usize) -> Self {
        Self { is_masked, keep, header: Vec::new(), left: None, length: 0, start: Vec::new() }
    }

    pub(crate) fn keep(&mut self, bytes: usize) {
        self.keep = bytes;
    }

    /// Takes the next piece and hands every message that it completes to `each`.
    pub(crate) fn feed(
        &mut self,
        mut input: &[u8],
        mut each: impl FnMut(Message) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            let left = match self.left {
                Some(left) => left,
                None => match self.header(&mut input)? {
                    Some(length) => length,
                    None => return Ok(()),
                },
            };
            let (now, rest) = input.split_at(left.min(input.len()));
            input = rest;
            self.take(now);
            if now.len() < left {
                self.left = Some(left - now.len());
                return Ok(());
            }
            self.left = None;
            let is_last = self.header[0] & 0x80 != 0;
            if self.is_data() && is_last {
                each(Message { length: self.length, start: &self.start })?;
                self.length = 0;
                self.start.clear();
            }
            self.header.clear();
        }
    }

    /// Completes the header from `input` and gives the frame's payload length.
    fn header(&mut self, input: &mut &[u8]) -> io::Result<Option<usize>> {
        loop {
            if let [_, second, ..] = self.header[..] {
                if (second & MASKED != 0) != self.is_masked {
                    return Err(io::Error::other("a frame is masked the wrong way"));
                }
                let extended = match second & 0x7f {
                    LENGTH_16 => 2,
                    LENGTH_64 => 8,
                    _ => 0,
                };
                let mask = if self.is_masked { MASK.len() } else { 0 };
                if self.header.len() == 2 + extended + mask {
                    return self.frame_length(extended).map(Some);
                }
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            self.header.push(byte);
        }
    }

    fn frame_length(&self, extended: usize) -> io::Result<usize> {
        if self.header[0] & 0x0f == CLOSE {
            return Err(io::Error::other("the peer closed"));
        }
        let digits = &self.header[2..2 + extended];
        Ok(match extended {
            0 => usize::from(self.header[1] & 0x7f),
            _ => digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)),
        })
    }

    /// Text, binary or a continuation of them.
    fn is_data(&self) -> bool {
        self.header[0] & 0x0f <= BINARY
    }

    fn take(&mut self, piece: &[u8]) {
        if self.is_data() {
            self.length += piece.len();
            let room = self.keep.saturating_sub(self.start.len());
            self.start.extend(&piece[..room.min(piece.len())]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(frames: &mut Frames, input: &[u8]) -> Vec<(usize, Vec<u8>)> {
        let mut found = Vec::new();
        let each = |message: Message| {
            found.push((message.length, message.start.to_vec()));
            Ok(())
        };
        frames.feed(input, each).unwrap();
        found
    }

    #[test]
    fn frames_of_every_length_are_found_in_pieces_of_every_size() {
        for piece in [1, 2, 7, 1000, 100_000] {
            let mut frames = Frames::new(true, 0);
            let lengths = [0, 1, 125, 126, 65_535, 65_536];
            let bytes: Vec<u8> =
                lengths.iter().flat_map(|&length| text_frame(&vec![b'x'; length])).collect();
            let found: Vec<usize> = bytes
                .chunks(piece)
                .flat_map(|chunk| messages(&mut frames, chunk))
                .map(|(length, _)| length)
                .collect();
            assert_eq!(found, lengths, "pieces of {piece}");
        }
    }

    #[test]
    fn fragments_are_one_message_and_control_frames_none() {
        let mut frames = Frames::new(false, 3);
        let input = [0x01, 2, b'a', b'b', 0x89, 1, b'!', 0x80, 2, b'c', b'd', 0x81, 1, b'e'];
        let expected = vec![(4, b"abc".to_vec()), (1, b"e".to_vec())];
        assert_eq!(messages(&mut frames, &input), expected);
    }

    #[test]
    fn a_wrong_mask_and_a_close_are_errors() {
        let feed = |frames: &mut Frames, input: &[u8]| frames.feed(input, |_| Ok(()));
        assert!(feed(&mut Frames::new(true, 0), &[0x81, 0]).is_err());
        assert!(feed(&mut Frames::new(false, 0), &text_frame(b"x")).is_err());
        assert!(feed(&mut Frames::new(false, 0), &[0x88, 0]).is_err());
    }

    #[test]
    fn our_frames_are_masked() {
        let frame = text_frame(b"hello");
        assert_eq!(frame[..2], [0x81, 0x85]);
        let plain: Vec<u8> = frame[6..]
            .iter()
            .zip(frame[2..6].iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect();
        assert_eq!(plain, b"hello");
    }
}
