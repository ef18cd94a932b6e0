//! Datagrams through real nodes.

use crate::node::{self, Node, Program, SOON};
use httvps_proto::Target;
use httvps_shadowsocks::{Cipher, Datagrams};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// After this time a datagram may have been lost, and is sent again.
const PATIENCE: Duration = Duration::from_millis(500);

/// A target that sends back what comes, in upper case.
async fn upper() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut space = vec![0; 65536];
        while let Ok((count, from)) = socket.recv_from(&mut space).await {
            space[..count].make_ascii_uppercase();
            let _ = socket.send_to(&space[..count], from).await;
        }
    });
    address
}

async fn recv(datagrams: &mut Datagrams) -> io::Result<Vec<u8>> {
    let mut space = vec![0; 65536];
    let mut buffer = ReadBuf::new(&mut space);
    poll_fn(|cx| datagrams.poll_recv(cx, &mut buffer)).await?;
    Ok(buffer.filled().to_vec())
}

/// Asks until an answer comes: a node's UDP socket may open after its TCP one, and UDP may lose.
async fn ask(datagrams: &mut Datagrams, question: &[u8]) -> Vec<u8> {
    let asking = async {
        loop {
            let _ = poll_fn(|cx| datagrams.poll_send(cx, question)).await;
            if let Ok(Ok(answer)) = timeout(PATIENCE, recv(datagrams)).await {
                return answer;
            }
        }
    };
    timeout(SOON, asking).await.unwrap()
}

async fn opened(node: &Node, target: &str) -> Datagrams {
    let target = target.parse::<Target>().unwrap();
    node.client().connect_datagrams(node.address(), &target).await.unwrap()
}

#[tokio::test]
async fn every_cipher_of_every_node_carries_datagrams() {
    let target = upper().await;
    for node in node::all() {
        let mut datagrams = opened(&node, &target.to_string()).await;
        assert_eq!(ask(&mut datagrams, b"first").await, b"FIRST", "{}", node.cipher());
        let long = vec![b'x'; 1300];
        let answer = ask(&mut datagrams, &long).await;
        assert!(answer == long.to_ascii_uppercase(), "{} bytes", answer.len());
    }
}

#[tokio::test]
async fn a_target_may_be_a_name_and_a_second_socket_is_another_session() {
    let target = upper().await;
    let name = format!("localhost:{}", target.port());
    for cipher in [Cipher::Aes256Gcm, Cipher::Blake3Aes128Gcm, Cipher::Blake3Chacha20Poly1305] {
        let Some(node) = Node::start(Program::Rust, cipher) else { return };
        let (mut one, mut other) = (opened(&node, &name).await, opened(&node, &name).await);
        assert_eq!(ask(&mut one, b"one").await, b"ONE");
        assert_eq!(ask(&mut other, b"other").await, b"OTHER");
        assert_eq!(ask(&mut one, b"one more").await, b"ONE MORE");
    }
}

#[tokio::test]
async fn a_node_that_starts_anew_is_understood() {
    let target = upper().await;
    for cipher in [Cipher::Blake3Aes256Gcm, Cipher::Blake3Chacha20Poly1305] {
        let Some(mut node) = Node::start(Program::Rust, cipher) else { return };
        let mut datagrams = opened(&node, &target.to_string()).await;
        assert_eq!(ask(&mut datagrams, b"before").await, b"BEFORE");
        node.restart();
        assert_eq!(ask(&mut datagrams, b"after").await, b"AFTER");
    }
}

#[tokio::test]
async fn a_datagram_that_is_too_long_costs_only_itself() {
    let target = upper().await;
    let Some(node) = Node::start(Program::Rust, Cipher::Aes128Gcm) else { return };
    let mut datagrams = opened(&node, &target.to_string()).await;
    for length in [65_507, 65_536, 100_000] {
        let long = vec![0; length];
        let error = poll_fn(|cx| datagrams.poll_send(cx, &long)).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::MSGSIZE.raw_os_error()));
    }
    assert_eq!(ask(&mut datagrams, b"still here").await, b"STILL HERE");
}
