//! The devices in memory, and how they follow the file.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use crate::Node;
use crate::devices::{Devices, Verdict};
use crate::file::{self, FileError, Fingerprint};

/// The last good copy of the devices file, and the traffic reported since the start.
///
/// Memory: the devices, twice for the moment of a reload, and one counter per device that reported.
/// Questions are answered from memory and never wait for the disk.
pub struct Backend {
    path: PathBuf,
    devices: RwLock<Arc<Devices>>,
    watch: Mutex<Watch>,
    usage: Mutex<HashMap<String, Usage>>,
    /// Assignments of nodes so far.
    turn: AtomicUsize,
}

/// What was last seen of the file.
struct Watch {
    /// The state that needs no second look; `None` asks for one.
    fingerprint: Option<Fingerprint>,
    /// What was wrong at the last look, so that it is logged once and not every second.
    problem: Option<String>,
}

impl Backend {
    /// Reads the file. Blocks.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        let reading = file::read(&path)?;
        Ok(Self {
            path,
            devices: RwLock::new(Arc::new(reading.devices?)),
            watch: Mutex::new(Watch { fingerprint: reading.fingerprint, problem: None }),
            usage: Mutex::new(HashMap::new()),
            turn: AtomicUsize::new(0),
        })
    }

    /// How many devices are known.
    pub fn device_count(&self) -> usize {
        self.snapshot().list().len()
    }

    /// Decides whether this device may connect now.
    ///
    /// The comparison of tokens takes constant time, and an unknown device takes the work of a
    /// known one.
    pub fn validate(&self, device_id: &str, token: &str) -> Verdict {
        self.snapshot().validate(device_id, token, SystemTime::now())
    }

    /// How many Outline nodes are known.
    pub fn node_count(&self) -> usize {
        self.snapshot().nodes().list().len()
    }

    /// The Outline node for the next session: the enabled nodes of the region in turn, or all
    /// enabled ones where none is given or none stands there.
    pub fn assign(&self, region: Option<&str>) -> Option<Node> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.snapshot().nodes().assign(region, turn).cloned()
    }

    /// Adds to the traffic of a device, in bytes; a device that is not in the file is not counted.
    pub fn record_usage(&self, device_id: &str, bytes_up: u64, bytes_down: u64) {
        if self.snapshot().position(device_id).is_none() {
            return;
        }
        let mut usage = lock(&self.usage);
        let sum = usage.entry(device_id.to_owned()).or_default();
        sum.bytes_up = sum.bytes_up.saturating_add(bytes_up);
        sum.bytes_down = sum.bytes_down.saturating_add(bytes_down);
    }

    /// The traffic reported for a device since the start.
    pub fn usage(&self, device_id: &str) -> Usage {
        lock(&self.usage).get(device_id).copied().unwrap_or_default()
    }

    /// Looks whether the file changed and takes over its new text. Blocks.
    ///
    /// A file that is broken or gone changes nothing: the last good copy answers on, and a warning
    /// says what is wrong.
    pub fn reload_if_changed(&self) -> Reload {
        let mut watch = lock(&self.watch);
        match self.reload(&mut watch) {
            Ok(reload) => reload,
            Err(problem) => {
                let problem = problem.to_string();
                if watch.problem.as_ref() != Some(&problem) {
                    tracing::warn!(
                        error = %problem,
                        devices_in_use = self.device_count(),
                        "devices_reload_failed"
                    );
                    watch.problem = Some(problem);
                }
                Reload::Failed
            }
        }
    }

    fn reload(&self, watch: &mut Watch) -> Result<Reload, FileError> {
        // Forgotten first: whatever fails below must be tried again, even if the file comes back as
        // it was.
        let known = watch.fingerprint.take();
        let fingerprint = Fingerprint::of(&self.path)?;
        if known == Some(fingerprint) {
            watch.fingerprint = known;
            return Ok(if watch.problem.is_some() { Reload::Failed } else { Reload::Unchanged });
        }
        let reading = file::read(&self.path)?;
        watch.fingerprint = reading.fingerprint;
        let devices = reading.devices?;
        let was_broken = watch.problem.take().is_some();
        let old = self.snapshot();
        let is_same = devices.list() == old.list() && devices.nodes() == old.nodes();
        if is_same && !was_broken {
            return Ok(Reload::Unchanged);
        }
        let nodes = devices.nodes().list().len();
        tracing::info!(devices = devices.list().len(), nodes, "devices_reloaded");
        lock(&self.usage).retain(|id, _| devices.position(id).is_some());
        *self.devices.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(devices);
        Ok(Reload::Changed)
    }

    fn snapshot(&self) -> Arc<Devices> {
        Arc::clone(&self.devices.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is behind these locks is whole between any two statements, so a panic elsewhere spoils
/// nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What [`Backend::reload_if_changed`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The devices are those that were known.
    Unchanged,
    /// The new text is in use.
    Changed,
    /// The file is broken or gone; the last good copy is in use.
    Failed,
}

/// Traffic reported for one device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From the device.
    pub bytes_up: u64,
    /// To the device.
    pub bytes_down: u64,
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::Duration;

    use super::*;
    use crate::{EndChange, NewDevice, Refusal, Store};

    struct Scene {
        _directory: tempfile::TempDir,
        store: Store,
        token: String,
        backend: Backend,
    }

    impl Scene {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::new(directory.path().join("devices.json"));
            let new =
                NewDevice { device_id: Some("anna".parse().unwrap()), ..NewDevice::default() };
            let token = store.add(new).unwrap().1.expose().to_owned();
            let backend = Backend::load(store.path()).unwrap();
            Self { _directory: directory, store, token, backend }
        }

        fn lets_anna_in(&self) -> bool {
            matches!(self.backend.validate("anna", &self.token), Verdict::Allowed { .. })
        }

        /// Sets the time of the file's last change to long ago, as if the writing lay behind.
        fn settle(&self) {
            let old = SystemTime::now() - Duration::from_hours(1);
            File::options().write(true).open(self.store.path()).unwrap().set_modified(old).unwrap();
        }
    }

    #[test]
    fn a_change_of_the_file_is_taken_over() {
        let scene = Scene::new();
        assert!(scene.lets_anna_in());
        assert_eq!(scene.backend.reload_if_changed(), Reload::Unchanged);
        scene.store.set_status("anna", "paused".parse().unwrap(), EndChange::Keep).unwrap();
        assert_eq!(scene.backend.reload_if_changed(), Reload::Changed);
        assert!(!scene.lets_anna_in());
        let fresh = scene.store.rotate_token("anna").unwrap().1;
        scene.store.set_status("anna", "active".parse().unwrap(), EndChange::Keep).unwrap();
        assert_eq!(scene.backend.reload_if_changed(), Reload::Changed);
        assert!(!scene.lets_anna_in());
        assert!(matches!(
            scene.backend.validate("anna", fresh.expose()),
            Verdict::Allowed { user_id: 1, .. }
        ));
        scene.store.remove("anna").unwrap();
        assert_eq!(scene.backend.reload_if_changed(), Reload::Changed);
        assert_eq!(
            scene.backend.validate("anna", fresh.expose()),
            Verdict::Refused { reason: Refusal::DeviceNotFound, subscription_status: None }
        );
    }

    #[test]
    fn a_change_in_the_same_tick_and_of_the_same_length_is_seen() {
        let scene = Scene::new();
        let modified = fs::metadata(scene.store.path()).unwrap().modified().unwrap();
        let text = fs::read_to_string(scene.store.path()).unwrap();
        fs::write(scene.store.path(), text.replace("\"active\"", "\"paused\"")).unwrap();
        let file = File::options().write(true).open(scene.store.path()).unwrap();
        file.set_modified(modified).unwrap();
        assert_eq!(scene.backend.reload_if_changed(), Reload::Changed);
        assert!(!scene.lets_anna_in());
    }

    #[test]
    fn a_broken_or_missing_file_leaves_the_last_good_copy() {
        let scene = Scene::new();
        let good = fs::read_to_string(scene.store.path()).unwrap();
        fs::write(scene.store.path(), &good[..good.len() / 2]).unwrap();
        assert_eq!(scene.backend.reload_if_changed(), Reload::Failed);
        scene.settle();
        for _ in 0..2 {
            assert_eq!(scene.backend.reload_if_changed(), Reload::Failed);
            assert!(scene.lets_anna_in());
        }
        let aside = scene.store.path().with_extension("aside");
        fs::rename(scene.store.path(), &aside).unwrap();
        assert_eq!(scene.backend.reload_if_changed(), Reload::Failed);
        assert!(scene.lets_anna_in());
        fs::write(scene.store.path(), good).unwrap();
        assert_eq!(scene.backend.reload_if_changed(), Reload::Changed);
        assert_eq!(scene.backend.reload_if_changed(), Reload::Unchanged);
    }

    #[test]
    fn a_file_that_comes_back_as_it_was_is_good_again() {
        let scene = Scene::new();
        scene.settle();
        assert_eq!(scene.backend.reload_if_changed(), Reload::Unchanged);
        let aside = scene.store.path().with_extension("aside");
        fs::rename(scene.store.path(), &aside).unwrap();
        assert_eq!(scene.backend.reload_if_changed(), Reload::Failed);
        fs::rename(&aside, scene.store.path()).unwrap();
        assert_eq!(scene.backend.reload_if_changed(), Reload::Changed);
        assert_eq!(scene.backend.reload_if_changed(), Reload::Unchanged);
    }

    #[test]
    fn usage_adds_up_for_known_devices_only() {
        let scene = Scene::new();
        scene.backend.record_usage("anna", 10, u64::MAX);
        scene.backend.record_usage("anna", 5, 1);
        scene.backend.record_usage("unknown", 1, 1);
        assert_eq!(scene.backend.usage("anna"), Usage { bytes_up: 15, bytes_down: u64::MAX });
        assert_eq!(scene.backend.usage("unknown"), Usage::default());
        assert_eq!(lock(&scene.backend.usage).len(), 1);
        scene.store.remove("anna").unwrap();
        scene.backend.reload_if_changed();
        assert!(lock(&scene.backend.usage).is_empty());
    }
}
