//! Targets behind the nodes.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Starts a target that does `serve` with each connection.
pub(crate) async fn serve<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A target that sends back what comes, and finishes when the client has.
pub(crate) async fn echo() -> SocketAddr {
    serve(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

/// A target that reads to the end, and then says how many bytes came and their SHA-256.
pub(crate) async fn digest() -> SocketAddr {
    serve(|mut stream| async move {
        let (count, digest) = digest_of(&mut stream).await;
        let _ = stream.write_all(format!("{count} {digest}").as_bytes()).await;
    })
    .await
}

/// A target that reads a number and sends as many bytes of [`pattern`], then finishes.
pub(crate) async fn source() -> SocketAddr {
    serve(|mut stream| async move {
        let Ok(count) = stream.read_u64().await else { return };
        let _ = send_pattern(&mut stream, count).await;
    })
    .await
}

/// Reads to the end; the number of bytes and their SHA-256.
pub(crate) async fn digest_of(stream: &mut (impl AsyncRead + Unpin)) -> (u64, String) {
    let (mut hasher, mut count) = (Sha256::new(), 0);
    let mut space = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut space).await {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&space[..read]);
                count += read as u64;
            }
            Err(error) => return (count, error.to_string()),
        }
    }
    (count, format!("{:02x?}", &hasher.finalize()[..]))
}

/// The digest that `count` bytes of [`pattern`] have.
pub(crate) fn digest_of_pattern(count: u64) -> (u64, String) {
    let mut hasher = Sha256::new();
    let mut sent = 0;
    while sent < count {
        let block = pattern(sent);
        let length = (count - sent).min(block.len() as u64);
        hasher.update(&block[..length as usize]);
        sent += length;
    }
    (count, format!("{:02x?}", &hasher.finalize()[..]))
}

/// Writes the first `count` bytes of the pattern.
pub(crate) async fn send_pattern(
    stream: &mut (impl tokio::io::AsyncWrite + Unpin),
    count: u64,
) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < count {
        let block = pattern(sent);
        let length = (count - sent).min(block.len() as u64);
        stream.write_all(&block[..length as usize]).await?;
        sent += length;
    }
    stream.flush().await
}

/// A block of bytes that differs from each other one: no block can stand for another.
fn pattern(offset: u64) -> Vec<u8> {
    let mut block: Vec<u8> = (0..100_000_u64).map(|i| (i ^ (i >> 8)) as u8).collect();
    block[..8].copy_from_slice(&offset.to_be_bytes());
    block
}
