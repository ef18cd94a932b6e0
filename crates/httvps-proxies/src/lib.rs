//! A client of SOCKS5 and HTTP proxies: keys, streams and datagrams.
//!
//! A [`ProxyKey`] is read from a `socks5://`, `http://` or `https://` URL. Over a connection to the proxy that the caller
//! has opened (for `https://` with TLS on it), [`ProxyKey::greet`] does what concerns the proxy alone, and then
//! [`ProxyKey::open`] asks for a target and gives a [`Stream`], or [`ProxyKey::associate`] asks for datagrams, which
//! [`Packets`] wraps. Names are not resolved here; they are passed on as names.
//!
//! No call has a time-out of its own; dropping its future drops the connection.
//!
//! Reading order: [`ProxyKey`] → `socks5`, `http` → [`Stream`], [`Packets`] → [`Error`].

mod credentials;
mod error;
mod http;
mod key;
mod key_error;
mod packets;
mod socks5;
mod stream;
#[cfg(test)]
mod testing;

pub use error::{Error, Refusal};
pub use key::{Kind, ProxyKey};
pub use key_error::KeyError;
pub use packets::Packets;
pub use stream::Stream;
