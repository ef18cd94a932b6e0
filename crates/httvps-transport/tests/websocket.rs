//! `WebSocket` against tokio-tungstenite, in both roles, and against hostile peers.

#![allow(clippy::unwrap_used, reason = "a failed step of a test ends the test")]

use std::future::poll_fn;
use std::task::Poll;

use futures_util::{SinkExt, StreamExt};
use httvps_transport::ws::codec::{HEADER_MAX, Header, Opcode, apply_mask};
use httvps_transport::ws::{CloseCode, Error, Event, Kind, Limits, Role, WebSocket};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role as TheirRole, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as TheirError, Message};

type Ours = WebSocket<DuplexStream>;

fn ours(io: DuplexStream, role: Role) -> Ours {
    WebSocket::new(io, role, Limits::default(), &[])
}

async fn recv(socket: &mut Ours) -> Result<Event, Error> {
    poll_fn(|cx| socket.poll_recv(cx)).await
}

async fn flush(socket: &mut Ours) {
    poll_fn(|cx| socket.poll_flush(cx)).await.unwrap();
}

fn queue(socket: &mut Ours, kind: Kind, payload: &[u8]) {
    socket.queue_message(kind, payload.len(), |out| out.extend_from_slice(payload));
}

/// Polls for an event that must not come, as an owner who waits.
async fn is_waiting(socket: &mut Ours) -> bool {
    poll_fn(|cx| Poll::Ready(socket.poll_recv(cx).is_pending())).await
}

fn frame(role: Role, is_final: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mask = (role == Role::Client).then_some([9, 8, 7, 6]);
    let header = Header { is_final, opcode, mask, len: payload.len() as u64 };
    let mut bytes = [0; HEADER_MAX];
    let n = header.encode(&mut bytes);
    let mut out = bytes[..n].to_vec();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(mask, 0, &mut out[n..]);
    }
    out
}

const TEXT: Opcode = Opcode::Data(Kind::Text);
const BINARY: Opcode = Opcode::Data(Kind::Binary);

/// Echoes until the peer closes; returns its code.
async fn echo(socket: &mut Ours) -> Option<u16> {
    loop {
        match recv(socket).await.unwrap() {
            Event::Message(kind) => {
                let payload = socket.message().to_vec();
                queue(socket, kind, &payload);
            }
            Event::Close { code } => {
                flush(socket).await;
                return code;
            }
            Event::Ping | Event::Pong => {}
        }
        flush(socket).await;
    }
}

#[tokio::test]
async fn messages_come_back_from_us_in_both_roles() {
    for (our_role, their_role) in
        [(Role::Server, TheirRole::Client), (Role::Client, TheirRole::Server)]
    {
        let (near, far) = duplex(5000);
        let mut theirs = WebSocketStream::from_raw_socket(far, their_role, None).await;
        let us = async {
            let mut socket = ours(near, our_role);
            assert_eq!(echo(&mut socket).await, Some(1000));
            assert_eq!(socket.buffered_capacity(), 0);
        };
        let them = async {
            for len in [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 300_000, 1024 * 1024] {
                let text = "ä".repeat(len / 2);
                for message in [Message::binary(vec![len as u8; len]), Message::text(text)] {
                    theirs.feed(message.clone()).await.unwrap();
                    theirs.send(Message::Ping(b"are you there".to_vec().into())).await.unwrap();
                    let mut answers = [
                        theirs.next().await.unwrap().unwrap(),
                        theirs.next().await.unwrap().unwrap(),
                    ];
                    answers.sort_by_key(Message::is_pong);
                    assert!(answers[0] == message && answers[1].is_pong(), "{len}");
                }
            }
            theirs
                .close(Some(tokio_tungstenite::tungstenite::protocol::CloseFrame {
                    code: 1000.into(),
                    reason: "done".into(),
                }))
                .await
                .unwrap();
            while let Some(Ok(_)) = theirs.next().await {}
        };
        tokio::join!(us, them);
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer_and_a_dripping_one_little() {
    let (near, mut far) = duplex(4 * 1024 * 1024);
    let mut socket = ours(near, Role::Server);
    assert_eq!(socket.buffered_capacity(), 0);
    far.write_all(&frame(Role::Client, true, BINARY, &vec![1; 1024 * 1024])).await.unwrap();
    assert_eq!(recv(&mut socket).await.unwrap(), Event::Message(Kind::Binary));
    assert_eq!(socket.message().len(), 1024 * 1024);
    assert!(socket.buffered_capacity() >= 1024 * 1024);
    queue(&mut socket, Kind::Binary, &vec![2; 300_000]);
    assert!(socket.is_congested() && socket.queued() > 300_000);
    flush(&mut socket).await;
    assert!(!socket.is_congested());
    assert!(is_waiting(&mut socket).await);
    assert_eq!(socket.buffered_capacity(), 0);

    let message = frame(Role::Client, true, TEXT, &[b'x'; 1000]);
    for byte in &message[..message.len() - 1] {
        far.write_all(std::slice::from_ref(byte)).await.unwrap();
        assert!(is_waiting(&mut socket).await);
        assert!(socket.buffered_capacity() < 4096, "{}", socket.buffered_capacity());
    }
    far.write_all(&message[message.len() - 1..]).await.unwrap();
    assert_eq!(recv(&mut socket).await.unwrap(), Event::Message(Kind::Text));
    assert_eq!(socket.message(), [b'x'; 1000]);
}

/// Receives one message in turns of `bytes` each; gives how many turns it took.
async fn turns_of_a_message(socket: &mut Ours, bytes: usize) -> usize {
    let mut turns = 0;
    let event = poll_fn(|cx| {
        socket.begin_turn(bytes);
        turns += 1;
        let before = socket.received();
        let event = socket.poll_recv(cx);
        // What a turn goes beyond its bound is one read.
        assert!(socket.received() - before <= bytes.saturating_add(128 * 1024) as u64);
        event
    })
    .await;
    assert_eq!(event.unwrap(), Event::Message(Kind::Binary));
    turns
}

#[tokio::test]
async fn a_turn_ends_inside_a_message_and_the_next_one_goes_on() {
    let (near, mut far) = duplex(4 * 1024 * 1024);
    let mut socket = ours(near, Role::Server);
    let payload: Vec<u8> = (0..1_000_000_u32).map(|n| (n >> 3) as u8).collect();
    for (bytes, turns) in [(1000, 8..), (300_000, 3..), (usize::MAX, 1..)] {
        far.write_all(&frame(Role::Client, true, BINARY, &payload)).await.unwrap();
        let taken = turns_of_a_message(&mut socket, bytes).await;
        assert!(turns.contains(&taken) && taken < 20, "{taken} turns of {bytes}");
        assert!(socket.message() == payload);
    }
}

#[tokio::test]
async fn fragments_without_content_take_of_a_turn_too() {
    let (near, mut far) = duplex(4 * 1024 * 1024);
    let limits = Limits { max_fragments: 20_000, ..Limits::default() };
    let mut socket = WebSocket::new(near, Role::Server, limits, &[]);
    let mut bytes = frame(Role::Client, false, BINARY, b"");
    for _ in 0..10_000 {
        bytes.extend(frame(Role::Client, false, Opcode::Continuation, b""));
    }
    bytes.extend(frame(Role::Client, true, Opcode::Continuation, b"end"));
    far.write_all(&bytes).await.unwrap();
    // 60,000 bytes are one read, and every 256 fragments are 16 KiB.
    let turns = turns_of_a_message(&mut socket, 64 * 1024).await;
    assert!((9..=12).contains(&turns), "{turns}");
    assert_eq!(socket.message(), b"end");
}

#[tokio::test]
async fn a_slow_reader_holds_what_is_queued_and_no_more() {
    let (near, mut far) = duplex(100);
    let mut socket = ours(near, Role::Server);
    queue(&mut socket, Kind::Binary, &[3; 500]);
    poll_fn(|cx| Poll::Ready(socket.poll_flush(cx).is_pending())).await;
    assert!(socket.queued() > 0 && socket.buffered_capacity() < 1024);
    let mut out = vec![0; socket.queued() + 100];
    let ((), read) = tokio::join!(flush(&mut socket), far.read_exact(&mut out));
    read.unwrap();
    assert_eq!((socket.queued(), socket.buffered_capacity()), (0, 0));
    assert_eq!(socket.written(), 504);
}

#[tokio::test]
async fn an_unread_ping_flood_keeps_one_pong() {
    let (near, mut far) = duplex(100_000);
    let mut socket = ours(near, Role::Server);
    // The peer's side of the pipe is full, so that no pong can leave.
    queue(&mut socket, Kind::Binary, &vec![0; 200_000]);
    poll_fn(|cx| Poll::Ready(socket.poll_flush(cx).is_pending())).await;
    // One pong is in line, and beside it only the newest.
    let queued = socket.queued() + 6;
    let mut pings = 0;
    for number in 0..600_u32 {
        let mut burst = Vec::new();
        for i in 0..100_u32 {
            let payload = (number * 100 + i).to_be_bytes();
            burst.extend(frame(Role::Client, true, Opcode::Ping, &payload));
        }
        far.write_all(&burst).await.unwrap();
        while let Some(event) = poll_fn(|cx| match socket.poll_recv(cx) {
            Poll::Ready(event) => Poll::Ready(Some(event)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
        {
            assert_eq!(event.unwrap(), Event::Ping);
            pings += 1;
            assert!(socket.queued() <= queued + 6, "{}", socket.queued());
            if pings % 100 == 0 {
                break;
            }
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(pings, 60_000);
    let mut out = vec![0; 100_000 + socket.queued()];
    let ((), read) = tokio::join!(flush(&mut socket), far.read_exact(&mut out));
    read.unwrap();
    // The newest answers; 59,999 is its payload.
    assert_eq!(out[out.len() - 6..], [0x8A, 4, 0, 0, 0xEA, 0x5F]);
}

#[tokio::test]
async fn every_ping_is_answered_while_the_peer_reads() {
    let (near, mut far) = duplex(10_000);
    let mut socket = ours(near, Role::Server);
    let pings: Vec<u8> =
        (0..10).flat_map(|i| frame(Role::Client, true, Opcode::Ping, &[i])).collect();
    far.write_all(&pings).await.unwrap();
    for _ in 0..10 {
        assert_eq!(recv(&mut socket).await.unwrap(), Event::Ping);
    }
    flush(&mut socket).await;
    let mut answers = [0; 30];
    far.read_exact(&mut answers).await.unwrap();
    let expected: Vec<u8> = (0..10).flat_map(|i| [0x8A, 1, i]).collect();
    assert_eq!(answers, *expected);
}

#[tokio::test]
async fn a_violation_queues_its_code_then_the_rest_is_thrown_away() {
    let cases: [(Vec<u8>, u16); 8] = [
        (frame(Role::Server, true, TEXT, b"unmasked"), 1002),
        (frame(Role::Client, true, TEXT, b"\xff"), 1007),
        (frame(Role::Client, true, Opcode::Close, &[3]), 1002),
        (frame(Role::Client, true, Opcode::Close, &[3, 0xED]), 1002),
        (frame(Role::Client, true, Opcode::Close, &[3, 0xE8, 0xFF]), 1007),
        (frame(Role::Client, true, Opcode::Continuation, b""), 1002),
        (vec![0x82, 0xFF, 0, 0, 0, 0, 0x7F, 0, 0, 0, 1, 2, 3, 4], 1009),
        (frame(Role::Client, false, BINARY, b"").repeat(1), 1009),
    ];
    for (mut bytes, expected) in cases {
        if expected == 1009 && bytes[0] == 0x02 {
            bytes.extend(frame(Role::Client, false, Opcode::Continuation, b"").repeat(1024));
        }
        let (near, mut far) = duplex(100_000);
        let mut socket = ours(near, Role::Server);
        far.write_all(&bytes).await.unwrap();
        far.write_all(&frame(Role::Client, true, TEXT, b"ignored")).await.unwrap();
        match recv(&mut socket).await {
            Err(Error::Protocol { code, violation }) => {
                assert_eq!((code.get(), violation.code()), (expected, code));
            }
            other => panic!("{other:?} for {expected}"),
        }
        queue(&mut socket, Kind::Text, b"too late");
        poll_fn(|cx| socket.poll_shutdown(cx)).await.unwrap();
        let mut out = Vec::new();
        far.read_to_end(&mut out).await.unwrap();
        assert_eq!(out[2..4], expected.to_be_bytes());
        assert_eq!(out.len(), 2 + usize::from(out[1]));
        assert!(is_waiting(&mut socket).await);
        drop(far);
        assert!(matches!(recv(&mut socket).await, Err(Error::Disconnected)));
        assert!(matches!(recv(&mut socket).await, Err(Error::Disconnected)));
    }
}

#[tokio::test]
async fn closing_is_said_once_and_echoed() {
    let (near, far) = duplex(1000);
    let (mut a, mut b) = (ours(near, Role::Server), ours(far, Role::Client));
    a.queue_close(CloseCode::RESTART, "restarting");
    a.queue_close(CloseCode::NORMAL, "again");
    a.queue_ping(b"after");
    assert_eq!(a.queued(), 2 + 2 + 10);
    flush(&mut a).await;
    assert_eq!(recv(&mut b).await.unwrap(), Event::Close { code: Some(1012) });
    assert!(b.is_closing());
    flush(&mut b).await;
    assert_eq!(recv(&mut a).await.unwrap(), Event::Close { code: Some(1012) });
    drop(b);
    assert!(matches!(recv(&mut a).await, Err(Error::Disconnected)));
    assert_eq!(a.queued(), 0);
}

#[tokio::test]
async fn an_end_without_close_is_a_disconnect() {
    let (near, mut far) = duplex(1000);
    let mut socket = WebSocket::new(near, Role::Server, Limits::default(), &[0x81]);
    assert_eq!(socket.received(), 1);
    far.write_all(&[0x85, 1, 2]).await.unwrap();
    drop(far);
    assert!(matches!(recv(&mut socket).await, Err(Error::Disconnected)));
}

#[tokio::test]
async fn limits_can_be_raised_on_the_way() {
    let (near, mut far) = duplex(100_000);
    let small = Limits { max_message: 10, ..Limits::default() };
    let mut socket = WebSocket::new(near, Role::Server, small, &[]);
    far.write_all(&frame(Role::Client, true, TEXT, &[b'a'; 10])).await.unwrap();
    assert_eq!(recv(&mut socket).await.unwrap(), Event::Message(Kind::Text));
    socket.set_limits(Limits::default());
    far.write_all(&frame(Role::Client, true, TEXT, &[b'a'; 11])).await.unwrap();
    assert_eq!(recv(&mut socket).await.unwrap(), Event::Message(Kind::Text));
    socket.message()[0] = b'b';
    assert_eq!(socket.message()[..2], *b"ba");
}

#[tokio::test]
async fn many_small_messages_do_not_keep_the_worker() {
    let (near, mut far) = duplex(100_000);
    let mut socket = ours(near, Role::Server);
    far.write_all(&frame(Role::Client, true, TEXT, b"").repeat(10_000)).await.unwrap();
    let mut first = 0;
    let mut polls = 0;
    let mut total = 0;
    poll_fn(|cx| {
        polls += 1;
        while total < 10_000 {
            if socket.poll_recv(cx).is_pending() {
                return Poll::Pending;
            }
            total += 1;
            if polls == 1 {
                first += 1;
            }
        }
        Poll::Ready(())
    })
    .await;
    assert!(first < 1000 && polls > 10, "{first} events in the first of {polls} polls");
}

/// The messages that were understood, and whether the end was a violation.
type Verdict = (Vec<Vec<u8>>, bool);

async fn our_verdict(bytes: &[u8]) -> Verdict {
    let (near, mut far) = duplex(1024 * 1024);
    far.write_all(bytes).await.unwrap();
    far.shutdown().await.unwrap();
    let limits = Limits { max_message: 2000, ..Limits::default() };
    let mut socket = WebSocket::new(near, Role::Server, limits, &[]);
    let mut messages = Vec::new();
    loop {
        match recv(&mut socket).await {
            Ok(Event::Message(_)) => messages.push(socket.message().to_vec()),
            Ok(Event::Ping | Event::Pong) => {}
            Ok(Event::Close { .. }) | Err(Error::Disconnected | Error::Io(_)) => {
                return (messages, false);
            }
            Err(Error::Protocol { .. }) => return (messages, true),
        }
    }
}

async fn their_verdict(bytes: &[u8]) -> Verdict {
    let (near, mut far) = duplex(1024 * 1024);
    far.write_all(bytes).await.unwrap();
    far.shutdown().await.unwrap();
    let config = WebSocketConfig::default().max_message_size(Some(2000)).max_frame_size(Some(2000));
    let mut socket = WebSocketStream::from_raw_socket(near, TheirRole::Server, Some(config)).await;
    let mut messages = Vec::new();
    loop {
        match socket.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                messages.push(message.into_data().to_vec());
            }
            // A code that must not be sent is answered with 1002, but not reported as an error.
            Some(Ok(Message::Close(close))) => {
                let is_violation = close.is_some_and(|close| close.reason == "Protocol violation");
                return (messages, is_violation);
            }
            Some(Ok(_)) => {}
            Some(Err(TheirError::Protocol(error)))
                if format!("{error:?}") == "ResetWithoutClosingHandshake" =>
            {
                return (messages, false);
            }
            Some(Err(TheirError::Protocol(_) | TheirError::Utf8(_) | TheirError::Capacity(_))) => {
                return (messages, true);
            }
            Some(Err(_)) | None => return (messages, false),
        }
    }
}

#[derive(Debug, Clone)]
struct Piece {
    first: u8,
    payload: Vec<u8>,
    is_masked: bool,
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let opcode = prop_oneof![
        6 => prop::sample::select(vec![0x81_u8, 0x82, 0x01, 0x02, 0x00, 0x00, 0x80, 0x80, 0x89, 0x8A]),
        1 => any::<u8>(),
        1 => Just(0x88_u8),
    ];
    let payload = prop_oneof![
        3 => "\\PC{0,40}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
        1 => proptest::collection::vec(Just(b'x'), 100..900),
        1 => (900_u16..5100, "[a-z]{0,5}").prop_map(|(code, reason)| {
            [&code.to_be_bytes()[..], reason.as_bytes()].concat()
        }),
    ];
    let piece = (opcode, payload, prop::bool::weighted(0.97))
        .prop_map(|(first, payload, is_masked)| Piece { first, payload, is_masked });
    proptest::collection::vec(piece, 0..8)
}

fn wire(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Piece { first, payload, is_masked } in pieces {
        let role = if *is_masked { Role::Client } else { Role::Server };
        let mut one = frame(role, true, BINARY, payload);
        one[0] = *first;
        bytes.extend(one);
    }
    bytes
}

proptest! {
    #[test]
    fn another_implementation_agrees(pieces in pieces()) {
        let bytes = wire(&pieces);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (we, they) = runtime.block_on(async {
            (our_verdict(&bytes).await, their_verdict(&bytes).await)
        });
        prop_assert_eq!(we, they);
    }
}
