//! A stream whose first bytes hold its target, through a node that needs the target first.

use crate::{BoxFuture, ByteStream, ConnectError, Upstream};
use httvps_proto::{Target, address};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A dial to a target through a node.
pub(super) type Dial = BoxFuture<'static, Result<Upstream, ConnectError>>;

/// A stream that removes the address header from its first bytes and then dials.
///
/// Up to 259 bytes are held while the header is incomplete, none later. An error of the dial is the
/// error of whatever is called next, with its [`ConnectError`] in it. One task must poll both
/// directions, as relays do.
pub(super) struct HeaderFirst {
    dial: Option<Box<dyn FnOnce(Target) -> Dial + Send>>,
    state: State,
    /// Waits for the header.
    reader: Option<Waker>,
}

enum State {
    Header(Vec<u8>),
    Dialing(Dial),
    Open(Box<dyn ByteStream>),
    Failed(ConnectError),
}

impl HeaderFirst {
    pub(super) fn new(dial: impl FnOnce(Target) -> Dial + Send + 'static) -> Self {
        Self { dial: Some(Box::new(dial)), state: State::Header(Vec::new()), reader: None }
    }

    fn fail(&mut self, error: ConnectError) -> io::Error {
        self.state = State::Failed(error);
        error.into()
    }

    /// Consumes bytes of the header; returns how many of `data` belong to it.
    fn take_header(&mut self, data: &[u8]) -> io::Result<usize> {
        let State::Header(held) = &mut self.state else { return Ok(0) };
        let before = held.len();
        held.extend_from_slice(&data[..data.len().min(address::ADDRESS_MAX - before)]);
        let length = match address::header_len(held) {
            Err(_) => return Err(self.fail(ConnectError::NoTarget)),
            Ok(length) => length.filter(|length| *length <= held.len()),
        };
        let Some(length) = length else { return Ok(held.len() - before) };
        let target = address::decode(&held[..length]);
        let (Some(target), Some(dial)) = (target, self.dial.take()) else {
            return Err(self.fail(ConnectError::NoTarget));
        };
        self.state = State::Dialing(dial(target));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Ok(length - before)
    }

    /// The stream, once it is connected.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut Box<dyn ByteStream>>> {
        if let State::Dialing(dial) = &mut self.state {
            match ready!(dial.as_mut().poll(cx)) {
                Ok(Upstream::Stream(stream)) => self.state = State::Open(stream),
                Ok(_) => return Poll::Ready(Err(self.fail(ConnectError::Io))),
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
        match &mut self.state {
            State::Open(stream) => Poll::Ready(Ok(stream)),
            State::Failed(error) => Poll::Ready(Err((*error).into())),
            State::Header(_) | State::Dialing(_) => Poll::Pending,
        }
    }
}

impl AsyncRead for HeaderFirst {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if matches!(self.state, State::Header(_)) {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let stream = ready!(self.poll_open(cx))?;
        Pin::new(stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for HeaderFirst {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if matches!(self.state, State::Header(_)) {
            return Poll::Ready(self.take_header(data));
        }
        let stream = ready!(self.poll_open(cx))?;
        Pin::new(stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.state, State::Header(_)) {
            return Poll::Ready(Ok(()));
        }
        let stream = ready!(self.poll_open(cx))?;
        Pin::new(stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.state, State::Header(_)) {
            return Poll::Ready(Err(self.fail(ConnectError::NoTarget)));
        }
        let stream = ready!(self.poll_open(cx))?;
        Pin::new(stream).poll_shutdown(cx)
    }
}

impl ByteStream for HeaderFirst {
    fn reset(&mut self) {
        if let State::Open(stream) = &mut self.state {
            stream.reset();
        }
    }

    fn is_opening(&self) -> bool {
        matches!(self.state, State::Dialing(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// A stream that dials `listener` whatever its target is, and the targets that it was told.
    fn stream(listener: &TcpListener) -> (HeaderFirst, Arc<Mutex<Vec<Target>>>) {
        let (told, address) = (Arc::<Mutex<Vec<_>>>::default(), listener.local_addr().unwrap());
        let targets = told.clone();
        let dial = move |target| -> Dial {
            targets.lock().unwrap().push(target);
            Box::pin(async move {
                let stream =
                    TcpStream::connect(address).await.map_err(|e| ConnectError::from(&e))?;
                Ok(Upstream::Stream(Box::new(stream)))
            })
        };
        (HeaderFirst::new(dial), told)
    }

    const HEADER: &[u8] = b"\x03\x09a.example\x01\xbb";

    #[tokio::test]
    async fn the_header_may_come_in_pieces_and_is_not_passed_on() {
        for cut in 0..=HEADER.len() {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (ours, told) = stream(&listener);
            let (mut reader, mut writer) = tokio::io::split(ours);
            // The reader waits first, and must be woken when there is a target.
            let reading = async {
                let mut got = [0; 4];
                reader.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, b"pong");
            };
            let writing = async {
                writer.write_all(&HEADER[..cut]).await.unwrap();
                writer.write_all(&[&HEADER[cut..], b"ping"].concat()).await.unwrap();
            };
            let serving = async {
                let (mut peer, _) = listener.accept().await.unwrap();
                let mut got = [0; 4];
                peer.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, b"ping", "{cut}");
                peer.write_all(b"pong").await.unwrap();
            };
            // In one task, as relays have it.
            let all = async { tokio::join!(reading, writing, serving) };
            tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
            assert_eq!(*told.lock().unwrap(), [Target::parse("a.example:443").unwrap()]);
        }
    }

    #[tokio::test]
    async fn a_target_that_speaks_first_is_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream(&listener).0);
        let mut greeting = [0; 3];
        let all = async {
            tokio::join!(reader.read_exact(&mut greeting), writer.write_all(HEADER), async {
                let (mut peer, _) = listener.accept().await.unwrap();
                peer.write_all(b"220").await.unwrap();
                peer
            })
        };
        let (read, ..) = tokio::time::timeout(Duration::from_secs(5), all).await.unwrap();
        assert_eq!((read.unwrap(), &greeting), (3, b"220"));
    }

    #[tokio::test]
    async fn what_is_no_header_is_an_error_without_a_dial() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for garbage in
            [&b"GET / HTTP/1.1"[..], b"\x03\x00", b"\x01\x01\x02\x03\x04\0\0", b"\x03\x02a/\0\x50"]
        {
            let (mut ours, told) = stream(&listener);
            let error = ours.write_all(garbage).await.unwrap_err();
            assert_eq!(ConnectError::from(&error), ConnectError::NoTarget, "{garbage:?}");
            assert!(ours.read(&mut [0]).await.is_err());
            assert!(told.lock().unwrap().is_empty());
        }
        let (mut ours, _) = stream(&listener);
        ours.write_all(&HEADER[..5]).await.unwrap();
        assert!(ours.shutdown().await.is_err(), "a finish within the header");
    }

    #[tokio::test]
    async fn an_error_of_the_dial_is_told_as_it_is() {
        let dial = |_| -> Dial { Box::pin(async { Err(ConnectError::DeniedByNode) }) };
        let mut ours = HeaderFirst::new(dial);
        assert!(!ours.is_opening(), "the header can be taken");
        ours.write_all(HEADER).await.unwrap();
        assert!(ours.is_opening());
        let error = ours.read(&mut [0]).await.unwrap_err();
        assert_eq!(ConnectError::from(&error), ConnectError::DeniedByNode);
        assert!(ours.write(b"x").await.is_err() && !ours.is_opening());
    }
}
