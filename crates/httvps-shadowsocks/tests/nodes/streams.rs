//! Streams through real nodes.

use crate::node::{self, Node, Program, SOON};
use crate::target;
use httvps_shadowsocks::Cipher;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Bytes of a large transfer each way: 64 MiB, or as many MiB as `SHADOWSOCKS_MIB` says.
fn large() -> u64 {
    let mebibytes = node::variable("SHADOWSOCKS_MIB").map(|text| text.parse::<u64>().unwrap());
    mebibytes.unwrap_or(64) << 20
}

/// Streams that are open at one time.
const PARALLEL: usize = 200;

#[tokio::test]
async fn every_cipher_of_every_node_carries_bytes_both_ways() {
    let echo = target::echo().await;
    for node in node::all() {
        let mut stream = node.open(Some(echo)).await;
        assert!(!stream.is_proven());
        stream.write_all(b"first").await.unwrap();
        let mut got = [0; 5];
        timeout(SOON, stream.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(&got, b"first", "{stream:?}");
        assert!(stream.is_proven());
        let long = vec![7; 300_000];
        let mut got = vec![0; long.len()];
        let (mut read, mut write) = tokio::io::split(stream);
        let both = async { tokio::join!(write.write_all(&long), read.read_exact(&mut got)) };
        let (written, read) = timeout(SOON, both).await.unwrap();
        assert_eq!((written.unwrap(), read.unwrap()), ((), long.len()));
        assert!(got == long);
    }
}

#[tokio::test]
async fn a_half_closed_stream_goes_on_in_the_other_direction() {
    let count = 3_000_000;
    let (digest, source) = (target::digest().await, target::source().await);
    for node in node::half_closing() {
        // Ours first: the target answers after it.
        let mut stream = node.open(Some(digest)).await;
        target::send_pattern(&mut stream, count).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (_, expected) = target::digest_of_pattern(count);
        assert_eq!(answer, format!("{count} {expected}"));
        // The target's first: we see its finish while ours is still open.
        let mut stream = node.open(Some(source)).await;
        stream.write_u64(count).await.unwrap();
        let got = timeout(SOON, target::digest_of(&mut stream)).await.unwrap();
        assert_eq!(got, (count, expected));
        stream.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_target_that_speaks_first_is_heard() {
    let banner = target::serve(|mut stream| async move {
        let _ = stream.write_all(b"220 welcome\r\n").await;
    })
    .await;
    for node in node::all() {
        let mut stream = node.open(Some(banner)).await;
        let mut got = String::new();
        timeout(SOON, stream.read_to_string(&mut got)).await.unwrap().unwrap();
        assert_eq!(got, "220 welcome\r\n");
    }
}

#[tokio::test]
async fn a_stream_that_only_finishes_reaches_its_target() {
    let digest = target::digest().await;
    for node in node::half_closing() {
        let mut stream = node.open(Some(digest)).await;
        stream.shutdown().await.unwrap();
        let mut got = String::new();
        timeout(SOON, stream.read_to_string(&mut got)).await.unwrap().unwrap();
        assert!(got.starts_with("0 "), "{got}");
    }
}

/// The address header as deployed clients send it.
fn header(target: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(target) = target else { panic!("an IPv4 target") };
    [&[1][..], &target.ip().octets(), &target.port().to_be_bytes()].concat()
}

#[tokio::test]
async fn a_stream_without_target_takes_the_address_from_its_first_bytes() {
    let echo = target::echo().await;
    for node in node::all() {
        let whole = [&header(echo)[..], b"payload"].concat();
        // In one piece, and with the address apart from the payload.
        for split in [0, 7] {
            let mut stream = node.open(None).await;
            let (first, second) = whole.split_at(split);
            stream.write_all(first).await.unwrap();
            stream.write_all(second).await.unwrap();
            let mut got = [0; 7];
            timeout(SOON, stream.read_exact(&mut got)).await.unwrap().unwrap();
            assert_eq!(&got, b"payload");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transfers_arrive_whole_both_ways_at_once() {
    let echo = target::echo().await;
    let large = large();
    let expected = target::digest_of_pattern(large);
    let ciphers = [Cipher::Aes128Gcm, Cipher::Chacha20IetfPoly1305, Cipher::Blake3Aes256Gcm];
    for (program, cipher) in [Program::Rust; 3].into_iter().zip(ciphers) {
        let Some(node) = Node::start(program, cipher) else { return };
        let stream = node.open(Some(echo)).await;
        let (mut read, mut write) = tokio::io::split(stream);
        let sending = tokio::spawn(async move {
            target::send_pattern(&mut write, large).await.unwrap();
            write.shutdown().await.unwrap();
        });
        assert_eq!(target::digest_of(&mut read).await, expected, "{cipher}");
        sending.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_streams_run_beside_each_other() {
    let echo = target::echo().await;
    for cipher in [Cipher::Chacha20IetfPoly1305, Cipher::Blake3Aes128Gcm] {
        let Some(node) = Node::start(Program::Rust, cipher) else { return };
        let mut opened = Vec::new();
        for _ in 0..PARALLEL {
            opened.push(node.open(Some(echo)).await);
        }
        let running: Vec<_> = opened
            .into_iter()
            .enumerate()
            .map(|(i, mut stream)| {
                let data = vec![i as u8; 10_000 + i];
                tokio::spawn(async move {
                    stream.write_all(&data).await.unwrap();
                    stream.shutdown().await.unwrap();
                    let mut got = Vec::new();
                    stream.read_to_end(&mut got).await.unwrap();
                    assert!(got == data, "stream {i} got {} bytes", got.len());
                })
            })
            .collect();
        for task in running {
            timeout(SOON, task).await.unwrap().unwrap();
        }
    }
}
