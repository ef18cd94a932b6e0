//! The handshake: one step of rustls' unbuffered state machine, for either role.

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{Error, HandshakeKind, ProtocolVersion};

use super::session::{Kernel, Session};

/// The rustls connection of either role, until its handshake is over.
pub(super) enum Engine {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// The result of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was done; call again.
    Progress,
    /// All input has been looked at; nothing can be done without more.
    NeedMore,
    /// The peer has closed the connection.
    Closed,
}

impl Engine {
    /// Takes one step. `input` is all cipher text not yet discarded; `output` receives records
    /// to be sent.
    ///
    /// Returns how many bytes of `input` to discard, whatever the verdict.
    pub(super) fn step(
        &mut self,
        input: &mut [u8],
        output: &mut Vec<u8>,
    ) -> (usize, Result<Step, Error>) {
        match self {
            Self::Server(connection) => settle(connection.process_tls_records(input), output),
            Self::Client(connection) => settle(connection.process_tls_records(input), output),
        }
    }

    /// Collects the alert that belongs to the error which a step has just returned.
    pub(super) fn collect_alert(&mut self, output: &mut Vec<u8>) {
        // While records are queued, a step hands one out and looks at no input; a step beyond
        // would go over the broken input again.
        while self.wants_write() {
            match self.step(&mut [], output) {
                (_, Ok(Step::Progress)) => {}
                _ => break,
            }
        }
    }

    /// Whether the handshake is over and all that we have to say has been handed out. From here
    /// on the connection must see no input: a record that rustls opens would be lost by
    /// [`into_session`](Self::into_session).
    pub(super) fn is_done(&self) -> bool {
        !self.is_handshaking() && !self.wants_write()
    }

    /// Whether this is a server that has not answered anything yet.
    pub(super) fn is_silent_server(&self) -> bool {
        matches!(self, Self::Server(_)) && self.version().is_none()
    }

    /// Whether what is left to send after the handshake are tickets, which no peer waits for: they
    /// leave with the first write or flush. (Sealing the first data behind them in one write was no
    /// cheaper: the HTTP server flushes before the request is there.)
    pub(super) fn has_only_tickets(&self) -> bool {
        matches!(self, Self::Server(_)) && self.version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Takes the keys out of rustls. Fails unless the handshake [`is_done`](Self::is_done).
    pub(super) fn into_session(self) -> Result<Session, Error> {
        let (kind, suite) = match &self {
            Self::Server(c) => (c.handshake_kind(), c.negotiated_cipher_suite()),
            Self::Client(c) => (c.handshake_kind(), c.negotiated_cipher_suite()),
        };
        let suite = suite.ok_or(Error::HandshakeNotComplete)?;
        let is_tls12 = suite.tls13().is_none();
        let (secrets, kernel) = match self {
            Self::Server(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                (secrets, Kernel::Server(kernel))
            }
            Self::Client(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                (secrets, Kernel::Client(kernel))
            }
        };
        let is_client = matches!(kernel, Kernel::Client(_));
        let kernel = if is_tls12 { Kernel::Tls12 { is_client } } else { kernel };
        Session::new(&secrets, kernel, suite, kind == Some(HandshakeKind::Resumed))
    }

    fn wants_write(&self) -> bool {
        match self {
            Self::Server(connection) => connection.wants_write(),
            Self::Client(connection) => connection.wants_write(),
        }
    }

    fn is_handshaking(&self) -> bool {
        match self {
            Self::Server(connection) => connection.is_handshaking(),
            Self::Client(connection) => connection.is_handshaking(),
        }
    }

    fn version(&self) -> Option<ProtocolVersion> {
        match self {
            Self::Server(connection) => connection.protocol_version(),
            Self::Client(connection) => connection.protocol_version(),
        }
    }
}

fn settle<D>(
    status: UnbufferedStatus<'_, '_, D>,
    output: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let step = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::EncodeTlsData(record)) => encode(record, output),
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            // The records are in `output`, whose owner sends them before anything else.
            transmit.done();
            Ok(Step::Progress)
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
            Ok(Step::NeedMore)
        }
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Closed),
        // Early data is never enabled, and no input is shown behind the handshake.
        Ok(_) => Err(Error::General("unexpected TLS state".into())),
    };
    (status.discard, step)
}

fn encode<D>(mut record: EncodeTlsData<'_, D>, output: &mut Vec<u8>) -> Result<Step, Error> {
    let start = output.len();
    if let Err(EncodeError::InsufficientSize(size)) = record.encode(&mut []) {
        output.resize(start + size.required_size, 0);
        record.encode(&mut output[start..]).map_err(|error| Error::General(error.to_string()))?;
    }
    Ok(Step::Progress)
}
