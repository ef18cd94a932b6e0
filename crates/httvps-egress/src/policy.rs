//! Which addresses a stream may go to.
//!
//! An address that is not public is refused unless the operator allows it, in every spelling: an IPv6 address that
//! carries an IPv4 address is checked as both.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::OwnAddresses;

/// The destination policy: public addresses, and the networks that the operator allows.
///
/// A check costs a few dozen comparisons and one for each entry of the allow-list; it allocates nothing, but for the
/// list of this host's addresses every 5 s.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    allow: Vec<IpNet>,
    own: Option<Arc<OwnAddresses>>,
}

/// An address was refused. `Display` has the class and not the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    class: AddressClass,
}

/// The class of an address that is not public: a closed set, used as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// This host on this network.
    Unspecified,
    /// This host itself.
    Loopback,
    /// A private network: RFC 1918, unique local and site-local IPv6.
    Private,
    /// Between a carrier's NAT and its customers.
    Shared,
    /// The local link; cloud hosts find their metadata service here.
    LinkLocal,
    /// A cloud platform's own service at an address that looks public.
    Metadata,
    /// Many hosts at once.
    Multicast,
    /// Every host on the link.
    Broadcast,
    /// Set aside for examples in documents.
    Documentation,
    /// Set aside for measuring network devices.
    Benchmarking,
    /// The way into a tunnel or translator that hides where the packets go.
    Tunnel,
    /// Set aside by IANA for protocols, or not given out at all.
    Reserved,
    /// A public address of the gateway's own host.
    Own,
}

impl EgressPolicy {
    /// A policy that allows public addresses, and those in one of the networks `allow`.
    ///
    /// An IPv4 network also covers its addresses when they are written as IPv4-mapped IPv6.
    pub fn new(allow: Vec<IpNet>) -> Self {
        let allow = allow.into_iter().map(unmapped).collect();
        Self { allow, own: None }
    }

    /// Refuses the addresses of this host too where they are public, unless they lie in one of the allowed networks.
    pub fn refusing(mut self, own: OwnAddresses) -> Self {
        self.own = Some(Arc::new(own));
        self
    }

    /// Checks one address, and an IPv4 address that it carries.
    pub fn check(&self, address: IpAddr) -> Result<(), Denied> {
        let address = address.to_canonical();
        if self.allow.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        match address {
            IpAddr::V4(four) => judge_v4(four),
            IpAddr::V6(six) => {
                if let Some(four) = embedded_v4(six) {
                    self.check(IpAddr::V4(four))?;
                }
                judge_v6(six)
            }
        }?;
        match &self.own {
            Some(own) if own.contains(address) => Err(Denied { class: AddressClass::Own }),
            _ => Ok(()),
        }
    }
}

impl Denied {
    /// Why the address was refused.
    pub fn class(self) -> AddressClass {
        self.class
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = self.class.as_str();
        write!(f, "the gateway does not connect to addresses of the class {class}")
    }
}

impl std::error::Error for Denied {}

impl AddressClass {
    /// The class as it stands in metric labels and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::Tunnel => "tunnel",
            Self::Reserved => "reserved",
            Self::Own => "own",
        }
    }
}

/// IPv4 that is not public; the first row that contains an address names its class.
/// From IANA's IPv4 Special-Purpose Address Registry (RFC 6890) as of 2026, except where a row says otherwise.
const DENIED_V4: &[(Ipv4Net, AddressClass)] = &[
    (v4(0, 0, 0, 0, 8), AddressClass::Unspecified), // RFC 791
    (v4(10, 0, 0, 0, 8), AddressClass::Private),    // RFC 1918
    (v4(100, 64, 0, 0, 10), AddressClass::Shared),  // RFC 6598
    (v4(127, 0, 0, 0, 8), AddressClass::Loopback),  // RFC 1122
    (v4(168, 63, 129, 16, 32), AddressClass::Metadata), // Azure's platform service, reachable from every host there
    (v4(169, 254, 0, 0, 16), AddressClass::LinkLocal),  // RFC 3927
    (v4(172, 16, 0, 0, 12), AddressClass::Private),     // RFC 1918
    (v4(192, 0, 0, 0, 24), AddressClass::Reserved), // RFC 6890; its two anycast addresses are for PCP and TURN
    (v4(192, 0, 2, 0, 24), AddressClass::Documentation), // RFC 5737
    (v4(192, 88, 99, 0, 24), AddressClass::Tunnel), // RFC 7526: 6to4 relays, withdrawn
    (v4(192, 168, 0, 0, 16), AddressClass::Private), // RFC 1918
    (v4(198, 18, 0, 0, 15), AddressClass::Benchmarking), // RFC 2544
    (v4(198, 51, 100, 0, 24), AddressClass::Documentation), // RFC 5737
    (v4(203, 0, 113, 0, 24), AddressClass::Documentation), // RFC 5737
    (v4(224, 0, 0, 0, 4), AddressClass::Multicast), // RFC 5771
    (v4(255, 255, 255, 255, 32), AddressClass::Broadcast), // RFC 919
    (v4(240, 0, 0, 0, 4), AddressClass::Reserved),  // RFC 1112
];

/// The part of IPv6 from which public addresses are given out (RFC 4291 section 2.4); all else is reserved.
const GLOBAL_UNICAST_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// Rows that are public although a row of [`DENIED_V6`] or the rule above covers them.
const PUBLIC_V6: &[Ipv6Net] = &[
    NAT64,                                     // RFC 6052: goes where the IPv4 address in it goes
    v6([0x2001, 3, 0, 0, 0, 0, 0, 0], 32),     // RFC 7450: AMT
    v6([0x2001, 4, 0x112, 0, 0, 0, 0, 0], 48), // RFC 7535: AS112
];

/// IPv6 that is not public; the first row that contains an address names its class.
/// From IANA's IPv6 Special-Purpose Address Registry (RFC 6890) as of 2026, except where a row says otherwise.
const DENIED_V6: &[(Ipv6Net, AddressClass)] = &[
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), AddressClass::Unspecified), // RFC 4291
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), AddressClass::Loopback),    // RFC 4291
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), AddressClass::Tunnel), // RFC 8215: local NAT64
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), AddressClass::Tunnel),  // RFC 4380: Teredo
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), AddressClass::Benchmarking), // RFC 5180
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), AddressClass::Documentation), // RFC 3849
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), AddressClass::Reserved), // RFC 2928
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), AddressClass::Documentation), // RFC 9637
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), AddressClass::Private),  // RFC 4193
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), AddressClass::LinkLocal), // RFC 4291
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), AddressClass::Private), // RFC 3879: site-local
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), AddressClass::Multicast), // RFC 4291
                                                                    // 100::/64 (RFC 6666), 100:0:0:1::/64 (RFC 9780), 5f00::/16 (RFC 9602), IPv4-compatible ::/96 (RFC 4291) and
                                                                    // IPv4-translated ::ffff:0:0:0/96 (RFC 2765) lie outside 2000::/3 and need no row.
];

/// The well-known prefix of NAT64 (RFC 6052 section 2.1); the IPv4 address is the last 32 bits.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(s: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]), prefix)
}

fn judge_v4(address: Ipv4Addr) -> Result<(), Denied> {
    match DENIED_V4.iter().find(|(net, _)| net.contains(&address)) {
        Some(&(_, class)) => Err(Denied { class }),
        None => Ok(()),
    }
}

fn judge_v6(address: Ipv6Addr) -> Result<(), Denied> {
    if PUBLIC_V6.iter().any(|net| net.contains(&address)) {
        return Ok(());
    }
    match DENIED_V6.iter().find(|(net, _)| net.contains(&address)) {
        Some(&(_, class)) => Err(Denied { class }),
        None if GLOBAL_UNICAST_V6.contains(&address) => Ok(()),
        None => Err(Denied { class: AddressClass::Reserved }),
    }
}

/// The IPv4 address that packets to this IPv6 address end at, where the address tells. IPv4-mapped ones are no
/// longer IPv6 when they come here; Teredo and local NAT64 are refused whatever they carry.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    match s {
        // 6to4 (RFC 3056 section 2): the 32 bits after the prefix.
        [0x2002, high, low, ..] => Some(joined(high, low)),
        _ if NAT64.contains(&address) => Some(joined(s[6], s[7])),
        // IPv4-compatible (RFC 4291 section 2.5.5.1). :: and ::1 are none; their own class names them better.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => Some(joined(high, low)),
        // ISATAP (RFC 5214 section 6.1): an interface identifier 0000:5efe or 0200:5efe under any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(joined(high, low)),
        _ => None,
    }
}

fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

/// Turns a network of IPv4-mapped addresses into the IPv4 network it means, as addresses are before they are compared.
fn unmapped(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(six) if six.prefix_len() >= 96 => six
            .addr()
            .to_ipv4_mapped()
            .and_then(|four| Ipv4Net::new(four, six.prefix_len() - 96).ok())
            .map_or(net, IpNet::V4),
        _ => net,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class_of(policy: &EgressPolicy, address: &str) -> &'static str {
        let address = address.parse().unwrap();
        policy.check(address).map_or_else(|denied| denied.class().as_str(), |()| "public")
    }

    #[test]
    fn public_addresses_of_this_host_are_refused_unless_allowed() {
        let own = || OwnAddresses::new(["9.9.9.9", "2a00::9"].map(|text| text.parse().unwrap()));
        let policy = EgressPolicy::default().refusing(own());
        for (address, class) in [
            ("9.9.9.9", "own"),
            ("::ffff:9.9.9.9", "own"),
            ("64:ff9b::9.9.9.9", "own"),
            ("2002:909:909::1", "own"),
            ("2a00::9", "own"),
            ("9.9.9.8", "public"),
            ("2a00::8", "public"),
            // A class that says more comes first.
            ("127.0.0.1", "loopback"),
        ] {
            assert_eq!(class_of(&policy, address), class, "{address}");
            assert_ne!(class_of(&EgressPolicy::default(), address), "own", "{address}");
        }
        let allow = vec!["9.9.9.9/32".parse().unwrap()];
        let policy = EgressPolicy::new(allow).refusing(own());
        assert_eq!(class_of(&policy, "9.9.9.9"), "public");
        assert_eq!(class_of(&policy, "2a00::9"), "own");
    }

    #[test]
    fn every_range_has_its_class_up_to_its_edges() {
        for (addresses, class) in [
            (&["0.0.0.0", "0.255.255.255", "::"][..], "unspecified"),
            (&["127.0.0.0", "127.0.0.1", "127.255.255.255", "::1"], "loopback"),
            (&["10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255"], "private"),
            (&["192.168.0.0", "192.168.255.255", "fc00::", "fd00:ec2::254"], "private"),
            (&["fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fec0::1", "feff::1"], "private"),
            (&["100.64.0.0", "100.127.255.255", "100.100.100.200"], "shared"),
            (&["169.254.0.0", "169.254.169.254", "169.254.255.255"], "link_local"),
            (&["fe80::", "fe80::1", "febf::ffff"], "link_local"),
            (&["168.63.129.16"], "metadata"),
            (&["224.0.0.0", "239.255.255.255", "ff00::", "ff02::1", "ffff::"], "multicast"),
            (&["255.255.255.255"], "broadcast"),
            (&["192.0.2.0", "198.51.100.255", "203.0.113.7"], "documentation"),
            (&["2001:db8::", "2001:db8:ffff::1", "3fff::", "3fff:fff::1"], "documentation"),
            (&["198.18.0.0", "198.19.255.255", "2001:2::1"], "benchmarking"),
            (&["192.0.0.0", "192.0.0.9", "192.0.0.170", "192.0.0.255"], "reserved"),
            (&["240.0.0.0", "255.255.255.254"], "reserved"),
            (
                &["2001:1::1", "2001:20::1", "2001:1ff::1", "5f00::1", "100::1", "100:0:0:1::1"],
                "reserved",
            ),
            (&["::8.8.8.8", "::ffff:0:8.8.8.8", "1::1", "4000::1", "64:ff9b:0:1::1"], "reserved"),
            (&["::127.0.0.1"], "loopback"),
            (&["::10.0.0.1"], "private"),
            (&["192.88.99.1", "2001::1", "2001:0:808:808::1", "64:ff9b:1::808:808"], "tunnel"),
        ] {
            for address in addresses {
                assert_eq!(class_of(&EgressPolicy::default(), address), class, "{address}");
            }
        }
    }

    #[test]
    fn public_addresses_up_to_the_edges_of_the_ranges_pass() {
        for address in [
            "1.0.0.0",
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.31.196.1",
            "192.52.193.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "203.0.114.0",
            "223.255.255.255",
            "2000::1",
            "2001:200::1",
            "2001:3::1",
            "2001:4:112::1",
            "2001:4860:4860::8888",
            "2001:db7::1",
            "2001:db9::1",
            "2606:4700::1111",
            "2620:4f:8000::1",
            "3ffe::1",
            "3fff:1000::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2606:4700::5efe:808:808",
        ] {
            assert_eq!(class_of(&EgressPolicy::default(), address), "public", "{address}");
        }
    }

    #[test]
    fn an_allowed_network_overrides_and_allows_nothing_beside_it() {
        let nets = ["127.0.0.0/8", "10.1.2.3/16", "fd00:1::/32", "::ffff:192.168.5.0/120"];
        let policy = EgressPolicy::new(nets.iter().map(|net| net.parse().unwrap()).collect());
        for (address, class) in [
            ("127.0.0.1", "public"),
            ("::ffff:127.0.0.1", "public"),
            ("64:ff9b::127.0.0.1", "public"),
            ("2002:7f00:1::1", "public"),
            ("10.1.255.255", "public"),
            ("fd00:1::1", "public"),
            ("192.168.5.255", "public"),
            ("::ffff:192.168.5.1", "public"),
            ("::127.0.0.1", "reserved"),
            ("64:ff9b:1::127.0.0.1", "tunnel"),
            ("10.2.0.0", "private"),
            ("192.168.4.255", "private"),
            ("fd00:2::1", "private"),
            ("::1", "loopback"),
        ] {
            assert_eq!(class_of(&policy, address), class, "{address}");
        }
    }

    #[test]
    fn everything_can_be_allowed() {
        let policy = EgressPolicy::new(vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
        for (net, _) in DENIED_V4 {
            assert_eq!(policy.check(net.network().into()), Ok(()), "{net}");
        }
        for (net, _) in DENIED_V6 {
            assert_eq!(policy.check(net.network().into()), Ok(()), "{net}");
        }
    }

    #[test]
    fn a_refusal_names_the_class_and_not_the_address() {
        let denied = EgressPolicy::default().check(Ipv4Addr::new(10, 9, 8, 7).into()).unwrap_err();
        let words = denied.to_string();
        assert!(words.contains("private") && !words.contains("10.9"), "{words}");
    }

    /// Every IPv6 spelling of an IPv4 address; the words of `n` fill what the spelling leaves open.
    fn embeddings(four: Ipv4Addr, n: [u16; 5]) -> Vec<Ipv6Addr> {
        let bits = u32::from(four);
        let (high, low) = ((bits >> 16) as u16, bits as u16);
        vec![
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 1, n[0], n[1], n[2], high, low),
            Ipv6Addr::new(0x2002, high, low, n[0], n[1], n[2], n[3], n[4]),
            Ipv6Addr::new(0x2001, 0, high, low, n[0], n[1], n[2], n[3]),
            Ipv6Addr::new(0x2001, 0, n[0], n[1], n[2], n[3], !high, !low),
            Ipv6Addr::new(0x2a00 | n[0] & 0xff, n[1], n[2], n[3], 0, 0x5efe, high, low),
            Ipv6Addr::new(0x2a00 | n[0] & 0xff, n[1], n[2], n[3], 0x200, 0x5efe, high, low),
        ]
    }

    proptest! {
        #[test]
        fn a_denied_ipv4_address_is_denied_in_every_ipv6_spelling(offset in any::<u32>(), noise in any::<[u16; 5]>()) {
            let policy = EgressPolicy::default();
            for (net, _) in DENIED_V4 {
                let four = Ipv4Addr::from(u32::from(net.network()) | offset & u32::from(net.hostmask()));
                prop_assert!(policy.check(four.into()).is_err(), "{four}");
                for six in embeddings(four, noise) {
                    prop_assert!(policy.check(six.into()).is_err(), "{four} as {six}");
                }
            }
        }

        #[test]
        fn the_mapped_spelling_is_judged_as_the_address_itself(four in any::<Ipv4Addr>()) {
            let policy = EgressPolicy::new(vec!["10.0.0.0/9".parse().unwrap()]);
            prop_assert_eq!(policy.check(four.to_ipv6_mapped().into()), policy.check(four.into()));
        }

        #[test]
        fn whatever_lies_in_a_denied_ipv6_range_is_denied(bits in any::<u128>()) {
            let policy = EgressPolicy::default();
            for (net, _) in DENIED_V6 {
                let address = Ipv6Addr::from(u128::from(net.network()) | bits & u128::from(net.hostmask()));
                let public = PUBLIC_V6.iter().any(|net| net.contains(&address));
                prop_assert!(public || policy.check(address.into()).is_err(), "{address}");
            }
        }
    }
}
