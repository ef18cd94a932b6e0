//! Tests of the configuration as a whole.

use super::*;
use proptest::prelude::*;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The settings without which no gateway starts.
fn required() -> Sources {
    Sources::default()
        .with_env("GATEWAY_TLS_CERT_PATH", "/c.pem")
        .with_env("GATEWAY_TLS_KEY_PATH", "/k.pem")
        .with_env("BACKEND_BASE_URL", "http://backend:8000")
}

/// The same, and what is warned of when it is left at its default.
fn chosen() -> Sources {
    required()
        .with_env("GATEWAY_UPSTREAM_MODE", "echo")
        .with_env("GATEWAY_ADMIN_ADDR", "127.0.0.1:9090")
}

fn load(sources: &Sources) -> Config {
    Config::load(sources).unwrap().0
}

/// The whole text of an error, which is at most two lines.
fn error(sources: &Sources) -> String {
    let text = Config::load(sources).unwrap_err().to_string();
    assert!(text.lines().count() <= 2, "{text}");
    text
}

/// A YAML file that lives as long as the guard.
fn yaml(text: impl AsRef<[u8]>) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_ref()).unwrap();
    file
}

fn yaml_error(text: impl AsRef<[u8]>) -> String {
    let file = yaml(text);
    let name = file.path().display().to_string();
    error(&required().with_file(file.path())).replace(&name, "FILE")
}

mod table;

mod sources;

mod files;

mod secrets;

mod rules;

/// Whatever comes in: no panic, an error of at most two lines without control characters.
fn survives(sources: &Sources) -> Result<Config, String> {
    match Config::load(sources) {
        Ok((config, warnings)) => {
            assert!(warnings.len() < 32 && warnings.iter().all(|line| !line.contains('\n')));
            assert_eq!(config.resolved_text().lines().count(), SETTINGS.len());
            Ok(config)
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.lines().count() <= 2 && text.len() < 2_000, "{text}");
            assert!(!text.replace('\n', "").contains(char::is_control), "{text:?}");
            Err(text)
        }
    }
}

/// The corpus: a file whose name begins with `yaml-` is a YAML file, one that begins with `env-`
/// has lines NAME=VALUE. `ok` or `bad` after that is what comes of it together with the required
/// settings.
#[test]
fn the_corpus_gives_what_its_names_say() {
    let directory = PathBuf::from(ROOT).join("testdata/corpus/config");
    let mut seen = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let sources = if name.starts_with("yaml-") {
            required().with_file(&path)
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            pairs.fold(required(), |sources, (name, value)| sources.with_env(name, value))
        };
        let expected = match name.split('-').nth(1) {
            Some("ok") => true,
            Some("bad") => false,
            _ => panic!("{name} says neither ok nor bad"),
        };
        let found = survives(&sources);
        assert_eq!(found.is_ok(), expected, "{name}: {found:?}");
        seen += 1;
    }
    assert!(seen >= 20, "{seen} files");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_environment_makes_it_panic(
        values in proptest::collection::vec((0..SETTINGS.len(), any::<String>()), 0..4),
        name in "(GATEWAY|BACKEND)_\\PC{0,20}",
    ) {
        let values = values.iter().filter(|(_, value)| !value.contains('\0'));
        let sources = values.fold(required(), |s, (n, value)| s.with_env(SETTINGS[*n].env, value));
        let _ = survives(&sources.with_env(name, "x"));
    }

    #[test]
    fn no_text_of_a_setting_makes_it_panic(setting in 0..SETTINGS.len(), text in "[-+0-9a-zA-Zµ.:/,\\[\\]@# ]{0,40}") {
        let _ = survives(&required().with(SETTINGS[setting].key, text));
    }

    #[test]
    fn no_yaml_makes_it_panic(text in any::<String>(), near in "([a-z_]{0,12}[:\\-\\[\\]{}&*!|>'\"%@#,? \n]{0,3}){0,12}") {
        for text in [text, near] {
            let parsed = super::yaml::Document::parse(&text, "FILE");
            if let Err(error) = parsed {
                let error = error.to_string();
                prop_assert!(error.lines().count() <= 2, "{}", error);
                prop_assert!(!error.replace('\n', "").contains(char::is_control), "{:?}", error);
            }
        }
    }

    #[test]
    fn yaml_of_known_keys_does_not_make_it_panic(
        values in proptest::collection::vec((0..SETTINGS.len(), "\\PC{0,30}"), 0..5),
    ) {
        let lines: Vec<_> = values.iter().map(|(n, value)| format!("{}: {value}\n", SETTINGS[*n].key)).collect();
        let file = yaml(lines.concat());
        let _ = survives(&required().with_file(file.path()));
    }
}
