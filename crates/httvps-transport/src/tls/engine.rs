//! One step of rustls' unbuffered state machine, for either role.

use rustls::Error;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, ReadTraffic, UnbufferedStatus,
};
use tokio::io::ReadBuf;

/// The rustls connection of either role. About a kilobyte: lives behind a box.
pub(super) enum Engine {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What the caller wants of the next step.
pub(super) enum Job<'a, 'b> {
    /// Get on with the handshake; leave application data where it is.
    Handshake,
    /// Decrypt application data into `into`, which held `base` bytes when the read began. If not
    /// even the first record fits, its remainder goes to `rest`, which must be empty on entry.
    Read { into: &'a mut ReadBuf<'b>, base: usize, rest: &'a mut Vec<u8> },
    /// Encrypt `plain` into `cipher`.
    Write { plain: &'a [u8], cipher: &'a mut [u8], rest: &'a mut Vec<u8> },
    /// Encrypt a `close_notify` into `cipher`.
    Close { cipher: &'a mut [u8], rest: &'a mut Vec<u8> },
}

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was done; call again.
    Progress,
    /// Decrypted data waits for room (or for the end of the handshake).
    Full,
    /// Nothing more can be done without bytes from the peer.
    NeedMore,
    /// The cipher text of a write job, of this many bytes, is complete.
    Sealed(usize),
    /// The peer has sent `close_notify`. Reported once.
    PeerClosed,
    /// Both sides have closed.
    Closed,
}

impl Engine {
    /// Takes one step. `input` is all cipher text not yet discarded; `control` receives records
    /// that the protocol itself wants to send.
    ///
    /// Returns how many bytes of `input` to discard, whatever the verdict.
    pub(super) fn step(
        &mut self,
        input: &mut [u8],
        control: &mut Vec<u8>,
        job: &mut Job<'_, '_>,
    ) -> (usize, Result<Step, Error>) {
        match self {
            Self::Server(connection) => settle(connection.process_tls_records(input), control, job),
            Self::Client(connection) => settle(connection.process_tls_records(input), control, job),
        }
    }

    /// Collects the alert that belongs to the error which a step has just returned.
    pub(super) fn collect_alert(&mut self, control: &mut Vec<u8>) {
        // While records are queued, a step hands one out and looks at no input; a step beyond
        // would go over the broken input again.
        while self.wants_write() {
            match self.step(&mut [], control, &mut Job::Handshake) {
                (_, Ok(Step::Progress)) => {}
                _ => break,
            }
        }
    }

    fn wants_write(&self) -> bool {
        match self {
            Self::Server(connection) => connection.wants_write(),
            Self::Client(connection) => connection.wants_write(),
        }
    }

    /// Whether the handshake is over and what is left to send are tickets, which nobody waits
    /// for: they travel with the first data and spare a packet and a system call.
    pub(super) fn has_only_tickets(&self) -> bool {
        matches!(self, Self::Server(_))
            && !self.is_handshaking()
            && self.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match self {
            Self::Server(connection) => connection.is_handshaking(),
            Self::Client(connection) => connection.is_handshaking(),
        }
    }

    pub(super) fn handshake_kind(&self) -> Option<rustls::HandshakeKind> {
        match self {
            Self::Server(connection) => connection.handshake_kind(),
            Self::Client(connection) => connection.handshake_kind(),
        }
    }

    pub(super) fn protocol_version(&self) -> Option<rustls::ProtocolVersion> {
        match self {
            Self::Server(connection) => connection.protocol_version(),
            Self::Client(connection) => connection.protocol_version(),
        }
    }

    pub(super) fn cipher_suite(&self) -> Option<rustls::SupportedCipherSuite> {
        match self {
            Self::Server(connection) => connection.negotiated_cipher_suite(),
            Self::Client(connection) => connection.negotiated_cipher_suite(),
        }
    }
}

fn settle<D>(
    status: UnbufferedStatus<'_, '_, D>,
    control: &mut Vec<u8>,
    job: &mut Job<'_, '_>,
) -> (usize, Result<Step, Error>) {
    let step = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(traffic)) => read(traffic, job),
        Ok(ConnectionState::EncodeTlsData(record)) => encode(record, control),
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            // The records are in `control`, whose owner sends them before anything else.
            transmit.done();
            Ok(Step::Progress)
        }
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match job {
            Job::Handshake | Job::Read { .. } => Ok(Step::NeedMore),
            Job::Write { plain, cipher, .. } => sealed(traffic.encrypt(plain, cipher)),
            Job::Close { cipher, .. } => sealed(traffic.queue_close_notify(cipher)),
        },
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::NeedMore),
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::Closed) => Ok(Step::Closed),
        // Early data is never enabled; a future state would need code of its own.
        Ok(_) => Err(Error::General("unexpected TLS state".into())),
    };
    (status.discard, step)
}

fn read<D>(mut traffic: ReadTraffic<'_, '_, D>, job: &mut Job<'_, '_>) -> Result<Step, Error> {
    match job {
        Job::Handshake => Ok(Step::Full),
        Job::Read { into, base, rest } => {
            let Some(length) = traffic.peek_len() else {
                return Ok(Step::Progress);
            };
            let room = into.remaining();
            if length.get() > room && into.filled().len() > *base {
                // It stays, decrypted, inside rustls until the caller comes with more room.
                return Ok(Step::Full);
            }
            if let Some(record) = traffic.next_record() {
                let payload = record?.payload;
                let (now, later) = payload.split_at(payload.len().min(room));
                into.put_slice(now);
                rest.extend_from_slice(later);
            }
            Ok(if into.remaining() == 0 { Step::Full } else { Step::Progress })
        }
        Job::Write { rest, .. } | Job::Close { rest, .. } => {
            // rustls shows its write side only after the read side is empty.
            while let Some(record) = traffic.next_record() {
                rest.extend_from_slice(record?.payload);
            }
            Ok(Step::Progress)
        }
    }
}

fn encode<D>(mut record: EncodeTlsData<'_, D>, control: &mut Vec<u8>) -> Result<Step, Error> {
    let start = control.len();
    if let Err(EncodeError::InsufficientSize(size)) = record.encode(&mut []) {
        control.resize(start + size.required_size, 0);
        record.encode(&mut control[start..]).map_err(|error| Error::General(error.to_string()))?;
    }
    Ok(Step::Progress)
}

fn sealed(result: Result<usize, EncryptError>) -> Result<Step, Error> {
    result.map(Step::Sealed).map_err(|error| match error {
        EncryptError::EncryptExhausted => Error::EncryptError,
        EncryptError::InsufficientSize(_) => Error::General(error.to_string()),
    })
}
