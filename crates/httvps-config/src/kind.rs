//! The kinds of settings: how a value is read, bounded and shown.

use super::error::shown;
use super::listen::ListenAddr;
use super::origins;
use super::secret::Secret;
use super::url::BackendUrl;
use super::{duration, size};
use httvps_proto::Target;
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Most items of a list.
const MAX_ITEMS: usize = 1_024;

/// Most bytes of a path, a URL path or a secret.
const MAX_TEXT: usize = 4_096;

/// How values of type `T` are written in settings.
///
/// A problem is a phrase that follows the shown value: `"abc"` *is not a whole number*.
pub(super) trait Kind<T> {
    /// What is accepted, in words.
    const ACCEPTED: &'static str;
    /// The placeholder of the value in `--help`.
    const PLACEHOLDER: &'static str;
    /// Whether a YAML list is accepted besides one comma-separated text.
    const LIST: bool = false;
    /// Whether the value must not be shown.
    const SECRET: bool = false;
    /// Whether the setting may be absent without a default; then [`Kind::absent`] has a value.
    const OPTIONAL: bool = false;

    /// Reads a value.
    fn parse(text: &str) -> Result<T, String>;

    /// Writes a value so that it reads back.
    fn show(value: &T) -> String;

    /// Whether the value lies between the two, which are in the table and read as this kind.
    fn within(_value: &T, _min: &str, _max: &str) -> bool {
        true
    }

    /// Whether the value is the zero that may have a meaning of its own.
    fn is_zero(_value: &T) -> bool {
        false
    }

    /// The value of a setting that was not set and that has no default; none = the setting is
    /// required.
    fn absent() -> Option<T> {
        None
    }

    /// Whether this text, though wrong, may hold a secret.
    fn hides(_text: &str) -> bool {
        Self::SECRET
    }
}

fn between<T: PartialOrd, K: Kind<T>>(value: &T, min: &str, max: &str) -> bool {
    let bound = |text| K::parse(text).expect("the bounds in the table are of the setting's kind");
    bound(min) <= *value && *value <= bound(max)
}

/// A setting that may be absent.
pub(super) struct Maybe<K>(K);

impl<T, K: Kind<T>> Kind<Option<T>> for Maybe<K> {
    const ACCEPTED: &'static str = K::ACCEPTED;
    const PLACEHOLDER: &'static str = K::PLACEHOLDER;
    const SECRET: bool = K::SECRET;
    const OPTIONAL: bool = true;

    fn parse(text: &str) -> Result<Option<T>, String> {
        K::parse(text).map(Some)
    }

    fn show(value: &Option<T>) -> String {
        value.as_ref().map_or_else(|| "(none)".to_owned(), K::show)
    }

    fn absent() -> Option<Option<T>> {
        Some(None)
    }

    fn hides(text: &str) -> bool {
        K::hides(text)
    }
}

/// A whole number.
pub(super) struct Whole;

macro_rules! whole {
    ($($type:ty)+) => {$(
        impl Kind<$type> for Whole {
            const ACCEPTED: &'static str = "a whole number";
            const PLACEHOLDER: &'static str = "N";

            fn parse(text: &str) -> Result<$type, String> {
                if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err("is not a whole number".to_owned());
                }
                text.parse().map_err(|_| "is too large".to_owned())
            }

            fn show(value: &$type) -> String {
                value.to_string()
            }

            fn within(value: &$type, min: &str, max: &str) -> bool {
                between::<$type, Self>(value, min, max)
            }

            fn is_zero(value: &$type) -> bool {
                *value == 0
            }
        }
    )+};
}
whole!(u32 u64 usize);

/// A number of bytes.
pub(super) struct Size;

macro_rules! size {
    ($($type:ty)+) => {$(
        impl Kind<$type> for Size {
            const ACCEPTED: &'static str = "a number of bytes, plain or with KiB, MiB or GiB";
            const PLACEHOLDER: &'static str = "BYTES";

            fn parse(text: &str) -> Result<$type, String> {
                <$type>::try_from(size::parse(text)?).map_err(|_| "is too large".to_owned())
            }

            fn show(value: &$type) -> String {
                size::show(*value as u64)
            }

            fn within(value: &$type, min: &str, max: &str) -> bool {
                between::<$type, Self>(value, min, max)
            }

            fn is_zero(value: &$type) -> bool {
                *value == 0
            }
        }
    )+};
}
size!(u64 usize);

/// A length of time.
pub(super) struct Time;

impl Kind<Duration> for Time {
    const ACCEPTED: &'static str = "a Go duration such as 300ms or 1m30s";
    const PLACEHOLDER: &'static str = "DURATION";

    fn parse(text: &str) -> Result<Duration, String> {
        duration::parse(text)
    }

    fn show(value: &Duration) -> String {
        duration::show(*value)
    }

    fn within(value: &Duration, min: &str, max: &str) -> bool {
        between::<Duration, Self>(value, min, max)
    }

    fn is_zero(value: &Duration) -> bool {
        value.is_zero()
    }
}

/// Yes or no, in the spellings of Go's `strconv.ParseBool`.
pub(super) struct Switch;

impl Kind<bool> for Switch {
    const ACCEPTED: &'static str =
        "true or false (also 1, t, T, TRUE, True, 0, f, F, FALSE, False)";
    const PLACEHOLDER: &'static str = "BOOL";

    fn parse(text: &str) -> Result<bool, String> {
        match text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
            _ => Err("is not a boolean".to_owned()),
        }
    }

    fn show(value: &bool) -> String {
        value.to_string()
    }
}

/// A listen address.
pub(super) struct Address;

impl Kind<ListenAddr> for Address {
    const ACCEPTED: &'static str = ":PORT, HOST:PORT or [IPV6]:PORT";
    const PLACEHOLDER: &'static str = "ADDR";

    fn parse(text: &str) -> Result<ListenAddr, String> {
        text.parse().map_err(|error: super::listen::ListenAddrError| error.to_string())
    }

    fn show(value: &ListenAddr) -> String {
        value.to_string()
    }
}

/// The base URL of the backend.
pub(super) struct Url;

impl Kind<BackendUrl> for Url {
    const ACCEPTED: &'static str = "http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]";
    const PLACEHOLDER: &'static str = "URL";

    fn parse(text: &str) -> Result<BackendUrl, String> {
        text.parse().map_err(|error: super::url::BackendUrlError| error.to_string())
    }

    fn show(value: &BackendUrl) -> String {
        value.to_string()
    }

    fn hides(text: &str) -> bool {
        // What stands before an @ may be a password.
        text.contains('@')
    }
}

/// The path of a file.
pub(super) struct File;

impl Kind<PathBuf> for File {
    const ACCEPTED: &'static str = "the path of a PEM file";
    const PLACEHOLDER: &'static str = "FILE";

    fn parse(text: &str) -> Result<PathBuf, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("is longer than {MAX_TEXT} bytes"));
        }
        if text.contains('\0') {
            return Err("has a NUL in it".to_owned());
        }
        Ok(PathBuf::from(text))
    }

    fn show(value: &PathBuf) -> String {
        value.display().to_string()
    }
}

/// The path of a YAML file.
pub(super) struct YamlFile;

impl Kind<PathBuf> for YamlFile {
    const ACCEPTED: &'static str = "the path of a YAML file";
    const PLACEHOLDER: &'static str = "FILE";

    fn parse(text: &str) -> Result<PathBuf, String> {
        File::parse(text)
    }

    fn show(value: &PathBuf) -> String {
        File::show(value)
    }
}

/// A host and a port.
pub(super) struct Endpoint;

impl Kind<Target> for Endpoint {
    const ACCEPTED: &'static str = "HOST:PORT or [IPV6]:PORT";
    const PLACEHOLDER: &'static str = "HOST:PORT";

    fn parse(text: &str) -> Result<Target, String> {
        Target::parse(text).map_err(|error| format!("is no target: {error}"))
    }

    fn show(value: &Target) -> String {
        value.to_string()
    }
}

/// The path of a route.
pub(super) struct Route;

impl Kind<String> for Route {
    const ACCEPTED: &'static str = "a path that begins with / and is not /ws, /healthz or /readyz";
    const PLACEHOLDER: &'static str = "PATH";

    fn parse(text: &str) -> Result<String, String> {
        if !text.starts_with('/') {
            return Err("does not begin with /".to_owned());
        }
        if text.len() > 256 {
            return Err("is longer than 256 bytes".to_owned());
        }
        let spelled = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
        if !text.bytes().all(spelled) {
            return Err("has a character other than letters, digits and / - _ . ~".to_owned());
        }
        if matches!(text, "/ws" | "/healthz" | "/readyz") {
            return Err("is the path of another route".to_owned());
        }
        Ok(text.to_owned())
    }

    fn show(value: &String) -> String {
        value.clone()
    }
}

/// A text that must not be seen and travels in a header.
pub(super) struct Hidden;

impl Kind<Secret> for Hidden {
    const ACCEPTED: &'static str = "up to 4096 characters of printable ASCII";
    const PLACEHOLDER: &'static str = "SECRET";
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Secret, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("is longer than {MAX_TEXT} bytes"));
        }
        // Of a file with one line, the end of that line comes along easily: say where.
        if let Some(at) = text.bytes().position(|byte| !(0x20..0x7f).contains(&byte)) {
            return Err(format!("has a character at byte {at} that is not printable ASCII"));
        }
        if text.starts_with(' ') || text.ends_with(' ') {
            return Err("begins or ends with a space".to_owned());
        }
        Ok(Secret::new(text.to_owned()))
    }

    fn show(_value: &Secret) -> String {
        "***".to_owned()
    }
}

pub(super) fn items(text: &str) -> Result<Vec<&str>, String> {
    let items: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .take(MAX_ITEMS + 1)
        .collect();
    if items.len() > MAX_ITEMS {
        return Err(format!("has more than {MAX_ITEMS} items"));
    }
    Ok(items)
}

/// A list of networks.
pub(super) struct Networks;

impl Kind<Vec<IpNet>> for Networks {
    const ACCEPTED: &'static str = "a list of networks such as 10.0.0.0/8, fd00::/8 or 127.0.0.1";
    const PLACEHOLDER: &'static str = "CIDR,…";
    const LIST: bool = true;
    const OPTIONAL: bool = true;

    fn parse(text: &str) -> Result<Vec<IpNet>, String> {
        items(text)?.into_iter().map(network).collect()
    }

    fn show(value: &Vec<IpNet>) -> String {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    fn absent() -> Option<Vec<IpNet>> {
        Some(Vec::new())
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("has the item {}, which is not a network", shown(text)))?;
    let whole = network.trunc();
    if whole != network {
        // Letting through far more than the one address that stands there must not happen by
        // mistake.
        return Err(format!("has the item {}; write {whole} or one address", shown(text)));
    }
    Ok(network)
}

/// A list of origins.
pub(super) struct Origins;

impl Kind<Vec<String>> for Origins {
    const ACCEPTED: &'static str = "a list of origins such as https://app.example.com";
    const PLACEHOLDER: &'static str = "ORIGIN,…";
    const LIST: bool = true;
    const OPTIONAL: bool = true;

    fn parse(text: &str) -> Result<Vec<String>, String> {
        items(text)?.into_iter().map(origins::parse).collect()
    }

    fn show(value: &Vec<String>) -> String {
        value.join(",")
    }

    fn absent() -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

#[cfg(test)]
#[path = "kind_tests.rs"]
mod tests;
