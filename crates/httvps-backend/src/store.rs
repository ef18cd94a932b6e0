//! Changes to the devices file.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{error, fmt, fs};

use crate::devices::Devices;
use crate::file::{self, FileError};
use crate::lock::FileLock;
use crate::token::{RandomError, random_hex};
use crate::{Device, DeviceId, Node, NodeId, SubscriptionEnd, SubscriptionStatus, Token};

/// How long a change waits for another process that is changing the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The devices file as a thing to change.
///
/// Every operation reads the file anew, so two stores on one path agree. Every change happens under
/// the lock file
/// `<file>.lock` (waiting at most 10 s for it) and replaces the file atomically, so that changes by
/// several processes at once are all kept. All operations block; call them from a blocking thread
/// when a runtime is near.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// A store over the file at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All devices, in the order of the file.
    pub fn devices(&self) -> Result<Vec<Device>, StoreError> {
        Ok(file::read(&self.path)?.devices?.into_lists().0)
    }

    /// Adds a device with a fresh token, creating the file when there is none; the token is in no
    /// other place.
    pub fn add(&self, new: NewDevice) -> Result<(Device, Token), StoreError> {
        let token = Token::generate()?;
        let device = self.change(Missing::StartEmpty, |devices| {
            let device_id = match new.device_id {
                Some(id) if devices.position(id.as_str()).is_some() => {
                    return Err(StoreError::DeviceExists(id));
                }
                Some(id) => id,
                None => random_device_id(devices)?,
            };
            let device = Device {
                device_id,
                user_id: new.user_id,
                subscription_status: new.subscription_status,
                subscription_end: new.subscription_end,
                token_sha256: token.digest(),
            };
            Ok((device.clone(), Edit::Push(device)))
        })?;
        Ok((device, token))
    }

    /// Sets the status of a device's subscription and, unless told to keep it, the end.
    pub fn set_status(
        &self,
        device_id: &str,
        status: SubscriptionStatus,
        end: EndChange,
    ) -> Result<Device, StoreError> {
        self.change_device(device_id, |device| {
            device.subscription_status = status;
            match end {
                EndChange::Keep => {}
                EndChange::Never => device.subscription_end = None,
                EndChange::At(end) => device.subscription_end = Some(end),
            }
        })
    }

    /// Gives a device a fresh token; the old one is invalid as soon as the file is read again.
    pub fn rotate_token(&self, device_id: &str) -> Result<(Device, Token), StoreError> {
        let token = Token::generate()?;
        let device =
            self.change_device(device_id, |device| device.token_sha256 = token.digest())?;
        Ok((device, token))
    }

    /// Removes a device and returns what it was.
    pub fn remove(&self, device_id: &str) -> Result<Device, StoreError> {
        self.change(Missing::Fail, |devices| {
            let index = find(devices, device_id)?;
            Ok((devices.list()[index].clone(), Edit::Remove(index)))
        })
    }

    /// All Outline nodes, in the order of the file.
    pub fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        Ok(file::read(&self.path)?.devices?.into_lists().1)
    }

    /// Adds a node, creating the file when there is none.
    pub fn add_node(&self, node: Node) -> Result<Node, StoreError> {
        if let Some(problem) = node.problem() {
            return Err(StoreError::InvalidNode(problem));
        }
        self.change(Missing::StartEmpty, |devices| {
            if find_node(devices, node.node_id.as_str()).is_ok() {
                return Err(StoreError::NodeExists(node.node_id));
            }
            Ok((node.clone(), Edit::PushNode(node)))
        })
    }

    /// Switches a node on or off: to one that is off no device is sent.
    pub fn enable_node(&self, node_id: &str, enabled: bool) -> Result<Node, StoreError> {
        self.change(Missing::Fail, |devices| {
            let index = find_node(devices, node_id)?;
            let node = Node { enabled, ..devices.nodes().list()[index].clone() };
            Ok((node.clone(), Edit::ReplaceNode(index, node)))
        })
    }

    /// Removes a node and returns what it was.
    pub fn remove_node(&self, node_id: &str) -> Result<Node, StoreError> {
        self.change(Missing::Fail, |devices| {
            let index = find_node(devices, node_id)?;
            Ok((devices.nodes().list()[index].clone(), Edit::RemoveNode(index)))
        })
    }

    fn change_device(
        &self,
        device_id: &str,
        change: impl FnOnce(&mut Device),
    ) -> Result<Device, StoreError> {
        self.change(Missing::Fail, |devices| {
            let index = find(devices, device_id)?;
            let mut device = devices.list()[index].clone();
            change(&mut device);
            Ok((device.clone(), Edit::Replace(index, device)))
        })
    }

    /// Reads, decides and writes under the lock.
    fn change<T>(
        &self,
        missing: Missing,
        decide: impl FnOnce(&Devices) -> Result<(T, Edit), StoreError>,
    ) -> Result<T, StoreError> {
        // Through a symbolic link the file behind it is replaced, not the link.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let _lock = FileLock::acquire(&path, LOCK_PATIENCE)?;
        let devices = match (file::read(&path), missing) {
            (Err(FileError::Missing(_)), Missing::StartEmpty) => Devices::default(),
            (reading, _) => reading?.devices?,
        };
        let (changed, edit) = decide(&devices)?;
        let (mut list, mut nodes) = devices.into_lists();
        match edit {
            Edit::Push(device) => list.push(device),
            Edit::Replace(index, device) => list[index] = device,
            Edit::Remove(index) => drop(list.remove(index)),
            Edit::PushNode(node) => nodes.push(node),
            Edit::ReplaceNode(index, node) => nodes[index] = node,
            Edit::RemoveNode(index) => drop(nodes.remove(index)),
        }
        file::write(&path, list, nodes)?;
        Ok(changed)
    }
}

/// What a missing file means to a change.
#[derive(Clone, Copy)]
enum Missing {
    StartEmpty,
    Fail,
}

/// One change of the list; an index is valid in the list that was read under the same lock.
enum Edit {
    Push(Device),
    Replace(usize, Device),
    Remove(usize),
    PushNode(Node),
    ReplaceNode(usize, Node),
    RemoveNode(usize),
}

fn find_node(devices: &Devices, node_id: &str) -> Result<usize, StoreError> {
    let mut nodes = devices.nodes().list().iter();
    let index = nodes.position(|node| node.node_id.as_str() == node_id);
    index.ok_or_else(|| StoreError::UnknownNode(node_id.to_owned()))
}

fn find(devices: &Devices, device_id: &str) -> Result<usize, StoreError> {
    devices.position(device_id).ok_or_else(|| StoreError::UnknownDevice(device_id.to_owned()))
}

/// Draws `device-` and 16 hex digits until they are free: 64 bits, so once.
fn random_device_id(devices: &Devices) -> Result<DeviceId, StoreError> {
    loop {
        let text = format!("device-{}", random_hex::<8>()?);
        if devices.position(&text).is_none() {
            return Ok(text.parse().expect("letters, digits and a dash make a device id"));
        }
    }
}

/// What a device to be added is.
#[derive(Clone, Debug)]
pub struct NewDevice {
    /// Its name; `None` draws a random one.
    pub device_id: Option<DeviceId>,
    /// Its owner.
    pub user_id: u64,
    /// The status of the owner's subscription.
    pub subscription_status: SubscriptionStatus,
    /// When the subscription ends; `None` means never.
    pub subscription_end: Option<SubscriptionEnd>,
}

impl Default for NewDevice {
    /// A random name, user 1, `active`, without end.
    fn default() -> Self {
        Self {
            device_id: None,
            user_id: 1,
            subscription_status: SubscriptionStatus::default(),
            subscription_end: None,
        }
    }
}

/// What happens to the end of a subscription when its status is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndChange {
    /// It stays as it is.
    Keep,
    /// There is none any more.
    Never,
    /// It becomes this.
    At(SubscriptionEnd),
}

/// A change of the devices file failed; the file is as it was.
#[derive(Debug)]
pub enum StoreError {
    /// The file cannot be read or written.
    File(FileError),
    /// Another process held the lock file for 10 s.
    Busy(PathBuf),
    /// There is a device of this name already.
    DeviceExists(DeviceId),
    /// There is no device of this name.
    UnknownDevice(String),
    /// There is a node of this name already.
    NodeExists(NodeId),
    /// There is no node of this name.
    UnknownNode(String),
    /// The fields of the node do not go together; what is wrong, as a phrase after its name.
    InvalidNode(&'static str),
    /// There are no random numbers to be had.
    Random(RandomError),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(problem) => problem.fmt(f),
            Self::Busy(lock) => {
                write!(f, "{}: another process is changing the devices file", lock.display())
            }
            Self::DeviceExists(id) => write!(f, "the device {:?} exists already", id.as_str()),
            Self::UnknownDevice(id) => write!(f, "there is no device {id:?}"),
            Self::NodeExists(id) => write!(f, "the node {:?} exists already", id.as_str()),
            Self::UnknownNode(id) => write!(f, "there is no node {id:?}"),
            Self::InvalidNode(problem) => write!(f, "the node {problem}"),
            Self::Random(problem) => problem.fmt(f),
        }
    }
}

impl error::Error for StoreError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::File(problem) => Some(problem),
            Self::Random(problem) => Some(problem),
            Self::Busy(_)
            | Self::DeviceExists(_)
            | Self::UnknownDevice(_)
            | Self::NodeExists(_)
            | Self::UnknownNode(_)
            | Self::InvalidNode(_) => None,
        }
    }
}

impl From<FileError> for StoreError {
    fn from(problem: FileError) -> Self {
        Self::File(problem)
    }
}

impl From<RandomError> for StoreError {
    fn from(problem: RandomError) -> Self {
        Self::Random(problem)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn named(id: &str) -> NewDevice {
        NewDevice { device_id: Some(id.parse().unwrap()), ..NewDevice::default() }
    }

    fn ids(store: &Store) -> Vec<String> {
        store.devices().unwrap().into_iter().map(|device| device.device_id.into()).collect()
    }

    #[test]
    fn devices_added_at_once_are_all_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("devices.json");
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for thread in 0..8 {
                let (path, start) = (&path, &start);
                scope.spawn(move || {
                    let store = Store::new(path);
                    start.wait();
                    for round in 0..5 {
                        store.add(named(&format!("device-{thread}-{round}"))).unwrap();
                    }
                });
            }
        });
        let mut kept = ids(&Store::new(&path));
        kept.sort();
        let mut expected: Vec<_> = (0..8)
            .flat_map(|thread| (0..5).map(move |round| format!("device-{thread}-{round}")))
            .collect();
        expected.sort();
        assert_eq!(kept, expected);
    }

    #[test]
    fn the_file_holds_no_token_and_is_the_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("devices.json"));
        let (device, token) = store.add(NewDevice::default()).unwrap();
        assert!(device.device_id.as_str().starts_with("device-"));
        let text = fs::read_to_string(store.path()).unwrap();
        assert!(!text.contains(token.expose()));
        assert!(text.contains(&String::from(token.digest())));
        fs::set_permissions(store.path(), fs::Permissions::from_mode(0o644)).unwrap();
        let (_, second) = store.rotate_token(device.device_id.as_str()).unwrap();
        assert!(!token.digest().matches(&second.digest()));
        for name in ["devices.json", "devices.json.lock"] {
            let mode = fs::metadata(directory.path().join(name)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no temporary file stays");
    }

    #[test]
    fn a_device_can_be_changed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("devices.json"));
        for id in ["anna", "berta", "carla"] {
            store.add(named(id)).unwrap();
        }
        let end = EndChange::At("2027-01-31".parse().unwrap());
        let device = store.set_status("berta", "trialing".parse().unwrap(), end).unwrap();
        assert_eq!(device.subscription_end.unwrap().as_str(), "2027-01-31");
        store.set_status("berta", "paused".parse().unwrap(), EndChange::Keep).unwrap();
        let berta = store.devices().unwrap().remove(1);
        assert_eq!(berta.subscription_status.as_str(), "paused");
        assert_eq!(berta.subscription_end.unwrap().as_str(), "2027-01-31");
        let device =
            store.set_status("berta", "active".parse().unwrap(), EndChange::Never).unwrap();
        assert_eq!(device.subscription_end, None);
        store.remove("anna").unwrap();
        assert_eq!(ids(&store), ["berta", "carla"]);
        assert!(matches!(store.remove("anna"), Err(StoreError::UnknownDevice(id)) if id == "anna"));
        assert!(matches!(store.add(named("berta")), Err(StoreError::DeviceExists(_))));
    }

    #[test]
    fn only_add_creates_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("devices.json"));
        let missing = |result| matches!(result, Err(StoreError::File(FileError::Missing(_))));
        assert!(missing(store.devices().map(drop)));
        assert!(missing(store.remove("anna").map(drop)));
        assert!(!store.path().exists());
        let nowhere = Store::new(directory.path().join("no/devices.json"));
        assert!(missing(nowhere.add(named("anna")).map(drop)));
    }

    #[test]
    fn a_broken_file_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("devices.json"));
        fs::write(store.path(), "{\"devices\": [").unwrap();
        let refused = store.add(named("anna"));
        assert!(matches!(refused, Err(StoreError::File(FileError::Malformed { .. }))));
        assert_eq!(fs::read_to_string(store.path()).unwrap(), "{\"devices\": [");
    }

    #[test]
    fn a_symbolic_link_stays_one() {
        let directory = tempfile::tempdir().unwrap();
        let real = Store::new(directory.path().join("real.json"));
        real.add(named("anna")).unwrap();
        let link = Store::new(directory.path().join("link.json"));
        symlink("real.json", link.path()).unwrap();
        link.add(named("berta")).unwrap();
        assert!(fs::symlink_metadata(link.path()).unwrap().is_symlink());
        assert_eq!(ids(&real), ["anna", "berta"]);
    }
}
