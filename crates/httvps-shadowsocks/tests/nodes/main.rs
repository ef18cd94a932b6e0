//! Streams and datagrams through real nodes that others wrote: `ssserver` of shadowsocks-rust and `ss-server` of
//! shadowsocks-libev, as processes on loopback.
//!
//! `.ci/install-shadowsocks` installs both. A missing one is said and its tests do nothing; with `CI` set they fail.
//! `SHADOWSOCKS_MIB` is the size of the large transfers (64).
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it inside test functions, not in what they share"
)]

mod datagrams;
mod faults;
mod node;
mod streams;
mod target;
