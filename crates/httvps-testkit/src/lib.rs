//! What the tests of several crates need: certificates and a backend that misbehaves on command.
//!
//! Only ever a dev-dependency. Whatever goes wrong in here panics, since a test cannot go on.

pub mod backend;
pub mod certificates;
