//! Reading and writing the devices file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{error, fmt};

use serde::{Deserialize, Serialize};

use crate::devices::Devices;
use crate::node::Nodes;
use crate::token::random_hex;
use crate::{Device, Node};

/// Largest devices file, in bytes; room for a quarter of a million devices.
const MAX_FILE_LEN: u64 = 64 * 1024 * 1024;

/// A file changed less than this ago may change once more within the same tick of its clock.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// The document as it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    version: Version,
    devices: Vec<Device>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<Node>,
}

/// The version of the document: the number 1.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
struct Version;

impl TryFrom<u64> for Version {
    type Error = &'static str;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        if number == 1 { Ok(Self) } else { Err("version must be 1") }
    }
}

impl From<Version> for u64 {
    fn from(_: Version) -> Self {
        1
    }
}

/// What tells one state of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    modified: (i64, i64),
    len: u64,
    inode: (u64, u64),
}

impl Fingerprint {
    pub(crate) fn of(path: &Path) -> Result<Self, FileError> {
        let metadata =
            fs::metadata(path).map_err(|source| FileError::io(path, "cannot look at", source))?;
        Ok(Self::from_metadata(&metadata))
    }

    fn from_metadata(metadata: &fs::Metadata) -> Self {
        Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            len: metadata.len(),
            inode: (metadata.dev(), metadata.ino()),
        }
    }
}

/// One look into the file.
pub(crate) struct Reading {
    /// The state that was read; `None` while the file is so young that its next change could look
    /// the same.
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) devices: Result<Devices, FileError>,
}

/// Reads and checks the whole file. Blocks.
pub(crate) fn read(path: &Path) -> Result<Reading, FileError> {
    let mut file = File::open(path).map_err(|source| FileError::io(path, "cannot open", source))?;
    let metadata =
        file.metadata().map_err(|source| FileError::io(path, "cannot look at", source))?;
    let is_settled = metadata.modified().is_ok_and(is_long_ago);
    let mut text = Vec::new();
    (&mut file)
        .take(MAX_FILE_LEN + 1)
        .read_to_end(&mut text)
        .map_err(|source| FileError::io(path, "cannot read", source))?;
    Ok(Reading {
        fingerprint: is_settled.then(|| Fingerprint::from_metadata(&metadata)),
        devices: parse(path, &text),
    })
}

/// A time far in the future counts too: it is a wrong clock, not a change that goes on.
fn is_long_ago(modified: SystemTime) -> bool {
    match SystemTime::now().duration_since(modified) {
        Ok(age) => age >= SETTLE_TIME,
        Err(ahead) => ahead.duration() >= SETTLE_TIME,
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Devices, FileError> {
    if text.len() as u64 > MAX_FILE_LEN {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    let malformed = |problem| FileError::Malformed { path: path.to_owned(), problem };
    // Editors of Windows put a byte-order mark before it, or save it as UTF-16.
    let text = httvps_text::decode(text).map_err(|problem| malformed(problem.to_string()))?;
    let document: Document =
        serde_json::from_str(text).map_err(|problem| malformed(problem.to_string()))?;
    let nodes = Nodes::new(document.nodes).map_err(malformed)?;
    Devices::new(document.devices).map(|devices| devices.with_nodes(nodes)).map_err(malformed)
}

/// Replaces the file in one step: a reader sees the old text or the new one, also after a
/// crash.
///
/// The new file has mode 0600 and the owner of the old one. Blocks until the disk has it.
pub(crate) fn write(path: &Path, devices: Vec<Device>, nodes: Vec<Node>) -> Result<(), FileError> {
    let failed = |source| FileError::io(path, "cannot write", source);
    let document = Document { version: Version, devices, nodes };
    let mut text = serde_json::to_vec_pretty(&document).map_err(|e| failed(e.into()))?;
    text.push(b'\n');
    if text.len() as u64 > MAX_FILE_LEN {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    let suffix = random_hex::<8>().map_err(|e| failed(io::Error::other(e)))?;
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{suffix}.tmp"));
    let fresh = path.with_file_name(name);
    let outcome = write_fresh(&fresh, &text, path).and_then(|()| fs::rename(&fresh, path));
    if let Err(source) = outcome {
        // Nothing more can be done when this fails too; the first error is the one to tell.
        let _ = fs::remove_file(&fresh);
        return Err(failed(source));
    }
    File::open(directory_of(path)).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn write_fresh(fresh: &Path, text: &[u8], old: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
    if let Ok(before) = fs::metadata(old) {
        let now = file.metadata()?;
        // An administrator who edits as root must not take the file away from the service's own
        // account.
        if (before.uid(), before.gid()) != (now.uid(), now.gid()) {
            fchown(&file, Some(before.uid()), Some(before.gid()))?;
        }
    }
    file.write_all(text)?;
    file.sync_all()
}

/// The directory of a path whose own directory may be the current one.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The devices file cannot be read or written.
#[derive(Debug)]
pub enum FileError {
    /// There is no such file.
    Missing(PathBuf),
    /// The operating system refused.
    Io {
        /// The devices file.
        path: PathBuf,
        /// What could not be done, such as "cannot open".
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The file is, or would become, larger than 64 MiB.
    TooLarge(PathBuf),
    /// The text is not a list of devices.
    Malformed {
        /// The devices file.
        path: PathBuf,
        /// What is wrong and, where it is known, at which line and column.
        problem: String,
    },
}

impl FileError {
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            Self::Missing(path.to_owned())
        } else {
            Self::Io { path: path.to_owned(), action, source }
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{}: no such file or directory", path.display()),
            Self::Io { path, action, source } => write!(f, "{action} {}: {source}", path.display()),
            Self::TooLarge(path) => write!(f, "{}: larger than 64 MiB", path.display()),
            Self::Malformed { path, problem } => write!(f, "{}: {problem}", path.display()),
        }
    }
}

impl error::Error for FileError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Missing(_) | Self::TooLarge(_) | Self::Malformed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        parse(Path::new("devices.json"), text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_byte_order_mark_does_not_matter_and_utf_16_is_named() {
        let text = "\u{feff}{\"devices\": []}";
        assert!(parse(Path::new("devices.json"), text.as_bytes()).is_ok());
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let told = parse(Path::new("devices.json"), &wide).unwrap_err().to_string();
        assert!(told.contains("UTF-16"), "{told}");
    }

    #[test]
    fn a_broken_file_is_told_by_line_and_cause() {
        let device = r#"{"device_id":"a","user_id":1,"subscription_status":"active"}"#;
        for (text, what, line) in [
            ("", "EOF", "line 1"),
            ("{\n\"devices\": [\n", "EOF", "line 3"),
            ("{\n\"devices\": [],\n\"tokens\": []}", "unknown field `tokens`", "line 3"),
            ("{\"version\": 2, \"devices\": []}", "version must be 1", "line 1"),
            (&format!("{{\"devices\":[\n{device}]}}"), "missing field `token_sha256`", "line 2"),
            (
                &format!("{{\"devices\":[\n{}]}}", device.replace('}', ",\"token_sha256\":\"x\"}")),
                "64 hex digits",
                "line 2",
            ),
            ("{\"devices\":[{\"device_id\":\"\"}]}", "a device id is 1 to 128", "line 1"),
            (
                "{\"devices\":[{\"subscription_end\":\"soon\"}]}",
                "a subscription end is a date",
                "line 1",
            ),
        ] {
            let told = problem(text);
            assert!(told.contains(what) && told.contains(line), "{text:?}: {told}");
            assert!(told.starts_with("devices.json: "), "{told}");
        }
    }

    #[test]
    fn the_examples_of_the_documentation_are_valid() {
        let text: String = include_str!("lib.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//!"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let mut examples = text.split("```json").skip(1).map(|rest| {
            let (example, _) = rest.split_once("```").unwrap();
            parse(Path::new("example"), example.as_bytes()).unwrap()
        });
        assert_eq!(examples.next().unwrap().list()[0].device_id.as_str(), "laptop-anna");
        assert_eq!(examples.next().unwrap().nodes().list().len(), 2);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        // A directory in the place of the file: the rename must fail.
        let path = directory.path().join("devices.json");
        fs::create_dir(&path).unwrap();
        write(&path, Vec::new(), Vec::new()).unwrap_err();
        let names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["devices.json"]);
    }
}
