//! A stub of the backend that lets every device in, over HTTP/1.1 with keep-alive.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::sleep;

const BODY: &str = r#"{"allowed":true,"user_id":1,"subscription_status":"active"}"#;

/// Serves on a free loopback port for as long as the program runs.
pub(crate) async fn start() -> io::Result<SocketAddr> {
    start_with(Duration::ZERO).await
}

/// The same for a backend that takes so long for each answer, one after the other.
pub(crate) async fn start_with(pause: Duration) -> io::Result<SocketAddr> {
    let turn = Arc::new(Mutex::new(()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A gateway that closes a connection is no news.
            let turn = turn.clone();
            tokio::spawn(async move { drop(serve(stream, &turn, pause).await) });
        }
    });
    Ok(address)
}

async fn serve(mut stream: TcpStream, turn: &Mutex<()>, pause: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let mut input = Vec::with_capacity(2048);
    loop {
        while let Some(length) = request_length(&input) {
            input.drain(..length);
            if !pause.is_zero() {
                let _turn = turn.lock().await;
                sleep(pause).await;
            }
            stream.write_all(answer.as_bytes()).await?;
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// The length of the first request with its body, once all of it is there.
fn request_length(input: &[u8]) -> Option<usize> {
    let head = input.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&input[..head]).to_ascii_lowercase();
    let body: usize = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0);
    (input.len() >= head + body).then_some(head + body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_when_its_body_is_there() {
        let request = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..request.len() {
            assert_eq!(request_length(&request[..end]), None);
        }
        assert_eq!(request_length(request), Some(request.len()));
        assert_eq!(request_length(&[&request[..], b"POST"].concat()), Some(request.len()));
    }
}
