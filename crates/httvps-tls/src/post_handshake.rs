//! Messages that arrive after the handshake, and the bounds on what a peer may do with them.

use rustls::{AlertDescription, Error, HandshakeType, InvalidMessage, PeerMisbehaved};

use super::record::{self, Opened, Version};

/// Longest reassembled handshake message, in bytes.
const MESSAGE_MAX: usize = 64 * 1024;

/// Type and length of a handshake message, RFC 8446 section 4.
const HEADER_LEN: usize = 4;

/// Records without content in a row; the value of rustls and of `BoringSSL`.
const EMPTY_RECORDS_MAX: u8 = 32;

/// Key updates without [`KEY_UPDATE_WORTH`] bytes of application data between them; the number of rustls and of
/// `BoringSSL`.
const KEY_UPDATES_MAX: u8 = 32;

/// Application data that makes good for the work of [`KEY_UPDATES_MAX`] key updates. With a byte between them a peer
/// could ask for any number.
const KEY_UPDATE_WORTH: usize = 16 * 1024;

/// Warnings in the life of a connection; the value of rustls and of `BoringSSL`.
const WARNINGS_MAX: u8 = 4;

/// A handshake message that is allowed after the handshake.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The content of a `NewSessionTicket`, without its header. Only a client gets one.
    Ticket(Vec<u8>),
    /// The peer has changed its sending key, and asks us to do so as well if `is_requested`.
    KeyUpdate { is_requested: bool },
    /// 1.2: the peer would like another handshake.
    Renegotiation,
}

/// Reassembles messages and counts what would let a peer keep us busy for nothing.
pub(super) struct PostHandshake {
    version: Version,
    is_client: bool,
    /// Received handshake messages, the last one perhaps in part.
    bytes: Vec<u8>,
    empty_records: u8,
    key_updates: u8,
    /// Application data since they were last counted from 0, up to [`KEY_UPDATE_WORTH`].
    data: u16,
    warnings: u8,
    has_renegotiated: bool,
}

impl PostHandshake {
    /// A `KeyUpdate` that requests none in return.
    pub(super) const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

    pub(super) fn new(version: Version, is_client: bool) -> Self {
        Self {
            version,
            is_client,
            bytes: Vec::new(),
            empty_records: 0,
            key_updates: 0,
            data: 0,
            warnings: 0,
            has_renegotiated: false,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Throws away what has been received: the connection has failed.
    pub(super) fn forget(&mut self) {
        self.bytes = Vec::new();
    }

    /// Checks that a record may come here, and counts it.
    pub(super) fn admit(&mut self, opened: Opened) -> Result<(), Error> {
        // RFC 8446 section 5.1: no other records between the parts of a handshake message.
        if !self.bytes.is_empty() && opened.typ != record::HANDSHAKE {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        if opened.len > 0 {
            self.empty_records = 0;
            if opened.typ == record::APPLICATION_DATA && self.key_updates > 0 {
                let data = usize::from(self.data) + opened.len;
                // A record has at most 16 KiB.
                self.data = data.min(KEY_UPDATE_WORTH) as u16;
                if data >= KEY_UPDATE_WORTH {
                    (self.key_updates, self.data) = (0, 0);
                }
            }
            return Ok(());
        }
        if opened.typ != record::APPLICATION_DATA {
            return Err(InvalidMessage::InvalidEmptyPayload.into());
        }
        if self.empty_records == EMPTY_RECORDS_MAX {
            return Err(PeerMisbehaved::TooManyEmptyFragments.into());
        }
        self.empty_records += 1;
        Ok(())
    }

    /// Takes an alert. True if it is `close_notify`; any other one that counts is an error.
    pub(super) fn alert(&mut self, content: &[u8]) -> Result<bool, Error> {
        let &[level, description] = content else {
            return Err(InvalidMessage::MessageTooShort.into());
        };
        let description = AlertDescription::from(description);
        // RFC 8446 section 6: in 1.3 the level says nothing; all but these two end the connection.
        let is_warning = match self.version {
            Version::Tls12 => level == 1,
            Version::Tls13 => description == AlertDescription::UserCanceled,
        };
        match description {
            AlertDescription::CloseNotify => Ok(true),
            _ if is_warning && self.warnings == WARNINGS_MAX => {
                Err(PeerMisbehaved::TooManyWarningAlertsReceived.into())
            }
            _ if is_warning => {
                self.warnings += 1;
                Ok(false)
            }
            _ => Err(Error::AlertReceived(description)),
        }
    }

    /// Adds the content of a handshake record.
    pub(super) fn push(&mut self, content: &[u8]) {
        self.bytes.extend_from_slice(content);
    }

    /// The next complete message, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Message>, Error> {
        let Some(&[typ, a, b, c]) = self.bytes.first_chunk::<HEADER_LEN>() else {
            if self.bytes.is_empty() {
                self.bytes = Vec::new();
            }
            return Ok(None);
        };
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        let typ = HandshakeType::from(typ);
        // The type is judged first, so that nothing is kept which would be refused later.
        self.check(typ, len)?;
        if self.bytes.len() < HEADER_LEN + len {
            return Ok(None);
        }
        let message: Vec<u8> = self.bytes.drain(..HEADER_LEN + len).collect();
        let payload = &message[HEADER_LEN..];
        match typ {
            HandshakeType::NewSessionTicket => Ok(Some(Message::Ticket(payload.to_vec()))),
            HandshakeType::KeyUpdate => self.key_update(payload).map(Some),
            _ => self.renegotiation().map(Some),
        }
    }

    fn check(&self, typ: HandshakeType, len: usize) -> Result<(), Error> {
        use HandshakeType as H;
        let expected = match (self.version, self.is_client) {
            (Version::Tls13, true) => &[H::NewSessionTicket, H::KeyUpdate][..],
            (Version::Tls13, false) => &[H::KeyUpdate],
            (Version::Tls12, true) => &[H::HelloRequest],
            (Version::Tls12, false) => &[H::ClientHello],
        };
        if !expected.contains(&typ) {
            let expect_types = expected.to_vec();
            return Err(Error::InappropriateHandshakeMessage { expect_types, got_type: typ });
        }
        if len > MESSAGE_MAX - HEADER_LEN {
            return Err(InvalidMessage::HandshakePayloadTooLarge.into());
        }
        if typ == H::KeyUpdate && len != 1 {
            return Err(InvalidMessage::TrailingData("KeyUpdate").into());
        }
        Ok(())
    }

    fn key_update(&mut self, payload: &[u8]) -> Result<Message, Error> {
        let is_requested = match payload {
            [0] => false,
            [1] => true,
            _ => return Err(InvalidMessage::InvalidKeyUpdate.into()),
        };
        // RFC 8446 section 5.1: a message before a change of keys ends its record.
        if !self.bytes.is_empty() {
            return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
        }
        if self.key_updates == KEY_UPDATES_MAX {
            return Err(PeerMisbehaved::TooManyKeyUpdateRequests.into());
        }
        self.key_updates += 1;
        Ok(Message::KeyUpdate { is_requested })
    }

    fn renegotiation(&mut self) -> Result<Message, Error> {
        if self.has_renegotiated {
            return Err(PeerMisbehaved::TooManyRenegotiationRequests.into());
        }
        self.has_renegotiated = true;
        Ok(Message::Renegotiation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(version: Version, is_client: bool) -> PostHandshake {
        PostHandshake::new(version, is_client)
    }

    fn feed(receiver: &mut PostHandshake, bytes: &[u8]) -> Result<Option<Message>, Error> {
        receiver.admit(Opened { typ: record::HANDSHAKE, len: bytes.len() })?;
        receiver.push(bytes);
        receiver.next()
    }

    #[test]
    fn messages_are_put_together_and_taken_apart() {
        let mut receiver = post(Version::Tls13, true);
        for byte in [4, 0, 0, 3, 7, 8] {
            assert_eq!(feed(&mut receiver, &[byte]), Ok(None));
        }
        let interleaved = receiver.admit(Opened { typ: record::APPLICATION_DATA, len: 1 });
        assert!(interleaved.is_err());
        let ticket = Ok(Some(Message::Ticket(vec![7, 8, 9])));
        assert_eq!(feed(&mut receiver, &[9, 24, 0, 0, 1]), ticket);
        assert_eq!(receiver.next(), Ok(None));
        let update = Ok(Some(Message::KeyUpdate { is_requested: true }));
        assert_eq!(feed(&mut receiver, &[1]), update);
        assert_eq!(receiver.next(), Ok(None));
        assert_eq!(receiver.capacity(), 0);
        let misaligned = feed(&mut receiver, &[24, 0, 0, 1, 1, 4]);
        assert_eq!(misaligned, Err(PeerMisbehaved::KeyEpochWithPendingFragment.into()));
    }

    #[test]
    fn what_does_not_belong_here_is_refused() {
        for (version, is_client, bytes) in [
            (Version::Tls13, false, &[4, 0, 0, 3][..]),
            (Version::Tls13, true, &[1, 0, 0, 3]),
            (Version::Tls13, true, &[4, 1, 0, 0]),
            (Version::Tls13, true, &[24, 0, 0, 2]),
            (Version::Tls13, false, &[24, 0, 0, 1, 2]),
            (Version::Tls12, true, &[1, 0, 0, 0]),
            (Version::Tls12, false, &[0, 0, 0, 0]),
            (Version::Tls12, true, &[4, 0, 0, 0]),
            (Version::Tls13, true, &[]),
        ] {
            assert!(feed(&mut post(version, is_client), bytes).is_err(), "{bytes:?}");
        }
        let mut client = post(Version::Tls12, true);
        assert_eq!(feed(&mut client, &[0, 0, 0, 0]), Ok(Some(Message::Renegotiation)));
        assert!(feed(&mut client, &[0, 0, 0, 0]).is_err());
    }

    #[test]
    fn fruitless_traffic_is_bounded() {
        let empty = Opened { typ: record::APPLICATION_DATA, len: 0 };
        let full = Opened { typ: record::APPLICATION_DATA, len: 1 };
        let mut receiver = post(Version::Tls13, false);
        for _ in 0..EMPTY_RECORDS_MAX {
            assert!(receiver.admit(empty).is_ok());
        }
        assert_eq!(receiver.admit(empty), Err(PeerMisbehaved::TooManyEmptyFragments.into()));
        assert!(receiver.admit(full).is_ok());
        assert!(receiver.admit(empty).is_ok());
        let much = Opened { typ: record::APPLICATION_DATA, len: KEY_UPDATE_WORTH / 2 };
        for round in 0..2 {
            for _ in 0..KEY_UPDATES_MAX {
                assert!(feed(&mut receiver, &PostHandshake::KEY_UPDATE).is_ok(), "{round}");
                assert!(receiver.admit(full).is_ok());
            }
            if round == 0 {
                assert!(receiver.admit(much).is_ok() && receiver.admit(much).is_ok());
            }
        }
        let error = PeerMisbehaved::TooManyKeyUpdateRequests.into();
        assert_eq!(feed(&mut receiver, &PostHandshake::KEY_UPDATE), Err(error));
    }

    #[test]
    fn alerts_are_told_apart() {
        let user_canceled = [1, 90];
        for version in [Version::Tls12, Version::Tls13] {
            let mut receiver = post(version, false);
            assert_eq!(receiver.alert(&[1, 0]), Ok(true));
            for _ in 0..WARNINGS_MAX {
                assert_eq!(receiver.alert(&user_canceled), Ok(false));
            }
            assert!(receiver.alert(&user_canceled).is_err());
            assert!(receiver.alert(&[1]).is_err());
            let told = receiver.alert(&[2, 40]);
            assert_eq!(told, Err(Error::AlertReceived(AlertDescription::HandshakeFailure)));
        }
        assert_eq!(post(Version::Tls12, false).alert(&[1, 100]), Ok(false));
        assert!(post(Version::Tls13, false).alert(&[1, 100]).is_err());
    }
}
