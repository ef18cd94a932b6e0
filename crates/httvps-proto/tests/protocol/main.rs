//! The protocol in virtual time: scenarios, properties and the corpus.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, reason = "a test ends with a panic")]
#![allow(clippy::needless_pass_by_value, reason = "json!(…) reads better without a & before it")]

mod client;
mod codec;
mod corpus;
mod ends;
mod handshake;
mod operations;
mod refusals;
mod side;
mod slow;
mod streams;
