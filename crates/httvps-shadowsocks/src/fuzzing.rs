//! Private readers opened to the fuzzer, and a node's half to feed them with.

use std::io;
use std::sync::Arc;

use httvps_proto::Target;

use crate::aead::{Direction, TAG_LEN};
use crate::inbound::ANSWER;
use crate::node_packets::{Answer, sealed};
use crate::packets::Packets;
use crate::stream::unix_now;
use crate::{AccessKey, Stream};

/// What a node says on a stream.
pub struct NodeHalf {
    direction: Direction,
    wire: Vec<u8>,
    /// What stands before the first length with the ciphers of 2022.
    about: Vec<u8>,
}

impl NodeHalf {
    /// Begins the answer to a stream, by a node that has `key`.
    pub fn new<S>(stream: &Stream<S>, key: &AccessKey) -> Self {
        let salt = vec![9; key.cipher().key_len()];
        let mut about = Vec::new();
        if key.cipher().is_2022() {
            about.push(ANSWER);
            about.extend_from_slice(&unix_now().to_be_bytes());
            about.extend_from_slice(stream.request_salt());
        }
        Self { direction: Direction::new(key, &salt), wire: salt, about }
    }

    /// Changes what the answer says about itself.
    pub fn about_mut(&mut self) -> &mut Vec<u8> {
        &mut self.about
    }

    /// Seals a chunk that says it is `length` bytes long.
    pub fn chunk(&mut self, length: u16, payload: &[u8]) {
        let mut head = std::mem::take(&mut self.about);
        head.extend_from_slice(&length.to_be_bytes());
        for plain in [&head, payload] {
            let start = self.wire.len();
            self.wire.extend_from_slice(plain);
            self.wire.extend_from_slice(&[0; TAG_LEN]);
            self.direction.seal(&mut self.wire[start..]);
        }
    }

    /// All bytes sent so far, for a test that changes them on the way.
    pub fn wire_mut(&mut self) -> &mut Vec<u8> {
        &mut self.wire
    }
}

/// Datagrams of one client and one target, without a socket.
pub struct PacketHalf {
    key: AccessKey,
    packets: Packets,
}

/// Fields of a node's answer that a node can choose.
#[derive(Clone, Copy)]
pub struct PacketFields<'a> {
    /// The type; 1 is an answer.
    pub kind: u8,
    /// Seconds that the node's clock is ahead of ours.
    pub ahead: i64,
    /// The node's session.
    pub session: u64,
    /// The number of the packet.
    pub packet: u64,
    /// Whether it names the client's session, or another one.
    pub is_ours: bool,
    /// Bytes of padding.
    pub padding: u16,
    /// Who sent the payload.
    pub source: &'a str,
    /// What was sent.
    pub payload: &'a [u8],
}

impl PacketHalf {
    /// Datagrams to and from `target`. It fails only when the system has no random bytes.
    pub fn new(key: AccessKey, target: &Target) -> io::Result<Self> {
        Ok(Self { packets: Packets::new(Arc::new(key.clone()), Some(target))?, key })
    }

    /// What a node sends.
    pub fn sealed(&self, fields: PacketFields<'_>) -> Vec<u8> {
        let ours = self.packets.session_id().unwrap_or_default();
        let PacketFields { kind, session, packet, padding, source, payload, .. } = fields;
        let client = if fields.is_ours { ours } else { ours.map(|byte| !byte) };
        let time = unix_now().saturating_add_signed(fields.ahead);
        sealed(&self.key, Answer { kind, time, session, packet, client, padding, source, payload })
    }

    /// The payload of a packet that is authentic, new and of the target.
    pub fn open(&mut self, mut packet: Vec<u8>) -> Option<Vec<u8>> {
        let payload = self.packets.open(&mut packet, unix_now())?;
        Some(packet[payload].to_vec())
    }
}
