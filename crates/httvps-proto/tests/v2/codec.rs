//! Bytes to frames and back.

use httvps_proto::v2::{
    BadFrame, Frame, Frames, HEADER, Kind, MAX_DATA, MAX_WORDS, ResetCode, Side,
};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Parts {
    kind: u8,
    stream: u32,
    number: u32,
    text: String,
    data: Vec<u8>,
    opaque: [u8; 8],
}

fn parts() -> impl Strategy<Value = Parts> {
    let data = prop_oneof![
        9 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 60_000usize..=65_507).prop_map(|(byte, len)| vec![byte; len]),
    ];
    (0u8..10, 1u32.., 1u32..1 << 31, "\\PC{0,60}", data, any::<[u8; 8]>()).prop_map(
        |(kind, stream, number, text, data, opaque)| Parts {
            kind,
            stream,
            number,
            text,
            data,
            opaque,
        },
    )
}

fn frame(parts: &Parts) -> Frame<'_> {
    let Parts { stream, number, ref text, ref data, opaque, .. } = *parts;
    let code = ResetCode::ALL[number as usize % ResetCode::ALL.len()];
    match parts.kind {
        0 => Frame::Open { stream, kind: Kind::Bytes, target: text },
        1 => Frame::Opened { stream },
        2 => Frame::Data { stream, data },
        3 => Frame::Finish { stream },
        4 => Frame::Reset { stream, code, words: text },
        5 => Frame::Credit { stream: stream % 3, increment: number },
        6 => Frame::Datagram { stream, data },
        7 => Frame::Ping { opaque },
        8 => Frame::Pong { opaque },
        _ => Frame::GoAway { code, deadline_ms: number, words: text },
    }
}

fn sender(frame: &Frame<'_>) -> Side {
    match frame {
        Frame::Opened { .. } | Frame::GoAway { .. } => Side::Gateway,
        _ => Side::Client,
    }
}

proptest! {
    #[test]
    fn a_frame_survives_and_needs_every_byte(parts in parts(), cut in any::<prop::sample::Index>()) {
        let frame = frame(&parts);
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let decoded: Vec<_> = Frames::new(&bytes, sender(&frame)).collect();
        prop_assert_eq!(decoded, vec![Ok(frame)]);
        let cut = 1 + cut.index(bytes.len() - 1);
        if cut < bytes.len() {
            let mut frames = Frames::new(&bytes[..cut], sender(&frame));
            prop_assert_eq!(frames.next(), Some(Err(BadFrame::Truncated)));
            prop_assert_eq!(frames.next(), None);
        }
    }

    #[test]
    fn frames_of_one_message_come_out_in_order(all in proptest::collection::vec(parts(), 0..6)) {
        let all: Vec<_> = all.into_iter().filter(|parts| !matches!(parts.kind, 1 | 9)).collect();
        let mut bytes = Vec::new();
        for parts in &all {
            frame(parts).encode(&mut bytes);
        }
        let decoded: Vec<_> = Frames::new(&bytes, Side::Client).map(Result::unwrap).collect();
        prop_assert_eq!(decoded, all.iter().map(frame).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_are_judged_and_what_is_good_encodes_to_the_same(
        bytes in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..12, any::<u8>()], 0..80),
        is_client: bool,
    ) {
        let sender = if is_client { Side::Client } else { Side::Gateway };
        let mut again = Vec::new();
        for frame in Frames::new(&bytes, sender) {
            match frame {
                Ok(Frame::Skipped) => {
                    let rest = &bytes[again.len()..];
                    let len = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
                    again.extend_from_slice(&rest[..HEADER + len]);
                }
                // Unknown codes are read as `io`, so these may differ in one byte.
                Ok(frame @ (Frame::Reset { .. } | Frame::GoAway { .. })) => {
                    let at = again.len() + HEADER;
                    frame.encode(&mut again);
                    again[at] = bytes[at];
                }
                Ok(frame) => frame.encode(&mut again),
                Err(_) => break,
            }
            prop_assert_eq!(&bytes[..again.len()], &again[..]);
        }
    }
}

#[test]
fn a_data_frame_of_64_kib_has_eight_bytes_of_header() {
    let mut bytes = Vec::new();
    Frame::Data { stream: u32::MAX, data: &vec![7; MAX_DATA] }.encode(&mut bytes);
    assert_eq!(bytes.len(), MAX_DATA + 8);
    assert!(Frames::new(&bytes, Side::Gateway).all(|frame| frame.is_ok()));
}

#[test]
fn words_are_cut_at_a_character() {
    let words = "\u{e9}".repeat(200);
    let mut bytes = Vec::new();
    Frame::Reset { stream: 1, code: ResetCode::Io, words: &words }.encode(&mut bytes);
    let Some(Ok(Frame::Reset { words, .. })) = Frames::new(&bytes, Side::Client).next() else {
        panic!("it decodes");
    };
    assert_eq!(words.len(), MAX_WORDS - 1);
}
