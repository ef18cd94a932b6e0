//! What `direct` leaves from.

use super::kind::{Kind, items};
use std::net::IpAddr;

/// At most one address of each family.
pub(super) struct Addresses;

impl Kind<Vec<IpAddr>> for Addresses {
    const ACCEPTED: &'static str = "one IPv4 address, one IPv6 address, or both";
    const PLACEHOLDER: &'static str = "IP,…";
    const LIST: bool = true;
    const OPTIONAL: bool = true;

    fn parse(text: &str) -> Result<Vec<IpAddr>, String> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for item in items(text)? {
            let address: IpAddr =
                item.parse().map_err(|_| "has something in it that is no IP address".to_owned())?;
            if address.is_unspecified() || address.is_multicast() {
                return Err("has an address in it that no host has as its own".to_owned());
            }
            if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                return Err("has two addresses of one family".to_owned());
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    fn show(value: &Vec<IpAddr>) -> String {
        value.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
    }

    fn absent() -> Option<Vec<IpAddr>> {
        Some(Vec::new())
    }
}

/// The name of a network interface.
pub(super) struct Interface;

/// Longest name that Linux gives an interface, in bytes.
const MAX_NAME: usize = 15;

impl Kind<String> for Interface {
    const ACCEPTED: &'static str = "the name of a network interface, such as eth0";
    const PLACEHOLDER: &'static str = "NAME";

    fn parse(text: &str) -> Result<String, String> {
        if text.is_empty() || text.len() > MAX_NAME {
            return Err(format!("is not 1 to {MAX_NAME} bytes long"));
        }
        if text.bytes().any(|byte| byte == b'/' || byte == 0 || byte.is_ascii_whitespace()) {
            return Err("has a character in it that no interface has".to_owned());
        }
        Ok(text.to_owned())
    }

    fn show(value: &String) -> String {
        value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_one_address_of_a_family() {
        let both = Addresses::parse("192.0.2.1, 2001:db8::1").unwrap();
        assert_eq!(Addresses::show(&both), "192.0.2.1,2001:db8::1");
        assert_eq!(Addresses::parse("").unwrap(), Vec::<IpAddr>::new());
        for (text, part) in [
            ("192.0.2.1,192.0.2.2", "two addresses"),
            ("192.0.2.0/24", "no IP address"),
            ("eth0", "no IP address"),
            ("0.0.0.0", "as its own"),
            ("ff02::1", "as its own"),
        ] {
            let problem = Addresses::parse(text).expect_err(text);
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn an_interface_has_the_name_of_one() {
        for name in ["lo", "eth0.100", "wg-éé"] {
            assert_eq!(Interface::parse(name).as_deref(), Ok(name));
        }
        for name in ["", "a/b", "a b", "a\0", "sixteen-bytes-00"] {
            assert!(Interface::parse(name).is_err(), "{name}");
        }
    }
}
