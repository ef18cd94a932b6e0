//! TCP sockets, opened the way a gateway and its clients need them.
//!
//! `TCP_NODELAY` is set on both ends at once: without it a TLS handshake followed by an upgrade
//! waits for a delayed acknowledgement (44 ms instead of 2.5 ms, measured on loopback).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::str::FromStr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

/// Connections that the kernel may hold for us between their handshake and `accept`.
pub const BACKLOG: i32 = 4096;

/// Silence after which the kernel begins to probe a peer.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);

/// Time between two probes.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);

/// Unanswered probes after which the kernel reports the peer as gone.
const KEEPALIVE_PROBES: u32 = 3;

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bind {
    /// Every address of the host, IPv6 and IPv4, on this port. Written `:PORT`.
    Any(u16),
    /// Exactly this address.
    Address(SocketAddr),
}

/// A listen address that does not parse; the message says what is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadBind;

impl fmt::Display for BadBind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a listen address; accepted: :PORT, IPV4:PORT, [IPV6]:PORT, localhost:PORT")
    }
}

impl std::error::Error for BadBind {}

impl FromStr for Bind {
    type Err = BadBind;

    /// Parses the Go style: an empty host means every address, IPv6 and IPv4.
    fn from_str(text: &str) -> Result<Self, BadBind> {
        let (host, port) = text.rsplit_once(':').ok_or(BadBind)?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BadBind);
        }
        let port: u16 = port.parse().map_err(|_| BadBind)?;
        match host {
            "" => Ok(Self::Any(port)),
            "localhost" => Ok(Self::Address((Ipv4Addr::LOCALHOST, port).into())),
            _ => text.parse().map(Self::Address).map_err(|_| BadBind),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(port) => write!(f, ":{port}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Bytes that the kernel takes for a connection beyond what is on its way, give or take one write.
///
/// What has been handed over cannot be overtaken any more: a small frame, or the credit that the
/// other direction waits for, would stand behind megabytes of a kernel's buffer.
pub const NOT_SENT_MAX: u32 = 256 * 1024;

/// Congestion control for peers on this host: one that every kernel has and that does not pace.
///
/// A host that paces (BBR without the `fq` queue) sets a timer for nearly every write, which on a virtual machine is a
/// call of its hypervisor; between two programs of one host there is no path that it could spare.
const LOOPBACK_CONGESTION: &[u8] = b"reno";

/// Fits a socket to the path to `peer`. Call it before connecting, or after accepting where the listener has more than
/// this host as its peers.
///
/// A peer on the loopback interface is not paced, whatever `net.ipv4.tcp_congestion_control` says; others keep the host's
/// setting. An accepted connection whose listener has a control that paces (BBR) stays paced all the same; a listener on a
/// loopback address has none.
pub fn suit_peer(socket: &impl AsFd, peer: IpAddr) {
    if peer.to_canonical().is_loopback() {
        // It only costs speed where it cannot be had.
        let _ = SockRef::from(socket).set_tcp_congestion(LOOPBACK_CONGESTION);
    }
}

/// Opens a listening socket with `SO_REUSEADDR` and a backlog of [`BACKLOG`].
///
/// The connections that it accepts inherit from it (Linux) `TCP_NODELAY`, keep-alive and at most [`NOT_SENT_MAX`] bytes
/// that wait in the kernel: no call for each connection.
///
/// [`Bind::Any`] is one dual-stack socket; on a host without IPv6 it is an IPv4 socket. Must be
/// called inside a tokio runtime with I/O enabled.
pub fn listen(bind: Bind) -> io::Result<TcpListener> {
    match bind {
        Bind::Address(address) => listen_on(address),
        Bind::Any(port) => listen_on((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| {
            if is_missing_ipv6(&error) {
                listen_on((Ipv4Addr::UNSPECIFIED, port).into())
            } else {
                Err(error)
            }
        }),
    }
}

/// Binds a UDP socket; [`Bind::Any`] as for [`listen`]. Must be called inside a tokio runtime with
/// I/O enabled.
pub fn bind_udp(bind: Bind) -> io::Result<UdpSocket> {
    let open = |address: SocketAddr| {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
        if let SocketAddr::V6(v6) = address {
            socket.set_only_v6(!v6.ip().is_unspecified())?;
        }
        socket.bind(&address.into())?;
        UdpSocket::from_std(socket.into())
    };
    match bind {
        Bind::Address(address) => open(address),
        Bind::Any(port) => open((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| {
            if is_missing_ipv6(&error) {
                open((Ipv4Addr::UNSPECIFIED, port).into())
            } else {
                Err(error)
            }
        }),
    }
}

/// Connects to one address; the socket has what those have that [`listen`] accepts.
///
/// Has no time-out of its own. Cancel safe: dropping the future closes the socket.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    prepare(&SockRef::from(&socket))?;
    suit_peer(&socket, address.ip());
    socket.connect(address).await
}

/// Prepares a socket that will listen on or connect to an address.
fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    // Without it interactive streams and credit wait behind more; no reason to refuse a connection.
    let _ = socket.set_tcp_notsent_lowat(NOT_SENT_MAX);
    Ok(())
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if let SocketAddr::V6(v6) = address {
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    prepare(&SockRef::from(&socket))?;
    suit_peer(&socket, address.ip());
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES)
}

/// Whether the host has no IPv6 at all: no such address family, or the family without addresses.
fn is_missing_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error() == Some(EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_parse_in_go_style() {
        assert_eq!(":8443".parse(), Ok(Bind::Any(8443)));
        assert_eq!("127.0.0.1:0".parse(), Ok(Bind::Address(([127, 0, 0, 1], 0).into())));
        assert_eq!("[::1]:443".parse(), Ok(Bind::Address((Ipv6Addr::LOCALHOST, 443).into())));
        for bad in ["", "8443", ":", ":+1", ":65536", "::1:80", "host:1", "1.2.3.4:x"] {
            assert_eq!(bad.parse::<Bind>(), Err(BadBind), "{bad:?}");
        }
        assert_eq!(Bind::Any(8443).to_string(), ":8443");
    }

    #[tokio::test]
    async fn any_listens_on_both_families() {
        let listener = listen(Bind::Any(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let v4 = connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
        assert!(v4.nodelay().unwrap());
        if listener.local_addr().unwrap().is_ipv6() {
            connect((Ipv6Addr::LOCALHOST, port).into()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn both_ends_are_prepared() {
        let listener = listen(Bind::Address((Ipv4Addr::LOCALHOST, 0).into())).unwrap();
        let connected = connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        for end in [connected, accepted] {
            let socket = SockRef::from(&end);
            assert!(socket.tcp_nodelay().unwrap());
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_EVERY);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOT_SENT_MAX);
        }
    }

    #[tokio::test]
    async fn a_peer_on_this_host_has_the_control_that_does_not_pace() {
        for bind in [Bind::Address((Ipv4Addr::LOCALHOST, 0).into()), Bind::Any(0)] {
            let listener = listen(bind).unwrap();
            let port = listener.local_addr().unwrap().port();
            let connected = connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
            let (accepted, peer) = listener.accept().await.unwrap();
            suit_peer(&accepted, peer.ip());
            for end in [connected, accepted] {
                let name = SockRef::from(&end).tcp_congestion().unwrap();
                assert!(name.starts_with(LOOPBACK_CONGESTION), "{bind}: {name:?}");
            }
        }
        let other = TcpSocket::new_v4().unwrap();
        let before = SockRef::from(&other).tcp_congestion().unwrap();
        suit_peer(&other, [192, 0, 2, 1].into());
        assert_eq!(SockRef::from(&other).tcp_congestion().unwrap(), before);
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error() {
        let first = listen(Bind::Address(([127, 0, 0, 1], 0).into())).unwrap();
        let taken = Bind::Address(first.local_addr().unwrap());
        assert_eq!(listen(taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
