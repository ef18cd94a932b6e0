//! TLS 1.2 and 1.3 over any byte stream, server and client.
//!
//! The handshake is that of rustls. The records after it are opened and sealed here, straight from
//! and to the caller's buffers; record buffers belong to the worker thread instead of the
//! connection. rustls still derives the keys. Cryptography is aws-lc-rs; every suite is an
//! AEAD; the hybrid key exchange X25519MLKEM768 is preferred and the classic groups stay on
//! offer. ALPN is `http/1.1`. Resumption is by tickets; the server keeps no session cache.

mod buffers;
mod certificate;
mod client;
mod engine;
mod error;
mod explain;
mod facts;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handshake;
mod key_shares;
mod pem;
mod post_handshake;
mod record;
mod record_buf;
mod server;
mod session;
mod stream;
#[cfg(test)]
mod tests;
mod turn;
mod verifier;

pub use certificate::{CertError, CertSource, ReloadOutcome};
pub use client::{ClientTls, Roots, server_name};
pub use error::TlsError;
pub use explain::{CertificateFault, certificate_fault, explain};
pub use facts::{CertFacts, Date, DateProblem};
pub use key_shares::{Attempt, KeyShares};
pub use pem::{PemError, read_authorities};
pub use rustls_pki_types::{CertificateDer, ServerName};
pub use server::ServerTls;
pub use stream::{SEGMENT_PLAIN, TlsStream};
pub use turn::give_way;
pub use verifier::trusting;

/// The name under which tests that are shared with the outside know this crate.
#[cfg(test)]
extern crate self as httvps_tls;

use std::sync::{Arc, LazyLock};

use rustls::NamedGroup;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The only protocol that is spoken inside.
const ALPN: &[u8] = b"http/1.1";

/// Suites in the order in which we offer them; as a server we follow the client's order, because
/// a device without AES instructions knows better than we do. AES-128 first: it is a quarter
/// cheaper than AES-256 and breaks just as little.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use aws_lc_rs::cipher_suite as suite;
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
});

/// The same without the post-quantum key exchange, whose share needs a second segment.
static SMALL_PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(without_post_quantum(CryptoProvider::clone(&PROVIDER))));

/// A provider whose `ClientHello` fits into one segment.
pub fn without_post_quantum(mut provider: CryptoProvider) -> CryptoProvider {
    provider.kx_groups.retain(|group| group.name() != NamedGroup::X25519MLKEM768);
    provider
}

fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}
