//! SOCKS5 UDP ASSOCIATE (RFC 1928 section 7).
//!
//! Each association has a UDP socket on the address at which its control connection arrived. It takes
//! datagrams only from the address of the program that asked, and from the port that its first
//! valid datagram comes from. The port in its request is not used: programs put the target's there.
//! Fragments are dropped, as the RFC allows. The first datagram that is ignored for a reason is
//! reported, the next ones of that reason are not. Answers name the target as the
//! program did. The association ends with its control connection.

use super::prefixed::Prefixed;
use super::socks5::{Reply, bound_reply, datagram, datagram_header};
use super::socks5_reply::send;
use super::{Rejected, ReportRejected};
use crate::flows::{Flows, Way};
use crate::{Open, OpenError, Target};
use httvps_mux::Local;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::UdpSocket;

/// Why a datagram is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ignored {
    OtherAddress,
    OtherPort,
    NoRequest,
}

impl Ignored {
    const fn words(self) -> &'static str {
        match self {
            Self::OtherAddress => "the association belongs to a program at another address",
            Self::OtherPort => "the association belongs to the port that sent first",
            Self::NoRequest => "it is a fragment or has no SOCKS5 header with a valid target",
        }
    }
}

/// From where an association takes datagrams.
struct Source {
    address: IpAddr,
    /// That of the first valid datagram.
    port: Option<u16>,
}

impl Source {
    fn take<'d>(
        &mut self,
        from: SocketAddr,
        bytes: &'d [u8],
    ) -> Result<(Target, &'d [u8]), Ignored> {
        if from.ip().to_canonical() != self.address {
            return Err(Ignored::OtherAddress);
        }
        if self.port.is_some_and(|port| port != from.port()) {
            return Err(Ignored::OtherPort);
        }
        let request = datagram(bytes).ok_or(Ignored::NoRequest)?;
        self.port = Some(from.port());
        Ok(request)
    }
}

/// Serves one association.
pub(super) async fn serve<L: Local, O: Open>(
    mut local: Prefixed<L>,
    opener: Arc<O>,
    report: &ReportRejected,
) -> Result<(), Rejected> {
    let (socket, program) = match bind(local.addresses()).await {
        Ok(bound) => bound,
        Err(error) => {
            send(&mut local, &Reply::GeneralFailure.message()).await?;
            return Err(Rejected::local(&error));
        }
    };
    let address = socket.local_addr().map_err(|error| Rejected::local(&error))?;
    send(&mut local, &bound_reply(address)).await?;
    let mut source = Source { address: program.ip(), port: None };
    let mut reported = Vec::new();
    let mut flows = Flows::<Target, O>::new(opener, Arc::new(socket));
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            read = local.read(&mut ignored) => match read {
                Ok(0) | Err(_) => return Ok(()),
                // Nothing is to be said on the control connection any more.
                Ok(_) => {}
            },
            ended = flows.next(|flows, from, bytes| {
                match source.take(from, bytes) {
                    Ok((target, payload)) => {
                        let way = || Way { program: from, header: datagram_header(&target) };
                        flows.pass(&target, &target, way, payload);
                    }
                    Err(reason) if reported.contains(&reason) => {}
                    Err(reason) => {
                        reported.push(reason);
                        report(&Rejected::datagram(from, reason.words()));
                    }
                }
            }) => match ended {
                Ok(Some((target, error @ OpenError::NoDatagrams))) => {
                    return Err(Rejected::not_opened(&target, &error));
                }
                // One target that cannot be reached is no reason to take the others away.
                Ok(_) => {}
                Err(error) => return Err(Rejected::local(&error)),
            },
        }
    }
}

/// The socket of an association, and the address of its program.
async fn bind(control: Option<(SocketAddr, SocketAddr)>) -> io::Result<(UdpSocket, SocketAddr)> {
    let (ours, theirs) = control.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = UdpSocket::bind((ours.ip().to_canonical(), 0)).await?;
    Ok((socket, SocketAddr::new(theirs.ip().to_canonical(), theirs.port())))
}
