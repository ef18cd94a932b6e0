//! The YAML file: a mapping of setting keys to scalars or lists of scalars.

use super::SETTINGS;
use super::error::{ConfigError, shown};
use super::nearest::nearest;
use super::setting::Setting;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_saphyr::{Error as YamlError, MergeKeyPolicy, Spanned};
use std::fmt;
use std::path::Path;
use zeroize::Zeroizing;

/// Most bytes of the file.
const MAX_FILE: u64 = 1 << 20;

/// The settings that a file gives, none for those whose value is null.
#[derive(Debug, Default)]
pub(super) struct Document {
    file: String,
    entries: Vec<Entry>,
}

/// One setting of the file. The text is as it stands there: `1e3` stays `1e3`.
struct Entry {
    setting: &'static Setting,
    line: u64,
    text: Option<Zeroizing<String>>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.setting.key).finish_non_exhaustive()
    }
}

impl Document {
    /// Reads a file of at most 1 MiB; `named_by` is where its path came from.
    pub(super) fn read(path: &Path, named_by: &str) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let unread = |why: &str| {
            let problem = format!("{} {why}", shown(&file));
            ConfigError::new(named_by, &problem, "the path of a YAML file of at most 1 MiB")
        };
        let text =
            httvps_text::read_file(path, MAX_FILE).map_err(|error| unread(&error.to_string()))?;
        Self::parse(&text, &file)
    }

    /// Parses the text of a file; `file` is its name for errors.
    pub(super) fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let mut reading =
            Reading { file: cut(file), entries: Vec::new(), current: None, wrong: None };
        let options = serde_saphyr::options! {
            merge_keys: MergeKeyPolicy::Error,
            // A secret that begins with an exclamation mark is read as a tag before nothing.
            reject_unsupported_tags: true,
            with_snippet: false,
        };
        let done =
            serde_saphyr::with_deserializer_from_str_with_options(text, options, |document| {
                Root(&mut reading).deserialize(document)
            });
        match done {
            Ok(()) => Ok(Self { file: reading.file, entries: reading.entries }),
            Err(error) => Err(reading.explain(&error, text)),
        }
    }

    /// The text that the file gives for a setting, and where it stands.
    pub(super) fn get(&self, setting: &Setting) -> Option<(&str, String)> {
        let entry = self.entries.iter().find(|entry| entry.setting.key == setting.key)?;
        let text = entry.text.as_deref()?;
        Some((text, place(setting.key, &self.file, entry.line)))
    }
}

fn place(key: &str, file: &str, line: u64) -> String {
    if line == 0 { format!("{key} ({file})") } else { format!("{key} ({file}, line {line})") }
}

/// A file name short enough for an error line, its end kept.
fn cut(file: &str) -> String {
    let length = file.chars().count();
    if length <= 120 {
        return file.to_owned();
    }
    let end: String = file.chars().skip(length - 119).collect();
    format!("…{end}")
}

/// What is known while the file is being read.
struct Reading {
    file: String,
    entries: Vec<Entry>,
    /// The setting whose value is being read.
    current: Option<&'static Setting>,
    /// An error that we found ourselves; the parser only carries it out.
    wrong: Option<ConfigError>,
}

impl Reading {
    fn explain(self, error: &YamlError, source: &str) -> ConfigError {
        if let Some(wrong) = self.wrong {
            return wrong;
        }
        let error = error.without_snippet();
        let line = error.location().map_or(0, |location| location.line());
        match (error, self.current) {
            (YamlError::DuplicateMappingKey { key, .. }, _) => {
                let key = key.as_deref().unwrap_or("a key");
                let key: String = key.chars().take(80).collect();
                ConfigError::new(&place(&key, &self.file, line), "is there twice", "each key once")
            }
            (YamlError::Unexpected { .. } | YamlError::SerdeInvalidType { .. }, Some(setting)) => {
                ConfigError::new(
                    &place(setting.key, &self.file, line),
                    if setting.list { "is not a list of values" } else { "is not a single value" },
                    &setting.accepted(),
                )
            }
            (YamlError::Unexpected { .. } | YamlError::SerdeInvalidType { .. }, None) => {
                let file = place("the file", &self.file, line);
                ConfigError::new(
                    &file,
                    "is not a mapping of settings",
                    "lines of the form key: value",
                )
            }
            (YamlError::MultipleDocuments { .. }, _) => {
                let file = place("the file", &self.file, line);
                ConfigError::new(&file, "has more than one document", "one mapping of settings")
            }
            _ => {
                let file = place("the file", &self.file, line);
                let problem = match parser_words(error, source, line) {
                    Some(words) => format!("is not valid YAML: {words}"),
                    None => "is not valid YAML near a secret; put the secret in quotes".to_owned(),
                };
                ConfigError::new(&file, &problem, "")
            }
        }
    }
}

/// What the parser says, without the place; nothing near a secret, which the parser might quote.
fn parser_words(error: &YamlError, source: &str, line: u64) -> Option<String> {
    let line = usize::try_from(line).unwrap_or(usize::MAX);
    let is_secret = |text: &str| SETTINGS.iter().any(|s| s.secret && text.contains(s.key));
    // The error may be noticed one line late; without a line it may be anywhere.
    let mut near =
        source.lines().skip(line.saturating_sub(2)).take(if line == 0 { usize::MAX } else { 3 });
    if near.any(is_secret) {
        return None;
    }
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    let text = text.rsplit_once(" at line ").map_or(text, |(text, _)| text);
    Some(text.chars().take(200).collect())
}

struct Root<'a>(&'a mut Reading);

impl<'de> DeserializeSeed<'de> for Root<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, document: D) -> Result<(), D::Error> {
        // A file of comments only is null.
        document.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Root<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of settings")
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, document: D) -> Result<(), D::Error> {
        document.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reading = self.0;
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let line = key.referenced.line();
            let Some(setting) = Setting::of_key(&key.value) else {
                reading.wrong = Some(unknown(&key.value, &reading.file, line));
                return Err(A::Error::custom("unknown setting"));
            };
            // The parser knows of the same key twice only.
            if let Some(first) = reading.entries.iter().find(|one| one.setting.key == setting.key) {
                let place = place(&key.value, &reading.file, line);
                let problem = format!("sets again what line {} sets", first.line);
                reading.wrong = Some(ConfigError::new(&place, &problem, "one of the two names"));
                return Err(A::Error::custom("a setting by two names"));
            }
            reading.current = Some(setting);
            let text = if setting.list {
                map.next_value::<List>()?.0
            } else {
                map.next_value::<Option<String>>()?.map(Zeroizing::new)
            };
            reading.current = None;
            reading.entries.push(Entry { setting, line, text });
        }
        Ok(())
    }
}

fn unknown(key: &str, file: &str, line: u64) -> ConfigError {
    let near = nearest(key, SETTINGS.iter().map(|setting| setting.key)).unwrap_or_default();
    let problem = format!("{} is no setting; the nearest is {near}", shown(key));
    let place = if line == 0 { file.to_owned() } else { format!("{file}, line {line}") };
    ConfigError::new(&place, &problem, "the keys of docs/reference/settings.md")
}

/// A list of scalars, or one scalar, as one text with commas.
struct List(Option<Zeroizing<String>>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_any(ListVisitor).map(|text| Self(text.map(Zeroizing::new)))
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of texts")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut text = String::new();
        while let Some(item) = items.next_element::<String>()? {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(&item);
        }
        Ok(Some(text))
    }
}
