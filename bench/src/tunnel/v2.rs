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

/// Bytes of a frame's header.
const HEADER: usize = 8;
/// Kind of a stream of bytes.
const BYTES: u8 = 1;
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
        while self.received < bytes {
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

    /// Takes the next message and grants again what it brought.
    async fn receive(&mut self) -> io::Result<()> {
        let message = self.session.message().await?;
        let (mut rest, mut grants) = (&message[..], Vec::new());
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

fn frame(kind: u8, id: u32, payload: &[u8]) -> Vec<u8> {
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
