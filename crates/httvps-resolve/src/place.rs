//! Paths and timing of the resolver; tests use their own.

use std::path::PathBuf;
use std::time::Duration;

/// The paths of the files, and the timing of queries.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) hosts: PathBuf,
    pub(crate) conf: PathBuf,
    pub(crate) port: u16,
    /// How long the slower family of addresses is waited for when the faster one has some (RFC 8305 section 3).
    pub(crate) resolution_delay: Duration,
    /// How long one name server is waited for before the next one is queried in parallel.
    pub(crate) head_start: Duration,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            conf: "/etc/resolv.conf".into(),
            port: 53,
            resolution_delay: Duration::from_millis(50),
            head_start: Duration::from_millis(500),
        }
    }
}
