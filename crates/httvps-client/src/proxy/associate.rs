//! SOCKS5 UDP ASSOCIATE (RFC 1928 section 7).
//!
//! Each association has a UDP socket on the address at which its control connection arrived. It takes
//! datagrams only from the address of the program that asked, and from the port that it named or
//! first sends from. Fragments are dropped, as the RFC allows. Answers name the target as the
//! program did. The association ends with its control connection.

use super::Rejected;
use super::prefixed::Prefixed;
use super::socks5::{Reply, bound_reply, datagram, datagram_header};
use super::socks5_reply::send;
use crate::flows::{Flows, Way};
use crate::{Open, OpenError, Target};
use httvps_mux::Local;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::UdpSocket;

/// Serves one association; `port` is what the program will send from, 0 if it does not say.
pub(super) async fn serve<L: Local, O: Open>(
    mut local: Prefixed<L>,
    opener: Arc<O>,
    port: u16,
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
    let mut source = (port != 0).then_some(port);
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
                if from.ip().to_canonical() != program.ip()
                    || *source.get_or_insert(from.port()) != from.port()
                {
                    return;
                }
                if let Some((target, payload)) = datagram(bytes) {
                    let way = || Way { program: from, header: datagram_header(&target) };
                    flows.pass(&target, &target, way, payload);
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
