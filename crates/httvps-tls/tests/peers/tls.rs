//! `TlsStream` against tokio-rustls, in both roles.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::Poll;

use httvps_tls::{ClientTls, ReloadOutcome, Roots, TlsError, TlsStream, server_name};
use proptest::prelude::*;
use rustls::version::{TLS12, TLS13};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex, split,
};

use crate::pki::Pki;

type Ours = TlsStream<DuplexStream>;

pub(crate) fn localhost() -> httvps_tls::ServerName<'static> {
    server_name("localhost").unwrap()
}

/// Our server and their client over a pipe of `capacity` bytes.
async fn we_serve(
    pki: &Pki,
    version: &'static rustls::SupportedProtocolVersion,
    capacity: usize,
) -> (Ours, tokio_rustls::client::TlsStream<DuplexStream>) {
    let (near, far) = duplex(capacity);
    let server = pki.our_server();
    let (ours, theirs) =
        tokio::join!(server.accept(near), pki.their_client(version).connect(localhost(), far));
    (ours.unwrap(), theirs.unwrap())
}

/// Our client and their server over a pipe of `capacity` bytes.
async fn we_connect(
    pki: &Pki,
    version: &'static rustls::SupportedProtocolVersion,
    capacity: usize,
) -> (Ours, tokio_rustls::server::TlsStream<DuplexStream>) {
    let (near, far) = duplex(capacity);
    let client = pki.our_client();
    let (ours, theirs) =
        tokio::join!(client.connect(localhost(), near), pki.their_server(version).accept(far));
    (ours.unwrap(), theirs.unwrap())
}

pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(step).collect()
}

/// Sends `data` in pieces of `write` bytes both ways at once, reads in pieces of `read` bytes and
/// closes; both sides must receive everything, then the end.
pub(crate) async fn exchange<A, B>(a: A, b: B, data: &[u8], write: usize, read: usize) -> (A, B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    async fn side<S: AsyncRead + AsyncWrite + Unpin>(
        stream: S,
        data: &[u8],
        write: usize,
        read: usize,
    ) -> S {
        let (mut reader, mut writer) = split(stream);
        let send = async {
            for piece in data.chunks(write) {
                writer.write_all(piece).await.unwrap();
            }
            writer.shutdown().await.unwrap();
        };
        let receive = async {
            let mut received = Vec::new();
            let mut piece = vec![0; read];
            loop {
                match reader.read(&mut piece).await.unwrap() {
                    0 => break received,
                    n => received.extend_from_slice(&piece[..n]),
                }
            }
        };
        let ((), received) = tokio::join!(send, receive);
        assert!(received == data, "{} of {} bytes", received.len(), data.len());
        reader.unsplit(writer)
    }
    tokio::join!(side(a, data, write, read), side(b, data, write, read))
}

#[tokio::test]
async fn bytes_survive_any_pipe_and_any_sizes() {
    let pki = Pki::new();
    // Pipe, length of the data, bytes per write, bytes per read. A pipe of one byte cuts the
    // handshake and every record at every byte.
    let shapes = [
        (1, 6_000, 1_000, 900),
        (7, 30_000, 70_000, 1),
        (1000, 300_000, 50_000, 33_333),
        (64 * 1024, 1_000_000, 200_000, 65_536),
        (1024 * 1024, 300_000, 999, 17),
        (16_406, 500_000, 16_384, 16_384),
    ];
    for version in [&TLS12, &TLS13] {
        for (capacity, len, write, read) in shapes {
            let data = noise(len);
            let (ours, theirs) = we_serve(&pki, version, capacity).await;
            let (ours, _) = exchange(ours, theirs, &data, write, read).await;
            assert_eq!(ours.buffered_capacity(), 0);
            let (ours, theirs) = we_connect(&pki, version, capacity).await;
            let (ours, _) = exchange(ours, theirs, &data, write, read).await;
            assert_eq!(ours.buffered_capacity(), 0);
        }
    }
}

#[tokio::test]
async fn the_best_of_both_sides_is_negotiated() {
    let pki = Pki::new();
    let (near, far) = duplex(1);
    let (server, client) = (pki.our_server(), pki.our_client());
    let (a, b) = tokio::join!(server.accept(near), client.connect(localhost(), far));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.version(), "1.3");
    assert_eq!(b.cipher_suite(), Some("TLS13_AES_128_GCM_SHA256"));
    exchange(a, b, &noise(20_000), 10_000, 10_000).await;
    let (ours, theirs) = we_serve(&pki, &TLS12, 100).await;
    assert_eq!(ours.version(), "1.2");
    assert_eq!(theirs.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let (_, theirs) = we_serve(&pki, &TLS13, 100).await;
    let group = theirs.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn sessions_are_resumed_without_a_cache() {
    let pki = Pki::new();
    let (server, client) = (pki.our_server(), pki.our_client());
    for expected in [false, true, true] {
        let (near, far) = duplex(1000);
        let (a, b) = tokio::join!(server.accept(near), client.connect(localhost(), far));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!((a.is_resumed(), b.is_resumed()), (expected, expected));
        // The ticket arrives with the first data.
        exchange(a, b, b"ticket", 10, 10).await;
    }
    for version in [&TLS12, &TLS13] {
        let connector = pki.their_client(version);
        for expected in [false, true] {
            let (near, far) = duplex(1000);
            let (ours, theirs) =
                tokio::join!(server.accept(near), connector.connect(localhost(), far));
            let ours = ours.unwrap();
            assert_eq!(ours.is_resumed(), expected, "{version:?}");
            exchange(ours, theirs.unwrap(), b"ticket", 10, 10).await;
        }
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_a_truncation() {
    let pki = Pki::new();
    let (mut ours, mut theirs) = we_connect(&pki, &TLS13, 1000).await;
    theirs.write_all(b"last words").await.unwrap();
    theirs.flush().await.unwrap();
    drop(theirs);
    let mut text = [0; 10];
    ours.read_exact(&mut text).await.unwrap();
    for _ in 0..2 {
        let error = ours.read(&mut text).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }

    let (mut ours, mut theirs) = we_connect(&pki, &TLS13, 1000).await;
    theirs.shutdown().await.unwrap();
    for _ in 0..2 {
        assert_eq!(ours.read(&mut text).await.unwrap(), 0);
    }
    // A half-closed connection still carries the other direction.
    ours.write_all(b"and ours").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut rest = String::new();
    theirs.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "and ours");
    let error = ours.write(b"more").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn what_is_not_tls_costs_its_connection_and_gets_an_alert() {
    let server = Pki::new().our_server();
    let (near, mut far) = duplex(10_000);
    far.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let error = server.accept(near).await.unwrap_err();
    assert_eq!(error.label(), "not_tls");
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    let mut alert = Vec::new();
    far.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert.first(), Some(&0x15), "{alert:x?}");

    let (near, mut far) = duplex(10_000);
    far.write_all(&[0x16, 3, 1, 2]).await.unwrap();
    drop(far);
    assert_eq!(server.accept(near).await.unwrap_err().label(), "eof");
}

#[tokio::test]
async fn an_endless_handshake_is_bounded() {
    let server = Pki::new().our_server();
    let (near, mut far) = duplex(1000);
    let flood = async {
        // A ClientHello that claims as much as TLS can express, one byte per record.
        let mut sent = 0;
        far.write_all(&[0x16, 3, 1, 0, 4, 1, 0, 0xFF, 0xFF]).await.unwrap();
        while far.write_all(&[0x16, 3, 1, 0, 1, 0]).await.is_ok() {
            sent += 6;
        }
        sent
    };
    let (result, sent) = tokio::join!(server.accept(near), flood);
    let label = result.unwrap_err().label();
    assert!(label == "oversized" || label == "not_tls", "{label}");
    assert!(sent < 100_000, "{sent}");
}

#[tokio::test]
async fn bytes_held_by_a_handshake_are_reported_and_at_most_32_kib() {
    let server = Pki::new().our_server();
    let (near, mut far) = duplex(1000);
    let held = std::sync::Mutex::new(Vec::new());
    let note = |bytes| held.lock().unwrap().push(bytes);
    let flood = async {
        // A ClientHello of 64 KiB in records of 16.
        let mut hello = vec![0; 16 * 1024];
        hello[..4].copy_from_slice(&[1, 0, 0xFF, 0xF0]);
        let record = [&[0x16, 3, 1, 0x40, 0][..], &hello].concat();
        while far.write_all(&record).await.is_ok() {}
    };
    let (result, ()) = tokio::join!(server.accept_watched(near, &note), flood);
    assert_eq!(result.unwrap_err().label(), "oversized");
    let held = held.into_inner().unwrap();
    assert!(held.is_sorted() && held.len() > 2, "as it grows: {held:?}");
    assert!((16_384..=32_768).contains(held.last().unwrap()), "{held:?}");
    let mut answer = Vec::new();
    far.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50], "the alert decode_error");
}

#[tokio::test]
async fn a_proxy_protocol_header_is_known_as_one() {
    let server = Pki::new().our_server();
    for header in
        [&b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"]
    {
        let (near, mut far) = duplex(10_000);
        far.write_all(header).await.unwrap();
        assert_eq!(server.accept(near).await.unwrap_err().label(), "proxy_header");
    }
}

#[tokio::test]
async fn a_broken_record_gets_its_alert_and_ends_the_stream() {
    let pki = Pki::new();
    let (mut ours, mut theirs) = we_serve(&pki, &TLS13, 100_000).await;
    theirs.write_all(b"good").await.unwrap();
    theirs.flush().await.unwrap();
    let mut record = vec![0x17, 3, 3, 0, 40];
    record.resize(45, 7);
    theirs.get_mut().0.write_all(&record).await.unwrap();
    let mut text = [0; 4];
    ours.read_exact(&mut text).await.unwrap();
    for _ in 0..2 {
        assert_eq!(ours.read(&mut text).await.unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(ours.write(&text).await.unwrap_err().kind(), ErrorKind::InvalidData);
    }
    let told = theirs.read(&mut text).await.unwrap_err().to_string();
    assert!(told.contains("BadRecordMac"), "{told}");
}

#[tokio::test]
async fn a_peer_that_does_not_read_costs_one_bulk_write() {
    let pki = Pki::new();
    let (mut ours, mut theirs) = we_serve(&pki, &TLS13, 1000).await;
    let data = noise(500_000);
    let mut taken = 0;
    poll_fn(|cx| {
        while let Poll::Ready(n) = Pin::new(&mut ours).poll_write(cx, &data[taken..]) {
            taken += n.unwrap();
        }
        Poll::Ready(())
    })
    .await;
    assert!(taken <= 128 * 1024, "{taken}");
    assert!(ours.buffered_capacity() <= 130 * 1024, "{}", ours.buffered_capacity());
    let mut received = vec![0; taken];
    let (flushed, read) = tokio::join!(ours.flush(), theirs.read_exact(&mut received));
    flushed.unwrap();
    read.unwrap();
    assert!(received == data[..taken]);
    assert_eq!(ours.buffered_capacity(), 0);
}

#[tokio::test]
async fn writing_goes_on_while_received_records_wait_for_a_reader() {
    let pki = Pki::new();
    let (mut ours, mut theirs) = we_serve(&pki, &TLS13, 200_000).await;
    let data = noise(100_000);
    theirs.write_all(&data).await.unwrap();
    theirs.flush().await.unwrap();
    let mut first = [0; 10];
    ours.read_exact(&mut first).await.unwrap();
    ours.write_all(b"in between").await.unwrap();
    ours.flush().await.unwrap();
    let mut answer = [0; 10];
    theirs.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"in between");
    let mut rest = vec![0; data.len() - 10];
    ours.read_exact(&mut rest).await.unwrap();
    assert!(first == data[..10] && rest == data[10..]);
    assert_eq!(ours.buffered_capacity(), 0);
}

#[tokio::test]
async fn a_read_buffer_that_already_holds_something_is_no_end_of_stream() {
    let pki = Pki::new();
    let (mut ours, mut theirs) = we_serve(&pki, &TLS13, 10_000).await;
    theirs.write_all(b"longer than the room").await.unwrap();
    theirs.flush().await.unwrap();
    let mut area = [0; 10];
    let mut buf = ReadBuf::new(&mut area);
    buf.put_slice(b"before");
    poll_fn(|cx| Pin::new(&mut ours).poll_read(cx, &mut buf)).await.unwrap();
    assert_eq!(buf.filled(), b"beforelong");
}

#[tokio::test]
async fn certificate_trouble_is_said_in_plain_words() {
    async fn trouble(pki: &Pki, client: &ClientTls, name: &str) -> TlsError {
        let (near, far) = duplex(10_000);
        let server = pki.our_server();
        let (accepted, connected) =
            tokio::join!(server.accept(near), client.connect(server_name(name).unwrap(), far));
        assert_eq!(accepted.unwrap_err().label(), "alert");
        let error = connected.unwrap_err();
        assert_eq!(error.label(), "certificate");
        error
    }
    let good = Pki::new();
    let stranger = Pki::new();
    let old = Pki::with(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let early = Pki::with(|params| params.not_before = rcgen::date_time_ymd(2200, 1, 1));
    let cases = [
        (&good, good.our_client(), "elsewhere", "asked for elsewhere, it names localhost"),
        (&good, stranger.our_client(), "localhost", "not issued by an authority"),
        (&old, old.our_client(), "localhost", "has expired"),
        (&early, early.our_client(), "localhost", "not valid yet"),
    ];
    for (pki, client, name, expected) in cases {
        let words = trouble(pki, &client, name).await.to_string();
        assert!(words.contains(expected), "{words}");
    }
    assert!(ClientTls::new(Roots::Bundle(Vec::new())).is_err());
    let trusting = ClientTls::new(Roots::Insecure).unwrap();
    let (near, far) = duplex(10_000);
    let server = old.our_server();
    let (a, b) = tokio::join!(server.accept(near), trusting.connect(localhost(), far));
    exchange(a.unwrap(), b.unwrap(), b"hello", 9, 9).await;
}

/// The first record of a client whose server then closes the connection.
async fn lost_hello(client: &ClientTls) -> usize {
    let (near, mut far) = duplex(10_000);
    let taking = async {
        let mut header = [0; 5];
        far.read_exact(&mut header).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        far.read_exact(&mut hello).await.unwrap();
        drop(far);
        header.len() + hello.len()
    };
    let (result, length) = tokio::join!(client.connect(localhost(), near), taking);
    assert!(matches!(result, Err(TlsError::Io(_))));
    length
}

/// What fits into one segment of most paths.
const ONE_SEGMENT: std::ops::Range<usize> = 1..1_300;

#[tokio::test]
async fn after_a_lost_handshake_the_next_hello_fits_into_one_segment() {
    let pki = Pki::new();
    let client = pki.our_client();
    for _ in 0..2 {
        assert!(!ONE_SEGMENT.contains(&lost_hello(&client).await));
        assert!(ONE_SEGMENT.contains(&lost_hello(&client.clone()).await));
    }
    assert!(!ONE_SEGMENT.contains(&lost_hello(&client).await));
    let (near, far) = duplex(10_000);
    let server = pki.our_server();
    let (a, b) = tokio::join!(server.accept(near), client.connect(localhost(), far));
    exchange(a.unwrap(), b.unwrap(), b"hello", 9, 9).await;
    assert!(ONE_SEGMENT.contains(&lost_hello(&client).await), "what worked is remembered");
}

#[tokio::test]
async fn without_post_quantum_every_hello_fits_into_one_segment() {
    let client = Pki::new().our_client().without_post_quantum();
    for _ in 0..3 {
        assert!(ONE_SEGMENT.contains(&lost_hello(&client).await));
    }
}

#[tokio::test]
async fn a_reloaded_certificate_serves_the_next_handshake_only() {
    let (pki, next) = (Pki::new(), Pki::new());
    let server = pki.our_server();
    let clone = server.clone();
    let (near, far) = duplex(10_000);
    let client = pki.our_client();
    let (a, b) = tokio::join!(server.accept(near), client.connect(localhost(), far));
    std::fs::copy(&next.files.cert_path, &pki.files.cert_path).unwrap();
    assert!(server.reload().is_err());
    std::fs::copy(&next.files.key_path, &pki.files.key_path).unwrap();
    assert_eq!(server.reload().unwrap(), ReloadOutcome::Replaced { chain_len: 1 });
    exchange(a.unwrap(), b.unwrap(), b"still up", 9, 9).await;
    let (near, far) = duplex(10_000);
    let client = next.our_client();
    let (a, b) = tokio::join!(clone.accept(near), client.connect(localhost(), far));
    exchange(a.unwrap(), b.unwrap(), b"new", 9, 9).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_first_bytes_cause_a_panic(
        prefix in prop::sample::select(vec![
            &b""[..], &[0x16, 3, 1], &[0x16, 3, 1, 0, 60, 1, 0, 0, 56, 3, 3], &[0x80, 0x2e, 1], &[0x15, 3, 3, 0, 2],
        ]),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            static PKI: std::sync::LazyLock<Pki> = std::sync::LazyLock::new(Pki::new);
            let (near, mut far) = duplex(10_000);
            far.write_all(&[prefix, &bytes].concat()).await.unwrap();
            drop(far);
            assert!(PKI.our_server().accept(near).await.is_err());
        });
    }
}
