//! The table of settings and what is generated from it.

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
    assert!(error(&required().with("worker_threads", "1025")).contains("or 0: one per processor"));
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
    // It is an example of defaults, and two of those are warned of.
    assert_eq!(warnings.len(), 2, "{warnings:?}");
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

#[test]
fn the_short_text_has_what_was_set_and_what_gave_way_to_it() {
    let sources = required().with("drain_timeout", "5s").with("log_level", "info");
    let text = load(&sources).chosen_text();
    let keys: Vec<_> = text.lines().filter_map(|line| line.split(" = ").next()).collect();
    // drain_spread is 5s because of drain_timeout.
    let expected = [
        "tls_cert_path",
        "tls_key_path",
        "backend_base_url",
        "drain_timeout",
        "drain_spread",
        "log_level",
    ];
    assert_eq!(keys, expected, "{text}");
}

#[test]
fn every_limit_is_a_setting() {
    for limit in httvps_telemetry::metrics::Limit::ALL {
        let is_setting = SETTINGS.iter().any(|s| s.key == limit.as_str());
        assert!(is_setting, "{}", limit.as_str());
    }
}
