//! What is fuzzed. Each decoder also checks what must hold whatever the input: see its module.

mod config;
mod json;
mod keys;
mod pieces;
mod proxies;
mod proxy;
mod proxy_keys;
mod records;
mod seeds;
mod shadowsocks;
mod text;
mod upgrade;
mod v2;
mod websocket;

use crate::run::Decoder;
use std::hash::{DefaultHasher, Hash, Hasher};

/// All of them, in the order in which they run.
pub(crate) const NAMES: [&str; 29] = [
    "json-frame",
    "json-gateway",
    "json-client",
    "json-sessions",
    "v2-frame",
    "v2-session",
    "v2-sessions",
    "target",
    "websocket",
    "upgrade-request",
    "upgrade-answer",
    "tls-records",
    "socks5",
    "socks5-udp",
    "http-proxy",
    "http-answer",
    "http-chunks",
    "backend-answer",
    "config",
    "values",
    "access-key",
    "key-document",
    "address-header",
    "shadowsocks-stream",
    "shadowsocks-packet",
    "proxy-socks5",
    "proxy-http",
    "proxy-packet",
    "proxy-key",
];

pub(crate) fn by_name(name: &str) -> Option<Box<dyn Decoder>> {
    Some(match name {
        "json-frame" => Box::new(json::Frame::default()),
        "json-gateway" => Box::new(json::Gateway::default()),
        "json-client" => Box::new(json::Client::default()),
        "json-sessions" => Box::new(json::Sessions::default()),
        "v2-frame" => Box::new(v2::Bytes::default()),
        "v2-session" => Box::new(v2::Hostile),
        "v2-sessions" => Box::new(v2::Sessions::default()),
        "target" => Box::new(text::Targets),
        "websocket" => Box::new(websocket::Inbound),
        "upgrade-request" => Box::new(upgrade::Request),
        "upgrade-answer" => Box::new(upgrade::Answer),
        "tls-records" => Box::new(records::Records::new()),
        "socks5-udp" => Box::new(proxy::Socks5Udp),
        "socks5" => Box::new(proxy::Socks5::default()),
        "http-proxy" => Box::new(proxy::Http::default()),
        "http-answer" => Box::new(proxy::HttpAnswer),
        "http-chunks" => Box::new(proxy::Chunked),
        "backend-answer" => Box::new(text::BackendAnswer),
        "config" => Box::new(config::Settings::default()),
        "values" => Box::new(text::Values),
        "access-key" => Box::new(keys::Keys),
        "key-document" => Box::new(keys::Document),
        "address-header" => Box::new(keys::Address),
        "shadowsocks-stream" => Box::new(shadowsocks::NodeStream),
        "shadowsocks-packet" => Box::new(shadowsocks::NodePackets),
        "proxy-socks5" => Box::new(proxies::Socks5::default()),
        "proxy-http" => Box::new(proxies::Http::default()),
        "proxy-packet" => Box::new(proxies::Packet::default()),
        "proxy-key" => Box::new(proxy_keys::Keys),
        _ => return None,
    })
}

/// A number for what happened.
fn behaviour(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// A number for the variant of a value.
fn kind<T>(value: &T) -> u64 {
    behaviour(std::mem::discriminant(value))
}

/// Splits the first byte off; 0 when there is none.
fn choice(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(first, rest)| (*first, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;

    /// The vectors and the corpus of `testdata/` as they are: an input that once led to a finding is
    /// in the corpus, so that a plain `cargo test` sees the finding come back.
    #[test]
    fn every_seed_keeps_the_rules_of_its_decoder() {
        for name in NAMES {
            let mut decoder = by_name(name).expect("each name has a decoder");
            let seeds = decoder.seeds().len().max(1) as u64;
            if let Some(finding) = run::run(&mut *decoder, seeds, 1).finding {
                panic!("{name}: {}: {:02x?}", finding.message, finding.input);
            }
        }
    }
}
