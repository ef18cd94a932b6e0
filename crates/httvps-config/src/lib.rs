//! Settings of the gateway: one table, four sources.
//!
//! [`SETTINGS`] is the table. [`Config::load`] takes each value from the first of flag,
//! environment, YAML file and default that has one. [`reference_markdown`], [`example_yaml`] and
//! [`clap_args`] write documentation and flags from the same table, so that they cannot disagree
//! with what is read.
//!
//! Reading order: `table` → `setting` (what the table becomes) → `given` and `yaml` (the sources) →
//! `kind` and `choice` (how values are read) → `rules` (between settings).

mod choice;
mod command_line;
mod duration;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod given;
mod kind;
mod listen;
mod nearest;
mod origins;
mod reference;
mod rules;
mod secret;
mod setting;
mod size;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod url;
mod yaml;

use command_line::CONFIG_FLAG;
use std::fmt::Write;

pub use choice::{OutlineAssign, UpstreamMode};
pub use command_line::clap_args;
pub use error::ConfigError;
pub use given::{Source, Sources};
pub use listen::{ListenAddr, ListenAddrError, ListenHost};
pub use reference::{example_yaml, reference_markdown};
pub use secret::Secret;
pub use setting::Setting;
pub use table::{Config, SETTINGS};
pub use url::{BackendUrl, BackendUrlError};

impl Config {
    /// Reads and checks all settings; besides the configuration gives warnings, one line each, that
    /// an operator should see and that stop nothing: unknown variables, settings without effect.
    ///
    /// Blocks while it reads the YAML file, if one is named. The files that settings name are not
    /// looked at.
    pub fn load(sources: &Sources) -> Result<(Self, Vec<String>), ConfigError> {
        let mut config = Self::take(&sources.read()?)?;
        config.settle();
        config.check()?;
        let mut warnings = sources.unknown_variables();
        warnings.extend(config.doubts());
        Ok((config, warnings))
    }

    /// All settings as `key = value  (source: env|yaml|flag|default)`, one line each; secrets as
    /// `***`.
    pub fn resolved_text(&self) -> String {
        self.text_of(|_| true)
    }

    /// The settings that were set, and those that gave way to them, as in [`Self::resolved_text`].
    pub fn chosen_text(&self) -> String {
        self.text_of(|is_default| !is_default)
    }

    /// The settings that are wanted, by whether they have the default of the table.
    fn text_of(&self, is_wanted: impl Fn(bool) -> bool) -> String {
        let mut text = String::new();
        for ((setting, value), source) in SETTINGS.iter().zip(self.values()).zip(&self.sources) {
            let value = error::one_line(&value);
            let is_default = *source == Source::Default
                && setting.default.is_none_or(|default| default == value);
            if is_wanted(is_default) {
                let _ = writeln!(text, "{} = {value}  (source: {source})", setting.key);
            }
        }
        text
    }
}
