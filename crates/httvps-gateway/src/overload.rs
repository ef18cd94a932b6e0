//! Knowing when the process has no more to give.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Watches descriptors and memory, so that newcomers are refused while those who are in stay.
pub(crate) struct Overload {
    /// Descriptor numbers from here on are kept for those who are in; None = no limit.
    first_reserved: Option<u64>,
    is_memory_short: AtomicBool,
}

/// How often the resident memory is read.
const MEMORY_INTERVAL: Duration = Duration::from_millis(500);

impl Overload {
    /// `reserve` descriptors below the process's limit are kept back; on a process with few
    /// descriptors at most a quarter of them, so that it can still serve somebody.
    pub(crate) fn new(reserve: u64) -> Arc<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let first_reserved = limit.map(|limit| limit - reserve.min(limit / 4));
        Arc::new(Self { first_reserved, is_memory_short: AtomicBool::new(false) })
    }

    /// Whether a descriptor just opened is one of the last. The kernel hands out the lowest number
    /// that is free, so the number itself says how many are in use.
    pub(crate) fn is_reserved(&self, descriptor: BorrowedFd<'_>) -> bool {
        let number = descriptor.as_raw_fd() as u64;
        self.first_reserved.is_some_and(|first| number >= first)
    }

    /// Whether the process uses more of its memory budget than newcomers may push it to.
    pub(crate) fn is_memory_short(&self) -> bool {
        self.is_memory_short.load(Ordering::Relaxed)
    }

    /// Watches resident memory against `percent` of `budget` bytes; for ever. A budget of 0 is the
    /// control group's limit or the machine's memory.
    pub(crate) async fn watch_memory(self: Arc<Self>, budget: u64, percent: u32) {
        let budget = if budget > 0 { budget } else { memory_of_machine() };
        let bound = budget / 100 * u64::from(percent);
        let mut ticks = tokio::time::interval(MEMORY_INTERVAL);
        loop {
            ticks.tick().await;
            let Some(resident) = resident_memory() else { continue };
            let is_short = resident > bound;
            if self.is_memory_short.swap(is_short, Ordering::Relaxed) != is_short {
                let (resident_bytes, bound_bytes) = (resident, bound);
                if is_short {
                    tracing::warn!(resident_bytes, bound_bytes, "memory_short");
                } else {
                    tracing::info!(resident_bytes, bound_bytes, "memory_recovered");
                }
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

/// The smaller of the control group's limit and the machine's memory; `u64::MAX` when unknown.
fn memory_of_machine() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let group = read("/sys/fs/cgroup/memory.max")
        .or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
        .and_then(|text| text.trim().parse().ok());
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(kib * 1024)
    });
    group.unwrap_or(u64::MAX).min(machine.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn this_process_has_memory_and_the_machine_more() {
        let resident = resident_memory().unwrap();
        assert!(resident > 0 && resident < memory_of_machine());
    }

    #[test]
    fn a_low_descriptor_is_free_and_a_high_one_reserved() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let number = file.as_raw_fd() as u64;
        let overload =
            |first_reserved| Overload { first_reserved, is_memory_short: AtomicBool::new(false) };
        assert!(!overload(Some(number + 1)).is_reserved(file.as_fd()));
        assert!(overload(Some(number)).is_reserved(file.as_fd()));
        assert!(!overload(None).is_reserved(file.as_fd()));
    }
}
