//! The addresses of this host itself, public ones too.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Largest age of the list of addresses. Listing them is one request to the kernel.
const MAX_AGE: Duration = Duration::from_secs(5);

/// The addresses of this host's interfaces, and others that its listeners were given.
///
/// The list is made on demand, at most once in 5 s, so a new address of an interface is known after 5 s. An
/// address that only a translator in front of the host has is not known.
pub struct OwnAddresses {
    listeners: HashSet<IpAddr>,
    interfaces: Mutex<Listed>,
}

struct Listed {
    addresses: HashSet<IpAddr>,
    at: Instant,
}

impl OwnAddresses {
    /// The addresses of the interfaces, and `listeners` besides. When the system does not list them now, they are asked for
    /// again later; until then only `listeners` are known.
    pub fn new(listeners: impl IntoIterator<Item = IpAddr>) -> Self {
        let listeners = listeners.into_iter().map(|address| address.to_canonical());
        let listeners = listeners.filter(|address| !address.is_unspecified()).collect();
        let addresses = Self::list().unwrap_or_default();
        Self { listeners, interfaces: Mutex::new(Listed { addresses, at: Instant::now() }) }
    }

    /// Checks whether the system lists the addresses of its interfaces.
    pub fn check() -> io::Result<()> {
        Self::list().map(drop)
    }

    /// Whether this host has the address, in its canonical form.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.listeners.contains(&address) || self.is_of_interface(address, Instant::now())
    }

    fn is_of_interface(&self, address: IpAddr, now: Instant) -> bool {
        let mut listed = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(listed.at) >= MAX_AGE {
            listed.at = now;
            // Better the old list than none.
            if let Ok(addresses) = Self::list() {
                listed.addresses = addresses;
            }
        }
        listed.addresses.contains(&address)
    }

    fn list() -> io::Result<HashSet<IpAddr>> {
        let interfaces = if_addrs::get_if_addrs()?;
        Ok(interfaces.iter().map(|interface| interface.ip().to_canonical()).collect())
    }
}

impl fmt::Debug for OwnAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnAddresses").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn interfaces_and_listeners_are_known_and_looked_at_again_when_old() {
        let listener: IpAddr = "198.18.0.1".parse().unwrap();
        let own = OwnAddresses::new([listener, Ipv4Addr::UNSPECIFIED.into()]);
        assert!(own.contains(listener));
        assert!(own.contains(Ipv4Addr::LOCALHOST.into()));
        assert!(!own.contains("198.18.0.2".parse().unwrap()));
        assert!(!own.contains(Ipv4Addr::UNSPECIFIED.into()));

        // An address that has gone is forgotten, and not before its time.
        let gone: IpAddr = "198.18.0.3".parse().unwrap();
        own.interfaces.lock().unwrap().addresses.insert(gone);
        let start = own.interfaces.lock().unwrap().at;
        assert!(
            own.is_of_interface(gone, start + MAX_AGE.saturating_sub(Duration::from_millis(1)))
        );
        assert!(!own.is_of_interface(gone, start + MAX_AGE));
    }
}
