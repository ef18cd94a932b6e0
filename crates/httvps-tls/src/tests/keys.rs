//! Keys at the limit of what they may seal.

use super::*;
use crate::session::confidentiality_limit;
use rustls::crypto::aws_lc_rs::cipher_suite as suite;

#[tokio::test]
async fn a_key_of_1_3_is_replaced_before_its_limit() {
    let pki = Pki::new();
    let data = vec![7; 300_000];
    let mut received = vec![0; data.len()];
    for limit in 2..6 {
        let (mut ours, mut theirs) = we_serve(&pki, &TLS13).await;
        ours.state().session.limit_records(limit);
        for _ in 0..2 {
            ours.write_all(&data).await.unwrap();
            ours.flush().await.unwrap();
            theirs.read_exact(&mut received).await.unwrap();
            assert!(received == data);
        }
        let (mut server, mut client) = both(&pki).await;
        client.state().session.limit_records(limit);
        client.write_all(&data).await.unwrap();
        client.shutdown().await.unwrap();
        received.clear();
        server.read_to_end(&mut received).await.unwrap();
        assert!(received == data);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_of_1_2_at_its_limit_ends_the_stream() {
    let pki = Pki::new();
    let (mut ours, mut theirs) = we_serve(&pki, &TLS12).await;
    let data = vec![7; 200_000];
    // One record of the handshake, three of data, and one for the alert.
    ours.state().session.limit_records(5);
    let mut received = vec![0; 3 * record::FRAGMENT_MAX];
    assert_eq!(ours.write(&data).await.unwrap(), received.len());
    ours.flush().await.unwrap();
    theirs.read_exact(&mut received).await.unwrap();
    assert!(received == data[..received.len()]);
    let error = ours.write(&data).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    let mut text = [0; 10];
    let end = tokio::time::timeout(std::time::Duration::from_mins(1), theirs.read(&mut text));
    assert_eq!(end.await.expect("close_notify leaves by itself").unwrap(), 0);
    let error = ours.write(&data).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    // What is on its way to us still arrives.
    theirs.write_all(b"an answer").await.unwrap();
    theirs.flush().await.unwrap();
    ours.read_exact(&mut received[..9]).await.unwrap();
    ours.shutdown().await.unwrap();
    assert_eq!(theirs.read(&mut [0; 10]).await.unwrap(), 0);
}

/// The limits are those of RFC 8446 section 5.5, by suite.
#[tokio::test]
async fn a_key_has_the_limit_of_its_suite() {
    let pki = Pki::new();
    let (mut ours, _theirs) = we_serve(&pki, &TLS13).await;
    assert!(ours.cipher_suite().unwrap().contains("_GCM_"));
    assert_eq!(ours.state().session.key_limit(), 1 << 24);
    for suite in [
        suite::TLS13_CHACHA20_POLY1305_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ] {
        assert_eq!(confidentiality_limit(suite), u64::MAX);
    }
}
