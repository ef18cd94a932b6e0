//! Queries for both address families of a name, made at once, with a bounded wait for the slower one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use rustix::io::Errno;
use tokio::sync::{Semaphore, oneshot};

use crate::addresses::Late;
use crate::answers::{MAX_NEGATIVE_TTL, MAX_POSITIVE_TTL};
use crate::servers::is_of_network;
use crate::system::Dns;
use crate::{Addresses, ResolveError};

/// The answer of the name servers for one address family.
enum Family {
    /// Addresses, and until when they are valid. Empty if the name exists without an address of this family.
    Addresses(Vec<IpAddr>, Instant),
    /// There are none, and until when that is valid.
    Nothing(ResolveError, Instant),
    /// No usable answer.
    Failed(ResolveError),
}

/// Queries both families at once and caches the result.
///
/// When one has addresses and the other is silent for 50 ms more, the first is returned, and a
/// task waits for the other, with a place of both `late_places`; without a place this call waits itself. The task also
/// caches that a name server never answers for one family, so that the next lookups of the name do not wait.
pub(crate) async fn ask(
    dns: Arc<Dns>,
    name: Name,
    late_places: [&Arc<Semaphore>; 2],
) -> Result<Addresses, ResolveError> {
    let mut six = Box::pin(family(dns.clone(), name.clone(), RecordType::AAAA));
    let mut four = Box::pin(family(dns.clone(), name.clone(), RecordType::A));
    let (fast, mut slow) = tokio::select! {
        fast = &mut six => (fast, four),
        fast = &mut four => (fast, six),
    };
    let found = match &fast {
        Family::Addresses(found, _) if !found.is_empty() => found.clone(),
        _ => {
            let slow = slow.await;
            return whole(&dns, name, fast, slow).map(Addresses::from);
        }
    };
    if let Ok(slow) = tokio::time::timeout(dns.resolution_delay, &mut slow).await {
        return whole(&dns, name, fast, slow).map(Addresses::from);
    }
    let places = late_places.map(|places| Arc::clone(places).try_acquire_owned().ok());
    let [Some(of_device), Some(of_all)] = places else {
        let slow = slow.await;
        return whole(&dns, name, fast, slow).map(Addresses::from);
    };
    let (sender, late) = oneshot::channel();
    tokio::spawn(async move {
        let slow = slow.await;
        let addresses = match &slow {
            Family::Addresses(addresses, _) => addresses.clone(),
            Family::Nothing(..) | Family::Failed(_) => Vec::new(),
        };
        let _ = whole(&dns, name, fast, slow);
        let _ = sender.send(addresses);
        drop((of_device, of_all));
    });
    Ok(Addresses { first: found, late: Some(Late::from(late)) })
}

/// Merges the two families, and caches the result if it is usable.
fn whole(dns: &Dns, name: Name, one: Family, other: Family) -> Result<Vec<IpAddr>, ResolveError> {
    let now = Instant::now();
    let valid_until = match (&one, &other) {
        // That there are none in the other family has no time of its own: it may not even say for how long.
        (Family::Addresses(_, until), Family::Nothing(..))
        | (Family::Nothing(..), Family::Addresses(_, until)) => Some(*until),
        (
            Family::Addresses(_, one) | Family::Nothing(_, one),
            Family::Addresses(_, other) | Family::Nothing(_, other),
        ) => Some((*one).min(*other)),
        // A name server that fails for one family, or never answers, does so again: the next streams do without.
        (Family::Addresses(found, until), Family::Failed(_))
        | (Family::Failed(_), Family::Addresses(found, until)) => {
            (!found.is_empty()).then(|| (*until).min(now + MAX_NEGATIVE_TTL))
        }
        (Family::Failed(_), _) | (_, Family::Failed(_)) => None,
    };
    let mut addresses = Vec::new();
    let mut error = None;
    for family in [one, other] {
        match family {
            Family::Addresses(found, _) => addresses.extend(found),
            Family::Nothing(reason, _) => error = error.or(Some(reason)),
            // That one family has none says nothing of a name whose other family is not known.
            Family::Failed(reason) => error = Some(reason),
        }
    }
    addresses.sort_by_key(IpAddr::is_ipv4);
    let answer = match error {
        Some(error) if addresses.is_empty() => Err(error),
        _ => Ok(addresses),
    };
    if let Some(valid_until) = valid_until {
        let said = answer.as_deref().map_err(|error| *error);
        dns.answers.remember(name, said, valid_until, now);
    }
    answer
}

async fn family(dns: Arc<Dns>, name: Name, kind: RecordType) -> Family {
    let outcome = dns.servers.lookup(name, kind).await;
    Family::new(outcome, dns.is_default, Instant::now())
}

impl Family {
    fn new(outcome: Result<Lookup, NetError>, is_default: bool, now: Instant) -> Self {
        let error = match outcome {
            Ok(lookup) => {
                let addresses = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
                // Added to later, and a time to live may be as long as it likes.
                let until = lookup.valid_until().min(now + MAX_POSITIVE_TTL);
                return Self::Addresses(addresses.collect(), until);
            }
            Err(error) => error,
        };
        match (reason(&error), error) {
            (
                reason @ (ResolveError::NoSuchName | ResolveError::NoAddress),
                NetError::Dns(DnsError::NoRecordsFound(none)),
            ) => {
                let seconds = u64::from(none.negative_ttl.unwrap_or(0));
                Self::Nothing(reason, now + Duration::from_secs(seconds))
            }
            // The one that is asked where none is named need not be there.
            (_, error)
                if is_default && (is_of_network(&error) || matches!(error, NetError::Timeout)) =>
            {
                Self::Failed(ResolveError::NoNameServer)
            }
            (reason, _) => Self::Failed(reason),
        }
    }
}

fn reason(error: &NetError) -> ResolveError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => ResolveError::NoSuchName,
            ResponseCode::NoError => ResolveError::NoAddress,
            _ => ResolveError::ServerFailed,
        },
        NetError::Timeout => ResolveError::TimedOut,
        NetError::Busy => ResolveError::Overload,
        NetError::Io(error) => match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                ResolveError::Overload
            }
            _ => ResolveError::ServerFailed,
        },
        _ => ResolveError::ServerFailed,
    }
}
