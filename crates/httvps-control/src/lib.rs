//! Decides which sessions may exist: the client of the operator's backend, the grants that it gives, and the sources (networks) that share its places.

pub mod backend;
pub mod grant;
mod json;
mod source;

pub use grant::Grant;
pub use source::{Source, SourceCounts};
