//! `/etc/hosts`, read line by line as the C library does: an unusable line is skipped.

use std::collections::HashMap;
use std::net::IpAddr;

/// Longest name of the domain name system, in text and without the dot at its end.
const MAX_NAME: usize = 253;

/// The names of a hosts file and their addresses.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    /// Key: the name in lower case.
    names: HashMap<Box<str>, Vec<IpAddr>>,
}

impl Hosts {
    /// Reads a hosts file. A name with bytes that are not UTF-8 never matches; a byte-order mark is skipped. An address with
    /// a zone (`fe80::1%eth0`) is skipped, since dialled addresses have none.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut hosts = Self::default();
        for line in without_mark(text).split(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
            for name in words.filter(|name| name.len() <= MAX_NAME) {
                let addresses = hosts.names.entry(key(name)).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        hosts
    }

    /// The addresses of a name, IPv6 first; none if the file does not have it.
    pub(crate) fn get(&self, name: &str) -> Vec<IpAddr> {
        let mut addresses = self.names.get(&key(name)).cloned().unwrap_or_default();
        addresses.sort_by_key(IpAddr::is_ipv4);
        addresses
    }
}

/// A name without the dot at its end, in lower case.
fn key(name: &str) -> Box<str> {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into()
}

/// A file without its byte-order mark.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_cannot_be_used_costs_only_itself() {
        let long = "x".repeat(64);
        let text = format!(
            "\u{feff}127.0.0.1 localhost\r\nfe80::1%lo zone.lan\nnonsense x.lan\n127.0.0.999 y.lan\n\
             192.0.2.9 {long} a..b good.lan\n192.0.2.1 My_Box.lan # 192.0.2.2 other.lan\n\
             2001:db8::1\tmy_box.LAN\r\n192.0.2.1 my_box.lan"
        );
        let mut bytes = text.into_bytes();
        bytes.extend(b"\n# caf\xe9\n192.0.2.3 caf\xe9.lan after.lan\n");
        let hosts = Hosts::parse(&bytes);
        let texts = |name| hosts.get(name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts("localhost"), ["127.0.0.1"]);
        assert_eq!(texts("good.lan"), ["192.0.2.9"]);
        assert_eq!(texts("MY_BOX.lan."), ["2001:db8::1", "192.0.2.1"]);
        assert_eq!(texts("after.lan"), ["192.0.2.3"]);
        for absent in ["zone.lan", "x.lan", "y.lan", "other.lan", "", "."] {
            assert!(texts(absent).is_empty(), "{absent}");
        }
    }
}
