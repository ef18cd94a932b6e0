//! How much memory the process may use: the setting, or what its control groups and the host have.

use std::fmt;
use std::path::{Path, PathBuf};

/// The memory that the gateway may use, and the origin of the figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryBudget {
    /// Bytes; `u64::MAX` where nothing is known.
    pub bytes: u64,
    /// Its origin.
    pub from: BudgetSource,
}

/// The origin of a [`MemoryBudget`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BudgetSource {
    /// The setting `memory_budget_bytes`.
    Setting,
    /// The control group with the smallest limit, by its path; often the systemd unit or the container.
    ControlGroup(String),
    /// The memory of the host.
    Host,
    /// Nothing: neither control groups nor `/proc/meminfo` can be read.
    Unknown,
}

impl MemoryBudget {
    /// The budget of `configured` bytes; 0 is what the control groups and the host have.
    pub fn resolve(configured: u64) -> Self {
        Self::resolve_below(Path::new("/"), configured)
    }

    fn resolve_below(root: &Path, configured: u64) -> Self {
        if configured > 0 {
            return Self { bytes: configured, from: BudgetSource::Setting };
        }
        let host = memory_of_host(root);
        match limit_of_groups(root) {
            Some((bytes, group)) if host.is_none_or(|host| bytes < host) => {
                Self { bytes, from: BudgetSource::ControlGroup(group) }
            }
            _ => match host {
                Some(bytes) => Self { bytes, from: BudgetSource::Host },
                None => Self { bytes: u64::MAX, from: BudgetSource::Unknown },
            },
        }
    }

    /// The bytes at which new sessions are refused, `percent` of the budget.
    pub(crate) fn bound(&self, percent: u32) -> u64 {
        self.bytes / 100 * u64::from(percent)
    }
}

impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            BudgetSource::Unknown => f.write_str("unknown: set memory_budget_bytes"),
            BudgetSource::Setting => write!(f, "{} bytes (memory_budget_bytes)", self.bytes),
            BudgetSource::ControlGroup(group) => {
                write!(f, "{} bytes (control group {})", self.bytes, group.escape_debug())
            }
            BudgetSource::Host => write!(f, "{} bytes (this host's memory)", self.bytes),
        }
    }
}

fn memory_of_host(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

/// The smallest limit of the control groups of this process, from its own up to the root, and the group that has it.
///
/// A limit stands in the group that a unit or container has, while the process may be in one below.
fn limit_of_groups(root: &Path) -> Option<(u64, String)> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mounted: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    let limits = groups.lines().filter_map(|line| {
        // "hierarchy:controllers:path"; the second version has hierarchy 0 and no controllers.
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_v2 = controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|controller| controller == "memory") {
            return None;
        }
        let mount = mounted.iter().find(|mount| mount.is_v2 == is_v2)?;
        mount.smallest_limit(root, path)
    });
    limits.min_by_key(|(bytes, _)| *bytes)
}

/// Where control groups that know of memory are mounted.
struct Mount {
    is_v2: bool,
    /// The group that is at the mount point.
    group: String,
    point: PathBuf,
}

impl Mount {
    /// Reads a line of `/proc/self/mountinfo` (proc(5)).
    fn parse(line: &str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (group, point) = (mount.next()?.to_owned(), mount.next()?);
        let mut kind = kind.split(' ');
        let is_v2 = match kind.next()? {
            "cgroup2" => true,
            "cgroup" if kind.nth(1)?.split(',').any(|option| option == "memory") => false,
            _ => return None,
        };
        Some(Self { is_v2, group, point: point.trim_start_matches('/').into() })
    }

    fn smallest_limit(&self, root: &Path, path: &str) -> Option<(u64, String)> {
        let file = if self.is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        // A container may see the group's path on its host, but only what is below its own.
        let inside = Path::new(path).strip_prefix(&self.group).unwrap_or(Path::new(""));
        let point = root.join(&self.point);
        // A path that leads out of the mount is not followed.
        let is_plain =
            inside.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let inside = if is_plain { inside } else { Path::new("") };
        let limits = inside.ancestors().filter_map(|group| {
            let text = std::fs::read_to_string(point.join(group).join(file)).ok()?;
            Some((text.trim().parse().ok()?, format!("/{}", group.display())))
        });
        limits.min_by_key(|(bytes, _)| *bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "36 32 0:31 / /sys/fs/cgroup/memory rw shared:15 - cgroup cgroup rw,memory\n\
        37 32 0:32 / /sys/fs/cgroup/pids rw shared:16 - cgroup cgroup rw,pids\n";

    /// A host of 4 GiB with these files.
    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [("proc/meminfo", "MemTotal:        4194304 kB\n")].iter().chain(files)
        {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn resolved(files: &[(&str, &str)]) -> (u64, String) {
        let budget = MemoryBudget::resolve_below(host(files).path(), 0);
        let words = budget.to_string();
        (budget.bytes, words.split_once('(').unwrap().1.trim_end_matches(')').to_owned())
    }

    #[test]
    fn the_limit_of_a_systemd_unit_is_found_below_the_root_of_both_versions() {
        let v2 = resolved(&[
            ("proc/self/cgroup", "0::/system.slice/httvps.service\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/httvps.service/memory.max", "25165824\n"),
        ]);
        assert_eq!(v2, (25_165_824, "control group /system.slice/httvps.service".into()));
        let v1 = resolved(&[
            ("proc/self/cgroup", "5:pids:/x\n4:cpu,memory:/system.slice/httvps.service\n0::/x\n"),
            ("proc/self/mountinfo", V1),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            (
                "sys/fs/cgroup/memory/system.slice/httvps.service/memory.limit_in_bytes",
                "25165824\n",
            ),
        ]);
        assert_eq!(v1, (25_165_824, "control group /system.slice/httvps.service".into()));
    }

    #[test]
    fn the_smallest_limit_up_to_the_root_counts() {
        let budget = resolved(&[
            ("proc/self/cgroup", "0::/a.slice/b.slice/c.service\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/a.slice/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/a.slice/b.slice/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/a.slice/b.slice/c.service/memory.max", "max\n"),
        ]);
        assert_eq!(budget, (GIB, "control group /a.slice".into()));
    }

    #[test]
    fn a_container_has_its_limit_at_the_mount_point_whatever_path_it_sees() {
        for (group, mounted) in [("/", "/"), ("/docker/5e1", "/docker/5e1"), ("/../../x", "/")] {
            let mount = V2.replace(" / /sys", &format!(" {mounted} /sys"));
            let budget = resolved(&[
                ("proc/self/cgroup", &format!("0::{group}\n")),
                ("proc/self/mountinfo", &mount),
                ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ]);
            assert_eq!(budget, (GIB, "control group /".into()), "{group}");
        }
    }

    #[test]
    fn without_a_smaller_limit_it_is_the_hosts_memory_and_a_setting_wins() {
        let none = [("proc/self/cgroup", "0::/x\n"), ("proc/self/mountinfo", V2)];
        assert_eq!(resolved(&none), (4 * GIB, "this host's memory".into()));
        assert_eq!(resolved(&[]), (4 * GIB, "this host's memory".into()));
        let large = ("sys/fs/cgroup/x/memory.max", "8589934592\n");
        assert_eq!(resolved(&[none[0], none[1], large]), (4 * GIB, "this host's memory".into()));
        let set = MemoryBudget::resolve_below(host(&none).path(), GIB);
        assert_eq!((set.bytes, &set.from), (GIB, &BudgetSource::Setting));
    }

    #[test]
    fn without_proc_it_is_unknown_and_says_what_to_do() {
        let empty = tempfile::tempdir().unwrap();
        let budget = MemoryBudget::resolve_below(empty.path(), 0);
        assert_eq!((budget.bytes, &budget.from), (u64::MAX, &BudgetSource::Unknown));
        assert!(budget.to_string().contains("set memory_budget_bytes"));
    }
}
