//! The address of a gateway.

use httvps_proto::{Target, TargetError};
use std::fmt;
use std::str::FromStr;

/// Longest path that is taken, in bytes.
const MAX_PATH: usize = 1024;

/// Where a gateway is: `wss://HOST[:PORT][/PATH]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayUrl {
    target: Target,
    path: Box<str>,
}

impl GatewayUrl {
    /// The port when the URL names none.
    pub const DEFAULT_PORT: u16 = 443;
    /// The path when the URL names none.
    pub const DEFAULT_PATH: &'static str = "/ws";

    /// Host and port.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The host as the certificate must name it; an IPv6 address in brackets.
    pub fn host(&self) -> String {
        self.target.host.to_string()
    }

    /// Path and query, as they stand in the request.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> String {
        match self.target.port {
            Self::DEFAULT_PORT => self.host(),
            _ => self.target.to_string(),
        }
    }
}

impl FromStr for GatewayUrl {
    type Err = BadGatewayUrl;

    fn from_str(text: &str) -> Result<Self, BadGatewayUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(BadGatewayUrl::Scheme)?;
        if !scheme.eq_ignore_ascii_case("wss") {
            return Err(BadGatewayUrl::Scheme);
        }
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let path = match path {
            "" | "/" => Self::DEFAULT_PATH.into(),
            path if path.starts_with('?') => format!("/{path}"),
            path => path.to_owned(),
        };
        let is_plain = path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        if path.len() > MAX_PATH || !is_plain {
            return Err(BadGatewayUrl::Path);
        }
        Ok(Self { target: parse_authority(authority)?, path: path.into() })
    }
}

fn parse_authority(text: &str) -> Result<Target, BadGatewayUrl> {
    if text.contains('@') {
        return Err(BadGatewayUrl::User);
    }
    let has_port = match text.rfind(']') {
        Some(bracket) => text[bracket..].contains(':'),
        None => text.contains(':'),
    };
    let target = if has_port {
        Target::parse(text)
    } else {
        Target::from_parts(text, GatewayUrl::DEFAULT_PORT)
    };
    target.map_err(BadGatewayUrl::Authority)
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wss://{}{}", self.authority(), self.path)
    }
}

/// Why a text is not the URL of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadGatewayUrl {
    /// It does not begin with `wss://`.
    Scheme,
    /// Host or port.
    Authority(TargetError),
    /// A name or password before the host.
    User,
    /// The path is longer than 1 KiB, or has spaces, a `#` or characters outside ASCII.
    Path,
}

impl fmt::Display for BadGatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str("a gateway's URL begins with wss://, as in wss://HOST:PORT/ws"),
            Self::Authority(error) => write!(f, "{error}; accepted: wss://HOST[:PORT][/PATH]"),
            Self::User => {
                f.write_str("a gateway's URL holds no user name; accepted: wss://HOST[:PORT][/PATH]")
            }
            Self::Path => f.write_str(
                "the path of a gateway's URL is at most 1 KiB of visible ASCII without '#', as in /ws",
            ),
        }
    }
}

impl std::error::Error for BadGatewayUrl {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(text: &str) -> (String, u16, String) {
        let url: GatewayUrl = text.parse().unwrap();
        (url.host(), url.target().port, url.path().to_owned())
    }

    #[test]
    fn port_and_path_have_defaults() {
        assert_eq!(parts("wss://vpn.example"), ("vpn.example".into(), 443, "/ws".into()));
        assert_eq!(parts("WSS://Vpn.Example:8443/"), ("vpn.example".into(), 8443, "/ws".into()));
        assert_eq!(
            parts("wss://[2001:db8::1]/t?x=1"),
            ("[2001:db8::1]".into(), 443, "/t?x=1".into())
        );
        assert_eq!(parts("wss://[::1]:9?x"), ("[::1]".into(), 9, "/?x".into()));
    }

    #[test]
    fn the_host_header_leaves_the_default_port_out() {
        let authority = |text: &str| text.parse::<GatewayUrl>().unwrap().authority();
        assert_eq!(authority("wss://a.example:443/ws"), "a.example");
        assert_eq!(authority("wss://[::1]:8443"), "[::1]:8443");
    }

    #[test]
    fn what_is_no_gateway_is_refused() {
        let error = |text: &str| text.parse::<GatewayUrl>().unwrap_err();
        for text in ["", "vpn.example", "ws://vpn.example", "https://vpn.example/ws"] {
            assert_eq!(error(text), BadGatewayUrl::Scheme, "{text}");
        }
        assert_eq!(error("wss://u:p@vpn.example"), BadGatewayUrl::User);
        assert_eq!(error("wss://"), BadGatewayUrl::Authority(TargetError::NoHost));
        assert_eq!(error("wss://a:0"), BadGatewayUrl::Authority(TargetError::BadPort));
        assert_eq!(error("wss://a/b c"), BadGatewayUrl::Path);
        assert_eq!(error("wss://a/b#c"), BadGatewayUrl::Path);
        assert_eq!(error("wss://a/ä"), BadGatewayUrl::Path);
    }

    proptest! {
        #[test]
        fn what_is_accepted_reads_back_the_same(text in "(wss://)?[a-z0-9.:@\\[\\]/?# -]{0,40}") {
            if let Ok(url) = text.parse::<GatewayUrl>() {
                prop_assert_eq!(url.to_string().parse::<GatewayUrl>(), Ok(url));
            }
        }
    }
}
