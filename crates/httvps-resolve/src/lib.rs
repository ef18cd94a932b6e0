//! From a name to a connection: the system's files, its name servers, and happy eyeballs.
//!
//! All lookups of httvps use this crate: targets of `direct`, nodes, the backend, key servers, and the
//! client's gateway. They share the order of name servers, the time-outs and the bounds.
//!
//! Reading order: [`Resolve`] → [`SystemResolver`] → `system` (the two files, read again when they change) → `servers`
//! (the order of queries) → `link` (its sockets) → [`race`] (dialling the addresses).

mod addresses;
mod answers;
mod error;
mod families;
mod hosts;
mod link;
mod own_names;
mod place;
mod race;
mod resolv_conf;
mod resolver;
mod servers;
mod system;

pub use addresses::{Addresses, Late};
pub use error::ResolveError;
pub use own_names::is_localhost;
pub use race::{HEAD_START, connect, dial_order, race};
pub use resolver::{BoxFuture, LookupShare, Resolve, SystemResolver};
