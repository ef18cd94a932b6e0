//! The second wire format: either side's state, alone and in pairs, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test ends with a panic")]
#![allow(unreachable_pub, reason = "the modules of one test binary see each other")]

mod codec;
mod credit;
mod operations;
mod pair;
mod random;
mod rules;
mod streams;
mod vectors;
