//! What was given for the settings, by flag, environment and YAML file.

use super::SETTINGS;
use super::error::{ConfigError, one_line, shown};
use super::kind::Kind;
use super::nearest::{distance, nearest};
use super::setting::Setting;
use super::yaml::Document;
use clap::ArgMatches;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

/// The variable that names the YAML file.
pub(super) const CONFIG_PATH_ENV: &str = "GATEWAY_CONFIG_PATH";

/// Most warnings about unknown variables.
const MAX_WARNINGS: usize = 16;

/// Where the value of a setting came from; the first that has one wins, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Env,
    /// The YAML file.
    Yaml,
    /// It was not set.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Env => "env",
            Self::Yaml => "yaml",
            Self::Default => "default",
        })
    }
}

/// The places where settings are looked for. An empty value counts as none.
#[derive(Default, Clone)]
pub struct Sources {
    flags: Vec<(&'static str, OsString)>,
    env: Vec<(OsString, OsString)>,
    file: Option<PathBuf>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values may hold secrets.
        f.debug_struct("Sources").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Sources {
    /// The process environment, and the flags of a command that went through [`super::clap_args`].
    pub fn from_process(matches: &ArgMatches) -> Self {
        let get = |id| matches.try_get_one::<OsString>(id).ok().flatten().cloned();
        Self {
            flags: SETTINGS.iter().filter_map(|s| Some((s.key, get(s.key)?))).collect(),
            env: std::env::vars_os().collect(),
            file: get(super::CONFIG_FLAG).filter(|path| !path.is_empty()).map(PathBuf::from),
        }
    }

    /// Sets an environment variable; the last call for a name holds.
    pub fn with_env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let name = name.into();
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value.into()));
        self
    }

    /// Sets a setting as its flag would, by its YAML key; the last call for a key holds. An unknown
    /// key is ignored.
    pub fn with(mut self, key: &str, value: impl Into<OsString>) -> Self {
        if let Some(setting) = Setting::of_key(key) {
            self.flags.insert(0, (setting.key, value.into()));
        }
        self
    }

    /// Names the YAML file, as `--config` does.
    pub fn with_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    fn variable(&self, name: &str) -> Option<&OsStr> {
        let (_, value) = self.env.iter().find(|(key, _)| key == name)?;
        Some(value.as_os_str()).filter(|value| !value.is_empty())
    }

    /// Reads the YAML file, if one is named.
    pub(super) fn read(&self) -> Result<Given<'_>, ConfigError> {
        let (path, named_by) = match &self.file {
            Some(path) => (Some(path.as_path()), "--config"),
            None => (self.variable(CONFIG_PATH_ENV).map(Path::new), CONFIG_PATH_ENV),
        };
        let document = match path {
            Some(path) => Document::read(path, named_by)?,
            None => Document::default(),
        };
        Ok(Given { sources: self, document })
    }

    /// One line for each `GATEWAY_…` or `BACKEND_…` variable that is no setting, at most 17.
    pub(super) fn unknown_variables(&self) -> Vec<String> {
        let unknown: Vec<_> =
            self.env.iter().filter_map(|(name, _)| unknown_variable(name)).collect();
        let more = unknown.len().saturating_sub(MAX_WARNINGS);
        let mut warnings: Vec<_> = unknown.into_iter().take(MAX_WARNINGS).collect();
        if more > 0 {
            warnings.push(format!("{more} more environment variables are not settings"));
        }
        warnings
    }
}

fn unknown_variable(name: &OsStr) -> Option<String> {
    let name = name.to_string_lossy();
    // Of an env file that begins with the mark, the first variable has it in its name.
    let bare = httvps_text::without_mark_str(&name);
    if bare.len() < name.len() && SETTINGS.iter().any(|setting| setting.has_variable(bare)) {
        return Some(format!(
            "{bare} has a byte-order mark before its name and is ignored; save the file that it is from as UTF-8 without one"
        ));
    }
    let ours = name.starts_with("GATEWAY_") || name.starts_with("BACKEND_");
    let known =
        name == CONFIG_PATH_ENV || SETTINGS.iter().any(|setting| setting.has_variable(&name));
    if !ours || known || is_service_link(&name) {
        return None;
    }
    let names = SETTINGS.iter().map(|setting| setting.env).chain([CONFIG_PATH_ENV]);
    let near = nearest(&name, names).filter(|near| distance(&name, near) <= 3 + near.len() / 8);
    let name: String = one_line(&name).chars().take(80).collect();
    Some(match near {
        Some(near) => format!("{name} is no setting; did you mean {near}?"),
        None => format!("{name} is no setting and is ignored"),
    })
}

/// Whether Kubernetes sets such a variable in every pod beside a service named `gateway` or
/// `backend…`.
fn is_service_link(name: &str) -> bool {
    let port = |rest: &str| rest.is_empty() || rest.starts_with('_');
    name.ends_with("_SERVICE_HOST")
        || name.rsplit_once("_SERVICE_PORT").is_some_and(|(_, rest)| port(rest))
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| {
            rest.starts_with(|c: char| c.is_ascii_digit())
                && (rest.contains("_TCP") || rest.contains("_UDP"))
        })
}

/// All that was given, ready to be taken setting by setting.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) sources: &'a Sources,
    pub(super) document: Document,
}

/// A text, where it came from, and what that place is called.
struct Found<'a> {
    text: &'a str,
    source: Source,
    place: String,
}

impl Given<'_> {
    /// Takes the value of the next setting of the table and notes its source.
    pub(super) fn take<T, K: Kind<T>>(
        &self,
        rows: &mut std::slice::Iter<'static, Setting>,
        sources: &mut Vec<Source>,
    ) -> Result<T, ConfigError> {
        let setting = rows.next().expect("the struct has as many fields as the table has rows");
        if let Some(found) = self.find(setting)? {
            sources.push(found.source);
            return parse::<T, K>(setting, &found);
        }
        sources.push(Source::Default);
        match setting.default {
            Some(text) => Ok(K::parse(text).expect("the defaults in the table are of their kind")),
            None => K::absent().ok_or_else(|| missing(setting)),
        }
    }

    fn find(&self, setting: &Setting) -> Result<Option<Found<'_>>, ConfigError> {
        let flag = self.sources.flags.iter().find(|(key, _)| *key == setting.key);
        if let Some((_, value)) = flag.filter(|(_, value)| !value.is_empty()) {
            let place = setting.flag().map_or(setting.key.to_owned(), |flag| format!("--{flag}"));
            let text = utf8(value, setting, &place)?;
            return Ok(Some(Found { text, source: Source::Flag, place }));
        }
        let alias = setting.alias().map(|alias| alias.env.as_str());
        let value = self.sources.variable(setting.env);
        let by_alias = alias.and_then(|alias| Some((alias, self.sources.variable(alias)?)));
        let variable = match (value, by_alias) {
            (Some(_), Some((alias, _))) => return Err(twice(setting.env, alias)),
            (value, by_alias) => value.map(|value| (setting.env, value)).or(by_alias),
        };
        if let Some((name, value)) = variable {
            let text = httvps_text::without_mark_str(utf8(value, setting, name)?);
            return Ok(Some(Found { text, source: Source::Env, place: name.to_owned() }));
        }
        let found = self.document.get(setting).filter(|(text, _)| !text.is_empty());
        Ok(found.map(|(text, place)| Found { text, source: Source::Yaml, place }))
    }
}

/// A setting has one value: which of its names counts would be a guess.
fn twice(name: &str, alias: &str) -> ConfigError {
    ConfigError::new(name, &format!("is another name of {alias}, which is set too"), "one of them")
}

fn utf8<'a>(value: &'a OsStr, setting: &Setting, place: &str) -> Result<&'a str, ConfigError> {
    value
        .to_str()
        .ok_or_else(|| ConfigError::new(place, "the value is not UTF-8", &setting.accepted()))
}

fn parse<T, K: Kind<T>>(setting: &Setting, found: &Found<'_>) -> Result<T, ConfigError> {
    let wrong = |problem: &str| {
        let value = if K::hides(found.text) { "the value".to_owned() } else { shown(found.text) };
        ConfigError::new(&found.place, &format!("{value} {problem}"), &setting.accepted())
    };
    let value = K::parse(found.text).map_err(|problem| wrong(&problem))?;
    let allowed_zero = setting.zero.is_some() && K::is_zero(&value);
    match setting.range {
        Some((min, max)) if !allowed_zero && !K::within(&value, min, max) => {
            Err(wrong("is out of range"))
        }
        _ => Ok(value),
    }
}

fn missing(setting: &Setting) -> ConfigError {
    let flag = setting.flag().map_or(String::new(), |flag| format!(" or --{flag}"));
    let accepted = format!(
        "{}, in {}, {} of the YAML file{flag}",
        setting.accepted(),
        setting.env,
        setting.key
    );
    ConfigError::new(setting.key, "is required and was not set", &accepted)
}
