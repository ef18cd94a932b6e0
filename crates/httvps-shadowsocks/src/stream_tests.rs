//! Tests of streams over a wire in memory.

use super::*;
use crate::node_half::{About, Request, answer, key, understand};
use crate::{Cipher, Client};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::Waker;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The connection to a node, as the test sees it.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// What was written, call by call.
    written: Vec<Vec<u8>>,
    /// Bytes that a write may still take; no bound when absent.
    room: Option<usize>,
    is_shut: bool,
    incoming: VecDeque<u8>,
    is_over: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Wire {
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.0.lock().unwrap())
    }

    fn sent(&self) -> Vec<u8> {
        self.with(|state| state.written.concat())
    }

    fn give(&self, bytes: &[u8]) {
        self.with(|state| {
            state.incoming.extend(bytes);
            state.reader.take().map(Waker::wake)
        });
    }

    fn set_room(&self, room: Option<usize>) {
        self.with(|state| {
            state.room = room;
            state.writer.take().map(Waker::wake)
        });
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|state| {
            if state.incoming.is_empty() && !state.is_over {
                state.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let count = out.remaining().min(state.incoming.len());
            out.put_slice(&state.incoming.drain(..count).collect::<Vec<u8>>());
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|state| {
            let count = bytes.len().min(state.room.unwrap_or(usize::MAX));
            if count == 0 {
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            state.room = state.room.map(|room| room - count);
            state.written.push(bytes[..count].to_vec());
            Poll::Ready(Ok(count))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|state| state.is_shut = true);
        Poll::Ready(Ok(()))
    }
}

const TARGET: &str = "a.b:443";
const HEADER: &[u8] = &[3, 3, b'a', b'.', b'b', 1, 0xbb];

fn opened(key: AccessKey, target: Option<&str>) -> (Stream<Wire>, Wire) {
    let wire = Wire::default();
    let target = target.map(|target| target.parse().unwrap());
    (Client::new(key).start(wire.clone(), target.as_ref()).unwrap(), wire)
}

fn understood(cipher: Cipher, wire: &Wire) -> Request {
    understand(&key(cipher), &wire.sent())
}

fn about(wire: &Wire, cipher: Cipher) -> About {
    About { kind: 1, time: unix_now(), request: wire.sent()[..cipher.key_len()].to_vec() }
}

/// One poll of a read that may not wait.
async fn read_now(stream: &mut Stream<Wire>) -> Option<io::Result<Vec<u8>>> {
    let mut space = [0; 100];
    let mut out = ReadBuf::new(&mut space);
    let poll =
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut out)));
    match poll.await {
        Poll::Pending => None,
        Poll::Ready(result) => Some(result.map(|()| out.filled().to_vec())),
    }
}

#[tokio::test]
async fn salt_address_and_first_payload_leave_in_one_packet() {
    for cipher in Cipher::ALL {
        let (mut stream, wire) = opened(key(cipher), Some(TARGET));
        stream.flush().await.unwrap();
        assert!(wire.sent().is_empty(), "a flush alone sends nothing");
        stream.write_all(b"payload").await.unwrap();
        assert_eq!(wire.with(|state| state.written.len()), 1, "{cipher}");
        let request = understood(cipher, &wire);
        assert_eq!((&request.address[..], &request.payload[..]), (HEADER, &b"payload"[..]));
        assert_eq!(request.padding, 0);
        let (mut stream, wire) = opened(key(cipher), Some(TARGET));
        stream.shutdown().await.unwrap();
        assert_eq!(understood(cipher, &wire).address, HEADER, "a finish needs the header too");
        assert!(request.time.is_none_or(|time| time.abs_diff(unix_now()) < 5));
    }
}

#[tokio::test]
async fn every_salt_begins_with_the_prefix_and_is_random_behind_it() {
    let prefixed = || key(Cipher::Chacha20IetfPoly1305).with_prefix("HTTP/1.1 ").unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let (mut stream, wire) = opened(prefixed(), Some(TARGET));
        stream.write_all(b"x").await.unwrap();
        let salt = understood(Cipher::Chacha20IetfPoly1305, &wire).salt;
        assert_eq!(&salt[..9], b"HTTP/1.1 ");
        assert!(seen.insert(salt[9..21].to_vec()) && seen.insert(salt[20..].to_vec()));
    }
}

#[tokio::test]
async fn request_sent_back_on_any_stream_is_no_answer() {
    for cipher in Cipher::ALL {
        let (mut other, other_wire) = opened(key(cipher), Some(TARGET));
        other.write_all(b"another device").await.unwrap();
        let (mut stream, wire) = opened(key(cipher), Some(TARGET));
        stream.write_all(b"payload").await.unwrap();
        for sent in [wire.sent(), other_wire.sent()] {
            let (mut stream, own) = if sent == wire.sent() {
                (std::mem::replace(&mut stream, opened(key(cipher), Some(TARGET)).0), wire.clone())
            } else {
                opened(key(cipher), Some(TARGET))
            };
            own.give(&sent);
            let error = read_now(&mut stream).await.unwrap().unwrap_err();
            assert!(matches!(Error::of(&error), Some(Error::Reflected)), "{cipher}: {error}");
        }
    }
}

#[tokio::test]
async fn own_salt_is_refused_even_where_it_has_no_room_for_a_mark() {
    let prefixed = key(Cipher::Aes128Gcm).with_prefix("GET ").unwrap();
    let (mut stream, wire) = opened(prefixed, Some(TARGET));
    stream.write_all(b"payload").await.unwrap();
    wire.give(&wire.sent());
    let error = read_now(&mut stream).await.unwrap().unwrap_err();
    assert!(matches!(Error::of(&error), Some(Error::Reflected)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_alone_makes_the_header_go_after_a_short_wait() {
    for cipher in Cipher::ALL {
        let (mut stream, wire) = opened(key(cipher), Some(TARGET));
        let from = tokio::time::Instant::now();
        let hearing = async {
            let mut got = [0; 6];
            stream.read_exact(&mut got).await.unwrap();
            got
        };
        let speaking = async {
            while wire.sent().is_empty() {
                assert!(from.elapsed() <= HEADER_WAIT + Duration::from_millis(2));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(from.elapsed() >= HEADER_WAIT);
            wire.give(&answer(&key(cipher), &about(&wire, cipher), &[b"banner".to_vec()]));
        };
        assert_eq!(&tokio::join!(hearing, speaking).0, b"banner");
        let request = understood(cipher, &wire);
        assert_eq!((&request.address[..], &request.payload[..]), (HEADER, &b""[..]));
        assert_eq!((1..=900).contains(&request.padding), cipher.is_2022());
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_within_the_wait_still_takes_the_header_along() {
    let (mut stream, wire) = opened(key(Cipher::Aes128Gcm), Some(TARGET));
    assert!(read_now(&mut stream).await.is_none());
    tokio::time::sleep(HEADER_WAIT / 2).await;
    assert!(read_now(&mut stream).await.is_none());
    assert!(stream.header_wait.is_some());
    stream.write_all(b"payload").await.unwrap();
    assert!(stream.header_wait.is_none(), "its timer is freed");
    tokio::time::sleep(HEADER_WAIT * 2).await;
    assert!(read_now(&mut stream).await.is_none());
    assert_eq!(wire.with(|state| state.written.len()), 1);
    assert_eq!(understood(Cipher::Aes128Gcm, &wire).payload, b"payload");
}

#[tokio::test]
async fn long_writes_become_full_chunks_and_no_crumbs() {
    for cipher in Cipher::ALL {
        let (mut stream, wire) = opened(key(cipher), Some(TARGET));
        let data: Vec<u8> = (0..300_000_u32).map(|i| (i / 7) as u8).collect();
        stream.write_all(&data).await.unwrap();
        let request = understood(cipher, &wire);
        assert!(request.payload == data, "{cipher}");
        let (few, most) = if cipher.is_2022() { (11, 0xffff) } else { (26, 0x3fff) };
        assert!(request.chunks.len() <= few, "{cipher} {:?}", request.chunks);
        assert!(request.chunks.iter().all(|&chunk| chunk <= most));
    }
}

#[tokio::test]
async fn what_the_connection_does_not_take_waits_and_goes_with_whatever_comes_next() {
    let cipher = Cipher::Aes256Gcm;
    for next in 0..4 {
        let (mut stream, wire) = opened(key(cipher), Some(TARGET));
        wire.set_room(Some(10));
        assert_eq!(stream.write(b"first").await.unwrap(), 5);
        assert_eq!(wire.sent().len(), 10);
        let refused = tokio::time::timeout(Duration::ZERO, stream.write(b"more")).await;
        assert!(refused.is_err(), "at most one batch waits");
        wire.set_room(None);
        match next {
            0 => stream.flush().await.unwrap(),
            1 => stream.shutdown().await.unwrap(),
            2 => stream.write_all(b"!").await.unwrap(),
            // The writer gave up waiting, and the next one did not have to wait.
            _ => {
                stream.is_writer_waiting = false;
                assert!(read_now(&mut stream).await.is_none());
            }
        }
        let expected = if next == 2 { &b"first!"[..] } else { b"first" };
        assert_eq!(understood(cipher, &wire).payload, expected);
        assert_eq!(wire.with(|state| state.is_shut), next == 1);
    }
}

/// Lets the other tasks run until something holds.
async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it comes to that");
}

#[tokio::test]
async fn a_reader_sends_what_waits_while_it_waits_itself() {
    let (stream, wire) = opened(key(Cipher::Aes256Gcm), Some(TARGET));
    let (mut read, mut write) = tokio::io::split(stream);
    wire.set_room(Some(10));
    write.write_all(b"question").await.unwrap();
    let reading = tokio::spawn(async move { read.read(&mut [0; 9]).await });
    until(|| wire.with(|state| state.writer.is_some() && state.reader.is_some())).await;
    wire.set_room(None);
    until(|| wire.with(|state| state.written.len() == 2)).await;
    assert_eq!(understood(Cipher::Aes256Gcm, &wire).payload, b"question");
    reading.abort();
}

#[tokio::test]
async fn without_a_target_the_first_bytes_are_the_address() {
    for cipher in Cipher::ALL {
        let (mut stream, wire) = opened(key(cipher), None);
        // In small pieces: SIP022 needs the whole address, SIP004 nothing of the kind.
        for piece in HEADER.chunks(2) {
            stream.write_all(piece).await.unwrap();
        }
        stream.write_all(b"payload").await.unwrap();
        let request = understood(cipher, &wire);
        assert_eq!((&request.address[..], &request.payload[..]), (HEADER, &b"payload"[..]));
        assert!(request.chunks.len() <= 5);
        let (mut stream, wire) = opened(key(cipher), None);
        stream.write_all(&[HEADER, b"payload"].concat()).await.unwrap();
        assert_eq!(wire.with(|state| state.written.len()), 1);
        assert_eq!(understood(cipher, &wire).payload, b"payload");
        // Without a target there is no header to send.
        let (mut stream, wire) = opened(key(cipher), None);
        stream.shutdown().await.unwrap();
        assert!(wire.sent().is_empty());
    }
    let (mut stream, _) = opened(key(Cipher::Blake3Aes128Gcm), None);
    let error = stream.write_all(b"GET / HTTP/1.1").await.unwrap_err();
    assert!(matches!(Error::of(&error), Some(Error::Address(_))), "{error}");
    let (mut stream, _) = opened(key(Cipher::Blake3Aes128Gcm), None);
    stream.write_all(&HEADER[..4]).await.unwrap();
    let error = stream.shutdown().await.unwrap_err();
    assert!(matches!(Error::of(&error), Some(Error::NoAddress)), "{error}");
}

#[tokio::test]
async fn an_idle_stream_holds_no_buffer_and_is_small() {
    assert!(size_of::<Stream>() <= 1800, "{} bytes", size_of::<Stream>());
    for cipher in Cipher::ALL {
        let (mut stream, wire) = opened(key(cipher), Some(TARGET));
        stream.write_all(&vec![1; 100_000]).await.unwrap();
        let data = vec![2; 16_000];
        let sent = answer(&key(cipher), &about(&wire, cipher), &[data.clone(), data.clone()]);
        let (most, rest) = sent.split_at(sent.len() - 9);
        wire.give(most);
        let mut got = vec![0; 16_000];
        stream.read_exact(&mut got).await.unwrap();
        assert!(got == data);
        assert!(read_now(&mut stream).await.is_none());
        assert!(stream.inbound.held() <= 16_100, "half a chunk in no more room than it needs");
        wire.give(rest);
        stream.read_exact(&mut got).await.unwrap();
        assert!(read_now(&mut stream).await.is_none());
        assert_eq!((stream.inbound.held(), stream.sealed.held()), (0, 0), "{cipher}");
        assert!(stream.header_wait.is_none());
    }
}

#[tokio::test]
async fn a_finish_between_chunks_is_an_end_and_any_other_an_error() {
    for cipher in Cipher::ALL {
        let finished = |cut: usize, of: usize| async move {
            let (mut stream, wire) = opened(key(cipher), Some(TARGET));
            stream.write_all(b"x").await.unwrap();
            let chunks = vec![b"answer".to_vec(); of];
            let sent = answer(&key(cipher), &about(&wire, cipher), &chunks);
            wire.with(|state| state.is_over = true);
            wire.give(&sent[..sent.len() - cut]);
            let mut got = Vec::new();
            (stream.read_to_end(&mut got).await, got)
        };
        assert_eq!(finished(0, 2).await.0.unwrap(), 12);
        let (error, got) = finished(1, 2).await;
        assert!(matches!(Error::of(&error.unwrap_err()), Some(Error::Truncated)), "{cipher}");
        assert_eq!(got, b"answer");
        let (end, got) = finished(cipher.key_len(), 0).await;
        assert!(end.is_ok() && got.is_empty(), "a node that says nothing");
        let (error, _) = finished(1, 0).await;
        assert!(matches!(Error::of(&error.unwrap_err()), Some(Error::WrongKey)), "{cipher}");
    }
}
