//! Who rules over sessions: the operator's backend, and the parties of the network by whose shares it is asked.

pub mod backend;
mod source;

pub use source::{Source, SourceCounts};
