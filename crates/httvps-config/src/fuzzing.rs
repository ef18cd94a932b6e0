//! Private readers of settings, opened to the fuzzer.

use super::given::Given;
use super::yaml::Document;
use super::{Config, ConfigError, Sources};
use std::time::Duration;

/// As [`Config::load`], with the text of the YAML file at hand.
pub fn load(sources: &Sources, yaml: &str) -> Result<Config, ConfigError> {
    let document = Document::parse(yaml, "fuzz.yaml")?;
    let mut config = Config::take(&Given { sources, document })?;
    config.settle();
    config.check()?;
    Ok(config)
}

/// Reads a duration and writes it again; None when it is none.
pub fn duration(text: &str) -> Option<(Duration, String)> {
    let value = super::duration::parse(text).ok()?;
    Some((value, super::duration::show(value)))
}

/// Reads a number of bytes and writes it again; None when it is none.
pub fn size(text: &str) -> Option<(u64, String)> {
    let value = super::size::parse(text).ok()?;
    Some((value, super::size::show(value)))
}
