//! From a name to addresses: the trait that tests replace, and the system's resolver.

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

/// A boxed future, for trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Most lookups of devices that run at one time; further ones wait within their own deadlines.
const MAX_LOOKUPS: usize = 128;

/// Most lookups of one device that run or wait for one of these places; as many for all names of the operator.
const MAX_LOOKUPS_OF_DEVICE: usize = 16;

/// Most background waits for a slower family, in all and for one device. Beyond it the
/// lookup itself waits, and keeps its place.
const MAX_LATE: usize = 128;
const MAX_LATE_OF_DEVICE: usize = 32;

/// A device's share of the lookups that run at one time: 16 for all of its sessions, so that one device cannot occupy all places with
/// names whose servers do not answer. Clones refer to the same share.
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
    /// Waits for a place of the share, in order; dropping the place returns it. Cancellation-safe.
    pub async fn place(&self) -> Result<SemaphorePermit<'_>, ResolveError> {
        self.places.acquire().await.map_err(|_| ResolveError::Overload)
    }
}

/// Turns names into addresses.
pub trait Resolve: Send + Sync + 'static {
    /// Looks up every address of a name that a client gave, IPv6 and IPv4, in the order in which they should be tried.
    ///
    /// Called once for each stream; the caller dials only these addresses. A lookup that is not cached
    /// waits for a place within `share`. Dropping the future cancels the lookup. The name is taken as absolute, with or
    /// without a dot at its end.
    fn resolve(
        &self,
        name: &str,
        share: &LookupShare,
    ) -> BoxFuture<'static, Result<Addresses, ResolveError>>;

    /// Looks up a name from the operator's configuration: it may be relative to a search domain, and known to this host alone.
    fn resolve_own(&self, name: &str) -> BoxFuture<'static, Result<Addresses, ResolveError>> {
        self.resolve(name, &LookupShare::default())
    }
}

/// The system's own resolution: its hosts file first, then the name servers of its configuration.
///
/// Both files are read again when they have changed, which is checked on a lookup, at most once a second.
/// Search domains do not apply to names from clients: such a name means the same on every gateway, and gives no access to the
/// operator's own domain. They apply to the operator's own names. When no name server knows such a name, the C library is
/// asked, which may have other sources. DNSSEC is not validated.
///
/// At most 128 lookups of devices run at one time, 16 of one [`LookupShare`]; the operator's names have 16 places of their
/// own. The answers for 4,096 names are cached for their TTL, at most 5 minutes (30 s for a name that
/// does not exist or has no address, and where the answer for one family failed); a cached name needs no place.
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
    /// The resolver of this process, with `/etc/hosts` and `/etc/resolv.conf`. Reads them on the first call. A
    /// missing, empty or unusable one counts as empty: then only the names in the other one work, and the errors of all
    /// other names give the reason.
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

    /// The problems of the resolver configuration that was read last, a sentence each: no name server, and
    /// what was skipped. Empty without problems.
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
    /// The result of the first candidate that resolves; otherwise the most specific error.
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
