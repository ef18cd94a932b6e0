//! Sources of connections, for limits and shares by source.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Prefixes that IPv6 subscribers are given, widest first, and how many times the share of one
/// address a network of that width has. Otherwise a subscriber with a /48 would have 65,536 shares.
const TIERS: [(u8, usize); 3] = [(48, 4), (56, 2), (64, 1)];

/// The load of one place that is held by one address; the factors of [`TIERS`] divide it.
const UNIT: usize = 4;

/// A source: an IPv4 address, or the /64 of an IPv6
/// address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The source of a peer. An IPv4-mapped address is the IPv4 address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => cut(address, 64).into(),
        })
    }

    /// Whether the source lies in one of `networks`.
    pub fn is_in(self, networks: &[IpNet]) -> bool {
        networks.iter().any(|network| self.is_of(network))
    }

    /// Whether the source lies in `network`.
    pub fn is_of(self, network: &IpNet) -> bool {
        network.contains(&self.0)
    }

    /// The widest network that may belong to one subscriber.
    pub fn party(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => cut(address, TIERS[0].0).into(),
        }
    }

    /// The networks in which the source is counted, each with its factor of the share of one
    /// address: three of IPv6, one of IPv4.
    fn networks(self) -> impl Iterator<Item = (IpNet, usize)> {
        let (v4, v6) = match self.0 {
            IpAddr::V4(address) => (Some((IpNet::V4(Ipv4Net::from(address)), 1)), None),
            IpAddr::V6(address) => (None, Some(address)),
        };
        let tiers = v6.into_iter().flat_map(|address| {
            TIERS.into_iter().filter_map(move |(prefix, factor)| {
                let network = Ipv6Net::new(cut(address, prefix), prefix).ok()?;
                Some((IpNet::V6(network), factor))
            })
        });
        v4.into_iter().chain(tiers)
    }
}

fn cut(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    (u128::from(address) & (u128::MAX << (128 - u32::from(prefix)))).into()
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

/// How many places of a pool each source holds, counted in every network that it belongs to.
///
/// Memory: at most three entries a place.
#[derive(Default)]
pub struct SourceCounts {
    networks: HashMap<IpNet, Count>,
}

struct Count {
    places: usize,
    factor: usize,
}

impl Count {
    /// In quarters of a place, so that networks of all widths compare.
    fn load(&self) -> usize {
        self.places * UNIT / self.factor
    }
}

impl SourceCounts {
    /// Counts a place.
    pub fn add(&mut self, source: Source) {
        for (network, factor) in source.networks() {
            self.networks.entry(network).or_insert(Count { places: 0, factor }).places += 1;
        }
    }

    /// Removes a place that [`add`](Self::add) has counted.
    pub fn remove(&mut self, source: Source) {
        for (network, _) in source.networks() {
            if let Some(count) = self.networks.get_mut(&network) {
                count.places -= 1;
                if count.places == 0 {
                    self.networks.remove(&network);
                }
            }
        }
        if self.networks.is_empty() {
            self.networks.shrink_to_fit();
        }
    }

    /// The heaviest load of a network, in units that compare across widths; 0 without any place.
    pub fn heaviest(&self) -> usize {
        self.networks.values().map(Count::load).max().unwrap_or(0)
    }

    /// The load of the fullest network of `source`; 0 = it has no place. Comparable between sources.
    pub fn load(&self, source: Source) -> usize {
        let networks = source.networks().filter_map(|(network, _)| self.networks.get(&network));
        networks.map(Count::load).max().unwrap_or(0)
    }

    /// The network of `source` that has `limit` places for one address or more: a /56 has twice
    /// as many, a /48 four times.
    pub fn full_network(&self, source: Source, limit: usize) -> Option<IpNet> {
        let mut networks = source.networks().map(|(network, _)| network);
        networks.find(|network| {
            self.networks.get(network).is_some_and(|count| count.load() >= limit * UNIT)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn an_address_and_its_mapped_form_are_one_source_and_so_is_a_64() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("2001:db8::1").to_string(), "2001:db8::/64");
        assert_eq!(source("::ffff:192.0.2.1").to_string(), "192.0.2.1");
        assert!(source("::ffff:192.0.2.1").is_in(&["192.0.2.0/24".parse().unwrap()]));
    }

    #[test]
    fn a_wider_network_of_ipv6_has_a_multiple_of_the_share_not_one_for_each_64() {
        let full_after = |sources: &[&str]| {
            let mut counts = SourceCounts::default();
            let mut held = 0;
            for text in sources.iter().cycle().take(100) {
                if counts.full_network(source(text), 4).is_some() {
                    break;
                }
                counts.add(source(text));
                held += 1;
            }
            held
        };
        assert_eq!(full_after(&["192.0.2.1"]), 4);
        assert_eq!(full_after(&["2001:db8::1"]), 4);
        let in_56: Vec<_> = (0..50).map(|i| format!("2001:db8:0:{i:x}::1")).collect();
        assert_eq!(full_after(&in_56.iter().map(String::as_str).collect::<Vec<_>>()), 8);
        let in_48: Vec<_> = (0..50).map(|i| format!("2001:db8:0:{i:x}00::1")).collect();
        assert_eq!(full_after(&in_48.iter().map(String::as_str).collect::<Vec<_>>()), 16);
        let apart: Vec<_> = (0..50).map(|i| format!("2001:db8:{i:x}::1")).collect();
        assert_eq!(full_after(&apart.iter().map(String::as_str).collect::<Vec<_>>()), 100);
    }

    #[test]
    fn nothing_is_kept_of_sources_that_are_gone() {
        let mut counts = SourceCounts::default();
        for text in ["192.0.2.1", "2001:db8::1", "2001:db8:0:1::1"] {
            counts.add(source(text));
        }
        for text in ["192.0.2.1", "2001:db8::1", "2001:db8:0:1::1"] {
            counts.remove(source(text));
        }
        assert!(counts.networks.is_empty());
    }
}
