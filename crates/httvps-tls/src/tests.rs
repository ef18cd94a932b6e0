//! A peer that breaks the rules, keys at their limit, and what is held meanwhile.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use rustls::version::{TLS12, TLS13};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};

use super::record::{self, APPLICATION_DATA, HANDSHAKE, HEADER_LEN};
use super::{SEGMENT_PLAIN, TlsStream, server_name};
use crate::buffers::AREA_LEN;

#[allow(dead_code, reason = "shared with the tests against other implementations")]
#[path = "../tests/peers/pki.rs"]
mod pki;

mod keys;

use pki::Pki;

/// Type and content of a record.
type Raw<'a> = (u8, &'a [u8]);

type Ours = TlsStream<DuplexStream>;

/// A server and a client of ours.
async fn both(pki: &Pki) -> (Ours, Ours) {
    let (near, far) = duplex(1024 * 1024);
    let (server, client) = (pki.our_server(), pki.our_client());
    let name = server_name("localhost").unwrap();
    let (server, client) = tokio::join!(server.accept(near), client.connect(name, far));
    (server.unwrap(), client.unwrap())
}

/// A server of ours and a client of rustls.
async fn we_serve(
    pki: &Pki,
    version: &'static rustls::SupportedProtocolVersion,
) -> (Ours, tokio_rustls::client::TlsStream<DuplexStream>) {
    let (near, far) = duplex(1024 * 1024);
    let (server, client) = (pki.our_server(), pki.their_client(version));
    let name = server_name("localhost").unwrap();
    let (server, client) = tokio::join!(server.accept(near), client.connect(name, far));
    (server.unwrap(), client.unwrap())
}

/// Sends records as they are from `from`, which is then at an end, and expects `to` to fail and to
/// tell the reason.
async fn expect_refusal(mut from: Ours, mut to: Ours, records: &[Raw<'_>], reason: &str) {
    for (typ, content) in records {
        let bytes = from.state().session.seal_raw(*typ, content);
        from.get_mut().write_all(&bytes).await.unwrap();
    }
    let mut text = [0; 100];
    for _ in 0..2 {
        let error = to.read(&mut text).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{reason}");
    }
    let told = from.read(&mut text).await.unwrap_err().to_string();
    assert!(told.contains(reason), "{told} instead of {reason}");
    drop(from);
    assert_eq!(to.buffered_capacity(), 0);
}

#[tokio::test]
async fn what_does_not_belong_behind_the_handshake_is_refused() {
    let pki = Pki::new();
    let empty = [(APPLICATION_DATA, &b""[..]); 33];
    let update = [(HANDSHAKE, &[24, 0, 0, 1, 0][..]); 2];
    let ticket = [(HANDSHAKE, &[4, 0, 0, 1, 0][..])];
    let cases: [(&[Raw<'_>], &str); 9] = [
        (&empty, "UnexpectedMessage"),
        (&ticket, "UnexpectedMessage"),
        (&update, "BadRecordMac"),
        (&[(HANDSHAKE, &[1, 0, 0, 1, 0])], "UnexpectedMessage"),
        (&[(HANDSHAKE, &[24, 0]), (APPLICATION_DATA, b"x")], "UnexpectedMessage"),
        (&[(HANDSHAKE, &[24, 0, 0, 1, 0, 24])], "UnexpectedMessage"),
        (&[(HANDSHAKE, &[24, 0, 0, 1, 7])], "IllegalParameter"),
        (&[(0, &[0; 20])], "UnexpectedMessage"),
        (&[(record::CHANGE_CIPHER_SPEC, &[1])], "UnexpectedMessage"),
    ];
    for (records, reason) in cases {
        let (server, client) = both(&pki).await;
        expect_refusal(client, server, records, reason).await;
    }
}

#[tokio::test]
async fn empty_records_up_to_the_bound_are_no_end_of_stream() {
    let pki = Pki::new();
    let (mut server, mut client) = both(&pki).await;
    for _ in 0..2 {
        for _ in 0..32 {
            let bytes = client.state().session.seal_raw(APPLICATION_DATA, b"");
            client.get_mut().write_all(&bytes).await.unwrap();
        }
        client.write_all(b"content").await.unwrap();
        client.flush().await.unwrap();
        let mut text = [0; 100];
        assert_eq!(server.read(&mut text).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn a_record_that_is_too_long_is_refused_at_its_header() {
    let pki = Pki::new();
    for version in [&TLS12, &TLS13] {
        let (mut ours, mut theirs) = we_serve(&pki, version).await;
        theirs.get_mut().0.write_all(&[23, 3, 3, 0x41, 0x01]).await.unwrap();
        let mut text = [0; 10];
        let error = ours.read(&mut text).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        let told = theirs.read(&mut text).await.unwrap_err().to_string();
        assert!(told.contains("RecordOverflow"), "{told}");
    }
}

#[tokio::test]
async fn many_requests_for_a_new_key_get_one_answer_until_it_is_read() {
    let pki = Pki::new();
    let (near, far) = duplex(2_000);
    let (server, client) = (pki.our_server(), pki.our_client());
    let name = server_name("localhost").unwrap();
    let (server, client) = tokio::join!(server.accept(near), client.connect(name, far));
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    // The pipe to the client is full from here on.
    let flood = vec![1; 10_000];
    let mut written = 0;
    poll_fn(|cx| {
        if let Poll::Ready(n) = Pin::new(&mut server).poll_write(cx, &flood) {
            written += n.unwrap();
        }
        Poll::Ready(())
    })
    .await;
    let waiting = server.state().outbound.len();
    let mut text = [0; 10];
    // As many as a peer may ask for with next to no data between them.
    for _ in 0..32 {
        let update = client.state().session.seal_raw(HANDSHAKE, &[24, 0, 0, 1, 1]);
        client.get_mut().write_all(&update).await.unwrap();
        client.state().session.skip_sending_key();
        client.write_all(b"x").await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(server.read(&mut text).await.unwrap(), 1);
    }
    let answer = server.state().outbound.len() - waiting;
    assert_eq!(answer, HEADER_LEN + 5 + 1 + 16, "one key update");
    let mut received = vec![0; written];
    let (flushed, read) = tokio::join!(server.flush(), client.read_exact(&mut received));
    flushed.unwrap();
    read.unwrap();
    assert!(received == flood[..written]);
    server.write_all(b"under the new key").await.unwrap();
    server.shutdown().await.unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "under the new key");
    assert_eq!((server.buffered_capacity(), client.buffered_capacity()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_the_protocol_leaves_although_a_writer_was_given_up() {
    let pki = Pki::new();
    let (near, far) = duplex(2_000);
    let (server, client) = (pki.our_server(), pki.our_client());
    let name = server_name("localhost").unwrap();
    let (server, client) = tokio::join!(server.accept(near), client.connect(name, far));
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    let flood = vec![1; 10_000];
    // A write that fills the pipe, has begun to wait and is never polled again.
    let (written, is_waiting) = poll_fn(|cx| {
        let Poll::Ready(Ok(n)) = Pin::new(&mut server).poll_write(cx, &flood) else { panic!() };
        Poll::Ready((n, Pin::new(&mut server).poll_write(cx, &flood).is_pending()))
    })
    .await;
    assert!(is_waiting);
    let update = client.state().session.seal_raw(HANDSHAKE, &[24, 0, 0, 1, 1]);
    client.get_mut().write_all(&update).await.unwrap();
    client.state().session.skip_sending_key();
    let mut received = vec![0; written];
    let mut text = [0; 1];
    // From here on the server only reads, and all that waits leaves by that alone.
    tokio::select! {
        read = client.read_exact(&mut received) => drop(read.unwrap()),
        _ = server.read(&mut text) => panic!("nothing was sent"),
        // Virtual time: it passes at once when nothing else can happen.
        () = tokio::time::sleep(std::time::Duration::from_mins(1)) => panic!("it waits for ever"),
    }
    assert!(received == flood[..written]);
    tokio::select! {
        biased;
        _ = server.read(&mut text) => panic!("nothing was sent"),
        () = async { while poll_once_tls(&mut client).await {} } => {}
    }
    assert_eq!(server.state().outbound.len(), 0, "the key update has left");
}

/// Reads once; true while there is something.
async fn poll_once_tls(from: &mut Ours) -> bool {
    let mut text = [0; 100];
    let mut buf = ReadBuf::new(&mut text);
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *from).poll_read(cx, &mut buf).is_ready())).await
}

#[tokio::test]
async fn a_server_with_nothing_left_to_say_loses_nothing() {
    let pki = Pki::new();
    let (near, far) = duplex(100_000);
    let server = pki.our_server().without_tickets();
    let client = pki.our_client();
    // The client goes on in the same poll, so that the server finds all of this in one read.
    let theirs = async {
        let name = server_name("localhost").unwrap();
        let mut client = client.connect(name, far).await.unwrap();
        client.write_all(b"early").await.unwrap();
        let update = client.state().session.seal_raw(HANDSHAKE, &[24, 0, 0, 1, 1]);
        client.get_mut().write_all(&update).await.unwrap();
        client.state().session.skip_sending_key();
        client.write_all(b" and later").await.unwrap();
        client
    };
    let (server, mut client) = tokio::join!(server.accept(near), theirs);
    let mut server = server.unwrap();
    let mut text = [0; 15];
    server.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"early and later");
    server.write_all(&text).await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"early and later");
}

#[tokio::test]
async fn part_of_a_record_stays_in_its_area_until_a_read_waits() {
    let pki = Pki::new();
    let (mut server, mut client) = both(&pki).await;
    let whole = client.state().session.seal_raw(APPLICATION_DATA, &[1; 100]);
    let later = client.state().session.seal_raw(APPLICATION_DATA, &[2; 10_000]);
    let (early, late) = later.split_at(6_000);
    server.flush().await.unwrap();
    client.get_mut().write_all(&whole).await.unwrap();
    client.get_mut().write_all(early).await.unwrap();
    let mut text = vec![0; 50_000];
    assert_eq!(server.read(&mut text).await.unwrap(), 100);
    assert_eq!(server.buffered_capacity(), AREA_LEN);
    let is_pending = poll_fn(|cx| {
        let mut buf = ReadBuf::new(&mut text);
        Poll::Ready(Pin::new(&mut server).poll_read(cx, &mut buf).is_pending())
    });
    assert!(is_pending.await);
    assert_eq!(server.buffered_capacity(), early.len());
    client.get_mut().write_all(late).await.unwrap();
    assert_eq!(server.read(&mut text).await.unwrap(), 10_000);
    assert_eq!(text[..10_000], [2; 10_000]);
    assert_eq!(server.buffered_capacity(), 0);
}

#[tokio::test]
async fn what_the_kernel_did_not_take_stays_in_its_area() {
    let pki = Pki::new();
    let (near, far) = duplex(30_000);
    let (server, client) = (pki.our_server(), pki.our_client());
    let name = server_name("localhost").unwrap();
    let (server, client) = tokio::join!(server.accept(near), client.connect(name, far));
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    let data = vec![7; 60_000];
    assert_eq!(server.write(&data).await.unwrap(), data.len());
    assert_eq!(server.buffered_capacity(), AREA_LEN);
    let mut received = vec![0; data.len()];
    let (flushed, read) = tokio::join!(server.flush(), client.read_exact(&mut received));
    flushed.unwrap();
    read.unwrap();
    assert!(received == data);
    // Little of the next record does not fit, and little is kept.
    assert_eq!(server.write(&data[..16_000]).await.unwrap(), 16_000);
    assert_eq!(server.write(&data[..15_000]).await.unwrap(), 15_000);
    let held = server.buffered_capacity();
    assert!((1_000..2_000).contains(&held), "{held}");
}

/// What is counted: a write never leaves bytes behind whole segments, in either version of TLS.
#[tokio::test]
async fn a_large_write_fills_segments_of_the_loopback_interface() {
    /// MTU of 65,536 less the headers of IPv6 and of TCP with timestamps.
    const SEGMENT: usize = 65_464;
    let pki = Pki::new();
    for version in [&TLS12, &TLS13] {
        let (mut ours, theirs) = we_serve(&pki, version).await;
        ours.flush().await.unwrap();
        let mut wire = theirs.into_inner().0;
        let mut sealed = vec![0; 1024 * 1024];
        while poll_once(&mut wire, &mut sealed).await > 0 {}
        let content = vec![7; 3 * SEGMENT_PLAIN];
        let taken = ours.write(&content).await.unwrap();
        assert_eq!(taken, 2 * SEGMENT_PLAIN, "{version:?}");
        let length = wire.read(&mut sealed).await.unwrap();
        assert!(length <= 2 * SEGMENT && length > 2 * (SEGMENT - 64), "{version:?}: {length}");
    }
}

/// A pipe that, whenever it is read, allocates blocks of the size that it is given: what was freed before is taken then.
struct Greedy {
    pipe: DuplexStream,
    size: usize,
    blocks: Vec<Vec<u8>>,
}

impl AsyncRead for Greedy {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        this.blocks.extend((0..64).map(|_| vec![0; this.size]));
        Pin::new(&mut this.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for Greedy {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().pipe).poll_write(cx, data)
    }
    fn poll_flush(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().pipe).poll_flush(cx)
    }
    fn poll_shutdown(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().pipe).poll_shutdown(cx)
    }
}

/// A read that finds nothing leaves part of a record where it is.
#[tokio::test]
async fn part_of_a_record_is_not_copied_while_nothing_comes() {
    const PART: usize = 9_000;
    let pki = Pki::new();
    let (near, far) = duplex(1024 * 1024);
    let near = Greedy { pipe: near, size: PART, blocks: Vec::new() };
    let (server, client) = (pki.our_server(), pki.our_client());
    let name = server_name("localhost").unwrap();
    let (server, client) = tokio::join!(server.accept(near), client.connect(name, far));
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    server.flush().await.unwrap();
    let record = client.state().session.seal_raw(APPLICATION_DATA, &[2; 10_000]);
    let (early, late) = record.split_at(PART);
    client.get_mut().write_all(early).await.unwrap();
    let mut text = vec![0; 50_000];
    let mut places = Vec::new();
    for _ in 0..3 {
        let mut buf = ReadBuf::new(&mut text);
        let is_pending =
            poll_fn(|cx| Poll::Ready(Pin::new(&mut server).poll_read(cx, &mut buf).is_pending()));
        assert!(is_pending.await);
        places.push(server.state().inbound.bytes().as_ptr());
        assert_eq!(server.buffered_capacity(), PART);
    }
    assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
    client.get_mut().write_all(late).await.unwrap();
    assert_eq!(server.read(&mut text).await.unwrap(), 10_000);
    assert_eq!((&text[..10_000], server.buffered_capacity()), (&[2; 10_000][..], 0));
}

/// A reader with little room has its record opened in place, in an area that the next connection gets.
#[tokio::test]
async fn an_area_is_given_back_without_the_plain_text_in_it() {
    let pki = Pki::new();
    let (mut server, mut client) = both(&pki).await;
    server.flush().await.unwrap();
    client.write_all(&[0x5a; 8_000]).await.unwrap();
    client.flush().await.unwrap();
    let mut text = [0; 8_000];
    for part in text.chunks_mut(1_000) {
        server.read_exact(part).await.unwrap();
    }
    assert_eq!(text, [0x5a; 8_000]);
    assert_eq!(server.buffered_capacity(), 0);
    for _ in 0..2 {
        let area = crate::buffers::take_area();
        assert!(!area.windows(100).any(|window| window == [0x5a; 100]));
    }
}

/// Reads what is there now.
async fn poll_once(from: &mut DuplexStream, into: &mut [u8]) -> usize {
    let mut buf = ReadBuf::new(into);
    poll_fn(|cx| {
        let _ = Pin::new(&mut *from).poll_read(cx, &mut buf);
        Poll::Ready(())
    })
    .await;
    buf.filled().len()
}

#[tokio::test]
async fn a_client_hello_in_pieces_waits_for_its_turn_as_a_whole_one_does() {
    let pki = Pki::new();
    let server = pki.our_server();
    let turns = server.turns().clone();
    let all = u32::try_from(turns.available_permits()).unwrap();
    let config = std::sync::Arc::new(pki.client_config(&TLS13, None));
    let name = server_name("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let (begin, end) = hello[HEADER_LEN..].split_at(10);
    let record = |part: &[u8]| {
        let len = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[HANDSHAKE, 3, 1][..], &len, part].concat()
    };
    let (near, mut far) = duplex(100_000);
    let mut accepting = std::pin::pin!(server.accept(near));
    far.write_all(&record(begin)).await.unwrap();
    let mut answer = [0; 1];
    // Whether the server says something while it is polled as often as it takes, and more.
    let mut answers = async |far: &mut DuplexStream| {
        for _ in 0..100 {
            tokio::select! {
                biased;
                _ = &mut accepting => panic!("the client has not finished"),
                read = far.read(&mut answer) => return read.unwrap() > 0,
                () = tokio::task::yield_now() => {}
            }
        }
        false
    };
    assert!(!answers(&mut far).await);
    let others = turns.acquire_many(all).await.unwrap();
    far.write_all(&record(end)).await.unwrap();
    assert!(!answers(&mut far).await, "a piece before it takes no turn");
    drop(others);
    assert!(answers(&mut far).await);
}
