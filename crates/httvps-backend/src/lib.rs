//! A small reference subscription backend that serves the founding backend API.
//!
//! It is a real HTTP/1.1 service over one JSON file of devices, made for operators who have no
//! backend of their own and for tests; the gateway treats it like any other backend. The parts,
//! from the file to the wire:
//!
//! * [`Store`] changes the file: under a lock, atomically, for one process at a time;
//! * [`Backend`] holds the last good copy of the file in memory and follows its changes;
//! * [`serve`] answers the API on a listener until it is told to stop.
//!
//! # The file
//!
//! ```json
//! {
//!   "version": 1,
//!   "devices": [
//!     {
//!       "device_id": "laptop-anna",
//!       "user_id": 7,
//!       "subscription_status": "active",
//!       "subscription_end": "2027-01-31",
//!       "token_sha256": "35f992bd9f30c048f6aefc080ba58410aed4739f1d6d6192d0119b6ebd08d1ea"
//!     }
//!   ]
//! }
//! ```
//!
//! `subscription_end` may be absent (no end), a date (the subscription lasts through that day, UTC)
//! or an RFC 3339 timestamp in UTC. Only the statuses `active` and `trialing` let a device in. The
//! file may have at most 64 MiB.
//!
//! Outline nodes stand beside the devices, and are assigned in turn, those of the region first:
//!
//! ```json
//! {
//!   "version": 1,
//!   "devices": [],
//!   "nodes": [
//!     {
//!       "node_id": "fra-1",
//!       "region": "eu",
//!       "host": "192.0.2.10",
//!       "port": 8388,
//!       "method": "chacha20-ietf-poly1305",
//!       "password": "the node's own"
//!     },
//!     {
//!       "node_id": "nyc-1",
//!       "host": "192.0.2.20",
//!       "port": 443,
//!       "access_url": "ss://…@192.0.2.20:443/?outline=1",
//!       "enabled": false
//!     }
//!   ]
//! }
//! ```
//!
//! # What is kept of a token
//!
//! Only its SHA-256. A fast hash is right here, and a slow one (argon2, bcrypt) would add nothing:
//! tokens are 256 bits from the operating system's generator, so there is no dictionary to try,
//! while a slow hash would hand every stranger a way to burn the processor. Do not put the hash of
//! a password that a person made up into the file.

mod api;
mod backend;
mod body;
mod connection;
mod device;
mod devices;
mod file;
mod lock;
mod node;
mod server;
mod store;
mod subscription;
mod token;

pub use api::{EmptySecret, GatewaySecret};
pub use backend::{Backend, Reload, Usage};
pub use device::{Device, DeviceId, InvalidDeviceId};
pub use devices::{Refusal, Verdict};
pub use file::FileError;
pub use node::{InvalidNodeId, Node, NodeId};
pub use server::{ServeOptions, serve};
pub use store::{EndChange, NewDevice, Store, StoreError};
pub use subscription::{
    InvalidSubscriptionEnd, InvalidSubscriptionStatus, SubscriptionEnd, SubscriptionStatus,
};
pub use token::{RandomError, Token, TokenDigest};
