//! Received WebSocket frames, in pieces, against tungstenite: the same messages, the same end.

use super::pieces::Pieces;
use super::{behaviour, choice};
use crate::run::Decoder;
use httvps_transport::ws::codec::{HEADER_MAX, Header, Opcode, Violation, apply_mask};
use httvps_transport::ws::{Error, Event, Kind, Limits, Role, WebSocket};
use std::task::{Context, Poll, Waker};
use tokio_tungstenite::tungstenite;
use tungstenite::Message;
use tungstenite::error::{Error as TheirError, ProtocolError};
use tungstenite::protocol::{Role as TheirRole, WebSocketConfig};

/// Longest message in bytes, so short that inputs reach it.
const LIMIT: usize = 300;

#[derive(Debug, PartialEq, Eq, Hash)]
enum Heard {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping,
    Pong,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum End {
    /// A Close frame with this code.
    Close(Option<u16>),
    /// The rules were broken; the code to close with.
    Broken(u16),
    /// The bytes ended.
    Gone,
}

fn ours(role: Role, data: &[u8], piece: usize) -> (Vec<Heard>, End, Option<Violation>) {
    let limits = Limits { max_message: LIMIT, ..Limits::default() };
    let mut socket = WebSocket::new(Pieces::new(data.to_vec(), piece), role, limits, &[]);
    let mut cx = Context::from_waker(Waker::noop());
    let mut heard = Vec::new();
    loop {
        let Poll::Ready(event) = socket.poll_recv(&mut cx) else {
            panic!("it waits although there is something to read");
        };
        match event {
            Ok(Event::Message(Kind::Text)) => {
                assert!(std::str::from_utf8(socket.message()).is_ok(), "text that is not UTF-8");
                heard.push(Heard::Text(socket.message().to_vec()));
            }
            Ok(Event::Message(Kind::Binary)) => {
                heard.push(Heard::Binary(socket.message().to_vec()));
            }
            Ok(Event::Ping) => heard.push(Heard::Ping),
            Ok(Event::Pong) => heard.push(Heard::Pong),
            Ok(Event::Close { code }) => return (heard, End::Close(code), None),
            Err(Error::Protocol { code, violation }) => {
                return (heard, End::Broken(code.get()), Some(violation));
            }
            Err(Error::Disconnected) => return (heard, End::Gone, None),
            Err(Error::Io(error)) => panic!("{error}"),
        }
    }
}

fn theirs(role: Role, data: &[u8], piece: usize) -> (Vec<Heard>, End) {
    let role = if role == Role::Server { TheirRole::Server } else { TheirRole::Client };
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_message_size(Some(LIMIT))
        .max_frame_size(Some(LIMIT));
    let mut socket = tungstenite::WebSocket::from_raw_socket(
        Pieces::new(data.to_vec(), piece),
        role,
        Some(config),
    );
    let mut heard = Vec::new();
    loop {
        let end = match socket.read() {
            Ok(Message::Text(text)) => {
                heard.push(Heard::Text(text.as_bytes().to_vec()));
                continue;
            }
            Ok(Message::Binary(data)) => {
                heard.push(Heard::Binary(data.to_vec()));
                continue;
            }
            Ok(Message::Ping(_)) => {
                heard.push(Heard::Ping);
                continue;
            }
            Ok(Message::Pong(_)) => {
                heard.push(Heard::Pong);
                continue;
            }
            Ok(Message::Close(frame)) => End::Close(frame.map(|frame| u16::from(frame.code))),
            Ok(Message::Frame(_)) => panic!("a raw frame"),
            Err(TheirError::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => End::Gone,
            Err(TheirError::Utf8(_)) => End::Broken(1007),
            Err(TheirError::Capacity(_)) => End::Broken(1009),
            Err(_) => End::Broken(1002),
        };
        return (heard, end);
    }
}

/// The frames that a role hears, made from bytes: for each a head, a length and that many bytes. So
/// a change of one byte does not shift the frames behind it.
fn frames(role: Role, mut spec: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [head, len, rest @ ..] = spec {
        let stretch = if *head & 0x40 == 0 { 1 } else { 3 };
        let (payload, after) = rest.split_at(usize::from(*len).min(rest.len()));
        let payload = payload.repeat(stretch);
        let opcode = match head & 7 {
            0 | 1 => Opcode::Data(Kind::Text),
            2 => Opcode::Data(Kind::Binary),
            3 | 4 => Opcode::Continuation,
            5 => Opcode::Ping,
            6 => Opcode::Pong,
            _ => Opcode::Close,
        };
        let is_final = head & 8 == 0;
        let mask = (role == Role::Server).then_some([*head, 0x5a, *len, 0xff]);
        let header = Header { is_final, opcode, mask, len: payload.len() as u64 };
        let mut bytes = [0; HEADER_MAX];
        let n = header.encode(&mut bytes);
        out.extend_from_slice(&bytes[..n]);
        let at = out.len();
        out.extend_from_slice(&payload);
        if let Some(mask) = mask {
            apply_mask(mask, 0, &mut out[at..]);
        }
        spec = after;
    }
    out
}

/// The first byte: role (1), whether the rest makes frames or is taken as it is (2), size of a piece.
pub(super) struct Inbound;

impl Decoder for Inbound {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let specs: [&[u8]; 10] = [
            b"\x00\x05hello\x02\x03\x00\x01\x02",
            b"\x08\x02\xe2\x82\x05\x01x\x0b\x01\xac\x03\x02ab",
            b"\x40\x50abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzab",
            b"\x07\x02\x03\xe8\x00\x01a",
            b"\x07\x05\x03\xe9bye",
            b"\x07\x02\x03\xed",
            b"\x07\x01\x03",
            b"\x07\x00",
            b"\x0a\x64\x00\x0b\x64\x00\x03\x64\x00",
            b"\x05\x7d\x06\x00\x45\x30abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwx",
        ];
        let raw: [&[u8]; 8] = [
            b"\x81\x85\x01\x02\x03\x04iggha\x88\x80\0\0\0\0",
            b"\x81\x05hello\x89\x00\x8a\x01x\x88\x02\x03\xe8",
            b"\x82\xfe\x00\x80\x00\x00\x00\x00",
            b"\x82\x7e\x00\x05hello",
            b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
            b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
            b"\xc1\x80\0\0\0\0",
            b"\x83\x80\0\0\0\0",
        ];
        let mut seeds = super::seeds::led_by(&specs, &[2, 3, 0x0e, 0xff]);
        seeds.extend(super::seeds::led_by(&raw, &[0, 1, 4, 0xfd]));
        seeds
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\x81\x80\0\0\0\0",
            b"\x01\x81\0\0\0\0x",
            b"\x80\x80\0\0\0\0",
            b"\x89\x80\0\0\0\0",
            b"\x88\x82\0\0\0\0\x03\xe8",
            b"\x81\x00",
            b"\x01\x01x",
            b"\x80\x00",
            b"\x89\x00",
            b"\x88\x00",
            b"\x7e\x00\x7e",
            b"\x7f\0\0\0\0\0\x01\0\0",
            b"\xc3\xa9",
            b"\xed\xa0\x80",
            b"\xf0\x9f\xa6\x80",
            b"\xf4\x90\x80\x80",
            b"\x08\x01a",
            b"\x03\x01b",
            b"\x05\x00",
            b"\x07\x02\x03\xe8",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, rest) = choice(input);
        let role = if first & 1 == 0 { Role::Server } else { Role::Client };
        let piece = 1 + usize::from(first >> 2);
        let made;
        let data = if first & 2 == 0 {
            rest
        } else {
            made = frames(role, rest);
            &made
        };
        let (heard, end, violation) = ours(role, data, piece);
        let (whole, whole_end, _) = ours(role, data, 4096);
        assert!((&heard, &end) == (&whole, &whole_end), "pieces make a difference");
        let (their, their_end) = theirs(role, data, 4096);
        // We break off as soon as a rule is broken, where they may wait for the end of the frame. A
        // length in a longer form than needed they accept, and a code that must not be sent is told
        // to their owner as 1002. Of two broken rules either may come first.
        let is_earlier = their.starts_with(&heard);
        let differs = match violation {
            // 1014 was registered later than their table was written.
            None => {
                let is_new =
                    (&end, &their_end) == (&End::Close(Some(1014)), &End::Close(Some(1002)));
                heard != their || (end != their_end && !is_new)
            }
            Some(Violation::LongLength | Violation::LongControl) => !is_earlier,
            Some(Violation::CloseCode) => {
                heard != their || !matches!(their_end, End::Close(Some(1002)) | End::Broken(1007))
            }
            Some(_) => !is_earlier || matches!(their_end, End::Close(_)),
        };
        assert!(!differs, "we: {heard:?} {end:?} {violation:?}; they: {their:?} {their_end:?}");
        let kinds: Vec<_> = heard.iter().map(std::mem::discriminant).collect();
        behaviour((kinds, end, violation.map(Violation::reason)))
    }
}
