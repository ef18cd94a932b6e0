//! Nodes that do not like the key, or say nothing, or nonsense.

use crate::node::{self, Node, Program, SOON};
use crate::target;
use httvps_shadowsocks::{AccessKey, Cipher, Client, Error, Stream};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const WRONG_KEY_32: &str = "//////////////////////////////////////////8=";

/// What comes of a question to an echo.
async fn ask(stream: &mut Stream) -> io::Result<usize> {
    stream.write_all(b"a question").await?;
    stream.flush().await?;
    stream.read(&mut [0; 100]).await
}

/// Nothing authentic comes within a second: the node is silent, finishes, or resets.
async fn assert_refused(mut stream: Stream, what: &str) {
    match timeout(Duration::from_secs(1), ask(&mut stream)).await {
        Err(_) | Ok(Ok(0)) => {}
        Ok(Err(error)) => assert!(Error::of(&error).is_none(), "{what}: {error}"),
        Ok(Ok(count)) => panic!("{what}: {count} bytes"),
    }
    assert!(!stream.is_proven(), "{what}");
}

#[tokio::test]
async fn with_a_wrong_password_or_cipher_nothing_is_proven() {
    let echo = target::echo().await;
    for (program, cipher, wrong_cipher, wrong_password) in [
        (Program::Rust, Cipher::Aes256Gcm, Cipher::Chacha20IetfPoly1305, "wrong"),
        (Program::Libev, Cipher::Chacha20IetfPoly1305, Cipher::Aes128Gcm, "wrong"),
        (Program::Rust, Cipher::Blake3Aes256Gcm, Cipher::Blake3Chacha20Poly1305, WRONG_KEY_32),
    ] {
        let Some(node) = Node::start(program, cipher) else { continue };
        let client = node.client_with(cipher, wrong_password);
        let stream = node::open(&client, node.address(), Some(echo)).await;
        assert_refused(stream, "wrong password").await;
        let client = node.client_with(wrong_cipher, node::password(wrong_cipher));
        let stream = node::open(&client, node.address(), Some(echo)).await;
        assert_refused(stream, "wrong cipher").await;
        assert_eq!(ask(&mut node.open(Some(echo)).await).await.unwrap(), 10, "with the right key");
    }
}

fn some_client(cipher: Cipher) -> Client {
    let key = AccessKey::from_parts("127.0.0.1", 1, cipher.name(), node::password(cipher));
    Client::new(key.unwrap())
}

#[tokio::test]
async fn what_is_no_node_at_all_is_told_from_one() {
    let web = target::serve(|mut stream| async move {
        let _ = stream.read(&mut [0; 100]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    for cipher in Cipher::ALL {
        let mut stream = node::open(&some_client(cipher), web, Some(web)).await;
        stream.write_all(b"GET").await.unwrap();
        stream.shutdown().await.unwrap();
        let got = timeout(SOON, stream.read(&mut [0; 100])).await.unwrap();
        let error = got.unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::WrongKey)), "{cipher}: {error}");
    }
}

#[tokio::test]
async fn a_dial_ends_with_its_deadline_or_its_refusal() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = some_client(Cipher::Aes128Gcm);
    let refused = client.connect(address, None, SOON).await.unwrap_err();
    assert!(
        matches!(refused, Error::Dial(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    );
    // A queue that is full takes no connection, and says nothing.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let short = Duration::from_millis(200);
    let mut queued = Vec::new();
    let late = loop {
        match client.connect(address, None, short).await {
            Ok(stream) => queued.push(stream),
            Err(error) => break error,
        }
    };
    assert!(matches!(late, Error::TimedOut), "{late:?}");
}

#[tokio::test]
async fn a_node_that_is_killed_breaks_its_streams() {
    let echo = target::echo().await;
    let Some(mut node) = Node::start(Program::Rust, Cipher::Blake3Aes128Gcm) else { return };
    let mut stream = node.open(Some(echo)).await;
    assert_eq!(ask(&mut stream).await.unwrap(), 10);
    node.restart();
    let end = timeout(SOON, stream.read(&mut [0; 100])).await.unwrap();
    assert!(matches!(end, Err(_) | Ok(0)));
    assert_eq!(ask(&mut node.open(Some(echo)).await).await.unwrap(), 10, "the new one works");
}
