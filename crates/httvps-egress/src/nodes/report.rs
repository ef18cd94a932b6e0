//! The test of a key by one real exchange.

use super::error::NodeError;
use super::fetch::Fetcher;
use super::key::KeySource;
use super::probe::{self, Exchange};
use super::protocol::{Dialer, NodeProtocol};
use crate::{EgressPolicy, Source};
use httvps_proto::Target;
use httvps_shadowsocks::Client;
use std::path::Path;
use std::time::Duration;

/// The result of a test.
#[derive(Debug)]
pub struct Report {
    /// The node and its protocol or cipher, without what is secret.
    pub node: String,
    /// A stream to the web server through the node.
    pub stream: Result<Exchange, NodeError>,
    /// A query to the name server through the node: the time to its answer.
    pub datagrams: Result<Duration, NodeError>,
}

/// Tests a key: reads it, fetches it if it is a dynamic one, asks the web server `web` for its head
/// over a stream, and the name server `dns` in a datagram. Each step takes at most `timeout`. The
/// error is a fault of the key itself or of `ca`; it contains no secret.
pub async fn test_key(
    text: &str,
    ca: Option<&Path>,
    web: &Target,
    dns: &Target,
    timeout: Duration,
) -> Result<Report, String> {
    let protocol = match KeySource::parse(text).map_err(|problem| of_key(&problem))? {
        KeySource::Static(key) => NodeProtocol::Shadowsocks(Client::new(key)),
        KeySource::Proxy(key) => NodeProtocol::Proxy(key),
        KeySource::Dynamic(url) => {
            let key = Fetcher::new(ca)
                .map_err(|problem| of_authorities(&problem))?
                .fetch_within(&url, timeout)
                .await;
            let key = key.map_err(|error| of_key(&error))?;
            NodeProtocol::Shadowsocks(Client::new(key))
        }
    };
    let dialer = Dialer::new(ca, EgressPolicy::default(), Source::default());
    let dialer = dialer.map_err(|problem| of_authorities(&problem))?;
    let stream = probe::exchange(&dialer, &protocol, web, timeout, timeout).await;
    let datagrams = probe::exchange_datagrams(&dialer, &protocol, dns, timeout).await;
    Ok(Report { node: protocol.shown(), stream, datagrams })
}

fn of_key(problem: &dyn std::fmt::Display) -> String {
    format!("the key: {problem}")
}

fn of_authorities(problem: &str) -> String {
    format!("--ca-file {problem}")
}
