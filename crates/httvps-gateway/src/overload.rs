//! Detection of a shortage of memory or descriptors.

use crate::admission::Admission;
use crate::memory_budget::MemoryBudget;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// How often the resident memory is read.
const MEMORY_INTERVAL: Duration = Duration::from_millis(250);

/// The last descriptors below the limit of the process, reserved for the admin listener and the gateway itself.
///
/// The kernel hands out the lowest number that is free, so the number of a descriptor just opened says how many are in
/// use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DescriptorReserve {
    /// Sockets to targets and nodes are refused from this number on; none without a limit.
    pub(crate) first_without_streams: Option<u64>,
    /// New connections are refused from this number on.
    first_without_newcomers: Option<u64>,
}

impl DescriptorReserve {
    /// `reserve` descriptors below the limit of the process are kept from new connections, for the admin listener and the
    /// calls of the gateway itself, and as many more from streams. On a process with few descriptors each is a quarter
    /// at most, so that it can still serve.
    pub(crate) fn new(reserve: u64) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self::below(limit, reserve)
    }

    fn below(limit: Option<u64>, reserve: u64) -> Self {
        let first = |parts| limit.map(|limit| limit - parts * reserve.min(limit / 4));
        Self { first_without_streams: first(2), first_without_newcomers: first(1) }
    }

    /// Whether a connection just accepted has one of the last descriptors.
    pub(crate) fn is_kept_from_newcomers(self, descriptor: BorrowedFd<'_>) -> bool {
        let number = descriptor.as_raw_fd() as u64;
        self.first_without_newcomers.is_some_and(|first| number >= first)
    }
}

/// Reports to `admission` periodically how much the process may still grow until `percent` of its memory budget is used,
/// so that new sessions are refused and existing ones stay. Never returns.
pub(crate) async fn watch_memory(admission: Arc<Admission>, budget: MemoryBudget, percent: u32) {
    let bound = budget.bound(percent);
    let mut ticks = tokio::time::interval(MEMORY_INTERVAL);
    let (mut was_short, mut was_readable) = (false, true);
    loop {
        ticks.tick().await;
        let Some(resident) = resident_memory() else {
            if std::mem::take(&mut was_readable) {
                let path = "/proc/self/statm";
                let hint = "newcomers are not refused for want of memory; bound max_sessions";
                tracing::warn!(path, hint, "memory_watch_blind");
            }
            continue;
        };
        was_readable = true;
        let spare = i128::from(bound) - i128::from(resident);
        admission.set_room(i64::try_from(spare).unwrap_or(i64::MAX));
        let is_short = resident > bound;
        if std::mem::replace(&mut was_short, is_short) != is_short {
            let (resident_bytes, bound_bytes) = (resident, bound);
            if is_short {
                tracing::warn!(resident_bytes, bound_bytes, "memory_short");
            } else {
                tracing::info!(resident_bytes, bound_bytes, "memory_recovered");
            }
        }
    }
}

/// Raises the soft limit of descriptors to the hard one; the default soft limit of 1,024 is an old
/// default for programs that use `select`.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is not allowed the old limit holds, and newcomers are refused accordingly.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Descriptors that the process may have.
pub(crate) fn descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Resident bytes of this process; None where /proc is missing.
fn resident_memory() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn this_process_has_memory_and_the_machine_more() {
        let resident = resident_memory().unwrap();
        assert!(resident > 0 && resident < MemoryBudget::resolve(0).bytes);
    }

    #[test]
    fn streams_leave_descriptors_to_newcomers_and_both_to_the_gateway_itself() {
        let reserve = DescriptorReserve::below(Some(1000), 64);
        assert_eq!(reserve.first_without_streams, Some(872));
        assert_eq!(reserve.first_without_newcomers, Some(936));
        let few = DescriptorReserve::below(Some(40), 64);
        assert_eq!((few.first_without_streams, few.first_without_newcomers), (Some(20), Some(30)));
        let file = std::fs::File::open("/dev/null").unwrap();
        let number = file.as_raw_fd() as u64;
        assert!(
            !DescriptorReserve::below(Some(number + 1), 0).is_kept_from_newcomers(file.as_fd())
        );
        assert!(DescriptorReserve::below(Some(number), 0).is_kept_from_newcomers(file.as_fd()));
        assert!(!DescriptorReserve::below(None, 64).is_kept_from_newcomers(file.as_fd()));
    }
}
