//! The upstreams of streams of datagrams.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;

use crate::{BoxFuture, ConnectError, Source, end_of_io_error};

/// An attempt to open datagrams. It obeys the rules of [`Connector::connect`](crate::Connector::connect).
pub type DatagramDial = BoxFuture<'static, Result<DatagramUpstream, ConnectError>>;

/// A connector has no datagrams to offer; the client is told `unsupported`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoDatagrams;

impl fmt::Display for NoDatagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("datagrams are not offered here")
    }
}

impl std::error::Error for NoDatagrams {}

/// The upstream of a stream of datagrams.
pub enum DatagramUpstream {
    /// Every datagram is sent back to the client; the relay does it without a socket.
    Echo,
    /// Every datagram is dropped; none comes back.
    Blackhole,
    /// A socket that is connected to one target. Dropping it closes it.
    Socket(Box<dyn DatagramSocket>),
}

impl fmt::Debug for DatagramUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echo => "Echo",
            Self::Blackhole => "Blackhole",
            Self::Socket(_) => "Socket",
        })
    }
}

/// A socket that is connected to one target: it receives datagrams of this target only.
///
/// Each call moves a whole datagram or none, so polls are cancellation-safe. Each direction keeps the
/// waker of its last pending call.
pub trait DatagramSocket: Send + Unpin {
    /// Receives the next datagram into `buffer`; an empty one counts. A longer one is truncated, so a full buffer
    /// may hold only a part.
    fn poll_recv(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>)
    -> Poll<io::Result<()>>;

    /// Sends one datagram.
    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<()>>;
}

/// A UDP socket that is connected to its target.
pub(crate) struct ConnectedUdp {
    socket: Arc<UdpSocket>,
    /// Ready when the socket has a pending error. An error by itself does not wake a task that waits for datagrams,
    /// and without it a refusal would show at the next datagram of the client, or never.
    failed: BoxFuture<'static, ()>,
}

impl ConnectedUdp {
    /// Opens a socket that is connected to `address`, from `source`. Sends nothing and does not block.
    pub(crate) fn open(address: SocketAddr, source: &Source) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // Not bound first without need: until it is connected, the socket receives datagrams from any address.
        let is_bound = source.apply(&SockRef::from(&socket), address.ip())?;
        socket.connect(&address.into())?;
        if is_bound {
            drop_what_came(&socket);
        }
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        Ok(Self { failed: failure_of(&socket), socket })
    }

    /// Takes the pending error of the socket, if there is one.
    fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.failed.as_mut().poll(cx));
            let mut found = None;
            // "Would block" tells the runtime that it has to wait for the next error.
            let _ = self.socket.try_io(Interest::ERROR, || {
                found = SockRef::from(&*self.socket).take_error()?;
                Err::<(), _>(io::ErrorKind::WouldBlock.into())
            });
            self.failed = failure_of(&self.socket);
            if let Some(error) = found {
                return Poll::Ready(error);
            }
        }
    }
}

/// Drops datagrams that arrived before the socket was connected. Nothing was sent yet, so nothing of the target is lost. A target
/// that floods the socket all the same ends this no later than datagrams from any address would fill the socket's buffer.
fn drop_what_came(socket: &Socket) {
    const MOST: usize = 4096;
    let mut byte = [MaybeUninit::uninit()];
    for _ in 0..MOST {
        if socket.recv(&mut byte).is_err() {
            return;
        }
    }
}

fn failure_of(socket: &Arc<UdpSocket>) -> BoxFuture<'static, ()> {
    let socket = Arc::clone(socket);
    // The runtime ends it with an error only when it shuts down itself.
    Box::pin(async move { drop(socket.ready(Interest::ERROR).await) })
}

impl DatagramSocket for ConnectedUdp {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.socket.poll_recv(cx, buffer) {
            Poll::Pending => self.poll_failure(cx).map(Err),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<()>> {
        // Past the runtime's budget: the sender of many datagrams has a bound of its own, and a datagram that is pending only
        // because of the budget may be pushed out of its queue by the next ones.
        match self.socket.try_send(datagram) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.socket.poll_send(cx, datagram).map_ok(drop)
            }
            result => Poll::Ready(result.map(drop)),
        }
    }
}

/// The reason for which an error on a socket ends its stream, as [`end_of_io_error`] has it; `None` when the error cost
/// one datagram and the next one may well pass: too large for the path, no buffer for it, or no target in it.
pub fn end_of_datagram_error(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error) {
        Some(Errno::MSGSIZE | Errno::NOBUFS | Errno::NOMEM | Errno::DESTADDRREQ) => None,
        _ => Some(end_of_io_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    fn pair() -> (ConnectedUdp, std::net::UdpSocket) {
        let target = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        (ConnectedUdp::open(target.local_addr().unwrap(), &Source::default()).unwrap(), target)
    }

    async fn send(socket: &mut ConnectedUdp, datagram: &[u8]) -> io::Result<()> {
        poll_fn(|cx| socket.poll_send(cx, datagram)).await
    }

    async fn recv(socket: &mut ConnectedUdp) -> io::Result<Vec<u8>> {
        let mut space = [0; 100];
        let mut buffer = ReadBuf::new(&mut space);
        let received = poll_fn(|cx| socket.poll_recv(cx, &mut buffer));
        let received = tokio::time::timeout(Duration::from_secs(5), received).await;
        received.expect("woken in time").map(|()| buffer.filled().to_vec())
    }

    #[tokio::test]
    async fn datagrams_keep_their_boundaries() {
        let (mut ours, target) = pair();
        for datagram in [&b"one"[..], b"", b"two"] {
            send(&mut ours, datagram).await.unwrap();
        }
        let mut space = [0; 9];
        let (count, source) = target.recv_from(&mut space).unwrap();
        assert_eq!(space[..count], *b"one");
        assert_eq!(target.recv(&mut space).unwrap(), 0);
        assert_eq!(target.recv(&mut space).unwrap(), 3);
        for datagram in [&b""[..], b"answer"] {
            target.send_to(datagram, source).unwrap();
            assert_eq!(recv(&mut ours).await.unwrap(), datagram);
        }
    }

    #[tokio::test]
    async fn strangers_are_not_heard() {
        let (mut ours, target) = pair();
        let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = ours.socket.local_addr().unwrap();
        stranger.send_to(b"let me in", address).unwrap();
        target.send_to(b"the target", address).unwrap();
        assert_eq!(recv(&mut ours).await.unwrap(), b"the target");
    }

    #[tokio::test]
    async fn datagrams_leave_from_the_chosen_address() {
        let target = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let source = Source::new(&["127.0.0.9".parse().unwrap()], Some("lo"));
        let mut ours = ConnectedUdp::open(target.local_addr().unwrap(), &source).unwrap();
        send(&mut ours, b"hello").await.unwrap();
        let (_, from) = target.recv_from(&mut [0; 9]).unwrap();
        assert_eq!(from.ip().to_string(), "127.0.0.9");
        target.send_to(b"answer", from).unwrap();
        assert_eq!(recv(&mut ours).await.unwrap(), b"answer");
    }

    #[test]
    fn what_strangers_sent_before_the_connect_is_dropped() {
        let [stranger, target] =
            ["127.0.0.1:0"; 2].map(|address| std::net::UdpSocket::bind(address).unwrap());
        let ours = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        ours.set_nonblocking(true).unwrap();
        ours.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let here = ours.local_addr().unwrap().as_socket().unwrap();
        for datagram in [&b""[..], b"let me in"] {
            stranger.send_to(datagram, here).unwrap();
        }
        ours.connect(&target.local_addr().unwrap().into()).unwrap();
        drop_what_came(&ours);
        target.send_to(b"the target", here).unwrap();
        let mut space = [0; 9];
        std::net::UdpSocket::from(ours).recv(&mut space).unwrap();
        assert_eq!(&space, b"the targe");
    }

    #[tokio::test]
    async fn who_only_receives_is_woken_by_a_refusal() {
        let (mut ours, target) = pair();
        drop(target);
        // The reader waits first, as a relay does.
        let mut space = [0; 9];
        let pending = poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut space);
            Poll::Ready(ours.poll_recv(cx, &mut buffer).is_pending())
        });
        assert!(pending.await);
        send(&mut ours, b"first").await.unwrap();
        let error = recv(&mut ours).await.unwrap_err();
        assert_eq!(end_of_datagram_error(&error), Some("refused"));
        // And by the next one: the first must not have used the wake-up up.
        send(&mut ours, b"second").await.unwrap();
        assert_eq!(recv(&mut ours).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_send_beyond_the_runtimes_budget_is_not_held_back() {
        let (mut ours, _target) = pair();
        send(&mut ours, b"first").await.unwrap();
        let sent = poll_fn(|cx| {
            let sent = (0..1000).take_while(|_| ours.poll_send(cx, b"x").is_ready());
            Poll::Ready(sent.count())
        });
        assert_eq!(sent.await, 1000);
    }

    #[test]
    fn an_error_of_one_datagram_does_not_end_the_stream() {
        for (errno, end) in [
            (Errno::MSGSIZE, None),
            (Errno::NOBUFS, None),
            (Errno::NOMEM, None),
            (Errno::DESTADDRREQ, None),
            (Errno::CONNREFUSED, Some("refused")),
            (Errno::HOSTUNREACH, Some("unreachable")),
            (Errno::PERM, Some("unreachable")),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(end_of_datagram_error(&error), end, "{errno:?}");
        }
    }
}
