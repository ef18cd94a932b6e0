//! The httvps client as a library.
//!
//! [`connect`] makes one [`Session`] whose [`open`](Session::open) gives a [`Stream`], which is
//! `AsyncRead + AsyncWrite`. [`Client`] is a pool of sessions that reconnects by itself. [`proxy`]
//! and [`forward`] serve local programs through anything that implements [`Open`].

pub mod forward;
pub mod proxy;

mod backoff;
mod client;
mod config;
mod datagrams;
mod error;
mod event;
mod flows;
mod header;
mod keeper;
mod open;
mod pool;
#[cfg(test)]
mod pool_tests;
mod relay;
mod secret;
mod session;
mod url;

pub use client::Client;
pub use config::{Config, Timing, Trust};
pub use datagrams::Datagrams;
pub use error::{ConnectError, OpenError, Step};
pub use event::{Event, Report};
pub use header::{BadRequestHeader, RequestHeader, USER_AGENT};
pub use httvps_mux::{Connection, ConnectionEnd, Stream, StreamFailure};
pub use httvps_proto::{Host, StreamEnd, Target, TargetError};
pub use httvps_tls::CertificateFault;
pub use httvps_transport::socket::{self, BadBind, Bind};
pub use open::{Open, OpenDatagrams, OpenStream};
pub use secret::Secret;
pub use session::{Session, connect};
pub use url::{BadGatewayUrl, GatewayUrl};
