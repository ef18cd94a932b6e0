//! The target of a stream: `host:port`, parsed strictly and without a lookup.
//!
//! A name is only checked for its spelling here. A number in any spelling that `inet_aton(3)` reads is taken as the
//! address it means, so that the egress policy sees the address that would be dialled.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Longest target that is read, in bytes: host, colon and port together.
const MAX_TARGET_LEN: usize = 255;

/// Longest label of a host name, in bytes (RFC 1035 section 2.3.4).
const MAX_LABEL_LEN: usize = 63;

/// A host and a port that a stream may be opened to.
///
/// Made by [`Target::parse`] or [`Target::from_parts`]; host, colon and port are at most 255 bytes.
/// `Display` gives the canonical spelling: names in lower case, addresses as RFC 5952 has them, IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host: a name that must still be resolved, or an address.
    pub host: Host,
    /// The port, 1–65535.
    pub port: u16,
}

/// The host of a [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name in lower case; a dot at its end is kept (the name is absolute).
    Name(Box<str>),
    /// An address, whichever way it was spelled.
    Ip(IpAddr),
}

/// Why a text is not a target. `Display` has the fault and what is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// More than 255 bytes: host, colon and port together.
    TooLong,
    /// No `:port` at the end.
    NoPort,
    /// The port is not a decimal number from 1 to 65535.
    BadPort,
    /// Nothing before the port.
    NoHost,
    /// A character outside ASCII.
    NotAscii,
    /// A character that no host name has.
    BadCharacter,
    /// A label that is empty or longer than 63 bytes.
    BadLabel,
    /// Ends in a number like an IPv4 address but is none.
    BadIpv4,
    /// An IPv6 address without its brackets: the beginning of the port is ambiguous.
    UnbracketedIpv6,
    /// The text in brackets is not an IPv6 address.
    BadIpv6,
    /// An IPv6 address with a zone (`%eth0`), which means something on one machine only.
    ZoneId,
}

impl Target {
    /// Reads `host:port`; an IPv6 address is in brackets: `[2001:db8::1]:443`.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if text.len() > MAX_TARGET_LEN {
            return Err(TargetError::TooLong);
        }
        let (host, port) = split_port(text)?;
        Ok(Self { host: Host::parse(host)?, port: parse_port(port)? })
    }

    /// Puts a target together from a host, with or without brackets around an IPv6 address, and a port (1–65535).
    pub fn from_parts(host: &str, port: u16) -> Result<Self, TargetError> {
        if host.len() + 1 + decimal_len(port) > MAX_TARGET_LEN {
            return Err(TargetError::TooLong);
        }
        if port == 0 {
            return Err(TargetError::BadPort);
        }
        Ok(Self { host: Host::parse(host)?, port })
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        Self::parse(text)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Host {
    /// Reads a host without a port. With no port beside it an IPv6 address may do without brackets.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if text.is_empty() {
            return Err(TargetError::NoHost);
        }
        if text.len() > MAX_TARGET_LEN {
            return Err(TargetError::TooLong);
        }
        if !text.is_ascii() {
            return Err(TargetError::NotAscii);
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(TargetError::BadIpv6)?;
            return parse_ipv6(inner);
        }
        if text.contains(':') {
            return parse_ipv6(text);
        }
        check_name(text)?;
        let relative = text.strip_suffix('.').unwrap_or(text);
        if ends_in_number(relative) {
            let address = parse_inet_aton(relative).ok_or(TargetError::BadIpv4)?;
            return Ok(Self::Ip(IpAddr::V4(address)));
        }
        Ok(Self::Name(text.to_ascii_lowercase().into_boxed_str()))
    }
}

impl FromStr for Host {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        Self::parse(text)
    }
}

impl fmt::Display for Host {
    /// The host as written in a target: an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the target is longer than 255 bytes",
            Self::NoPort => "the target has no port; write host:port",
            Self::BadPort => "the port is not a decimal number from 1 to 65535",
            Self::NoHost => "the target has no host; write host:port",
            Self::NotAscii => {
                "the host has characters outside ASCII; write an international name in its xn-- form"
            }
            Self::BadCharacter => {
                "the host has a character that no host name has; letters, digits, '-', '_' and '.' are accepted"
            }
            Self::BadLabel => {
                "a part of the host name is empty or longer than 63 bytes; write parts of 1 to 63 bytes between dots"
            }
            Self::BadIpv4 => {
                "the host ends in a number but is no IPv4 address; write four numbers from 0 to 255, or a name"
            }
            Self::UnbracketedIpv6 => "an IPv6 address needs brackets; write [address]:port",
            Self::BadIpv6 => {
                "the text in brackets is no IPv6 address; write [address]:port, as [2001:db8::1]:443"
            }
            Self::ZoneId => "an IPv6 address with a zone (%...) is not accepted; leave the zone out",
        })
    }
}

impl std::error::Error for TargetError {}

/// Cuts the port off. A colon inside brackets belongs to the address; two colons without brackets are ambiguous.
fn split_port(text: &str) -> Result<(&str, &str), TargetError> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or(TargetError::BadIpv6)?;
        let (host, rest) = text.split_at(end + 1);
        let port = rest.strip_prefix(':').ok_or(TargetError::NoPort)?;
        return Ok((host, port));
    }
    let (host, port) = text.rsplit_once(':').ok_or(TargetError::NoPort)?;
    if host.contains(':') {
        return Err(TargetError::UnbracketedIpv6);
    }
    Ok((host, port))
}

/// Reads 1–5 decimal digits. `u16::from_str` alone would let a `+` pass.
fn parse_port(text: &str) -> Result<u16, TargetError> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TargetError::BadPort);
    }
    text.parse().ok().filter(|port| *port != 0).ok_or(TargetError::BadPort)
}

fn decimal_len(port: u16) -> usize {
    match port {
        0..10 => 1,
        10..100 => 2,
        100..1_000 => 3,
        1_000..10_000 => 4,
        10_000.. => 5,
    }
}

fn parse_ipv6(text: &str) -> Result<Host, TargetError> {
    if text.contains('%') {
        return Err(TargetError::ZoneId);
    }
    let address = text.parse::<Ipv6Addr>().map_err(|_| TargetError::BadIpv6)?;
    Ok(Host::Ip(IpAddr::V6(address)))
}

/// Checks the characters and labels of a host name; one dot may stand at its end.
fn check_name(text: &str) -> Result<(), TargetError> {
    let accepted = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !text.bytes().all(accepted) {
        return Err(TargetError::BadCharacter);
    }
    let relative = text.strip_suffix('.').unwrap_or(text);
    if relative.split('.').all(|label| (1..=MAX_LABEL_LEN).contains(&label.len())) {
        Ok(())
    } else {
        Err(TargetError::BadLabel)
    }
}

/// Whether the last label can only be meant as a number. No top-level domain is one (RFC 3696 section 2), and
/// resolvers differ in what they make of it, so such a host is an address or nothing.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    match strip_hex_prefix(last) {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// Reads an IPv4 address as `inet_aton(3)` does: one to four numbers, each decimal, octal (`0…`) or hexadecimal
/// (`0x…`); the last one fills all bytes that the others left.
fn parse_inet_aton(text: &str) -> Option<Ipv4Addr> {
    let mut address = 0_u32;
    let mut free_bits = 32_u32;
    let mut parts = text.split('.').peekable();
    while let Some(part) = parts.next() {
        let value = parse_c_number(part)?;
        let last = parts.peek().is_none();
        let bits = if last { free_bits } else { 8 };
        if free_bits < 8 || u64::from(value) >= 1_u64 << bits {
            return None;
        }
        free_bits -= bits;
        // The shift reaches 32 for no part: the first of several leaves 24 bits, a lone one leaves 0.
        address |= value << free_bits;
    }
    Some(Ipv4Addr::from(address))
}

/// Reads a number in C spelling. `from_str_radix` alone would let a sign pass.
fn parse_c_number(text: &str) -> Option<u32> {
    let (digits, radix) = match strip_hex_prefix(text) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

fn strip_hex_prefix(text: &str) -> Option<&str> {
    text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> String {
        Target::parse(text).map_or_else(|e| format!("{e:?}"), |t| t.to_string())
    }

    #[test]
    fn reads_names_and_addresses_into_their_canonical_spelling() {
        for (text, canonical) in [
            ("example.com:443", "example.com:443"),
            ("EXAMPLE.Com:00443", "example.com:443"),
            ("example.com.:1", "example.com.:1"),
            ("_dns._tcp.example.com:53", "_dns._tcp.example.com:53"),
            ("xn--bcher-kva.example:65535", "xn--bcher-kva.example:65535"),
            ("r1---sn-4g5.example:80", "r1---sn-4g5.example:80"),
            ("localhost:80", "localhost:80"),
            ("1.2.3.4:80", "1.2.3.4:80"),
            ("1.2.3.4.:80", "1.2.3.4:80"),
            ("1.example:80", "1.example:80"),
            ("0xg:80", "0xg:80"),
            ("127-0-0-1:80", "127-0-0-1:80"),
            ("[::1]:80", "[::1]:80"),
            ("[2001:DB8:0:0::1]:80", "[2001:db8::1]:80"),
            ("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:80"),
            ("2130706433:80", "127.0.0.1:80"),
            ("0177.0.0.1:80", "127.0.0.1:80"),
            ("0x7f.1:80", "127.0.0.1:80"),
            ("127.1:80", "127.0.0.1:80"),
            ("127.0.1:80", "127.0.0.1:80"),
            ("0X7F000001:80", "127.0.0.1:80"),
            ("017700000001:80", "127.0.0.1:80"),
            ("0:80", "0.0.0.0:80"),
            ("4294967295:80", "255.255.255.255:80"),
        ] {
            assert_eq!(parsed(text), canonical, "{text}");
        }
    }

    #[test]
    fn refuses_everything_else_and_says_why() {
        for (text, error) in [
            ("", TargetError::NoPort),
            ("example.com", TargetError::NoPort),
            ("[::1]", TargetError::NoPort),
            ("[::1]80", TargetError::NoPort),
            (":80", TargetError::NoHost),
            ("example.com:", TargetError::BadPort),
            ("example.com:0", TargetError::BadPort),
            ("example.com:65536", TargetError::BadPort),
            ("example.com:000080", TargetError::BadPort),
            ("example.com:+80", TargetError::BadPort),
            ("example.com:80 ", TargetError::BadPort),
            ("example.com:http", TargetError::BadPort),
            ("example.com:\u{0668}\u{0660}", TargetError::BadPort),
            ("::1:80", TargetError::UnbracketedIpv6),
            ("example.com:80:80", TargetError::UnbracketedIpv6),
            ("[::1:80", TargetError::BadIpv6),
            ("[]:80", TargetError::BadIpv6),
            ("[1.2.3.4]:80", TargetError::BadIpv6),
            ("[example.com]:80", TargetError::BadIpv6),
            ("[fe80::1%eth0]:80", TargetError::ZoneId),
            ("b\u{fc}cher.example:80", TargetError::NotAscii),
            ("\u{ff11}27.0.0.1:80", TargetError::NotAscii),
            ("127\u{3002}0.0.1:80", TargetError::NotAscii),
            ("exa mple.com:80", TargetError::BadCharacter),
            ("user@example.com:80", TargetError::BadCharacter),
            ("example.com/path:80", TargetError::BadCharacter),
            ("example.com\0:80", TargetError::BadCharacter),
            ("exam%70le.com:80", TargetError::BadCharacter),
            (".:80", TargetError::BadLabel),
            ("example..com:80", TargetError::BadLabel),
            (".example.com:80", TargetError::BadLabel),
            ("example.com..:80", TargetError::BadLabel),
            ("256.0.0.1:80", TargetError::BadIpv4),
            ("1.2.3.4.5:80", TargetError::BadIpv4),
            ("1.2.3.4.0:80", TargetError::BadIpv4),
            ("1.2.3.4.0.0:80", TargetError::BadIpv4),
            ("1.2.3.256:80", TargetError::BadIpv4),
            ("1.2.65536:80", TargetError::BadIpv4),
            ("1.16777216:80", TargetError::BadIpv4),
            ("4294967296:80", TargetError::BadIpv4),
            ("99999999999999999999:80", TargetError::BadIpv4),
            ("08.0.0.1:80", TargetError::BadIpv4),
            ("1.2.3.09:80", TargetError::BadIpv4),
            ("0x:80", TargetError::BadIpv4),
            ("0x100000000:80", TargetError::BadIpv4),
            ("example.123:80", TargetError::BadIpv4),
            ("example.0x7f:80", TargetError::BadIpv4),
        ] {
            assert_eq!(Target::parse(text), Err(error), "{text:?}");
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn holds_to_the_limits_of_labels_and_of_the_whole() {
        let label = "a".repeat(63);
        assert!(Target::parse(&format!("{label}.example:80")).is_ok());
        assert_eq!(Target::parse(&format!("{label}a.example:80")), Err(TargetError::BadLabel));

        let name = format!("{}{}", "ab.".repeat(83), "abcd");
        assert_eq!(name.len(), 253);
        assert!(Target::parse(&format!("{name}:1")).is_ok());
        assert_eq!(Target::parse(&format!("{name}:10")), Err(TargetError::TooLong));
        assert_eq!(Target::from_parts(&name, 10), Err(TargetError::TooLong));
        assert_eq!(Target::from_parts(&"a".repeat(100_000), 1), Err(TargetError::TooLong));
    }

    #[test]
    fn takes_an_address_without_brackets_when_the_port_stands_apart() {
        let expected = Target::parse("[2001:db8::1]:443");
        assert_eq!(Target::from_parts("2001:db8::1", 443), expected);
        assert_eq!(Target::from_parts("[2001:db8::1]", 443), expected);
        assert_eq!(Target::from_parts("example.com", 0), Err(TargetError::BadPort));
        assert_eq!(Host::parse("fe80::1%2"), Err(TargetError::ZoneId));
        assert_eq!(Host::parse(""), Err(TargetError::NoHost));
    }

    /// Replays the inputs that fuzzing started from; the first word of a file's name is what must come out.
    #[test]
    fn the_corpus_is_judged_as_its_names_say() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/corpus/target");
        let mut replayed = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let verdict = std::str::from_utf8(&bytes).map(Target::parse);
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            match name.split_once('-').map(|(expected, _)| expected) {
                Some("ok") => {
                    let target = verdict.unwrap().unwrap_or_else(|e| panic!("{name}: {e}"));
                    assert_eq!(Target::parse(&target.to_string()), Ok(target), "{name}");
                }
                Some("bad") => assert!(!matches!(verdict, Ok(Ok(_))), "{name}"),
                _ => panic!("{name}: a name begins with ok- or bad-"),
            }
            replayed += 1;
        }
        assert!(replayed >= 30, "only {replayed} inputs found");
    }

    /// One number of an address in one of its spellings.
    fn spelled(value: u32, radix: u8) -> String {
        match radix % 4 {
            0 => format!("{value}"),
            1 => format!("0{value:o}"),
            2 => format!("0x{value:x}"),
            _ => format!("0X{value:08X}"),
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in any::<String>()) {
            let _ = Target::parse(&text);
            let _ = Host::parse(&text);
        }

        #[test]
        fn near_targets_are_judged_without_a_panic(text in r"\[?[0-9a-fxX.:%_-]{0,40}\]?:?[0-9]{0,6}") {
            if let Ok(target) = Target::parse(&text) {
                prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
            }
        }

        #[test]
        fn what_is_displayed_reads_back_the_same(
            name in r"([a-zA-Z0-9_-]{1,20}\.){0,5}[a-zA-Z_-]{1,10}\.?", address in any::<IpAddr>(), port in 1_u16..
        ) {
            for host in [Host::parse(&name).unwrap(), Host::Ip(address)] {
                let target = Target { host, port };
                prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
            }
        }

        #[test]
        fn every_inet_aton_spelling_means_its_address(
            address in any::<u32>(), parts in 1_usize..=4, radixes in any::<[u8; 4]>(), dot in any::<bool>()
        ) {
            let tail_bits = 32 - 8 * (parts as u32 - 1);
            let mut numbers: Vec<u32> = (1..parts).map(|i| address >> (32 - 8 * i) & 0xff).collect();
            numbers.push((u64::from(address) & ((1 << tail_bits) - 1)) as u32);
            let spelling: Vec<String> = numbers.iter().zip(radixes).map(|(n, r)| spelled(*n, r)).collect();
            let host = spelling.join(".") + if dot { "." } else { "" };
            let expected = Host::Ip(IpAddr::V4(Ipv4Addr::from(address)));
            prop_assert_eq!(Target::from_parts(&host, 80).map(|t| t.host), Ok(expected));
        }
    }
}
