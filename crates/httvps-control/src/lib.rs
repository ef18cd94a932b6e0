//! Decides which sessions may exist: the client of the operator's backend, and the sources (networks) that share its places.

pub mod backend;
mod source;

pub use source::{Source, SourceCounts};
