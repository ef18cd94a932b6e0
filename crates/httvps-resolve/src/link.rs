//! Sockets to one name server: connected ones, on the link that its address names.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hickory_resolver::net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioRuntimeProvider, TokioTime,
};
use socket2::{Domain, Socket, Type};
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;

/// Opens the sockets to one name server.
///
/// They are connected, so that the ICMP error of a host without a name server is seen at once, and not as a
/// time-out.
#[derive(Clone, Default)]
pub(crate) struct Link {
    tokio: TokioRuntimeProvider,
    zone: Option<Arc<str>>,
}

/// A connected UDP socket.
pub(crate) struct Connected(UdpSocket);

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Link {
    /// Sockets on the link `zone`, a name or a number, or on any.
    pub(crate) fn new(zone: Option<&str>) -> Self {
        Self { tokio: TokioRuntimeProvider::default(), zone: zone.map(Arc::from) }
    }

    /// The address with its link. The link is looked up each time, since interfaces appear and disappear.
    fn scoped(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        match (address, &self.zone) {
            (SocketAddr::V6(mut six), Some(zone)) => {
                six.set_scope_id(index_of(zone)?);
                Ok(six.into())
            }
            _ => Ok(address),
        }
    }
}

fn index_of(zone: &str) -> io::Result<u32> {
    if let Ok(index) = zone.parse() {
        return Ok(index);
    }
    let any = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(&any, zone)?)
}

impl RuntimeProvider for Link {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = TokioTime;
    type Udp = Connected;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        local: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        match self.scoped(server) {
            Ok(server) => self.tokio.connect_tcp(server, local, timeout),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opening<Self::Udp> {
        let server = self.scoped(server);
        Box::pin(async move {
            let server = server?;
            let socket = UdpSocket::bind(local).await?;
            socket.connect(server).await?;
            Ok(Connected(socket))
        })
    }
}

impl DnsUdpSocket for Connected {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buffer = ReadBuf::new(buffer);
        let from = ready!(self.0.poll_recv_from(cx, &mut buffer))?;
        Poll::Ready(Ok((buffer.filled().len(), from)))
    }

    /// Written out as `async_trait` has it. That no socket listens there is reported as an error, which is no readiness to
    /// read, so that has to be waited for too.
    fn recv_from<'own, 'buffer, 'both>(
        &'own self,
        buffer: &'buffer mut [u8],
    ) -> Pin<Box<dyn Future<Output = io::Result<(usize, SocketAddr)>> + Send + 'both>>
    where
        'own: 'both,
        'buffer: 'both,
        Self: 'both,
    {
        Box::pin(async move {
            loop {
                let ready = self.0.ready(Interest::READABLE | Interest::ERROR).await?;
                if ready.is_error() {
                    if let Some(error) = self.0.take_error()? {
                        return Err(error);
                    }
                    // "Would block" tells the runtime that it has to wait for the next error.
                    let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    let _ = self.0.try_io(Interest::ERROR, nothing);
                }
                match self.0.try_recv_from(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => return received,
                }
            }
        })
    }

    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        _server: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send(cx, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_the_number_of_its_link() {
        let address = "[fe80::1]:53".parse().unwrap();
        let scope = |zone| match Link::new(zone).scoped(address) {
            Ok(SocketAddr::V6(six)) => Some(six.scope_id()),
            _ => None,
        };
        assert_eq!(scope(None), Some(0));
        assert_eq!(scope(Some("7")), Some(7));
        assert_eq!(scope(Some("lo")), Some(1));
        assert_eq!(scope(Some("nosuch0")), None);
    }
}
