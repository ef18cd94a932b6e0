//! The client's side of the upgrade.

use std::fmt;
use std::io;

use base64_turbo::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::handshake::{accept, has_token};

/// Longest head of the answer, in bytes.
const HEAD_MAX: usize = 16 * 1024;

/// Most header fields of the answer.
const FIELDS_MAX: usize = 100;

/// Most interim answers (RFC 9110 section 15.2) that are skipped; all heads together have
/// [`HEAD_MAX`] bytes.
const INTERIM_MAX: usize = 8;

/// Why the upgrade has failed.
#[derive(Debug)]
pub enum HandshakeError {
    /// Host, path or an extra header holds characters that cannot stand in a request.
    BadRequest,
    /// The transport has failed.
    Io(io::Error),
    /// The server has closed the connection instead of answering.
    Disconnected,
    /// The answer is not HTTP.
    NotHttp,
    /// The head of the answer has more than 16 KiB or 100 fields.
    TooLarge,
    /// The server has given a final answer with another status than 101.
    Status(u16),
    /// More interim answers came than are skipped.
    Interim,
    /// The status is 101, but a header of RFC 6455 section 4.1 is missing or wrong.
    NotWebSocket(&'static str),
    /// The status is 101, with a header that names something which was not asked for.
    Unasked(&'static str),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRequest => f.write_str(
                "the host, path or a header of the request holds a space or control character",
            ),
            Self::Io(error) => write!(f, "the connection failed during the upgrade: {error}"),
            Self::Disconnected => f.write_str("the server closed the connection without an answer"),
            Self::NotHttp => {
                f.write_str("the server's answer is not HTTP/1.1; is this a httvps gateway?")
            }
            Self::TooLarge => {
                f.write_str("the head of the server's answer is larger than 16 KiB or 100 fields")
            }
            Self::Status(status) => {
                write!(f, "the server answered {status}")?;
                let known = hyper::StatusCode::from_u16(*status).ok();
                if let Some(reason) = known.and_then(|s| s.canonical_reason()) {
                    write!(f, " {reason}")?;
                }
                f.write_str(match status {
                    503 | 429 => "; it is busy, try again later",
                    500..=599 => "; the gateway or a proxy in front of it is in trouble",
                    _ => "; is this a httvps gateway and is the path right?",
                })
            }
            Self::Interim => write!(
                f,
                "the server sent more than {INTERIM_MAX} interim answers (1xx) and no final one"
            ),
            Self::Unasked(header) => write!(
                f,
                "the server switched protocols with a {header} that this client did not ask for"
            ),
            Self::NotWebSocket(header) => write!(
                f,
                "the server switched protocols, but its {header} header is missing or wrong"
            ),
        }
    }
}

impl std::error::Error for HandshakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Disconnected,
            _ => Self::Io(error),
        }
    }
}

/// Asks the server at the other end of `io` for a WebSocket.
///
/// `host` is the value of the Host header (with the port, unless it is the default), `path` the
/// target including any query, `extra` further header fields. Returns the transport and the bytes
/// read past the answer, for [`WebSocket::new`](super::WebSocket::new). Has no time-out of its
/// own. Cancel safe in that dropping the future drops the connection.
pub async fn connect<T>(
    mut io: T,
    host: &str,
    path: &str,
    extra: &[(&str, &str)],
) -> Result<(T, Vec<u8>), HandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let key = new_key()?;
    io.write_all(request(host, path, &key, extra)?.as_bytes()).await?;
    io.flush().await?;
    let accept = accept(key.as_bytes());
    let mut answer = Vec::with_capacity(1024);
    let (mut skipped, mut interim) = (0, 0);
    loop {
        if io.read_buf(&mut answer).await? == 0 {
            return Err(HandshakeError::Disconnected);
        }
        loop {
            match check_answer(&answer[skipped..], &accept)? {
                Answer::Partial => break,
                Answer::Interim(length) => {
                    skipped += length;
                    interim += 1;
                }
                Answer::Switched(length) if skipped + length <= HEAD_MAX => {
                    return Ok((io, answer.split_off(skipped + length)));
                }
                Answer::Switched(_) => return Err(HandshakeError::TooLarge),
            }
            if interim > INTERIM_MAX {
                return Err(HandshakeError::Interim);
            }
        }
        if answer.len() > HEAD_MAX {
            return Err(HandshakeError::TooLarge);
        }
    }
}

/// What has come, with the length of its head.
enum Answer {
    /// A part of a head.
    Partial,
    /// An answer that another one follows.
    Interim(usize),
    /// The one that completes the upgrade.
    Switched(usize),
}

fn new_key() -> Result<String, HandshakeError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(STANDARD.encode(nonce))
}

fn request(
    host: &str,
    path: &str,
    key: &str,
    extra: &[(&str, &str)],
) -> Result<String, HandshakeError> {
    let is_word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    let is_value = |text: &str| text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    let is_name = |text: &str| is_word(text) && !text.contains(':');
    if !is_word(host)
        || !is_word(path)
        || !path.starts_with('/')
        || !extra.iter().all(|(name, value)| is_name(name) && is_value(value))
    {
        return Err(HandshakeError::BadRequest);
    }
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
    );
    for (name, value) in extra {
        request.extend([name, ": ", value, "\r\n"]);
    }
    request.push_str("\r\n");
    Ok(request)
}

/// Judges the first answer in `bytes`.
fn check_answer(bytes: &[u8], accept: &[u8]) -> Result<Answer, HandshakeError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut fields);
    let length = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(httparse::Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => {
            return Err(HandshakeError::TooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(Answer::Partial),
        Err(_) => return Err(HandshakeError::NotHttp),
    };
    match answer.code {
        Some(101) if answer.version == Some(1) => {}
        Some(101) | None => return Err(HandshakeError::NotHttp),
        Some(100..=199) => return Ok(Answer::Interim(length)),
        Some(status) => return Err(HandshakeError::Status(status)),
    }
    let values = |name: &str, judge: &dyn Fn(&[u8]) -> bool| {
        let mut fields = answer.headers.iter();
        fields.any(|field| field.name.eq_ignore_ascii_case(name) && judge(field.value))
    };
    let token = |token: &'static str| {
        move |value: &[u8]| std::str::from_utf8(value).is_ok_and(|list| has_token(list, token))
    };
    if !values("upgrade", &token("websocket")) {
        return Err(HandshakeError::NotWebSocket("Upgrade"));
    }
    if !values("connection", &token("upgrade")) {
        return Err(HandshakeError::NotWebSocket("Connection"));
    }
    if !values("sec-websocket-accept", &|value| value == accept) {
        return Err(HandshakeError::NotWebSocket("Sec-WebSocket-Accept"));
    }
    // We have offered neither; section 4.1 has the client fail the connection.
    for (name, shown) in [
        ("sec-websocket-extensions", "Sec-WebSocket-Extensions"),
        ("sec-websocket-protocol", "Sec-WebSocket-Protocol"),
    ] {
        if values(name, &|value| !value.is_empty()) {
            return Err(HandshakeError::Unasked(shown));
        }
    }
    Ok(Answer::Switched(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "gateway.example:8443";

    async fn answered(answer: &str) -> Result<Vec<u8>, HandshakeError> {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let server = async {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                theirs.read_buf(&mut request).await.unwrap();
            }
            let request = String::from_utf8(request).unwrap();
            assert!(request.starts_with("GET /ws?x=1 HTTP/1.1\r\nHost: gateway.example:8443\r\n"));
            assert!(request.contains("\r\nX-Extra: some value\r\n"));
            let key = request.split("Sec-WebSocket-Key: ").nth(1).unwrap().split("\r\n").next();
            let accept = String::from_utf8(accept(key.unwrap().as_bytes()).to_vec()).unwrap();
            theirs.write_all(answer.replace("ACCEPT", &accept).as_bytes()).await.unwrap();
            drop(theirs);
        };
        let extra = [("X-Extra", "some value")];
        let (result, ()) = tokio::join!(connect(ours, HOST, "/ws?x=1", &extra), server);
        result.map(|(_, early)| early)
    }

    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\
                        Connection: keep-alive, upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n";

    #[tokio::test]
    async fn a_good_answer_gives_what_came_after_it() {
        let early = answered(&format!("{GOOD}early bytes")).await.unwrap();
        assert_eq!(early, b"early bytes");
    }

    const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n";

    #[tokio::test]
    async fn interim_answers_are_skipped() {
        for interim in ["HTTP/1.1 100 Continue\r\n\r\n", INTERIM, &INTERIM.repeat(INTERIM_MAX)] {
            let early = answered(&format!("{interim}{GOOD}early bytes")).await.unwrap();
            assert_eq!(early, b"early bytes");
        }
    }

    #[tokio::test]
    async fn bad_answers_are_named() {
        let long = format!("HTTP/1.1 101 X\r\nA: {}\r\n\r\n", "x".repeat(17 * 1024));
        let many = format!("HTTP/1.1 101 X\r\n{}\r\n", "A: b\r\n".repeat(101));
        let with = |field: &str| GOOD.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"));
        let long_interim = format!("HTTP/1.1 103 X\r\nA: {}\r\n\r\n", "x".repeat(6 * 1024));
        let cases = [
            ("HTTP/1.1 404 Not Found\r\n\r\n", "answered 404 Not Found; is this a httvps gateway"),
            ("HTTP/1.1 503 Busy\r\n\r\n", "try again later"),
            ("SSH-2.0-OpenSSH\r\n", "not HTTP/1.1"),
            ("HTTP/1.1 101 X\r\n", "without an answer"),
            (&GOOD.replace("Upgrade: WebSocket", "Upgrade: h2c"), "Upgrade header"),
            (&GOOD.replace("keep-alive, upgrade", "close"), "Connection header"),
            (&GOOD.replace("ACCEPT", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "Accept header"),
            (&with("Sec-WebSocket-Extensions: x"), "Extensions that this client did not ask for"),
            (&with("sec-websocket-protocol: chat"), "Protocol that this client did not ask for"),
            ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 403 No\r\n\r\n", "answered 403"),
            ("HTTP/1.1 100 Continue\r\n\r\n", "without an answer"),
            (&format!("{}{GOOD}", INTERIM.repeat(INTERIM_MAX + 1)), "interim answers"),
            (&format!("{}{GOOD}", long_interim.repeat(3)), "larger than 16 KiB"),
            (&long, "larger than 16 KiB"),
            (&many, "100 fields"),
        ];
        for (answer, expected) in cases {
            let message = answered(answer).await.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[tokio::test]
    async fn a_request_cannot_be_split() {
        for (host, path, extra) in [
            ("a\r\nX: y", "/ws", ("A", "b")),
            ("a", "/ws HTTP/1.1\r\n", ("A", "b")),
            ("a", "ws", ("A", "b")),
            ("a", "/ws", ("A: b\r\nC", "b")),
            ("a", "/ws", ("A", "b\r\nC: d")),
        ] {
            let (ours, _theirs) = tokio::io::duplex(1024);
            let result = connect(ours, host, path, &[extra]).await;
            assert!(matches!(result, Err(HandshakeError::BadRequest)));
        }
    }
}
