//! HTTP CONNECT (RFC 9110 section 9.3.6), the client's side.

use base64_turbo::STANDARD;
use httvps_proto::Target;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::credentials::Credentials;
use crate::{Error, Refusal};

/// Proxies behind fronts that refuse requests without a `User-Agent` need one; it names no product.
const AGENT: &str = "Mozilla/5.0";

/// Longest head of an answer, in bytes, those of interim answers before it included.
const MAX_HEAD: usize = 16 * 1024;

/// Most header fields of an answer.
const MAX_FIELDS: usize = 100;

/// Requests a stream to `target`; returns the bytes after the head of the response, which are the target's.
pub(crate) async fn connect<S>(
    io: &mut S,
    target: &Target,
    credentials: Option<&Credentials>,
) -> Result<Box<[u8]>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(&request(target, credentials)).await?;
    io.flush().await?;
    let mut head = vec![0; 1024];
    let (mut start, mut have) = (0, 0);
    loop {
        match parse(&head[start..have])? {
            // An interim answer; the final one follows.
            Some((100..=199, length)) => start += length,
            Some((200..=299, length)) => return Ok(head[start + length..have].into()),
            Some((status, _)) => return Err(refusal(status, credentials.is_some())),
            None => {
                if have == head.len() {
                    if have >= MAX_HEAD {
                        return Err(Error::NotAProxy);
                    }
                    head.resize(have * 2, 0);
                }
                match io.read(&mut head[have..]).await? {
                    0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
                    count => have += count,
                }
            }
        }
    }
}

fn request(target: &Target, credentials: Option<&Credentials>) -> Zeroizing<Vec<u8>> {
    let mut request = Zeroizing::new(Vec::with_capacity(1536));
    request.extend_from_slice(
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {AGENT}\r\n")
            .as_bytes(),
    );
    if let Some(Credentials { user, password }) = credentials {
        let plain = Zeroizing::new([&user[..], b":", &password[..]].concat());
        let encoded = Zeroizing::new(STANDARD.encode(&*plain));
        request.extend_from_slice(b"Proxy-Authorization: Basic ");
        request.extend_from_slice(encoded.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// Status and length of a head, if it is complete.
fn parse(bytes: &[u8]) -> Result<Option<(u16, usize)>, Error> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => Ok(response.code.map(|code| (code, length))),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(Error::NotAProxy),
    }
}

/// What a status other than 2xx means.
///
/// A demand for a password may concern the target alone: this proxy may have passed on the response of another proxy.
fn refusal(status: u16, has_credentials: bool) -> Error {
    match status {
        401 | 407 if has_credentials => Error::Credentials,
        401 | 407 => Error::NoCredentials,
        403 | 451 => Error::Target(Refusal::Denied),
        408 | 504 => Error::Target(Refusal::TimedOut),
        405 | 501 => Error::Unsupported,
        _ => Error::Target(Refusal::Unreachable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::read_all;

    const ASK: &[u8] = b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nUser-Agent: Mozilla/5.0\r\n\r\n";

    async fn opened(key: &str, ask: &[u8], answer: &[u8]) -> Result<Vec<u8>, Error> {
        read_all(key, "[2001:db8::1]:443", &[(ask, answer)]).await
    }

    #[tokio::test]
    async fn bytes_behind_the_head_belong_to_the_target() {
        for (answer, read) in [
            (&b"HTTP/1.1 200 Connection established\r\n\r\nSSH-2.0\r\n"[..], &b"SSH-2.0\r\n"[..]),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", b""),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 Fine\r\nVia: x\r\n\r\nab", b"ab"),
        ] {
            assert_eq!(opened("http://h:1", ASK, answer).await.unwrap(), read);
        }
        let bytes = vec![7; 5000];
        let answer = [b"HTTP/1.1 200 OK\r\n\r\n", &bytes[..]].concat();
        assert_eq!(opened("http://h:1", ASK, &answer).await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn the_password_goes_as_basic_and_407_is_an_error_of_its_own() {
        let ask = b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nUser-Agent: Mozilla/5.0\r\nProxy-Authorization: Basic YW5uOnM6Mw==\r\n\r\n";
        let denied = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
        assert!(opened("http://ann:s:3@h:1", ask, b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok());
        let error = opened("http://ann:s:3@h:1", ask, denied).await.unwrap_err();
        assert!(matches!(error, Error::Credentials), "{error}");
        let error = opened("http://h:1", ASK, denied).await.unwrap_err();
        assert!(matches!(error, Error::NoCredentials), "{error}");
    }

    #[tokio::test]
    async fn each_status_has_its_meaning() {
        for (status, expected) in [
            (403, Refusal::Denied),
            (451, Refusal::Denied),
            (404, Refusal::Unreachable),
            (500, Refusal::Unreachable),
            (502, Refusal::Unreachable),
            (503, Refusal::Unreachable),
            (504, Refusal::TimedOut),
            (302, Refusal::Unreachable),
        ] {
            let answer = format!("HTTP/1.1 {status} No\r\n\r\n");
            let error = opened("http://h:1", ASK, answer.as_bytes()).await.unwrap_err();
            assert!(matches!(error, Error::Target(got) if got == expected), "{status}: {error}");
        }
    }

    #[tokio::test]
    async fn a_head_is_bounded_and_garbage_is_told() {
        for answer in [&b"SSH-2.0-x\r\n\r\n"[..], &[5, 0xff], b"\x16\x03\x01 tls"] {
            let error = opened("http://h:1", ASK, answer).await.unwrap_err();
            assert!(matches!(error, Error::NotAProxy), "{error}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        assert!(matches!(opened("http://h:1", ASK, long.as_bytes()).await, Err(Error::NotAProxy)));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(MAX_FIELDS + 1));
        assert!(matches!(opened("http://h:1", ASK, many.as_bytes()).await, Err(Error::NotAProxy)));
        let cut = opened("http://h:1", ASK, b"HTTP/1.1 200 OK\r\n").await;
        assert!(matches!(cut, Err(Error::Io(_))));
    }
}
