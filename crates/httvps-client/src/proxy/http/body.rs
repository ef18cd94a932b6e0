//! Where the body of a message ends (RFC 9112 sections 6 and 7), without I/O.

use super::head::{Fields, Search, trailers};
use bytes::{Buf, Bytes, BytesMut};
use std::io::Write;

/// The longest line in front of a chunk, its extensions included. They are not passed on.
const MAX_CHUNK_LINE: usize = 4 * 1024;

/// The most bytes of trailers.
const MAX_TRAILERS: usize = 16 * 1024;

/// How a body says where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    pub(super) const NONE: Self = Self::Length(0);
}

/// Takes a body apart.
#[derive(Debug)]
pub(super) struct Decoder(State);

#[derive(Debug)]
enum State {
    /// Bytes that are left.
    Length(u64),
    UntilClose,
    ChunkLine,
    /// Bytes of the chunk that are left.
    Chunk(u64),
    ChunkEnd,
    Trailers(Search),
}

/// What the bytes at hand are.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Data(Bytes),
    /// The body is over; these are its trailers with the empty line behind them.
    End(Bytes),
    /// More bytes are needed.
    More,
}

/// A body that does not keep to the chunked format.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadBody;

impl Decoder {
    pub(super) const fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkLine,
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Whether the whole body has been taken.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.0, State::Length(0))
    }

    /// The bytes that are left, where that is known.
    pub(super) const fn left(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Whether the end of the connection is the end of the body.
    pub(super) const fn ends_with_connection(&self) -> bool {
        matches!(self.0, State::UntilClose)
    }

    /// Takes the next part of the body out of `input`.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Step, BadBody> {
        loop {
            match &mut self.0 {
                State::Length(0) => return Ok(Step::End(Bytes::from_static(b"\r\n"))),
                _ if input.is_empty() => return Ok(Step::More),
                State::UntilClose => return Ok(Step::Data(input.split().freeze())),
                State::ChunkLine => {
                    let Some(size) = chunk_line(input)? else { return Ok(Step::More) };
                    self.0 = match size {
                        0 => State::Trailers(Search::default()),
                        _ => State::Chunk(size),
                    };
                }
                State::Chunk(0) => self.0 = State::ChunkEnd,
                State::Length(left) | State::Chunk(left) => {
                    return Ok(Step::Data(split(input, left)));
                }
                State::ChunkEnd => {
                    match &input[..] {
                        [b'\r', b'\n', ..] => input.advance(2),
                        [b'\r'] => return Ok(Step::More),
                        _ => return Err(BadBody),
                    }
                    self.0 = State::ChunkLine;
                }
                State::Trailers(search) => {
                    let end = match &input[..] {
                        [b'\r', b'\n', ..] => Some(2),
                        _ => search.end(input),
                    };
                    let length = end.unwrap_or(input.len());
                    if length > MAX_TRAILERS {
                        return Err(BadBody);
                    }
                    let Some(end) = end else { return Ok(Step::More) };
                    let section = input.split_to(end).freeze();
                    let fields = trailers(&section).map_err(|_| BadBody)?;
                    self.0 = State::Length(0);
                    return Ok(Step::End(passed_on(&fields)));
                }
            }
        }
    }
}

fn split(input: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= length as u64;
    input.split_to(length).freeze()
}

/// Takes the line in front of a chunk; the size of the chunk.
fn chunk_line(input: &mut BytesMut) -> Result<Option<u64>, BadBody> {
    let window = &input[..input.len().min(MAX_CHUNK_LINE)];
    let Some(end) = window.windows(2).position(|two| two == b"\r\n") else {
        return if input.len() >= MAX_CHUNK_LINE { Err(BadBody) } else { Ok(None) };
    };
    let line = &input[..end];
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let is_extension = rest.trim_ascii_start().first().is_none_or(|&byte| byte == b';');
    let is_clean = rest.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control());
    let size = std::str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    let size = size.filter(|&size| is_extension && is_clean && i64::try_from(size).is_ok());
    let size = size.ok_or(BadBody)?;
    input.advance(end + 2);
    Ok(Some(size))
}

/// The trailers that go on: none that would change how the message is read (RFC 9110
/// section 6.5.1).
fn passed_on(fields: &Fields<'_>) -> Bytes {
    let mut kept = Vec::new();
    for field in fields.iter() {
        let is_head_only = ["host", "trailer", "content-encoding", "content-type", "content-range"]
            .iter()
            .any(|name| field.name.eq_ignore_ascii_case(name));
        if !is_head_only && !fields.is_hop_by_hop(field.name) {
            write_field(&mut kept, field.name, field.value);
        }
    }
    kept.extend_from_slice(b"\r\n");
    kept.into()
}

/// Writes a field; the ends of folded lines become spaces.
pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.iter().map(|byte| match byte {
        b'\r' | b'\n' => b' ',
        byte => *byte,
    }));
    out.extend_from_slice(b"\r\n");
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Raw,
    Chunked,
}

impl Encoding {
    pub(super) fn data(self, out: &mut Vec<u8>, data: &[u8]) {
        if self == Self::Chunked {
            // A Vec takes everything.
            let _ = write!(out, "{:x}\r\n", data.len());
        }
        out.extend_from_slice(data);
        if self == Self::Chunked {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Ends a body; `trailers` go along where the format has a place for them.
    pub(super) fn end(self, out: &mut Vec<u8>, trailers: &[u8]) {
        if self == Self::Chunked {
            out.extend_from_slice(b"0\r\n");
            out.extend_from_slice(trailers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes what arrives in pieces; the data, the trailers, and the bytes that are left.
    fn decoded(
        framing: Framing,
        input: &[u8],
        piece: usize,
    ) -> Result<(Vec<u8>, Option<Bytes>, usize), BadBody> {
        let mut decoder = Decoder::new(framing);
        let (mut data, mut have, mut at) = (Vec::new(), BytesMut::new(), 0);
        loop {
            match decoder.next(&mut have)? {
                Step::Data(bytes) => {
                    assert!(!bytes.is_empty());
                    data.extend_from_slice(&bytes);
                }
                Step::End(trailers) => {
                    return Ok((data, Some(trailers), have.len() + input.len() - at));
                }
                Step::More if at == input.len() => return Ok((data, None, 0)),
                Step::More => {
                    let next = (at + piece).min(input.len());
                    have.extend_from_slice(&input[at..next]);
                    at = next;
                }
            }
        }
    }

    #[test]
    fn a_body_ends_where_it_says() {
        for piece in [1, 2, 3, 1000] {
            let chunked = b"4\r\nWiki\r\n5;a=\"b\"\r\npedia\r\nA  \r\n0123456789\r\n000\r\nX-Sum: 7\r\nHost: b\r\n\r\nGET";
            let (data, trailers, left) = decoded(Framing::Chunked, chunked, piece).unwrap();
            assert_eq!((&data[..], left), (&b"Wikipedia0123456789"[..], 3));
            assert_eq!(trailers.unwrap(), &b"X-Sum: 7\r\n\r\n"[..]);
            assert_eq!(decoded(Framing::Length(3), b"abcGET", piece).unwrap().0, b"abc");
            assert_eq!(decoded(Framing::Length(0), b"GET", piece).unwrap().2, 3);
            assert_eq!(decoded(Framing::UntilClose, b"abc", piece), Ok((b"abc".to_vec(), None, 0)));
        }
    }

    #[test]
    fn chunks_that_two_readers_could_understand_differently_are_refused() {
        for input in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\na\r\n0\r\n\r\n",
            b"0x1\r\n",
            b"1 2\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1;a\nb\r\na\r\n0\r\n\r\n",
            b"1;a\rb\r\na\r\n0\r\n\r\n",
            b"1\r\naX\r\n0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"8000000000000000\r\n",
            b"10000000000000001\r\n",
            b"0\r\nX : y\r\n\r\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\nX: y\r\n z\r\n\r\n",
        ] {
            for piece in [1, 1000] {
                let result = decoded(Framing::Chunked, input, piece);
                assert_eq!(result, Err(BadBody), "{:?}", String::from_utf8_lossy(input));
            }
        }
        let long = [b"1;", &[b'a'; MAX_CHUNK_LINE][..], b"\r\na\r\n0\r\n\r\n"].concat();
        assert_eq!(decoded(Framing::Chunked, &long, 1000), Err(BadBody));
        let many = [b"0\r\nX: ", &[b'a'; MAX_TRAILERS][..]].concat();
        assert_eq!(decoded(Framing::Chunked, &many, 1000), Err(BadBody));
    }

    proptest! {
        #[test]
        fn what_is_written_in_chunks_reads_back(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..6),
            piece in 1_usize..40,
        ) {
            let mut out = Vec::new();
            for part in &parts {
                Encoding::Chunked.data(&mut out, part);
            }
            Encoding::Chunked.end(&mut out, b"X-Sum: 1\r\n\r\n");
            let (data, trailers, left) = decoded(Framing::Chunked, &out, piece).unwrap();
            prop_assert_eq!(data, parts.concat());
            prop_assert_eq!(&trailers.unwrap()[..], b"X-Sum: 1\r\n\r\n");
            prop_assert_eq!(left, 0);
        }

        #[test]
        fn pieces_make_no_difference(
            input in "([0-9a-f]{1,2}|\r\n|[a-zA-Z:; ]{0,4}){0,20}",
            piece in 1_usize..8,
        ) {
            let whole = decoded(Framing::Chunked, input.as_bytes(), 10_000);
            let pieces = decoded(Framing::Chunked, input.as_bytes(), piece);
            // Data that comes before a mistake may have been passed on.
            if whole.is_ok() || pieces.is_ok() {
                prop_assert_eq!(whole, pieces);
            }
        }
    }
}
