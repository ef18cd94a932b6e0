//! Our record layer against that of rustls, in both roles: every suite, key updates, records that
//! were changed or cut on the way, and data behind the handshake in the same packet.

use std::io::{ErrorKind, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConnection, Connection, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::pki::Pki;
use crate::tls::{exchange, localhost, noise};

/// Length of a record's header.
const HEADER_LEN: usize = 5;

const SUITES: [(CipherSuite, &rustls::SupportedProtocolVersion); 6] = [
    (CipherSuite::TLS13_AES_128_GCM_SHA256, &TLS13),
    (CipherSuite::TLS13_AES_256_GCM_SHA384, &TLS13),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, &TLS13),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, &TLS12),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, &TLS12),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, &TLS12),
];

#[tokio::test]
async fn every_suite_carries_bulk_in_both_roles() {
    let pki = Pki::new();
    let data = noise(700_000);
    for (suite, version) in SUITES {
        for (write, read) in [(200_000, 65_536), (16_384, 16_384), (5_000, 100_000)] {
            let (near, far) = duplex(300_000);
            let connector = TlsConnector::from(Arc::new(pki.client_config(version, Some(suite))));
            let (server, theirs) = (pki.our_server(), connector.connect(localhost(), far));
            let (ours, theirs) = tokio::join!(server.accept(near), theirs);
            let ours = ours.unwrap();
            assert_eq!(ours.cipher_suite(), suite.as_str());
            let (ours, _) = exchange(ours, theirs.unwrap(), &data, write, read).await;
            assert_eq!(ours.buffered_capacity(), 0);

            let (near, far) = duplex(300_000);
            let acceptor = TlsAcceptor::from(Arc::new(pki.server_config(version, Some(suite))));
            let client = pki.our_client();
            let (ours, theirs) =
                tokio::join!(client.connect(localhost(), near), acceptor.accept(far));
            let ours = ours.unwrap();
            assert_eq!(ours.cipher_suite(), suite.as_str());
            let (ours, _) = exchange(ours, theirs.unwrap(), &data, write, read).await;
            assert_eq!(ours.buffered_capacity(), 0);
        }
    }
}

/// Lets their side change its keys, which asks us to change ours, before each of some transfers.
async fn update_keys<A, B>(mut ours: A, mut theirs: B, mut refresh: impl FnMut(&mut B))
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let data = noise(20_000);
    let mut received = vec![0; data.len()];
    for _ in 0..40 {
        refresh(&mut theirs);
        theirs.write_all(&data).await.unwrap();
        theirs.flush().await.unwrap();
        ours.read_exact(&mut received).await.unwrap();
        assert!(received == data);
        ours.write_all(&data).await.unwrap();
        ours.flush().await.unwrap();
        theirs.read_exact(&mut received).await.unwrap();
        assert!(received == data);
    }
}

#[tokio::test]
async fn keys_are_updated_when_the_peer_asks() {
    let pki = Pki::new();
    for (suite, version) in &SUITES[..3] {
        let (near, far) = duplex(50_000);
        let connector = TlsConnector::from(Arc::new(pki.client_config(version, Some(*suite))));
        let (server, theirs) = (pki.our_server(), connector.connect(localhost(), far));
        let (ours, theirs) = tokio::join!(server.accept(near), theirs);
        let refresh = |theirs: &mut tokio_rustls::client::TlsStream<_>| {
            theirs.get_mut().1.refresh_traffic_keys().unwrap();
        };
        update_keys(ours.unwrap(), theirs.unwrap(), refresh).await;

        let (near, far) = duplex(50_000);
        let acceptor = TlsAcceptor::from(Arc::new(pki.server_config(version, Some(*suite))));
        let client = pki.our_client();
        let (ours, theirs) = tokio::join!(client.connect(localhost(), near), acceptor.accept(far));
        let refresh = |theirs: &mut tokio_rustls::server::TlsStream<_>| {
            theirs.get_mut().1.refresh_traffic_keys().unwrap();
        };
        update_keys(ours.unwrap(), theirs.unwrap(), refresh).await;
    }
}

/// A pipe that, once armed, spoils what is written to it.
struct Spoiler<T> {
    inner: T,
    is_armed: Arc<AtomicBool>,
    spoil: fn(&mut Vec<u8>),
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Spoiler<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut copy = data.to_vec();
        if self.is_armed.load(Ordering::Relaxed) {
            (self.spoil)(&mut copy);
        }
        // The pipes here have room for everything.
        let written = Pin::new(&mut self.inner).poll_write(cx, &copy);
        written.map_ok(|n| if n == copy.len() { data.len() } else { n })
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Spoiler<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

#[tokio::test]
async fn a_changed_record_gets_its_alert_and_ends_the_stream() {
    let pki = Pki::new();
    let spoils: [fn(&mut Vec<u8>); 2] =
        [|record| *record.last_mut().unwrap() ^= 1, |record| record[HEADER_LEN] ^= 1];
    for (suite, version) in SUITES {
        for (spoil, room) in spoils.into_iter().flat_map(|spoil| [(spoil, 100), (spoil, 4)]) {
            let (near, far) = duplex(100_000);
            let is_armed = Arc::new(AtomicBool::new(false));
            let far = Spoiler { inner: far, is_armed: Arc::clone(&is_armed), spoil };
            let connector = TlsConnector::from(Arc::new(pki.client_config(version, Some(suite))));
            let (server, theirs) = (pki.our_server(), connector.connect(localhost(), far));
            let (ours, theirs) = tokio::join!(server.accept(near), theirs);
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
            theirs.write_all(b"good").await.unwrap();
            theirs.flush().await.unwrap();
            is_armed.store(true, Ordering::Relaxed);
            theirs.write_all(b"spoilt on the way").await.unwrap();
            theirs.flush().await.unwrap();
            let mut text = vec![0; room];
            // Both records are there; the good one is not lost for the other.
            assert_eq!(ours.read(&mut text).await.unwrap(), 4);
            for _ in 0..2 {
                assert_eq!(ours.read(&mut text).await.unwrap_err().kind(), ErrorKind::InvalidData);
                assert_eq!(ours.write(&text).await.unwrap_err().kind(), ErrorKind::InvalidData);
            }
            let told = theirs.read(&mut text).await.unwrap_err().to_string();
            assert!(told.contains("BadRecordMac"), "{suite:?}: {told}");
            drop(theirs);
            assert_eq!(ours.buffered_capacity(), 0);
        }
    }
}

#[tokio::test]
async fn a_record_that_is_cut_short_is_a_truncation() {
    let pki = Pki::new();
    for version in [&TLS12, &TLS13] {
        for kept in [0, 3, 5, 30] {
            let (near, far) = duplex(100_000);
            let connector = pki.their_client(version);
            let (server, theirs) = (pki.our_server(), connector.connect(localhost(), far));
            let (ours, theirs) = tokio::join!(server.accept(near), theirs);
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
            // The ticket.
            ours.flush().await.unwrap();
            theirs.write_all(b"good").await.unwrap();
            theirs.flush().await.unwrap();
            let (pipe, connection) = theirs.get_mut();
            connection.writer().write_all(&[7; 100]).unwrap();
            let mut record = Vec::new();
            connection.write_tls(&mut record).unwrap();
            pipe.write_all(&record[..kept]).await.unwrap();
            drop(theirs);
            let mut text = [0; 100];
            assert_eq!(ours.read(&mut text).await.unwrap(), 4);
            for _ in 0..2 {
                let error = ours.read(&mut text).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            }
            assert_eq!(ours.buffered_capacity(), 0);
        }
    }
}

/// Drives a buffered rustls connection by hand until its handshake is over. The flight that ends
/// it is returned, unsent, with data of the peer's at its end.
async fn last_flight<T: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection,
    pipe: &mut T,
    data: &[u8],
) -> Vec<u8> {
    let mut flight = Vec::new();
    let mut input = [0; 4096];
    loop {
        while connection.wants_write() {
            connection.write_tls(&mut flight).unwrap();
        }
        if !connection.is_handshaking() {
            break;
        }
        pipe.write_all(&flight).await.unwrap();
        flight.clear();
        let n = pipe.read(&mut input).await.unwrap();
        let mut rest = &input[..n];
        while !rest.is_empty() {
            connection.read_tls(&mut rest).unwrap();
            connection.process_new_packets().unwrap();
        }
    }
    let (before, after) = data.split_at(data.len() / 2);
    connection.writer().write_all(before).unwrap();
    if connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3) {
        connection.refresh_traffic_keys().unwrap();
    }
    connection.writer().write_all(after).unwrap();
    while connection.wants_write() {
        connection.write_tls(&mut flight).unwrap();
    }
    flight
}

/// Reads what our side sends until `expected` bytes of content are there.
async fn receive<T: AsyncRead + Unpin>(
    connection: &mut Connection,
    pipe: &mut T,
    expected: usize,
) -> Vec<u8> {
    let mut content = vec![0; expected];
    let mut filled = 0;
    let mut input = [0; 4096];
    while filled < expected {
        let n = pipe.read(&mut input).await.unwrap();
        assert!(n > 0);
        let mut rest = &input[..n];
        while !rest.is_empty() {
            connection.read_tls(&mut rest).unwrap();
            connection.process_new_packets().unwrap();
        }
        filled += connection.reader().read(&mut content[filled..]).unwrap_or(0);
    }
    content
}

#[tokio::test]
async fn data_behind_the_handshake_in_one_packet_is_not_lost() {
    let pki = Pki::new();
    for ((suite, version), len) in SUITES.into_iter().flat_map(|s| [(s, 1_000), (s, 40_000)]) {
        let data = noise(len);
        let mut received = vec![0; len];
        // The second handshake of a 1.2 client is resumed, and then the client has the last word.
        let (server, config) =
            (pki.our_server(), Arc::new(pki.client_config(version, Some(suite))));
        for is_resumed in [false, true] {
            let (near, mut far) = duplex(200_000);
            let client = ClientConnection::new(Arc::clone(&config), localhost()).unwrap();
            let mut client = Connection::from(client);
            let theirs = async {
                let flight = last_flight(&mut client, &mut far, &data).await;
                far.write_all(&flight).await.unwrap();
            };
            let (ours, ()) = tokio::join!(server.accept(near), theirs);
            let mut ours = ours.unwrap();
            assert_eq!(ours.is_resumed(), is_resumed, "{suite:?}");
            ours.read_exact(&mut received).await.unwrap();
            assert!(received == data, "{suite:?}");
            ours.write_all(b"answer").await.unwrap();
            ours.flush().await.unwrap();
            assert_eq!(receive(&mut client, &mut far, 6).await, b"answer");
        }
    }
}

#[tokio::test]
async fn data_of_a_server_in_its_last_flight_is_not_lost() {
    let pki = Pki::new();
    for ((suite, version), len) in SUITES.into_iter().flat_map(|s| [(s, 1_000), (s, 40_000)]) {
        let data = noise(len);
        let (near, mut far) = duplex(200_000);
        let mut config = pki.server_config(version, Some(suite));
        config.send_tls13_tickets = 2;
        let server = ServerConnection::new(Arc::new(config)).unwrap();
        let mut server = Connection::from(server);
        let theirs = async {
            let flight = last_flight(&mut server, &mut far, &data).await;
            far.write_all(&flight).await.unwrap();
        };
        let client = pki.our_client();
        let (ours, ()) = tokio::join!(client.connect(localhost(), near), theirs);
        let mut ours = ours.unwrap();
        let mut received = vec![0; data.len()];
        ours.read_exact(&mut received).await.unwrap();
        assert!(received == data, "{suite:?}");
        ours.write_all(b"answer").await.unwrap();
        ours.flush().await.unwrap();
        assert_eq!(receive(&mut server, &mut far, 6).await, b"answer");
    }
}
