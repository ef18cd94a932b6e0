//! The settings as flags.

use super::SETTINGS;
use super::given::CONFIG_PATH_ENV;
use clap::builder::OsStringValueParser;
use clap::{Arg, Command};

/// The id and the name of the flag that names the YAML file.
pub(super) const CONFIG_FLAG: &str = "config";

/// The settings of `-h`; `--help` shows all.
const COMMON: &[&str] = &[
    "listen_addr",
    "admin_addr",
    "tls_cert_path",
    "tls_key_path",
    "backend_base_url",
    "upstream_mode",
    "outline_nodes_path",
    "log_level",
    "log_format",
];

fn first_sentence(text: &str) -> &str {
    text.find(". ").map_or(text, |end| &text[..=end])
}

/// Adds `--config` and a flag for every setting that is not a secret, in the groups of the
/// reference page.
///
/// Values are only checked by [`super::Config::load`], so that one message is right for every
/// source.
pub fn clap_args(command: Command) -> Command {
    let config = Arg::new(CONFIG_FLAG)
        .long(CONFIG_FLAG)
        .value_name("FILE")
        .value_parser(OsStringValueParser::new())
        .help(format!("The YAML file with settings [env: {CONFIG_PATH_ENV}]"));
    let flags = SETTINGS.iter().filter_map(|setting| {
        let mut origins = format!("[env: {}, yaml: {}", setting.env, setting.key);
        match setting.default {
            Some(default) => origins = format!("{origins}, default: {default}]"),
            None if setting.required => origins.push_str(", required]"),
            None => origins.push(']'),
        }
        let flag = Arg::new(setting.key)
            .long(setting.flag()?)
            .value_name(setting.placeholder)
            .value_parser(OsStringValueParser::new())
            .help_heading(setting.group)
            .help(format!("{} {origins}", first_sentence(&setting.description())))
            .long_help(format!("{} {origins}", setting.description()))
            .hide_short_help(!COMMON.contains(&setting.key));
        Some(match setting.alias() {
            Some(alias) => flag.visible_alias(alias.flag.as_str()),
            None => flag,
        })
    });
    command.arg(config).args(flags).next_help_heading("Options")
}
