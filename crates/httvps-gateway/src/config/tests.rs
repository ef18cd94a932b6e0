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

mod table {
    use super::*;

    #[test]
    fn the_founding_settings_are_there_to_the_letter() {
        for (env, key, default) in [
            ("GATEWAY_LISTEN_ADDR", "listen_addr", Some(":8443")),
            ("GATEWAY_TLS_CERT_PATH", "tls_cert_path", None),
            ("GATEWAY_TLS_KEY_PATH", "tls_key_path", None),
            ("BACKEND_BASE_URL", "backend_base_url", None),
            ("BACKEND_TIMEOUT", "backend_timeout", Some("5s")),
            ("BACKEND_GATEWAY_SECRET", "backend_secret", None),
            ("GATEWAY_UPSTREAM_MODE", "upstream_mode", Some("fake")),
            ("GATEWAY_LOG_LEVEL", "log_level", Some("info")),
            ("GATEWAY_LOG_FORMAT", "log_format", Some("json")),
            ("GATEWAY_METRICS_ENABLED", "metrics_enabled", Some("true")),
            ("GATEWAY_METRICS_PATH", "metrics_path", Some("/metrics")),
            ("GATEWAY_MAX_STREAMS", "max_streams_per_session", Some("8")),
            ("GATEWAY_EGRESS_ALLOW", "egress_allow", None),
            ("GATEWAY_MAX_STREAM_OPENS_PER_SECOND", "max_stream_opens_per_second", Some("200")),
        ] {
            let setting = SETTINGS.iter().find(|setting| setting.key == key).unwrap();
            assert_eq!((setting.env, setting.default), (env, default), "{key}");
        }
        let required: Vec<_> = SETTINGS.iter().filter(|s| s.required).map(|s| s.key).collect();
        assert_eq!(required, ["tls_cert_path", "tls_key_path", "backend_base_url"]);
    }

    #[test]
    fn names_follow_the_pattern_and_are_distinct() {
        for setting in SETTINGS {
            let upper = setting.key.to_uppercase();
            let expected = match setting.key {
                "max_streams_per_session" => "GATEWAY_MAX_STREAMS".to_owned(),
                "backend_secret" => "BACKEND_GATEWAY_SECRET".to_owned(),
                key if key.starts_with("backend_") => upper,
                _ => format!("GATEWAY_{upper}"),
            };
            assert_eq!(setting.env, expected);
            assert_eq!(SETTINGS.iter().filter(|other| other.key == setting.key).count(), 1);
            assert!(setting.description().ends_with('.'), "{}", setting.key);
        }
    }

    /// Bounds and zeros are read as the setting itself is: at the bound it is accepted, beyond it
    /// is not.
    #[test]
    fn bounds_hold_and_defaults_lie_within() {
        for setting in SETTINGS {
            if let Some((min, max)) = setting.range {
                for bound in [min, max] {
                    // A rule between settings may object; the range may not.
                    let text = Config::load(&required().with(setting.key, bound));
                    let text = text.err().map_or(String::new(), |error| error.to_string());
                    assert!(!text.contains("out of range"), "{}: {text}", setting.key);
                }
                let zero_is_below = setting.zero.is_none() && !min.starts_with('0');
                let zero = if setting.placeholder == "DURATION" { "0s" } else { "0" };
                let text = Config::load(&required().with(setting.key, zero));
                let refused = text.is_err_and(|error| error.to_string().contains("out of range"));
                assert_eq!(refused, zero_is_below, "{}", setting.key);
            }
            if let Some(default) = setting.default {
                load(&required().with(setting.key, default));
            }
        }
    }

    #[test]
    fn out_of_range_names_the_range() {
        assert_eq!(
            error(&required().with_env("GATEWAY_MAX_STREAMS", "0")),
            "GATEWAY_MAX_STREAMS: \"0\" is out of range\naccepted: a whole number, from 1 to 65536"
        );
        assert!(
            error(&required().with("worker_threads", "1025")).contains("or 0: one per processor")
        );
        assert!(error(&required().with("backend_timeout", "11m")).contains("from 10ms to 10m"));
    }

    #[test]
    fn generated_files_are_the_committed_ones() {
        for (path, generated) in [
            ("docs/reference/settings.md", reference_markdown()),
            ("config/example-config.yaml", example_yaml()),
        ] {
            let committed = fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_default();
            assert!(committed == generated, "{path} is old: run `cargo run -p xtask -- reference`");
        }
    }

    #[test]
    fn the_example_is_a_configuration_of_defaults() {
        let file = yaml(example_yaml());
        let (config, warnings) = Config::load(&Sources::default().with_file(file.path())).unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        let text = config.resolved_text();
        assert_eq!(text.matches("(source: yaml)").count(), 3, "{text}");
        assert_eq!(text.matches("(source: default)").count(), SETTINGS.len() - 3);
    }

    /// With every comment sign taken away the example says the defaults.
    #[test]
    fn the_example_with_every_setting_is_read_as_the_defaults() {
        let all: String = example_yaml()
            .lines()
            .filter_map(|line| {
                let line = line.strip_prefix("# ").unwrap_or(line);
                let key = line.split(':').next().unwrap_or_default();
                SETTINGS.iter().any(|setting| setting.key == key).then(|| format!("{line}\n"))
            })
            .collect();
        assert_eq!(all.lines().count(), SETTINGS.len());
        let file = yaml(&all);
        let explicit = load(&Sources::default().with_file(file.path()));
        let implicit = load(&Sources::default().with_file(yaml(example_yaml()).path()));
        assert_eq!(explicit.values(), implicit.values());
    }
}

mod sources {
    use super::*;

    #[test]
    fn flag_then_environment_then_yaml_then_default() {
        let file =
            yaml("log_level: error\nlog_format: text\nmetrics_path: /m\nkeepalive_interval: 7s\n");
        let sources = required()
            .with_file(file.path())
            .with_env("GATEWAY_LOG_FORMAT", "json")
            .with_env("GATEWAY_METRICS_PATH", "/env")
            .with("metrics_path", "/flag");
        let config = load(&sources);
        assert_eq!(config.metrics_path, "/flag");
        assert_eq!(config.log_format, crate::log::LogFormat::Json);
        assert_eq!(config.log_level, crate::log::LogLevel::Error);
        assert_eq!(config.keepalive_interval, Duration::from_secs(7));
        assert_eq!(config.max_streams_per_session, 8);
        let text = config.resolved_text();
        for line in [
            "metrics_path = /flag  (source: flag)",
            "log_format = json  (source: env)",
            "log_level = error  (source: yaml)",
            "max_streams_per_session = 8  (source: default)",
            "egress_allow =   (source: default)",
            "admin_addr = (none)  (source: default)",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert_eq!(text.lines().count(), SETTINGS.len());
    }

    #[test]
    fn an_empty_value_is_none() {
        let file = yaml("log_level: warn\nmax_sessions:\nadmin_addr: null\nmetrics_path: ''\n");
        let config = load(
            &required()
                .with_file(file.path())
                .with_env("GATEWAY_LOG_LEVEL", "")
                .with("log_level", ""),
        );
        assert_eq!(config.log_level, crate::log::LogLevel::Warn);
        assert_eq!(config.max_sessions, 0);
        assert_eq!(config.admin_addr, None);
        assert_eq!(config.metrics_path, "/metrics");
        assert_eq!(load(&required().with_env("GATEWAY_CONFIG_PATH", "")).max_sessions, 0);
    }

    #[test]
    fn the_file_is_named_by_flag_or_environment() {
        let (one, two) = (yaml("max_sessions: 1"), yaml("max_sessions: 2"));
        let sources = required().with_env("GATEWAY_CONFIG_PATH", one.path());
        assert_eq!(load(&sources).max_sessions, 1);
        assert_eq!(load(&sources.with_file(two.path())).max_sessions, 2);
        assert_eq!(
            error(&required().with_env("GATEWAY_CONFIG_PATH", "/no/such")),
            "GATEWAY_CONFIG_PATH: \"/no/such\" cannot be read: No such file or directory (os error 2)\n\
             accepted: the path of a YAML file of at most 1 MiB"
        );
        assert!(error(&required().with_file("/")).starts_with("--config: \"/\" cannot be read"));
    }

    #[test]
    fn errors_name_the_setting_as_it_was_given() {
        let file = yaml("# a comment\n\nkeepalive_interval: 5\n");
        let name = file.path().display();
        let accepted = "accepted: a Go duration such as 300ms or 1m30s, from 10ms to 1h";
        assert_eq!(
            error(&required().with_file(file.path())),
            format!(
                "keepalive_interval ({name}, line 3): \"5\" has no unit; write 5s for seconds\n{accepted}"
            )
        );
        assert_eq!(
            error(&required().with_env("GATEWAY_KEEPALIVE_INTERVAL", "5")),
            format!(
                "GATEWAY_KEEPALIVE_INTERVAL: \"5\" has no unit; write 5s for seconds\n{accepted}"
            )
        );
        assert_eq!(
            error(&required().with("keepalive_interval", "5")),
            format!("--keepalive-interval: \"5\" has no unit; write 5s for seconds\n{accepted}")
        );
        assert_eq!(
            error(&Sources::default()),
            "tls_cert_path: is required and was not set\naccepted: the path of a PEM file, in \
             GATEWAY_TLS_CERT_PATH, tls_cert_path of the YAML file or --tls-cert-path"
        );
    }

    #[cfg(unix)]
    #[test]
    fn what_is_not_utf8_is_an_error_only_where_it_matters() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt;
        let bad = || OsString::from_vec(vec![0xff]);
        assert_eq!(
            error(&required().with_env("GATEWAY_LOG_LEVEL", bad())),
            "GATEWAY_LOG_LEVEL: the value is not UTF-8\naccepted: debug, info, warn or error"
        );
        load(&required().with_env("PATH", bad()).with_env(bad(), "x"));
    }

    #[test]
    fn unknown_variables_are_warnings() {
        let sources = required()
            .with_env("GATEWAY_LOGLEVEL", "x")
            .with_env("BACKEND_URL", "x")
            .with_env("GATEWAY_COLOUR_OF_THE_SKY", "x")
            .with_env("GATEWAY_\n\u{1b}", "x")
            .with_env("HTTP_PROXY", "x")
            .with_env("GATEWAY_CONFIG_PATH", "")
            .with_env("BACKEND_SERVICE_HOST", "10.0.0.1")
            .with_env("BACKEND_SERVICE_PORT_HTTP", "80")
            .with_env("GATEWAY_PORT", "tcp://10.0.0.1:80")
            .with_env("GATEWAY_PORT_80_TCP_ADDR", "10.0.0.1");
        let (_, warnings) = Config::load(&sources).unwrap();
        assert_eq!(
            warnings,
            [
                "GATEWAY_LOGLEVEL is no setting; did you mean GATEWAY_LOG_LEVEL?",
                "BACKEND_URL is no setting; did you mean BACKEND_BASE_URL?",
                "GATEWAY_COLOUR_OF_THE_SKY is no setting and is ignored",
                "GATEWAY_\\n\\u{1b} is no setting and is ignored",
            ]
        );
        let many = (0..40).fold(required(), |s, n| s.with_env(format!("GATEWAY_X{n}"), "x"));
        let (_, warnings) = Config::load(&many).unwrap();
        assert_eq!(warnings.len(), 17);
        assert_eq!(warnings[16], "24 more environment variables are not settings");
    }

    #[test]
    fn flags_come_from_the_command_line_in_groups() {
        let command = || clap_args(clap::Command::new("gateway"));
        let matches = command()
            .try_get_matches_from([
                "gateway",
                "--log-level",
                "debug",
                "--max-streams-per-session=9",
            ])
            .unwrap();
        let mut sources = Sources::from_process(&matches);
        for (key, value) in
            [("tls_cert_path", "c"), ("tls_key_path", "k"), ("backend_base_url", "http://b")]
        {
            sources = sources.with(key, value);
        }
        let config = load(&sources);
        assert_eq!(config.log_level, crate::log::LogLevel::Debug);
        assert_eq!(config.max_streams_per_session, 9);
        let help = command().render_long_help().to_string();
        for setting in SETTINGS {
            let flag = setting.flag().map(|flag| format!("--{flag} <{}>", setting.placeholder));
            assert_eq!(flag.is_none(), setting.secret);
            let documented =
                flag.is_none_or(|flag| help.contains(&flag) && help.contains(setting.env));
            assert!(documented, "{}", setting.key);
            assert!(help.contains(&format!("{}:\n", setting.group)));
        }
        assert!(help.contains("--config <FILE>") && help.contains("GATEWAY_CONFIG_PATH"));
    }
}

mod files {
    use super::*;

    #[test]
    fn scalars_keep_their_spelling() {
        let file = yaml(
            "backend_secret: 00123\nmax_sessions: 010\nmetrics_enabled: 1\ndrain_timeout: 1h\n\
             max_message_bytes: 2 MiB\nlisten_addr: :1\nbackend_timeout: \"1.50s\"\n",
        );
        let config = load(&required().with_file(file.path()));
        assert_eq!(config.backend_secret.unwrap().expose(), "00123");
        assert_eq!(config.max_sessions, 10);
        assert!(config.metrics_enabled);
        assert_eq!(config.max_message_bytes, 2 << 20);
        assert_eq!(config.listen_addr.to_string(), ":1");
        assert_eq!(config.backend_timeout, Duration::from_millis(1_500));
    }

    #[test]
    fn lists_are_lists_or_texts_with_commas() {
        for text in [
            "egress_allow: [10.0.0.0/8, ::1]",
            "egress_allow:\n  - 10.0.0.0/8\n  - '::1'\n",
            "egress_allow: 10.0.0.0/8, ::1",
        ] {
            let file = yaml(text);
            let config = load(&required().with_file(file.path()));
            let nets: Vec<_> = config.egress_allow.iter().map(ToString::to_string).collect();
            assert_eq!(nets, ["10.0.0.0/8", "::1/128"], "{text}");
        }
        let file = yaml("egress_allow: []\nallowed_origins:\n");
        let config = load(&required().with_file(file.path()));
        assert!(config.egress_allow.is_empty() && config.allowed_origins.is_empty());
    }

    #[test]
    fn a_file_without_settings_is_fine() {
        for text in
            ["", "\n", "# only a comment\n", "---\n", "{}", "null", "\u{feff}max_sessions: 0"]
        {
            let file = yaml(text);
            load(&required().with_file(file.path()));
        }
    }

    #[test]
    fn unknown_and_repeated_keys_are_errors() {
        assert_eq!(
            yaml_error("log_level: info\nlisten_adr: x\n"),
            "FILE, line 2: \"listen_adr\" is no setting; the nearest is listen_addr\n\
             accepted: the keys of docs/reference/settings.md"
        );
        assert!(yaml_error("gateway:\n  log_level: info\n").contains("\"gateway\" is no setting"));
        assert!(yaml_error("1: 2\n").contains("\"1\" is no setting"));
        assert_eq!(
            yaml_error("log_level: info\nlog_format: json\nlog_level: warn\n"),
            "log_level (FILE, line 3): is there twice\naccepted: each key once"
        );
        assert!(
            yaml_error("<<: {log_level: info}\n")
                .starts_with("the file (FILE, line 1): is not valid")
        );
    }

    #[test]
    fn values_of_the_wrong_shape_are_errors() {
        for (text, start) in [
            (
                "max_sessions: [1]",
                "max_sessions (FILE, line 1): is not a single value\naccepted: a whole",
            ),
            (
                "log_level: info\nmax_sessions: {a: 1}",
                "max_sessions (FILE, line 2): is not a single value",
            ),
            ("egress_allow: {a: 1}", "egress_allow (FILE, line 1): is not a list of values"),
            ("egress_allow: [[::1]]", "egress_allow (FILE, line 1): is not a list of values"),
            ("egress_allow: 5", "egress_allow (FILE, line 1): "),
            ("metrics_enabled: yes", "metrics_enabled (FILE, line 1): \"yes\" is not a boolean"),
            ("listen_addr: 8443", "listen_addr (FILE, line 1): \"8443\" has no port"),
            ("- log_level", "the file (FILE, line 1): is not a mapping of settings"),
            ("log_level", "the file (FILE, line 1): is not a mapping of settings"),
            ("a: 1\n---\nb: 2", "FILE, line 1: \"a\" is no setting"),
            (
                "log_level: info\n---\nlog_level: info",
                "the file (FILE, line 3): has more than one document",
            ),
            ("log_level: \"info", "the file (FILE, line 1): is not valid YAML"),
            ("log_level: *nowhere", "the file (FILE, line 1): is not valid YAML"),
            ("log_level: @info", "the file (FILE, line 1): is not valid YAML"),
        ] {
            let found = yaml_error(text);
            assert!(found.starts_with(start), "{text:?}: {found}");
        }
    }

    #[test]
    fn a_file_has_its_limits() {
        let mut text = "# ".to_owned() + &"x".repeat((1 << 20) - 3) + "\n";
        assert_eq!(text.len(), 1 << 20);
        load(&required().with_file(yaml(&text).path()));
        text.push('\n');
        assert!(yaml_error(&text).contains("is larger than 1 MiB"));
        assert!(yaml_error(b"log_level: \xff").contains("is not UTF-8"));
        let deep = format!("max_sessions: {}", "[".repeat(100_000));
        assert!(!yaml_error(deep).is_empty());
        let bomb = "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\n"
            .replace("a: &a", "egress_allow: &a");
        assert!(!yaml_error(bomb).is_empty());
    }
}

mod secrets {
    use super::*;

    #[test]
    fn a_secret_shows_nowhere() {
        let file = yaml("backend_secret: hunter2-yaml\n");
        for sources in [
            required().with_env("BACKEND_GATEWAY_SECRET", "hunter2-env"),
            required().with_file(file.path()),
        ] {
            let (config, warnings) = Config::load(&sources).unwrap();
            let all =
                format!("{config:?}{config:#?}{}{warnings:?}{sources:?}", config.resolved_text());
            assert!(!all.contains("hunter2"), "{all}");
            assert!(config.resolved_text().contains("backend_secret = ***  (source: "));
            assert!(config.backend_secret.unwrap().expose().starts_with("hunter2"));
        }
        assert!(load(&required()).resolved_text().contains("backend_secret = (none)"));
    }

    #[test]
    fn a_bad_secret_shows_nowhere() {
        for bad in ["hunter2\n", " hunter2", "hunter2ü", &"hunter2".repeat(1_000)] {
            let text = error(&required().with_env("BACKEND_GATEWAY_SECRET", bad));
            assert!(text.starts_with("BACKEND_GATEWAY_SECRET: the value "), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        for text in [
            "backend_secret: [hunter2]",
            "backend_secret: {hunter2: 1}",
            "backend_secret: \"hunter2\n",
            "backend_secret:\n  hunter2: x\n y",
            "backend_secret: hunter2 : : x",
            "backend_secret: &hunter2x *hunter2",
            "backend_secret: \"hunter2\\n\"",
            "backend_secret: *hunter2",
            "backend_secret: !hunter2",
            "backend_secret: !hunter2 [x]",
            "backend_secret: @hunter2",
            "backend_secret: %hunter2",
            "backend_secret: `hunter2",
            "backend_secret: |hunter2",
            "backend_secret: \"\\hunter2\"",
            "backend_secret: {hunter2",
            "backend_secret:hunter2",
            "log_level: info\nbackend_secret:\n  \"a\\hunter2\"\n",
        ] {
            let found = yaml_error(text);
            assert!(!found.contains("hunter2"), "{text:?}: {found}");
        }
        let url = error(&required().with("backend_base_url", "http://u:hunter2@backend"));
        assert!(url.starts_with(
            "--backend-base-url: the value has credentials in it; set BACKEND_GATEWAY"
        ));
        assert!(!url.contains("hunter2"));
    }
}

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
