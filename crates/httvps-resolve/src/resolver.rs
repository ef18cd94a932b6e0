//! From a name to addresses: the seam for tests, and the resolver of the system.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use hickory_resolver::proto::rr::Name;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::own_names::{OtherSources, candidates, may_be_elsewhere, with_loopback};
use crate::place::Place;
use crate::system::{Dns, Files};
use crate::{Addresses, ResolveError, families};

/// A future behind a pointer, as trait objects give it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Most lookups of devices that run at one time; the rest wait within their own deadlines.
const MAX_LOOKUPS: usize = 128;

/// Most lookups of one device that run or wait for one of these places; as many for all names of the operator.
const MAX_LOOKUPS_OF_DEVICE: usize = 16;

/// Most answers of a slower family that are waited for behind the back of lookups, and most of one device. Beyond it the
/// lookup itself waits for them, in its place.
const MAX_LATE: usize = 128;
const MAX_LATE_OF_DEVICE: usize = 32;

/// A device's share of the lookups that run at one time: 16 for all of its sessions, so that none holds all of them with
/// names whose servers do not answer. Clones are of the same share.
#[derive(Clone, Debug)]
pub struct LookupShare {
    places: Arc<Semaphore>,
    late: Arc<Semaphore>,
}

impl Default for LookupShare {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(MAX_LOOKUPS_OF_DEVICE));
        Self { places, late: Arc::new(Semaphore::new(MAX_LATE_OF_DEVICE)) }
    }
}

impl LookupShare {
    /// Waits for a place of the share, behind those who wait already; dropping it gives it back. Cancel safe.
    pub async fn place(&self) -> Result<SemaphorePermit<'_>, ResolveError> {
        self.places.acquire().await.map_err(|_| ResolveError::Overload)
    }
}

/// Turns names into addresses.
pub trait Resolve: Send + Sync + 'static {
    /// Looks up every address of a name that a client gave, IPv6 and IPv4, in the order in which they should be tried.
    ///
    /// It is asked once for each stream, and the caller dials nothing but these answers. A lookup that has to be made
    /// waits for a place within `share`. Dropping the future cancels the lookup. The name is taken as absolute, with or
    /// without a dot at its end.
    fn resolve(
        &self,
        name: &str,
        share: &LookupShare,
    ) -> BoxFuture<'static, Result<Addresses, ResolveError>>;

    /// Looks up a name that the operator gave: it may be relative to a search domain, and known to this host alone.
    fn resolve_own(&self, name: &str) -> BoxFuture<'static, Result<Addresses, ResolveError>> {
        self.resolve(name, &LookupShare::default())
    }
}

/// The system's own resolution: its hosts file first, then the name servers of its configuration.
///
/// Both files are read again when they have changed, which is looked at once a second at most, when a name is looked up.
/// Search domains are not applied to what a client names: that means the same on every gateway, and does not reach into the
/// operator's own domain. The operator's own names have them, and where no name server knows such a name, the C library is
/// asked, which may have other sources. DNSSEC is not validated.
///
/// At most 128 lookups of devices run at one time, 16 of one [`LookupShare`]; the operator's names have 16 places of their
/// own. The answers for 4,096 names are remembered, for as long as their TTL says and at most 5 minutes (30 s for a name that
/// does not exist or has no address, and where the answer for one family failed); a name that is known waits for no place.
pub struct SystemResolver {
    shared: Arc<Shared>,
}

struct Shared {
    files: Arc<Files>,
    lookups: Semaphore,
    late: Arc<Semaphore>,
    own: LookupShare,
    other_sources: OtherSources,
}

impl SystemResolver {
    /// The resolver of this process, with `/etc/hosts` and `/etc/resolv.conf`. Reads them when it is called first. A
    /// missing, empty or unusable one is taken as empty: then only the names in the other one work, and the errors of all
    /// other names say why.
    pub fn shared() -> Arc<Self> {
        static SHARED: LazyLock<Arc<SystemResolver>> =
            LazyLock::new(|| Arc::new(SystemResolver::new(Place::default())));
        Arc::clone(&SHARED)
    }

    fn new(place: Place) -> Self {
        let shared = Shared {
            files: Arc::new(Files::read(place)),
            lookups: Semaphore::new(MAX_LOOKUPS),
            late: Arc::new(Semaphore::new(MAX_LATE)),
            own: LookupShare::default(),
            other_sources: OtherSources::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What is wrong with the system's resolver configuration as it was read last, a sentence each: no name server, and
    /// what was left out. None when all is well.
    pub fn problems(&self) -> Vec<String> {
        self.shared.files.problems()
    }
}

impl Resolve for SystemResolver {
    fn resolve(
        &self,
        name: &str,
        share: &LookupShare,
    ) -> BoxFuture<'static, Result<Addresses, ResolveError>> {
        let (shared, share, name) = (Arc::clone(&self.shared), share.clone(), name.to_owned());
        Box::pin(async move {
            let system = shared.files.system().await;
            // The hosts file speaks for both families, as in nsswitch's "files dns".
            let known = system.hosts.get(&name);
            if !known.is_empty() {
                return Ok(known.into());
            }
            let mut name = Name::from_ascii(name).map_err(|_| ResolveError::NoSuchName)?;
            name.set_fqdn(true);
            shared.resolve(system.dns, name, &share, Some(&shared.lookups)).await
        })
    }

    fn resolve_own(&self, name: &str) -> BoxFuture<'static, Result<Addresses, ResolveError>> {
        let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
        Box::pin(async move {
            let system = shared.files.system().await;
            let known = with_loopback(&name, system.hosts.get(&name));
            if !known.is_empty() {
                return Ok(known.into());
            }
            let error = match shared.resolve_candidates(&system.dns, &name).await {
                Ok(addresses) => return Ok(addresses),
                Err(error) => error,
            };
            if may_be_elsewhere(&name, error) {
                let found = shared.other_sources.addresses(&name).await;
                if !found.is_empty() {
                    return Ok(found.into());
                }
            }
            Err(error)
        })
    }
}

impl Shared {
    /// What the first candidate leads to that leads anywhere; else the error that says most of the name.
    async fn resolve_candidates(
        &self,
        dns: &Arc<Dns>,
        name: &str,
    ) -> Result<Addresses, ResolveError> {
        let mut telling = ResolveError::NoSuchName;
        for candidate in candidates(name, dns)? {
            match self.resolve(Arc::clone(dns), candidate, &self.own, None).await {
                Err(ResolveError::NoSuchName) => {}
                Err(error @ (ResolveError::NoAddress | ResolveError::ServerFailed)) => {
                    telling = error;
                }
                outcome => return outcome,
            }
        }
        Err(telling)
    }

    async fn resolve(
        &self,
        dns: Arc<Dns>,
        name: Name,
        share: &LookupShare,
        places: Option<&Semaphore>,
    ) -> Result<Addresses, ResolveError> {
        if let Some(known) = dns.answers.get(&name, Instant::now()) {
            return known.map(Addresses::from);
        }
        // The device's own place first: a lookup that waits for it takes none from the others.
        let _place = share.place().await?;
        let _turn = match places {
            Some(places) => Some(places.acquire().await.map_err(|_| ResolveError::Overload)?),
            None => None,
        };
        // Another lookup may have filled the cache meanwhile.
        if let Some(known) = dns.answers.get(&name, Instant::now()) {
            return known.map(Addresses::from);
        }
        families::ask(dns, name, [&share.late, &self.late]).await
    }
}

#[cfg(test)]
mod tests;
