//! From a name to a connection: what the system knows, what its name servers say, and the race of the addresses.
//!
//! Every name that a program of httvps looks up comes here: targets of `direct`, nodes, the backend, key servers, and the
//! client's gateway. So all of them have the same order of name servers, the same waits and the same bounds.
//!
//! Reading order: [`Resolve`] → [`SystemResolver`] → `system` (the two files, read again when they change) → `servers`
//! (which name server is asked when) → `link` (its sockets) → [`race`] (dialling what came out).

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
