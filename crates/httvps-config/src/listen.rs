//! Listen addresses as Go writes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Where to listen: `:8443`, `0.0.0.0:8443`, `[::1]:8443` or `localhost:8443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddr {
    /// The host part.
    pub host: ListenHost,
    /// The port; 0 lets the system choose a free one.
    pub port: u16,
}

/// The host of a [`ListenAddr`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenHost {
    /// Nothing before the colon: every address of this host, IPv6 and IPv4.
    Any,
    /// One address.
    Ip(IpAddr),
    /// A name, in lower case, that the system resolves when the listener is bound.
    Name(Box<str>),
}

/// Why a text is not a listen address: a phrase that follows the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddrError(&'static str);

impl fmt::Display for ListenAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for ListenAddrError {}

impl FromStr for ListenAddr {
    type Err = ListenAddrError;

    fn from_str(text: &str) -> Result<Self, ListenAddrError> {
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(ListenAddrError("has no port"));
        };
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ListenAddrError("has no port number after its last colon"));
        }
        let port = port.parse().map_err(|_| ListenAddrError("has a port above 65535"))?;
        Ok(Self { host: host_of(host)?, port })
    }
}

fn host_of(host: &str) -> Result<ListenHost, ListenAddrError> {
    if host.is_empty() {
        return Ok(ListenHost::Any);
    }
    if let Some(inner) = host.strip_prefix('[') {
        return inner
            .strip_suffix(']')
            .and_then(|inner| inner.parse::<Ipv6Addr>().ok())
            .map(|six| ListenHost::Ip(six.into()))
            .ok_or(ListenAddrError("has brackets around something that is not an IPv6 address"));
    }
    if host.contains(':') {
        return Err(ListenAddrError("has an IPv6 address without brackets"));
    }
    if let Ok(four) = host.parse::<Ipv4Addr>() {
        return Ok(ListenHost::Ip(four.into()));
    }
    let spelled = host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    // A name whose last label is a number is an address that was mistyped.
    let numeric = host.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if spelled && !numeric {
        Ok(ListenHost::Name(host.to_ascii_lowercase().into()))
    } else {
        Err(ListenAddrError("has a host that is neither an address nor a name"))
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ListenHost::Any => {}
            ListenHost::Ip(IpAddr::V4(four)) => write!(f, "{four}")?,
            ListenHost::Ip(IpAddr::V6(six)) => write!(f, "[{six}]")?,
            ListenHost::Name(name) => f.write_str(name)?,
        }
        write!(f, ":{}", self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_go_addresses() {
        for text in [":8443", "0.0.0.0:8443", "[::]:8443", "[::1]:0", "localhost:8443", "a-b.c:1"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
        assert_eq!(":8443".parse::<ListenAddr>().unwrap().host, ListenHost::Any);
        assert_eq!("LocalHost:1".parse::<ListenAddr>().unwrap().to_string(), "localhost:1");
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        for (text, part) in [
            ("", "no port"),
            ("8443", "no port"),
            ("localhost", "no port"),
            ("localhost:", "no port number"),
            (":https", "no port number"),
            (":+1", "no port number"),
            (":65536", "above 65535"),
            (":99999999999999", "above 65535"),
            ("::1:8443", "without brackets"),
            ("[::1:8443", "brackets"),
            ("[localhost]:1", "brackets"),
            ("[fe80::1%eth0]:1", "brackets"),
            ("256.1.1.1:1", "neither"),
            ("1.2.3:1", "neither"),
            ("*:1", "neither"),
            ("a..b:1", "neither"),
            ("a b:1", "neither"),
        ] {
            let error = text.parse::<ListenAddr>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
