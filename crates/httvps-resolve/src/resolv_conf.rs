//! `/etc/resolv.conf`, read line by line as the C library does: an unusable word is skipped.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;

use crate::hosts::without_mark;

/// Most name servers that are used, as in the C library.
const MAX_SERVERS: usize = 3;

/// Most search domains that are used.
const MAX_SEARCH: usize = 32;

/// Longest and shortest wait for one name server. Its options may say less than the longest, and `timeout:0` is a second,
/// as in the C library.
const MAX_QUERY_TIME: Duration = Duration::from_secs(3);
const MIN_QUERY_TIME: Duration = Duration::from_secs(1);

/// The C library's limit of `ndots`.
const MAX_NDOTS: usize = 15;

/// The address of a name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerAddress {
    pub(crate) ip: IpAddr,
    /// The zone of a link-local address: an interface's name or number.
    pub(crate) zone: Option<Box<str>>,
}

/// A parsed resolver configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// In the order of the file; at least one.
    pub(crate) servers: Vec<ServerAddress>,
    /// Whether the file names none, and the one above is the C library's default.
    pub(crate) is_default: bool,
    /// The domains that a name of the operator may be relative to.
    pub(crate) search: Vec<Name>,
    /// A name with so many dots is tried as it is before the search domains.
    pub(crate) ndots: usize,
    /// The wait for one name server.
    pub(crate) timeout: Duration,
    /// Whether queries use EDNS0 to announce the size of an answer.
    pub(crate) edns0: bool,
    /// Descriptions of what was skipped.
    pub(crate) problems: Vec<String>,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            is_default: false,
            search: Vec::new(),
            ndots: 1,
            timeout: MAX_QUERY_TIME,
            edns0: false,
            problems: Vec::new(),
        }
    }
}

impl ResolvConf {
    /// Reads a resolver configuration. Keywords and options that are not known are skipped. Without a name server in it,
    /// the one on this host is used, as the C library does.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut conf = Self::default();
        for (number, line) in (1..).zip(without_mark(text).split(|&byte| byte == b'\n')) {
            let line = String::from_utf8_lossy(line);
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.server(number, words.next()),
                // The last line of either counts.
                Some("domain") => conf.search(number, words.take(1)),
                Some("search") => conf.search(number, words),
                Some("options") => words.for_each(|option| conf.option(option)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.is_default = true;
            conf.servers = vec![ServerAddress { ip: Ipv4Addr::LOCALHOST.into(), zone: None }];
        }
        conf
    }

    fn server(&mut self, number: usize, word: Option<&str>) {
        let Some(word) = word else { return };
        let (address, zone) = match word.split_once('%') {
            Some((address, zone)) if !zone.is_empty() => (address, Some(zone.into())),
            _ => (word, None),
        };
        match address.parse::<IpAddr>() {
            Ok(ip) if zone.is_none() || ip.is_ipv6() => {
                if self.servers.len() < MAX_SERVERS {
                    self.servers.push(ServerAddress { ip, zone });
                }
            }
            _ => self.problems.push(format!("line {number}: nameserver is no address; left out")),
        }
    }

    fn search<'a>(&mut self, number: usize, words: impl Iterator<Item = &'a str>) {
        self.search.clear();
        for word in words.take(MAX_SEARCH) {
            match Name::from_str_relaxed(word) {
                Ok(mut name) => {
                    name.set_fqdn(true);
                    self.search.push(name);
                }
                Err(_) => {
                    self.problems
                        .push(format!("line {number}: a search domain is no name; left out"));
                }
            }
        }
    }

    fn option(&mut self, option: &str) {
        let (key, value) = option.split_once(':').unwrap_or((option, ""));
        match (key, value.parse::<u64>()) {
            ("timeout", Ok(seconds)) => {
                let timeout = Duration::from_secs(seconds);
                self.timeout = timeout.clamp(MIN_QUERY_TIME, MAX_QUERY_TIME);
            }
            ("ndots", Ok(dots)) => self.ndots = dots.min(MAX_NDOTS as u64) as usize,
            ("edns0", _) => self.edns0 = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(text: &[u8]) -> Vec<String> {
        let shown = |server: &ServerAddress| match &server.zone {
            Some(zone) => format!("{}%{zone}", server.ip),
            None => server.ip.to_string(),
        };
        ResolvConf::parse(text).servers.iter().map(shown).collect()
    }

    #[test]
    fn every_form_that_the_c_library_takes_leads_to_the_name_server() {
        for text in [
            "nameserver 192.0.2.9",
            "nameserver\t192.0.2.9  \r\n",
            " nameserver 192.0.2.9\n",
            "nameserver 192.0.2.9 # office\n",
            "; by hand\nnameserver 192.0.2.9; office\n",
            "\u{feff}# by hand\nnameserver 192.0.2.9\n",
            "\u{feff}nameserver 192.0.2.9\n",
            "frobnicate yes\nnameserver 192.0.2.9\n",
            "nameserver\nnameserver dns.example\nnameserver 300.1.1.1\nnameserver 192.0.2.9\n",
            "nameserver 192.0.2.9\noptions timeout:0 attempts:0 timeout:-1 timeout:abc ndots:99999999999\n",
            "nameserver 192.0.2.9\nsortlist nonsense\noptions no-aaaa use-vc rotate foo:bar :\n",
        ] {
            assert_eq!(servers(text.as_bytes()), ["192.0.2.9"], "{text:?}");
        }
        assert_eq!(
            servers(b"# caf\xe9\nnameserver 192.0.2.9\nsearch b\xfcro.lan\n"),
            ["192.0.2.9"]
        );
        let zones = "nameserver fe80::1%eth0.100\nnameserver fe80::2%br-lan\nnameserver ::1\nnameserver ::2\n";
        assert_eq!(servers(zones.as_bytes()), ["fe80::1%eth0.100", "fe80::2%br-lan", "::1"]);
    }

    #[test]
    fn without_a_name_server_the_one_on_this_host_is_asked() {
        for text in ["", "# nothing\n", "nameserver dns.example\n"] {
            let conf = ResolvConf::parse(text.as_bytes());
            assert!(conf.is_default, "{text}");
            assert_eq!(servers(text.as_bytes()), ["127.0.0.1"]);
        }
        assert!(!ResolvConf::parse(b"nameserver 127.0.0.1\n").is_default);
    }

    #[test]
    fn a_bad_search_domain_costs_only_itself_and_is_named() {
        let long = "a".repeat(64);
        let text = format!("domain lan\nsearch {long} a..b good.lan .\nnameserver 192.0.2.9\n");
        let conf = ResolvConf::parse(text.as_bytes());
        let search: Vec<String> = conf.search.iter().map(Name::to_ascii).collect();
        assert_eq!(search, ["good.lan.", "."]);
        assert_eq!(conf.problems.len(), 2);
        assert!(conf.problems[0].starts_with("line 2:"), "{:?}", conf.problems);
        assert!(!conf.is_default);
    }

    #[test]
    fn the_wait_and_the_dots_stay_within_their_bounds() {
        for (options, seconds, ndots) in [
            ("", 3, 1),
            ("timeout:0 ndots:0", 1, 0),
            ("timeout:2 ndots:5", 2, 5),
            ("timeout:60 ndots:99", 3, 15),
        ] {
            let conf = ResolvConf::parse(format!("options {options}\n").as_bytes());
            assert_eq!((conf.timeout.as_secs(), conf.ndots), (seconds, ndots), "{options}");
        }
    }
}
