//! A record layer with known keys, opened to the fuzzer.

use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{AeadKey, Iv};

use super::record::{Sealer, Version};
use super::record_buf::RecordBuf;
use super::session::Session;
use super::stream::TlsStream;

/// How records are protected: one for each form of nonce and additional data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TLS 1.3 with AES-256-GCM.
    Tls13,
    /// TLS 1.2 with AES-256-GCM: a part of the nonce is in the record.
    Tls12Explicit,
    /// TLS 1.2 with ChaCha20-Poly1305.
    Tls12Implicit,
}

impl Format {
    pub(super) fn version(self) -> Version {
        if self == Self::Tls13 { Version::Tls13 } else { Version::Tls12 }
    }

    pub(super) fn secrets(self) -> (u64, ConnectionTrafficSecrets) {
        let (key, iv) = (AeadKey::from([0x42; 32]), Iv::from([7; 12]));
        let secrets = match self {
            Self::Tls12Implicit => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
            _ => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
        };
        (3, secrets)
    }
}

/// The sending half of a peer that can seal whatever it likes.
pub struct Peer(Sealer);

impl Peer {
    /// One record; None when the content is too long.
    pub fn seal(&mut self, typ: u8, content: &[u8]) -> Option<Vec<u8>> {
        let mut record = vec![0; self.0.sealed_len(content.len())];
        self.0.seal(typ, content, &mut record).ok()?;
        Some(record)
    }
}

/// Starts a connection over, as if its handshake had just ended, with keys that `peer` has too.
///
/// Of the old connection only the way in which it derives further keys remains, so that not every
/// run needs a handshake. None when the keys are of no use, which does not happen.
pub fn start_over<IO, NewIo>(
    stream: TlsStream<IO>,
    io: NewIo,
    format: Format,
) -> Option<(TlsStream<NewIo>, Peer)> {
    let session: Session = stream.into_session().start_over(format).ok()?;
    let peer = Sealer::new(format.version(), &format.secrets(), u64::MAX).ok()?;
    Some((TlsStream::new(io, session, RecordBuf::default(), RecordBuf::default()), Peer(peer)))
}
