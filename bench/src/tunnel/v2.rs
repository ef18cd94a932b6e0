//! The little of the v2 wire format that holding many idle sessions needs; see `docs/protocol-v2.md`.

use crate::session::{Endpoint, Session};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

const OPEN: u8 = 0x01;
const DATA: u8 = 0x03;
const FINISH: u8 = 0x04;
const RESET: u8 = 0x05;
const CREDIT: u8 = 0x06;
const PING: u8 = 0x08;
const PONG: u8 = 0x09;

/// Bytes of a frame's header.
const HEADER: usize = 8;
/// Kind of a stream of bytes.
const BYTES: u8 = 1;
/// Kind of a stream of datagrams.
const DATAGRAMS: u8 = 2;
/// Credit that a stream, and the session, begins with.
const STREAM_CREDIT: usize = 64 * 1024;
const SESSION_CREDIT: usize = 256 * 1024;
/// Most bytes of one of our DATA frames.
const PIECE: usize = 16 * 1024;

/// A session that speaks v2.
pub(crate) struct Tunnel {
    session: Session,
    last_id: u32,
    /// Credit left, by stream; the session's is under 0.
    credit: HashMap<u32, usize>,
    received: usize,
    is_finished: bool,
}

impl Tunnel {
    pub(crate) async fn open(endpoint: &Endpoint, device: &str) -> io::Result<Self> {
        Ok(Self {
            session: Session::open_v2(endpoint, device).await?,
            last_id: 0,
            credit: HashMap::from([(0, SESSION_CREDIT)]),
            received: 0,
            is_finished: false,
        })
    }

    /// Opens a stream to an echo, moves `bytes` there and back over it, and leaves it open.
    pub(crate) async fn echo(&mut self, target: SocketAddr, bytes: usize) -> io::Result<u32> {
        self.last_id += 1;
        let id = self.last_id;
        self.credit.insert(id, STREAM_CREDIT);
        let mut payload = vec![BYTES];
        payload.extend(target.to_string().bytes());
        let mut frames = frame(OPEN, id, &payload);
        let mut sent = 0;
        self.received = 0;
        while self.received < bytes || !frames.is_empty() {
            let room = self.credit[&id].min(self.credit[&0]);
            let length = room.min(bytes - sent).min(PIECE);
            if length > 0 {
                frames.extend(frame(DATA, id, &vec![0x5a; length]));
                self.spend(id, length);
                sent += length;
            }
            if !frames.is_empty() {
                self.session.send_binary(&frames).await?;
                frames.clear();
            }
            if length == 0 {
                self.receive().await?;
            }
        }
        Ok(id)
    }

    /// Moves so many bytes to an echo and back over a stream that is open.
    pub(crate) async fn again(&mut self, id: u32, bytes: usize) -> io::Result<()> {
        self.received = 0;
        self.spend(id, bytes);
        self.session.send_binary(&frame(DATA, id, &vec![0x5a; bytes])).await?;
        while self.received < bytes {
            self.receive().await?;
        }
        Ok(())
    }

    /// The stream that was opened last, or a new one to `target`.
    pub(crate) async fn last(&mut self, target: SocketAddr) -> io::Result<u32> {
        if self.last_id == 0 { self.echo(target, 0).await } else { Ok(self.last_id) }
    }

    /// Opens a stream of datagrams.
    pub(crate) async fn open_datagrams(&mut self, target: SocketAddr) -> io::Result<u32> {
        self.last_id += 1;
        let mut payload = vec![DATAGRAMS];
        payload.extend(target.to_string().bytes());
        self.session.send_binary(&frame(OPEN, self.last_id, &payload)).await?;
        Ok(self.last_id)
    }

    /// Sends as much as the credit of a stream allows in frames of [`PIECE`], else waits for more; gives how much.
    pub(crate) async fn pour(&mut self, id: u32) -> io::Result<usize> {
        let room = self.credit[&id].min(self.credit[&0]).min(16 * PIECE);
        if room == 0 {
            return self.receive().await.map(|()| 0);
        }
        let payload = vec![0x5a; room];
        let frames: Vec<u8> =
            payload.chunks(PIECE).flat_map(|piece| frame(DATA, id, piece)).collect();
        self.spend(id, room);
        self.session.send_binary(&frames).await?;
        // Credit and questions that have come meanwhile are not waited for.
        while let Some(received) = self.receive_now().await {
            received?;
        }
        Ok(room)
    }

    /// Spends the credit of a stream in frames of one byte, one message, and waits for more.
    pub(crate) async fn drip(&mut self, id: u32) -> io::Result<()> {
        let room = self.credit[&id].min(self.credit[&0]);
        if room > 0 {
            self.spend(id, room);
            self.session.send_binary(&frame(DATA, id, b"x").repeat(room)).await?;
        }
        self.receive().await
    }

    /// Gives up what is known of streams and credit.
    pub(crate) fn into_session(self) -> Session {
        self.session
    }

    /// Finishes a stream and waits until the target has done so too: the stream is over.
    pub(crate) async fn finish(&mut self, id: u32) -> io::Result<()> {
        self.is_finished = false;
        self.session.send_binary(&frame(FINISH, id, &[])).await?;
        while !self.is_finished {
            self.receive().await?;
        }
        self.credit.remove(&id);
        Ok(())
    }

    fn spend(&mut self, id: u32, bytes: usize) {
        for id in [id, 0] {
            if let Some(credit) = self.credit.get_mut(&id) {
                *credit -= bytes;
            }
        }
    }

    /// Takes a message that has come already.
    async fn receive_now(&mut self) -> Option<io::Result<()>> {
        let message = tokio::select! {
            biased;
            message = self.session.message() => message,
            () = std::future::ready(()) => return None,
        };
        Some(match message {
            Ok(message) => self.take(&message).await,
            Err(error) => Err(error),
        })
    }

    /// Takes the next message and grants again what it brought.
    async fn receive(&mut self) -> io::Result<()> {
        let message = self.session.message().await?;
        self.take(&message).await
    }

    async fn take(&mut self, message: &[u8]) -> io::Result<()> {
        let (mut rest, mut grants) = (message, Vec::new());
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER>() {
            let [kind, l0, l1, l2, id @ ..] = *header;
            let (length, id) = (u32::from_be_bytes([0, l0, l1, l2]), u32::from_be_bytes(id));
            let cut = behind.split_at_checked(length as usize);
            let (payload, behind) = cut.ok_or_else(|| io::Error::other("half a frame"))?;
            rest = behind;
            match (kind, payload) {
                (DATA, _) if !payload.is_empty() => {
                    self.received += payload.len();
                    grants.extend(frame(CREDIT, id, &length.to_be_bytes()));
                    grants.extend(frame(CREDIT, 0, &length.to_be_bytes()));
                }
                (CREDIT, &[a, b, c, d]) => {
                    let more = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.credit.entry(id).and_modify(|credit| *credit += more);
                }
                (PING, _) => grants.extend(frame(PONG, 0, payload)),
                (FINISH, _) => self.is_finished = true,
                (RESET, _) => {
                    let words = String::from_utf8_lossy(payload.get(1..).unwrap_or_default());
                    return Err(io::Error::other(format!("the gateway reset a stream: {words}")));
                }
                _ => {}
            }
        }
        if grants.is_empty() { Ok(()) } else { self.session.send_binary(&grants).await }
    }
}

/// A frame of the second wire format.
pub(crate) fn frame(kind: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes().to_vec();
    frame[0] = kind;
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_that_of_the_document() {
        let open = frame(OPEN, 1, b"\x01a.test:80");
        assert_eq!(open[..9], [1, 0, 0, 10, 0, 0, 0, 1, 1]);
        assert_eq!(frame(FINISH, 0x0102_0304, &[]), [4, 0, 0, 0, 1, 2, 3, 4]);
    }
}
