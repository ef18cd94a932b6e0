//! HTTPS to servers that the operator names: the backend, key servers, proxies.
//!
//! [`Https`] connects an HTTP client to the server of a URL: the name is looked up by the resolver of all names
//! ([`Dial`]), and TLS trusts the system's authorities and those of a file ([`client_config`]).

mod authorities;
mod dial;
mod https;

pub use authorities::{TlsConfigs, client_config, client_tls, fault_behind, fault_words};
pub use dial::{Dial, needs_name};
pub use https::Https;
