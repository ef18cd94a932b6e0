//! The nodes that sessions use: Outline (Shadowsocks), SOCKS5 or HTTP CONNECT.
//!
//! Settings, metrics and log events begin with `outline_` for all kinds of nodes; Outline was
//! the first kind.
//!
//! Without I/O: [`health`] (the state of one node, its breaker) and [`select`] (the choice among several).
//! Around them: `pool` holds all nodes of a gateway and gives sessions theirs, `session` is the
//! connector of one session and moves it when its node fails, `probe` makes real exchanges, `protocol` is
//! where the protocols of nodes differ, `file`, `key`, `document` and `fetch` read keys.

mod assignment;
mod datagrams;
mod document;
mod error;
mod fetch;
mod file;
mod header_first;
pub mod health;
mod key;
mod node;
mod pool;
mod probe;
mod protocol;
mod report;
pub mod select;
mod session;
mod stream;

pub use error::NodeError;
pub use fetch::{FetchError, Fetcher};
pub use key::{KeyProblem, KeySource, KeyUrl};
pub use pool::{Assigned, NodePool, NodePoolSetup};
pub use probe::Exchange;
pub use report::{Report, test_key};

/// As the document of a dynamic key is read, opened to the fuzzer.
#[cfg(feature = "fuzzing")]
pub fn read_document(text: &str) -> Result<httvps_shadowsocks::AccessKey, String> {
    document::read(text)
}
