//! A TLS connection after its handshake, without I/O: records in, content out, and the messages
//! that the protocol itself exchanges.

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, Error, ExtractedSecrets, HandshakeType,
    InvalidMessage, PeerMisbehaved, SupportedCipherSuite,
};
use tokio::io::ReadBuf;

use super::post_handshake::{Message, PostHandshake};
use super::record::{self, FRAGMENT_MAX, Opened, Opener, Sealer, Version};
use super::record_buf::RecordBuf;

/// Room for one record of the protocol itself (an alert, a key update).
const CONTROL_MAX: usize = 64;

/// Records that one read opens. A record of a byte costs its reader a hundred times what the byte does, and an area holds
/// thousands of them; of records as large as a packet, fewer fit into one.
const RECORDS_MAX: usize = 128;

/// Levels of an alert, RFC 5246 section 7.2.
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What remains of rustls after the handshake: in 1.3 it derives new keys and stores tickets.
pub(super) enum Kernel {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
    /// 1.2 has neither.
    Tls12 {
        is_client: bool,
    },
}

impl Kernel {
    fn version(&self) -> Version {
        if matches!(self, Self::Tls12 { .. }) { Version::Tls12 } else { Version::Tls13 }
    }

    fn is_client(&self) -> bool {
        matches!(self, Self::Client(_) | Self::Tls12 { is_client: true })
    }

    fn next_sending_key(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Server(kernel) => kernel.update_tx_secret(),
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Tls12 { .. } => Err(Error::EncryptError),
        }
    }

    fn next_receiving_key(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Server(kernel) => kernel.update_rx_secret(),
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Tls12 { .. } => Err(Error::DecryptError),
        }
    }
}

/// The result of [`Session::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The next record waits for room.
    Full,
    /// [`RECORDS_MAX`] were opened, and there may be more.
    Paused,
    /// The next record has not arrived in full.
    NeedMore,
    /// The peer has sent `close_notify`; later bytes are ignored.
    Closed,
}

/// Both directions of a connection. After an error of [`open`](Self::open) or of
/// [`seal`](Self::seal) the only further call is [`refuse`](Self::refuse).
pub(super) struct Session {
    opener: Opener,
    sealer: Sealer,
    kernel: Kernel,
    post: PostHandshake,
    suite: SupportedCipherSuite,
    /// Records under one key.
    key_limit: u64,
    is_resumed: bool,
    /// A key update of ours waits for the socket; it answers later requests as well (RFC 8446
    /// section 4.6.3), so that a peer that does not read cannot make us queue more.
    is_update_queued: bool,
    /// `close_notify` was the last that we had to say.
    is_closed: bool,
}

impl Session {
    pub(super) fn new(
        secrets: &ExtractedSecrets,
        kernel: Kernel,
        suite: SupportedCipherSuite,
        is_resumed: bool,
    ) -> Result<Self, Error> {
        let version = kernel.version();
        let key_limit = confidentiality_limit(suite);
        Ok(Self {
            opener: Opener::new(version, &secrets.rx)?,
            sealer: Sealer::new(version, &secrets.tx, key_limit)?,
            post: PostHandshake::new(version, kernel.is_client()),
            kernel,
            suite,
            key_limit,
            is_resumed,
            is_update_queued: false,
            is_closed: false,
        })
    }

    /// The same connection with other keys and without a past.
    #[cfg(feature = "fuzzing")]
    pub(super) fn start_over(self, format: super::fuzzing::Format) -> Result<Self, Error> {
        let is_client = self.kernel.is_client();
        let (tx, rx) = (format.secrets(), format.secrets());
        let kernel = match (format.version(), self.kernel) {
            (Version::Tls12, _) => Kernel::Tls12 { is_client },
            (Version::Tls13, kernel) => kernel,
        };
        Self::new(&ExtractedSecrets { tx, rx }, kernel, self.suite, false)
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    pub(super) fn version(&self) -> Version {
        self.kernel.version()
    }

    pub(super) fn suite(&self) -> SupportedCipherSuite {
        self.suite
    }

    /// Bytes on the heap for an incomplete handshake message.
    pub(super) fn buffered_capacity(&self) -> usize {
        self.post.capacity()
    }

    /// How much to read behind `input` for a reader with `room`: the rest of the record that has
    /// begun and whole records of full size, so that a peer which sends such records leaves no
    /// partial one behind. At most `space`.
    pub(super) fn wanted(&self, input: &[u8], room: usize, space: usize) -> usize {
        let record_max = self.opener.record_max();
        let begun = self.opener.record_len(input).ok().flatten();
        let (missing, coming) = match begun {
            Some(len) => (len.saturating_sub(input.len()), self.opener.content_max(len)),
            None => (0, 0),
        };
        let more = room.saturating_sub(coming).div_ceil(FRAGMENT_MAX).max(1);
        let fitting = space.saturating_sub(missing) / record_max;
        (missing + more.min(fitting) * record_max).min(space)
    }

    /// Length of the record at the front of `input`, as soon as its header is there.
    pub(super) fn record_len(&self, input: &[u8]) -> Result<Option<usize>, Error> {
        self.opener.record_len(input)
    }

    /// Opens the records at the front of `input` until `buf` is full, no whole record is left, or [`RECORDS_MAX`] were
    /// opened.
    ///
    /// `buf` held `base` bytes when the read began. Only the first record of a read may be larger
    /// than the room: its rest goes to `rest`, which is empty before. What we owe the peer is
    /// added to `control`.
    pub(super) fn open(
        &mut self,
        input: &mut RecordBuf,
        (buf, base): (&mut ReadBuf<'_>, usize),
        rest: &mut RecordBuf,
        control: &mut RecordBuf,
    ) -> Result<Step, Error> {
        for _ in 0..RECORDS_MAX {
            if buf.remaining() == 0 {
                return Ok(Step::Full);
            }
            let Some(len) = self.opener.record_len(input.bytes())? else {
                return Ok(Step::NeedMore);
            };
            if input.len() < len {
                return Ok(Step::NeedMore);
            }
            let is_first = buf.filled().len() == base;
            if !is_first && self.opener.content_max(len) > buf.remaining() {
                return Ok(Step::Full);
            }
            let closed = if self.opener.opened_len(len) <= buf.remaining() {
                self.open_direct(&input.bytes()[..len], buf, control)?
            } else {
                self.open_in_place(&mut input.plain_mut()[..len], buf, rest, control)?
            };
            input.consume(len);
            if closed {
                return Ok(Step::Closed);
            }
        }
        Ok(Step::Paused)
    }

    /// Opens a record straight into the reader's buffer, without a copy.
    fn open_direct(
        &mut self,
        record: &[u8],
        buf: &mut ReadBuf<'_>,
        control: &mut RecordBuf,
    ) -> Result<bool, Error> {
        let out = buf.initialize_unfilled_to(self.opener.opened_len(record.len()));
        let opened = self.opener.open_into(record, out)?;
        self.post.admit(opened)?;
        if opened.typ == record::APPLICATION_DATA {
            buf.advance(opened.len);
            return Ok(false);
        }
        let content = out[..opened.len].to_vec();
        self.handle(opened, &content, control)
    }

    /// Opens a record where it is and copies the content: for a reader with less room.
    fn open_in_place(
        &mut self,
        record: &mut [u8],
        buf: &mut ReadBuf<'_>,
        rest: &mut RecordBuf,
        control: &mut RecordBuf,
    ) -> Result<bool, Error> {
        let (opened, start) = self.opener.open_in_place(record)?;
        self.post.admit(opened)?;
        let content = &record[start..start + opened.len];
        if opened.typ != record::APPLICATION_DATA {
            return self.handle(opened, content, control);
        }
        let (now, later) = content.split_at(content.len().min(buf.remaining()));
        buf.put_slice(now);
        if !later.is_empty() {
            *rest = RecordBuf::plain(later.to_vec());
        }
        Ok(false)
    }

    /// Takes a record of the protocol itself. True if it was `close_notify`.
    fn handle(
        &mut self,
        opened: Opened,
        content: &[u8],
        control: &mut RecordBuf,
    ) -> Result<bool, Error> {
        match opened.typ {
            record::ALERT => return self.post.alert(content),
            record::HANDSHAKE => self.post.push(content),
            record::CHANGE_CIPHER_SPEC => {
                return Err(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into());
            }
            _ => return Err(InvalidMessage::InvalidContentType.into()),
        }
        while let Some(message) = self.post.next()? {
            self.handle_message(&message, control)?;
        }
        Ok(false)
    }

    fn handle_message(&mut self, message: &Message, control: &mut RecordBuf) -> Result<(), Error> {
        match (message, &mut self.kernel) {
            (Message::Ticket(payload), Kernel::Client(kernel)) => {
                kernel.handle_new_session_ticket(payload)
            }
            (Message::KeyUpdate { is_requested }, _) => {
                let secrets = self.kernel.next_receiving_key()?;
                self.opener = Opener::new(self.kernel.version(), &secrets)?;
                if *is_requested && !self.is_update_queued && !self.is_closed {
                    let mut out = [0; CONTROL_MAX];
                    let length = self.update_sending_key(&mut out)?;
                    control.append(&out[..length]);
                    self.is_update_queued = true;
                }
                Ok(())
            }
            (Message::Renegotiation, _) => {
                self.alert(WARNING, AlertDescription::NoRenegotiation, control)
            }
            (Message::Ticket(_), _) => Err(Error::InappropriateHandshakeMessage {
                expect_types: vec![HandshakeType::KeyUpdate],
                got_type: HandshakeType::NewSessionTicket,
            }),
        }
    }

    /// Everything that [`open`](Self::open) and [`close`](Self::close) queued has been sent.
    pub(super) fn control_sent(&mut self) {
        self.is_update_queued = false;
    }

    /// Seals a key update that asks for none in return, and changes the key behind it (RFC 8446
    /// section 4.6.3).
    fn update_sending_key(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let length = self.sealer.seal(record::HANDSHAKE, &PostHandshake::KEY_UPDATE, out)?;
        let secrets = self.kernel.next_sending_key()?;
        self.sealer = Sealer::new(self.kernel.version(), &secrets, self.key_limit)?;
        Ok(length)
    }

    /// Seals `content` as records to the front of `out` and returns how much of either is used.
    ///
    /// The last record that a key may seal is a key update in 1.3. In 1.2, which has none, it is
    /// kept for `close_notify`: the sooner of `content` and the key ends, and with a key that has only
    /// that record left nothing of `content` is used.
    pub(super) fn seal(&mut self, content: &[u8], out: &mut [u8]) -> Result<(usize, usize), Error> {
        let (mut taken, mut length) = (0, 0);
        for fragment in content.chunks(FRAGMENT_MAX) {
            if self.sealer.remaining() <= 1 {
                match self.version() {
                    Version::Tls13 => length += self.update_sending_key(&mut out[length..])?,
                    Version::Tls12 => break,
                }
            }
            length += self.sealer.seal(record::APPLICATION_DATA, fragment, &mut out[length..])?;
            taken += fragment.len();
        }
        Ok((taken, length))
    }

    /// Queues `close_notify`; nothing is queued after it.
    pub(super) fn close(&mut self, control: &mut RecordBuf) -> Result<(), Error> {
        self.alert(WARNING, AlertDescription::CloseNotify, control)?;
        self.is_closed = true;
        Ok(())
    }

    /// Queues the alert that belongs to `error`, if it has one.
    pub(super) fn refuse(&mut self, error: &Error, control: &mut RecordBuf) {
        self.post.forget();
        if let Some(description) = alert_for(error) {
            // A key that cannot even seal this leaves the peer without a reason, no worse.
            let _ = self.alert(FATAL, description, control);
        }
    }

    fn alert(
        &mut self,
        level: u8,
        description: AlertDescription,
        control: &mut RecordBuf,
    ) -> Result<(), Error> {
        if self.is_closed {
            return Ok(());
        }
        let mut out = [0; CONTROL_MAX];
        let length = self.sealer.seal(record::ALERT, &[level, description.into()], &mut out)?;
        control.append(&out[..length]);
        Ok(())
    }

    /// Lowers the number of records under one key, for tests.
    #[cfg(test)]
    pub(super) fn limit_records(&mut self, limit: u64) {
        self.key_limit = limit;
        self.sealer.limit_records(limit);
    }

    /// Records that one key seals.
    #[cfg(test)]
    pub(super) fn key_limit(&self) -> u64 {
        self.key_limit
    }

    /// Changes the sending key without telling the peer, for tests that do so by hand.
    #[cfg(test)]
    pub(super) fn skip_sending_key(&mut self) {
        let secrets = self.kernel.next_sending_key();
        let sealer = secrets.and_then(|s| Sealer::new(self.kernel.version(), &s, self.key_limit));
        if let Ok(sealer) = sealer {
            self.sealer = sealer;
        }
    }

    /// Seals one record of any kind, for tests that play a peer which breaks the rules.
    #[cfg(test)]
    pub(super) fn seal_raw(&mut self, typ: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![0; self.sealer.sealed_len(content.len())];
        self.sealer.seal(typ, content, &mut out).unwrap_or_default();
        out
    }
}

/// Records that may be sealed under one key of `suite`: 2^24 of AES-GCM, which keep an attacker's advantage below 2^-60;
/// ChaCha20-Poly1305 has no limit that could be reached.
pub(super) fn confidentiality_limit(suite: SupportedCipherSuite) -> u64 {
    match suite {
        SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
    }
}

/// The alert to send for an error of the peer's, RFC 8446 section 6.2.
fn alert_for(error: &Error) -> Option<AlertDescription> {
    Some(match error {
        Error::AlertReceived(_) => return None,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => {
            AlertDescription::IllegalParameter
        }
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::InvalidEmptyPayload,
        )
        | Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => AlertDescription::UnexpectedMessage,
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        _ => AlertDescription::InternalError,
    })
}
