//! Names from the operator's configuration: the backend, key servers, nodes, and the gateway of a client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_resolver::proto::rr::Name;
use tokio::sync::Semaphore;

use crate::ResolveError;
use crate::system::Dns;

/// Most calls of the C library's resolver at one time. Each holds a thread until it ends, and cannot be interrupted.
const MAX_CALLS: usize = 4;

/// The absolute names that an operator's name may stand for, in the order of the C library: as it is, and with each search domain.
pub(crate) fn candidates(name: &str, dns: &Dns) -> Result<Vec<Name>, ResolveError> {
    let mut absolute = Name::from_str_relaxed(name).map_err(|_| ResolveError::NoSuchName)?;
    let is_absolute = name.ends_with('.');
    absolute.set_fqdn(true);
    if is_absolute {
        return Ok(vec![absolute]);
    }
    let mut relative = absolute.clone();
    relative.set_fqdn(false);
    let mut names = Vec::with_capacity(1 + dns.search.len());
    for domain in &dns.search {
        if let Ok(mut name) = relative.clone().append_domain(domain) {
            name.set_fqdn(true);
            names.push(name);
        }
    }
    let dots = name.bytes().filter(|&byte| byte == b'.').count();
    names.insert(if dots >= dns.ndots { 0 } else { names.len() }, absolute);
    Ok(names)
}

/// Both loopback addresses behind what the hosts file says of `localhost`; what it says of any other name.
pub(crate) fn with_loopback(name: &str, mut known: Vec<IpAddr>) -> Vec<IpAddr> {
    if is_localhost(name) {
        for address in [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()] {
            if !known.contains(&address) {
                known.push(address);
            }
        }
    }
    known
}

/// The C library, for names that neither the hosts file nor a name server knows: it has other sources (`nsswitch.conf`), such as
/// multicast DNS and the names of containers.
pub(crate) struct OtherSources(Semaphore);

impl Default for OtherSources {
    fn default() -> Self {
        Self(Semaphore::new(MAX_CALLS))
    }
}

impl OtherSources {
    /// The addresses of a name; none where the C library knows none either.
    pub(crate) async fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let Ok(_place) = self.0.acquire().await else { return Vec::new() };
        let found = tokio::net::lookup_host((name, 0)).await;
        found.map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default()
    }
}

/// Whether another source may know a name with this result: the name servers do not have it. Names below `local` are of
/// multicast DNS (RFC 6762), whatever a name server says or fails to say.
pub(crate) fn may_be_elsewhere(name: &str, error: ResolveError) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_local = name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("local"));
    is_local
        || matches!(
            error,
            ResolveError::NoSuchName | ResolveError::NoAddress | ResolveError::NoNameServer
        )
}

/// Whether a name is `localhost` or ends in it. Such a name means this host and is never sent to a name server (RFC 6761 section
/// 6.3).
pub fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or(name);
    last.eq_ignore_ascii_case("localhost")
}
