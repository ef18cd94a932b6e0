//! Where a stream goes: connectors, destination policy, the pool of exit nodes.
//!
//! A [`Connector`] turns the target that a client named into an [`Upstream`], or into a [`DatagramUpstream`]. [`Fake`]
//! echoes or discards; [`Direct`] opens TCP connections and UDP sockets, and only to addresses that an [`EgressPolicy`]
//! allows. [`nodes`] leaves through Shadowsocks, SOCKS5 and HTTP proxies. Failures are a [`ConnectError`], whose reason is a word from a closed set.
//!
//! Reading order: [`Connector`] → [`DatagramSocket`] → [`Direct`] → [`EgressPolicy`], [`OwnAddresses`], [`Source`] → [`ConnectError`].

mod connector;
mod datagrams;
mod direct;
mod error;
mod fake;
pub mod nodes;
mod own_addresses;
mod policy;
mod source;

pub use connector::{BoxFuture, ByteStream, Connector, OpenRequest, Upstream};
pub use datagrams::{
    DatagramDial, DatagramSocket, DatagramUpstream, NoDatagrams, end_of_datagram_error,
};
pub use direct::{DEFAULT_DIAL_DEADLINE, Direct};
pub use error::{ConnectError, end_of_io_error};
pub use fake::Fake;
pub use httvps_resolve::{Addresses, LookupShare, Resolve, ResolveError, SystemResolver};
pub use own_addresses::OwnAddresses;
pub use policy::{AddressClass, Denied, EgressPolicy};
pub use source::{Source, SourceError};
