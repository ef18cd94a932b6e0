//! `/etc/hosts` and `/etc/resolv.conf`, read again when they change.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use tokio::time::Instant;

use crate::answers::Answers;
use crate::hosts::Hosts;
use crate::place::Place;
use crate::resolv_conf::ResolvConf;
use crate::servers::Servers;

/// Shortest interval between two checks for a change; a lookup triggers the check.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Most bytes of each file that are read.
const MAX_HOSTS_BYTES: u64 = 16 * 1024 * 1024;
const MAX_CONF_BYTES: u64 = 64 * 1024;

/// The current content of both files.
#[derive(Clone)]
pub(crate) struct System {
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) dns: Arc<Dns>,
    hosts_stamp: Stamp,
    conf_stamp: Stamp,
}

/// The name servers of one resolver configuration, and the cache of their answers.
pub(crate) struct Dns {
    pub(crate) servers: Servers,
    /// Whether the file names no name server, and the only one is the C library's default.
    pub(crate) is_default: bool,
    pub(crate) search: Vec<Name>,
    pub(crate) ndots: usize,
    pub(crate) resolution_delay: Duration,
    /// In front of the places: the library has a cache, and no call that asks just that.
    pub(crate) answers: Answers,
    problems: Vec<String>,
}

/// The files, and their content when they were read last.
pub(crate) struct Files {
    place: Place,
    current: Mutex<System>,
    checked: Mutex<Instant>,
}

/// How a changed file is recognised; none without a file.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

impl Files {
    /// Reads both files. One that is missing or cannot be read counts as empty.
    pub(crate) fn read(place: Place) -> Self {
        let (hosts_stamp, conf_stamp) = (stamp(&place.hosts), stamp(&place.conf));
        let hosts = Arc::new(read_hosts(&place.hosts));
        let dns = Arc::new(Dns::read(&place));
        let current = Mutex::new(System { hosts, dns, hosts_stamp, conf_stamp });
        Self { place, current, checked: Mutex::new(Instant::now()) }
    }

    /// The current content, at most [`CHECK_INTERVAL`] old. A check costs two system calls in that interval;
    /// a lookup during a read uses the previous content.
    pub(crate) async fn system(self: &Arc<Self>) -> System {
        if self.is_due() {
            let files = Arc::clone(self);
            // An error means that the runtime is going down, or a panic, which the hook has reported.
            let _ = tokio::task::spawn_blocking(move || files.look()).await;
        }
        self.current()
    }

    /// The content when the files were read last.
    pub(crate) fn current(&self) -> System {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The problems of the resolver configuration that was read last.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.current().dns.problems.clone()
    }

    fn is_due(&self) -> bool {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = now.saturating_duration_since(*checked) >= CHECK_INTERVAL;
        if is_due {
            *checked = now;
        }
        is_due
    }

    /// Reads changed files again.
    fn look(&self) {
        let (hosts_stamp, conf_stamp) = (stamp(&self.place.hosts), stamp(&self.place.conf));
        let mut system = self.current();
        if system.hosts_stamp != hosts_stamp {
            system.hosts = Arc::new(read_hosts(&self.place.hosts));
            system.hosts_stamp = hosts_stamp;
            tracing::info!(path = %self.place.hosts.display(), "resolver_reloaded");
        }
        if system.conf_stamp != conf_stamp {
            system.dns = Arc::new(Dns::read(&self.place));
            system.conf_stamp = conf_stamp;
            tracing::info!(path = %self.place.conf.display(), "resolver_reloaded");
            for problem in &system.dns.problems {
                tracing::warn!(warning = problem.as_str(), "config_warning");
            }
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = system;
    }
}

impl Dns {
    fn read(place: &Place) -> Self {
        let shown = place.conf.display();
        let (conf, mut problems) = match read(&place.conf, MAX_CONF_BYTES) {
            Ok(text) => {
                let mut conf = ResolvConf::parse(&text);
                let named = |problem| format!("{shown}, {problem}");
                let problems = conf.problems.drain(..).map(named).collect();
                (conf, problems)
            }
            Err(error) => (ResolvConf::parse(b""), vec![format!("cannot read {shown}: {error}")]),
        };
        if conf.is_default {
            problems.push(format!(
                "{shown} names no name server: 127.0.0.1 is asked, and without one there only addresses and the names in \
                 /etc/hosts work; the file is read again when it changes"
            ));
        }
        Self {
            servers: Servers::new(&conf, place),
            is_default: conf.is_default,
            search: conf.search,
            ndots: conf.ndots,
            resolution_delay: place.resolution_delay,
            answers: Answers::new(),
            problems,
        }
    }
}

fn read_hosts(path: &Path) -> Hosts {
    read(path, MAX_HOSTS_BYTES).map(|text| Hosts::parse(&text)).unwrap_or_default()
}

fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut text)?;
    Ok(text)
}

fn stamp(path: &Path) -> Stamp {
    let file = fs::metadata(path).ok()?;
    let modified = (file.mtime(), file.mtime_nsec());
    let changed = (file.ctime(), file.ctime_nsec());
    Some((file.dev(), file.ino(), file.len(), modified.0, modified.1, changed.0, changed.1))
}
