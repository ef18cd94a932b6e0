//! Datagrams to and from a target through a node.

use std::fmt;
use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use crate::area;
use crate::packets::Packets;
use crate::stream::unix_now;

/// A socket that is connected to a node and moves whole packets.
pub trait PacketSocket {
    /// Receives the next packet into `buffer`.
    fn poll_recv(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>)
    -> Poll<io::Result<()>>;

    /// Sends one packet.
    fn poll_send(&mut self, cx: &mut Context<'_>, packet: &[u8]) -> Poll<io::Result<()>>;
}

/// A refusal by the node's host (ICMP) shows at the next call; it does not wake a waiting task.
impl PacketSocket for UdpSocket {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Self::poll_recv(self, cx, buffer)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, packet: &[u8]) -> Poll<io::Result<()>> {
        Self::poll_send(self, cx, packet).map_ok(drop)
    }
}

/// Datagrams to and from one target through a node.
///
/// Each call moves a whole datagram or none, so polls are cancellation-safe. Only datagrams of the target are
/// returned. A packet is dropped silently when it is not authentic, was seen before (a window of 1,024 packets), is more than
/// 30 s old, or comes from another source. When the target is a name, the node reports the address that it resolved,
/// so only the port of the source is compared.
///
/// Replays and old packets are detected with the ciphers of 2022 only; the others have neither times nor
/// packet numbers. Datagrams are not padded. No buffer is held between calls.
pub struct Datagrams<S = UdpSocket> {
    socket: S,
    packets: Packets,
}

impl<S> Datagrams<S> {
    pub(crate) fn new(socket: S, packets: Packets) -> Self {
        Self { socket, packets }
    }
}

impl<S: PacketSocket> Datagrams<S> {
    /// Receives the next datagram of the target into `buffer`; an empty one counts. A longer one is truncated,
    /// so a buffer that is filled to its end may hold only a part.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut area = area::take();
        let received = self.poll_recv_through(cx, buffer, &mut area);
        area::give_back(area);
        received
    }

    fn poll_recv_through(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        area: &mut [u8],
    ) -> Poll<io::Result<()>> {
        // Bounded even if the node sends invalid packets without end: the runtime's budget makes it pending.
        loop {
            let mut packet = ReadBuf::new(area);
            ready!(self.socket.poll_recv(cx, &mut packet))?;
            let packet = packet.filled_mut();
            if let Some(payload) = self.packets.open(packet, unix_now()) {
                let payload = &packet[payload];
                buffer.put_slice(&payload[..payload.len().min(buffer.remaining())]);
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Sends one datagram to the target.
    ///
    /// The packet is longer than the datagram by the address (7 or 19 bytes, or a name's length and 4) and at most 67
    /// bytes. One that is too long for the socket is an `EMSGSIZE` error; later ones are unaffected.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<()>> {
        let mut area = area::take();
        let sent = match self.packets.seal(datagram, unix_now(), &mut area) {
            Ok(len) => self.socket.poll_send(cx, &area[..len]),
            Err(error) => Poll::Ready(Err(error)),
        };
        area::give_back(area);
        sent
    }
}

impl<S> fmt::Debug for Datagrams<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aead::session_key;
    use crate::node_half::key;
    use crate::packets::{open_body, seal_body};
    use crate::{Cipher, Client};
    use aws_lc_rs::aead::NONCE_LEN;
    use std::future::poll_fn;

    /// A node's socket, where a node sends back each datagram under a salt of its own: with the AEAD ciphers a question
    /// reads as an answer of the target.
    struct Mirror(Vec<Vec<u8>>);

    impl PacketSocket for Mirror {
        fn poll_recv(
            &mut self,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Pending;
            }
            buffer.put_slice(&self.0.remove(0));
            Poll::Ready(Ok(()))
        }

        fn poll_send(&mut self, _: &mut Context<'_>, packet: &[u8]) -> Poll<io::Result<()>> {
            let key = key(Cipher::Aes128Gcm);
            let (salt, body) = packet.split_at(key.cipher().key_len());
            let mut body = body.to_vec();
            open_body(&session_key(&key, salt), [0; NONCE_LEN], &mut body).unwrap();
            let salt = vec![9; salt.len()];
            seal_body(&session_key(&key, &salt), [0; NONCE_LEN], &mut body);
            self.0.push([salt, body].concat());
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn garbage_is_passed_over_and_what_does_not_fit_is_cut_off() {
        let client = Client::new(key(Cipher::Aes128Gcm));
        let target = "192.0.2.7:53".parse().unwrap();
        let mirror = Mirror(vec![vec![], vec![7; 10], vec![7; 100]]);
        let mut datagrams = client.start_datagrams(mirror, Some(&target)).unwrap();
        for datagram in [&b"short"[..], b"", b"far too long"] {
            poll_fn(|cx| datagrams.poll_send(cx, datagram)).await.unwrap();
            let mut space = [0; 7];
            let mut buffer = ReadBuf::new(&mut space);
            poll_fn(|cx| datagrams.poll_recv(cx, &mut buffer)).await.unwrap();
            assert_eq!(buffer.filled(), &datagram[..datagram.len().min(7)]);
        }
        let mut space = [0; 7];
        let mut buffer = ReadBuf::new(&mut space);
        let nothing = poll_fn(|cx| Poll::Ready(datagrams.poll_recv(cx, &mut buffer))).await;
        assert!(nothing.is_pending());
    }
}
