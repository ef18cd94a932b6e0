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
                    let opcode = if i == 0 { Opcode::Data(*kind) } else { Opcode::Continuation };
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
            Some(Incoming::Pong | Incoming::Pause) => {}
            Some(Incoming::Close(_)) => return Ok(heard),
            None => {
                if is_parked {
                    inbound.park();
                }
                let Some(mut piece) = pieces.next() else { return Ok(heard) };
                while !piece.is_empty() {
                    let room = inbound.room();
                    assert!(!room.is_empty());
                    let (now, later) = piece.split_at(piece.len().min(room.len()));
                    room[..now.len()].copy_from_slice(now);
                    inbound.commit(now.len());
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
        let room = inbound.room();
        let n = room.len().min(60_000);
        for (place, byte) in
            room.iter_mut().zip(bytes.iter().cycle().skip(fed % bytes.len())).take(n)
        {
            *place = *byte;
        }
        let room = room.len();
        let start = inbound.buffer.len();
        inbound.commit(n);
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
        let room = inbound.room();
        let n = room.len().min(bytes.len() - fed);
        room[..n].copy_from_slice(&bytes[fed..fed + n]);
        inbound.commit(n);
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
