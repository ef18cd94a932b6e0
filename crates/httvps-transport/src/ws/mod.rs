//! WebSocket (RFC 6455), strict, without extensions.
//!
//! [`codec`] knows frames and rules and does no I/O. [`WebSocket`] is a connection over any byte
//! stream. [`handshake`] is the HTTP/1.1 upgrade of either side.

pub mod codec;
pub mod handshake;

mod close;
pub mod connect;
mod connection;
mod inbound;
mod outbound;
mod utf8;

pub use close::CloseCode;
pub use connection::{Error, Event, Outgoing, WebSocket};

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Receives masked frames and sends unmasked ones.
    Server,
    /// Receives unmasked frames and sends masked ones.
    Client,
}

/// The type of a data message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8; validated while it arrives.
    Text,
    /// Any bytes.
    Binary,
}

/// Bounds of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of payload in one message, over all its fragments. Default 1 MiB. A frame that
    /// claims more is refused with 1009 before anything is reserved for it.
    pub max_message: usize,
    /// Fragments of one message, empty ones included. Default 1,024; more end with 1009.
    pub max_fragments: usize,
    /// Bytes queued for sending from which on [`WebSocket::is_congested`] reports true and the
    /// owner should stop receiving. Default 256 KiB. Nothing is ever dropped because of it.
    pub max_queued: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_message: 1024 * 1024, max_fragments: 1024, max_queued: 256 * 1024 }
    }
}
