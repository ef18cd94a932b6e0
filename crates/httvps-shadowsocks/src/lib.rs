//! A Shadowsocks client: access keys, streams and datagrams.
//!
//! An [`AccessKey`] is read from an `ss://` line or put together from its parts. A [`Client`] made from it opens
//! [`Stream`]s over TCP connections to the node, and [`Datagrams`] over UDP sockets. Six [`Cipher`]s are known: the three
//! AEAD ones that Outline and others use (SIP004), and the three of 2022 (SIP022).
//!
//! Names are not resolved here: the caller passes a connection or a socket to the node.
//!
//! Reading order: [`AccessKey`] → [`Client`] → [`Stream`] → `outbound`, `inbound` (the codec without I/O) → `aead`;
//! [`Datagrams`] → `packets` → `replay`.

mod aead;
mod area;
mod cipher;
mod client;
mod datagrams;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod inbound;
mod key;
mod key_error;
#[cfg(test)]
mod node_half;
#[cfg(any(test, feature = "fuzzing"))]
mod node_packets;
mod outbound;
mod packets;
mod replay;
mod salt;
mod stream;

pub use cipher::Cipher;
pub use client::Client;
pub use datagrams::{Datagrams, PacketSocket};
pub use error::Error;
pub use key::AccessKey;
pub use key_error::KeyError;
pub use stream::{HEADER_WAIT, Stream};
