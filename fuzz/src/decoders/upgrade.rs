//! The upgrade to WebSocket: a client's request, and a server's answer.

use super::behaviour;
use crate::run::Decoder;
use httvps_transport::ws::connect::{HandshakeError, connect};
use httvps_transport::ws::handshake::check;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri, Version};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::server::create_response;

const FIELDS_MAX: usize = 100;

/// The head of a request as the HTTP library hands it on; None when it would refuse it.
pub(super) fn head(input: &[u8]) -> Option<hyper::http::request::Request<()>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    request.parse(input).ok().filter(httparse::Status::is_complete)?;
    let mut headers = HeaderMap::new();
    for field in request.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    let mut whole = hyper::http::Request::new(());
    *whole.method_mut() = Method::from_bytes(request.method?.as_bytes()).ok()?;
    *whole.uri_mut() = request.path?.parse::<Uri>().ok()?;
    *whole.version_mut() = if request.version? == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    *whole.headers_mut() = headers;
    Some(whole)
}

/// What we accept, tungstenite accepts with the same answer, as far as its reading of lists goes.
pub(super) struct Request;

const GOOD: &[u8] =
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

impl Decoder for Request {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let two: &[u8] = b"GET /ws?a=b HTTP/1.1\r\nconnection: upgrade\r\nconnection: close\r\nupgrade: h2c, WebSocket\r\n\
            sec-websocket-version: 8\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\ncontent-length: 0\r\n\r\n";
        let other: &[u8] =
            b"POST /ws HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello";
        vec![GOOD.to_vec(), two.to_vec(), other.to_vec()]
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\r\n",
            b"Connection: ",
            b"Upgrade",
            b"Upgrade: ",
            b"websocket",
            b"Sec-WebSocket-Version: 13\r\n",
            b"Sec-WebSocket-Key: ",
            b"dGhlIHNhbXBsZSBub25jZQ==",
            b"Content-Length: 0\r\n",
            b"HTTP/1.0",
            b",",
            b"Transfer-Encoding: chunked\r\n",
            b" \t",
            b"\xff",
            b"GET ",
            b"=",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let Some(request) = head(input) else { return input.len() as u64 / 8 };
        let ours = check(request.method(), request.version(), request.headers());
        if let Ok(accept) = &ours
            && let Ok(theirs) = create_response(&request)
        {
            let field = theirs.headers().get("sec-websocket-accept");
            assert!(field == Some(&accept.value()), "two answers to one key");
        }
        let fields = request.headers().len();
        behaviour((ours.err().map(|r| r.to_string()), fields, create_response(&request).is_ok()))
    }
}

/// A server that answers the request with the input; `ACCEPT` in it stands for the right answer.
struct Server<'a> {
    template: &'a [u8],
    request: Vec<u8>,
    answer: Option<Vec<u8>>,
    at: usize,
}

impl AsyncRead for Server<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let answer = this.answer.get_or_insert_with(|| answer(&this.request, this.template));
        let count = buf.remaining().min(answer.len() - this.at).min(64);
        buf.put_slice(&answer[this.at..this.at + count]);
        this.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.request.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Our server's side knows the right answer to our client's request.
fn answer(request: &[u8], template: &[u8]) -> Vec<u8> {
    const PLACE: &[u8] = b"ACCEPT";
    let request = head(request).expect("our own request is one");
    let accept = check(request.method(), request.version(), request.headers())
        .expect("our own request asks for a WebSocket");
    match template.windows(PLACE.len()).position(|window| window == PLACE) {
        Some(at) => {
            let (before, after) = (&template[..at], &template[at + PLACE.len()..]);
            [before, accept.value().as_bytes(), after].concat()
        }
        None => template.to_vec(),
    }
}

/// A connection stands only with the right answer to our key.
pub(super) struct Answer;

impl Decoder for Answer {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let good: &[u8] =
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n\
            Sec-WebSocket-Accept: ACCEPT\r\n\r\nearly";
        let bad: &[u8] = b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\n\r\n";
        let wrong: &[u8] = b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: a, Upgrade\r\n\
            sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-extensions: x\r\n\r\n";
        [good, bad, wrong].map(<[u8]>::to_vec).to_vec()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\r\n",
            b"HTTP/1.1 101 ",
            b"HTTP/1.0 101 ",
            b"Upgrade: websocket\r\n",
            b"Connection: Upgrade\r\n",
            b"Sec-WebSocket-Accept: ACCEPT\r\n",
            b"ACCEPT",
            b"Sec-WebSocket-Extensions: x\r\n",
            b"\r\n\r\n",
            b"200",
        ]
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let server = Server { template: input, request: Vec::new(), answer: None, at: 0 };
        let future = pin!(connect(server, "a", "/ws", &[]));
        let Poll::Ready(result) = future.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it waits although there is something to read");
        };
        match result {
            Ok((server, early)) => {
                let sent = server.answer.unwrap_or_default();
                assert!(sent[..server.at].ends_with(&early), "bytes that were not sent");
                let has = |part: &[u8]| input.windows(part.len()).any(|window| window == part);
                assert!(has(b"ACCEPT") && has(b" 101"), "the key was not answered");
                behaviour(early.len())
            }
            Err(HandshakeError::Io(error)) => panic!("{error}"),
            Err(error) => behaviour((error.to_string(), input.len() / 16)),
        }
    }
}
