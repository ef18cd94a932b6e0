//! The address header: a target as SOCKS5 and Shadowsocks have it (RFC 1928 section 5), and as the first payload of a
//! stream without a target has it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Host, Target};

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Length of the longest header: type, length, a name of 255 bytes, port.
pub const ADDRESS_MAX: usize = 1 + 1 + 255 + 2;

/// Why bytes are not an address header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// The first byte is neither 1 (IPv4), 3 (name) nor 4 (IPv6).
    Type(u8),
    /// A name of no bytes.
    EmptyName,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(byte) => write!(
                f,
                "an address header begins with 1 (IPv4), 3 (name) or 4 (IPv6), and this one with {byte}"
            ),
            Self::EmptyName => f.write_str("the address header has a name of no bytes"),
        }
    }
}

impl std::error::Error for AddressError {}

/// Appends the header of a target. An IPv4-mapped IPv6 address is sent as IPv4.
pub fn encode(target: &Target, out: &mut Vec<u8>) {
    match &target.host {
        Host::Ip(address) => match address.to_canonical() {
            IpAddr::V4(address) => {
                out.push(IPV4);
                out.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                out.push(IPV6);
                out.extend_from_slice(&address.octets());
            }
        },
        Host::Name(name) => {
            // A target is at most 255 bytes long, so nothing is ever cut off here.
            let name = &name.as_bytes()[..name.len().min(255)];
            out.extend_from_slice(&[NAME, name.len() as u8]);
            out.extend_from_slice(name);
        }
    }
    out.extend_from_slice(&target.port.to_be_bytes());
}

/// Length of the header at the front of `bytes`; `None` while its length is unknown. The header itself may be
/// longer than `bytes`.
pub fn header_len(bytes: &[u8]) -> Result<Option<usize>, AddressError> {
    match *bytes {
        [] | [NAME] => Ok(None),
        [NAME, 0, ..] => Err(AddressError::EmptyName),
        [NAME, len, ..] => Ok(Some(2 + usize::from(len) + 2)),
        [IPV4, ..] => Ok(Some(1 + 4 + 2)),
        [IPV6, ..] => Ok(Some(1 + 16 + 2)),
        [other, ..] => Err(AddressError::Type(other)),
    }
}

/// The source of a datagram, as reported by the node.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Absent when the node gave a name.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

impl Source {
    /// Whether a datagram from here may be the target's. Where the target is a name, its resolution is known only to the party that
    /// resolved it, so the port alone is compared.
    pub fn fits(&self, target: &Target) -> bool {
        let is_there = match &target.host {
            Host::Ip(ip) => self.ip == Some(ip.to_canonical()),
            Host::Name(_) => true,
        };
        is_there && self.port == target.port
    }
}

/// The target of a whole header; `None` when the bytes are no whole header, or it leads to nothing that a target may be
/// (port 0, a name that is none).
pub fn decode(header: &[u8]) -> Option<Target> {
    if header_len(header).ok()?? != header.len() {
        return None;
    }
    let (host, port) = header.split_last_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match (split(header)?.0.ip, host) {
        (Some(ip), _) if port != 0 => Some(Target { host: Host::Ip(ip), port }),
        (None, [_, _, name @ ..]) => Target::from_parts(std::str::from_utf8(name).ok()?, port).ok(),
        _ => None,
    }
}

/// Splits the header off the front of `bytes`; `None` when they are not a whole header.
pub fn split(bytes: &[u8]) -> Option<(Source, &[u8])> {
    let (header, rest) = bytes.split_at_checked(header_len(bytes).ok()??)?;
    let (host, port) = header.split_last_chunk::<2>()?;
    let ip = match host {
        [IPV4, octets @ ..] => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        [IPV6, octets @ ..] => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        _ => None,
    };
    let ip = ip.map(|ip: IpAddr| ip.to_canonical());
    Some((Source { ip, port: u16::from_be_bytes(*port) }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(target: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&Target::parse(target).unwrap(), &mut out);
        out
    }

    #[test]
    fn targets_become_their_headers() {
        assert_eq!(encoded("1.2.3.4:80"), [1, 1, 2, 3, 4, 0, 80]);
        assert_eq!(encoded("[::ffff:1.2.3.4]:80"), [1, 1, 2, 3, 4, 0, 80]);
        assert_eq!(encoded("a.b:443"), [3, 3, b'a', b'.', b'b', 1, 0xbb]);
        let mut six = vec![4, 0x20, 1];
        six.extend_from_slice(&[0; 13]);
        six.extend_from_slice(&[1, 0xff, 0xff]);
        assert_eq!(encoded("[2001::1]:65535"), six);
    }

    #[test]
    fn a_target_is_read_back_and_told_from_others() {
        for text in ["1.2.3.4:80", "a.b:443", "[2001::1]:65535"] {
            let target = Target::parse(text).unwrap();
            assert_eq!(decode(&encoded(text)).as_ref(), Some(&target));
            let mut longer = encoded(text);
            longer.push(0);
            assert_eq!(decode(&longer), None);
            let source = Source { ip: Some([1, 2, 3, 4].into()), port: target.port };
            assert_eq!(source.fits(&target), !text.starts_with('['), "{text}");
            let elsewhere = Source { port: target.port - 1, ..source };
            assert!(!elsewhere.fits(&target));
        }
        assert_eq!(decode(&[1, 1, 2, 3, 4, 0, 0]), None, "port 0");
        assert_eq!(decode(&[3, 2, b'a', b'/', 0, 80]), None, "no name");
        assert_eq!(decode(b"\x03\x071.2.3.4\0\x50"), Some(Target::parse("1.2.3.4:80").unwrap()));
    }

    #[test]
    fn garbage_is_told_from_what_is_not_whole_yet() {
        assert_eq!(header_len(b"GET / HTTP/1.1"), Err(AddressError::Type(b'G')));
        assert_eq!(header_len(&[3, 0]), Err(AddressError::EmptyName));
        assert_eq!(header_len(&[3]), Ok(None));
        assert_eq!(header_len(&[3, 255]), Ok(Some(ADDRESS_MAX)));
    }

    proptest! {
        #[test]
        fn a_header_splits_off_where_it_ends(
            ip in any::<IpAddr>(), port in 1_u16.., rest in any::<Vec<u8>>()
        ) {
            let mut bytes = Vec::new();
            encode(&Target { host: Host::Ip(ip), port }, &mut bytes);
            let header = bytes.len();
            prop_assert_eq!(header_len(&bytes), Ok(Some(header)));
            for short in 0..header {
                prop_assert_eq!(split(&bytes[..short]), None);
            }
            bytes.extend_from_slice(&rest);
            let source = Source { ip: Some(ip.to_canonical()), port };
            prop_assert_eq!(split(&bytes), Some((source, &rest[..])));
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in any::<Vec<u8>>(), first in 0_u8..6) {
            let _ = (split(&bytes), decode(&bytes));
            let near: Vec<u8> = std::iter::once(first).chain(bytes).collect();
            if let Some((source, rest)) = split(&near) {
                prop_assert!(rest.len() < near.len());
                prop_assert_eq!(source.ip.is_none(), first == NAME);
            }
        }
    }
}
