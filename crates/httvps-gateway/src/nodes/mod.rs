//! Which Outline node a session uses.
//!
//! Without I/O: [`health`] (the state of one node, its breaker) and [`select`] (which of several).
//! Around them: `outline` holds all nodes of a gateway and gives sessions theirs, `session` is the
//! connector of one session and moves it when its node fails, `probe` makes real exchanges, `file`,
//! `key`, `document` and `fetch` read keys.

mod assignment;
mod datagrams;
mod document;
mod fetch;
mod file;
pub mod health;
mod key;
mod node;
mod outline;
mod probe;
mod report;
pub mod select;
mod session;
mod stream;

pub use fetch::{FetchError, Fetcher};
pub use key::{KeyProblem, KeySource, KeyUrl};
pub(crate) use outline::{Assigned, Outline, OutlineSetup};
pub use probe::{Exchange, ProbeError, exchange, exchange_datagrams};
pub use report::{Report, test_key};

/// As the document of a dynamic key is read, opened to the fuzzer.
#[cfg(feature = "fuzzing")]
pub fn read_document(text: &str) -> Result<httvps_shadowsocks::AccessKey, String> {
    document::read(text)
}
