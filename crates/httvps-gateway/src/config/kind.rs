//! The kinds of settings: how a value is read, bounded and shown.

use super::error::shown;
use super::listen::ListenAddr;
use super::origins;
use super::secret::Secret;
use super::url::BackendUrl;
use super::{duration, size};
use crate::log::{LogFormat, LogLevel};
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

    /// The value of a setting that nobody set and that has no default; none = the setting is
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

fn items(text: &str) -> Result<Vec<&str>, String> {
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

/// What `upstream_mode` may be: where the streams of this gateway go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamMode {
    /// Every byte comes back; the founding name of [`UpstreamMode::Echo`].
    Fake,
    /// Every byte comes back.
    Echo,
    /// Every byte is dropped.
    Blackhole,
    /// TCP to the target that the client names.
    Direct,
    /// By way of the Outline node that the session was given.
    Outline,
}

/// What `outline_assign` may be: who gives a session its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutlineAssign {
    /// The backend.
    Backend,
    /// The pool of `outline_nodes_path`.
    Pool,
    /// The backend; the pool when it has no answer.
    BackendThenPool,
}

impl OutlineAssign {
    /// Whether the backend is asked.
    pub fn asks_backend(self) -> bool {
        self != Self::Pool
    }

    /// Whether the pool is used.
    pub fn uses_pool(self) -> bool {
        self != Self::Backend
    }
}

/// One of a few words, in any case.
pub(super) struct Choice;

macro_rules! choice {
    ($type:ty, $accepted:literal, $placeholder:literal: $($word:literal => $value:path,)+) => {
        impl Kind<$type> for Choice {
            const ACCEPTED: &'static str = $accepted;
            const PLACEHOLDER: &'static str = $placeholder;

            fn parse(text: &str) -> Result<$type, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($word => Ok($value),)+
                    _ => Err("is none of the words".to_owned()),
                }
            }

            fn show(value: &$type) -> String {
                match value { $($value => $word,)+ }.to_owned()
            }
        }
    };
}

choice! { UpstreamMode, "fake, echo, blackhole, direct or outline", "MODE":
    "fake" => UpstreamMode::Fake,
    "echo" => UpstreamMode::Echo,
    "blackhole" => UpstreamMode::Blackhole,
    "direct" => UpstreamMode::Direct,
    "outline" => UpstreamMode::Outline,
}

choice! { OutlineAssign, "backend, pool or backend_then_pool", "WHO":
    "backend" => OutlineAssign::Backend,
    "pool" => OutlineAssign::Pool,
    "backend_then_pool" => OutlineAssign::BackendThenPool,
}

choice! { LogLevel, "debug, info, warn or error", "LEVEL":
    "debug" => LogLevel::Debug,
    "info" => LogLevel::Info,
    "warn" => LogLevel::Warn,
    "error" => LogLevel::Error,
}

choice! { LogFormat, "json or text", "FORMAT":
    "json" => LogFormat::Json,
    "text" => LogFormat::Text,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_those_of_go() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(Switch::parse(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(Switch::parse(text), Ok(false), "{text}");
        }
        for text in ["yes", "on", "tRUE", "", " true", "2"] {
            assert!(Switch::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks_are_whole_and_a_bare_address_is_one() {
        let nets = Networks::parse("10.0.0.0/8, ::1,,127.0.0.1,fd00::/8").unwrap();
        assert_eq!(Networks::show(&nets), "10.0.0.0/8,::1/128,127.0.0.1/32,fd00::/8");
        assert_eq!(Networks::parse(" , ").unwrap(), []);
        for (text, part) in [
            ("10.1.2.3/8", "write 10.0.0.0/8"),
            ("10.0.0.0/33", "not a network"),
            ("10.0.0.0/8 11.0.0.0/8", "not a network"),
            ("localhost", "not a network"),
            ("010.0.0.1", "not a network"),
        ] {
            let error = Networks::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Networks::parse(&"::1,".repeat(1_024)).is_ok());
        assert!(Networks::parse(&"::1,".repeat(1_025)).is_err());
    }

    #[test]
    fn words_are_read_in_any_case() {
        assert_eq!(Choice::parse("DIRECT"), Ok(UpstreamMode::Direct));
        assert_eq!(Choice::parse("Warn"), Ok(LogLevel::Warn));
        assert_eq!(Choice::parse("Text"), Ok(LogFormat::Text));
        assert!(<Choice as Kind<LogLevel>>::parse("warning").is_err());
    }

    #[test]
    fn a_secret_may_not_break_its_header_nor_be_shown() {
        for text in
            ["hunter2\n", "hunter2\r\nX: y", "hunter2ä", " hunter2", "hunter2 ", "hunter2\t"]
        {
            let error = Hidden::parse(text).expect_err(text);
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(Hidden::show(&Hidden::parse("two words!").unwrap()), "***");
        assert!(Hidden::parse(&"a".repeat(4_097)).is_err());
    }

    #[test]
    fn a_route_is_plain_and_free() {
        assert!(Route::parse("/internal/metrics").is_ok());
        for text in ["metrics", "", "/ws", "/healthz", "/readyz", "/a?b", "/a b", "/ä", "/a#"] {
            assert!(Route::parse(text).is_err(), "{text}");
        }
        assert!(Route::parse(&format!("/{}", "a".repeat(256))).is_err());
    }

    #[test]
    fn numbers_are_plain_digits() {
        assert_eq!(<Whole as Kind<u32>>::parse("007"), Ok(7));
        for text in ["", "-1", "+1", "1.0", "1e3", "0x10", "4294967296", "١"] {
            assert!(<Whole as Kind<u32>>::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_has_no_nul() {
        assert!(File::parse("a\0b").is_err());
        assert!(File::parse(&"a".repeat(4_097)).is_err());
        assert_eq!(File::parse("/a b/ä.pem").unwrap(), PathBuf::from("/a b/ä.pem"));
    }
}
