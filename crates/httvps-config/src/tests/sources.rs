//! Which of the sources holds.

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
    assert_eq!(config.log_format, httvps_telemetry::log::LogFormat::Json);
    assert_eq!(config.log_level, httvps_telemetry::log::LogLevel::Error);
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
        &required().with_file(file.path()).with_env("GATEWAY_LOG_LEVEL", "").with("log_level", ""),
    );
    assert_eq!(config.log_level, httvps_telemetry::log::LogLevel::Warn);
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
        format!("GATEWAY_KEEPALIVE_INTERVAL: \"5\" has no unit; write 5s for seconds\n{accepted}")
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
    let sources = chosen()
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
    let many = (0..40).fold(chosen(), |s, n| s.with_env(format!("GATEWAY_X{n}"), "x"));
    let (_, warnings) = Config::load(&many).unwrap();
    assert_eq!(warnings.len(), 17);
    assert_eq!(warnings[16], "24 more environment variables are not settings");
}

#[test]
fn a_byte_order_mark_of_an_env_file_is_no_part_of_a_value_and_named_before_a_name() {
    let sources = required()
        .with_env("GATEWAY_LOG_LEVEL", "\u{feff}debug")
        .with_env("\u{feff}GATEWAY_ADMIN_ADDR", ":1");
    let (config, warnings) = Config::load(&sources).unwrap();
    assert_eq!(config.log_level, httvps_telemetry::log::LogLevel::Debug);
    assert_eq!(
        warnings[0],
        "GATEWAY_ADMIN_ADDR has a byte-order mark before its name and is ignored; save the file that it is from as UTF-8 without one"
    );
}

#[test]
fn flags_come_from_the_command_line_in_groups() {
    let command = || clap_args(clap::Command::new("gateway"));
    let matches = command()
        .try_get_matches_from(["gateway", "--log-level", "debug", "--max-streams-per-session=9"])
        .unwrap();
    let mut sources = Sources::from_process(&matches);
    for (key, value) in
        [("tls_cert_path", "c"), ("tls_key_path", "k"), ("backend_base_url", "http://b")]
    {
        sources = sources.with(key, value);
    }
    let config = load(&sources);
    assert_eq!(config.log_level, httvps_telemetry::log::LogLevel::Debug);
    assert_eq!(config.max_streams_per_session, 9);
    let help = command().render_long_help().to_string();
    for setting in SETTINGS {
        let flag = setting.flag().map(|flag| format!("--{flag} <{}>", setting.placeholder));
        assert_eq!(flag.is_none(), setting.secret);
        let documented = flag.is_none_or(|flag| help.contains(&flag) && help.contains(setting.env));
        assert!(documented, "{}", setting.key);
        assert!(help.contains(&format!("{}:\n", setting.group)));
    }
    assert!(help.contains("--config <FILE>") && help.contains("GATEWAY_CONFIG_PATH"));
    let short = command().render_help().to_string();
    assert!(short.contains("--upstream-mode") && !short.contains("--max-handshakes"), "{short}");
    assert!(short.lines().count() < 60, "{} lines", short.lines().count());
}

/// Settings of exit nodes have two names in each place; two values for one setting are refused.
#[test]
fn a_setting_of_nodes_is_taken_by_its_second_name() {
    let second = Duration::from_secs(1);
    let dial_timeout = |sources: &Sources| load(sources).outline_dial_timeout;
    let file = yaml("pool_dial_timeout: 1s");
    assert_eq!(dial_timeout(&required().with_file(file.path())), second);
    assert_eq!(dial_timeout(&required().with_env("GATEWAY_POOL_DIAL_TIMEOUT", "1s")), second);
    assert_eq!(dial_timeout(&required().with("pool_dial_timeout", "1s")), second);
    let over_file =
        required().with_file(file.path()).with_env("GATEWAY_OUTLINE_DIAL_TIMEOUT", "2s");
    assert_eq!(dial_timeout(&over_file), 2 * second);

    let both = yaml("outline_dial_timeout: 1s\npool_dial_timeout: 1s");
    let text = error(&required().with_file(both.path()));
    assert!(text.contains("pool_dial_timeout") && text.contains("what line 1 sets"), "{text}");
    let both = required()
        .with_env("GATEWAY_POOL_DIAL_TIMEOUT", "1s")
        .with_env("GATEWAY_OUTLINE_DIAL_TIMEOUT", "1s");
    assert!(error(&both).contains("GATEWAY_POOL_DIAL_TIMEOUT"));
    let wrong = error(&required().with_env("GATEWAY_POOL_DIAL_TIMEOUT", "soon"));
    assert!(wrong.starts_with("GATEWAY_POOL_DIAL_TIMEOUT: "), "{wrong}");
    let (_, warnings) = Config::load(&required().with_env("GATEWAY_POOL_COOLDOWN", "1s")).unwrap();
    assert!(!warnings.iter().any(|warning| warning.contains("POOL")), "{warnings:?}");
}

#[test]
fn a_flag_has_its_second_name() {
    let command = clap_args(clap::Command::new("gateway"));
    let matches = command.get_matches_from(["gateway", "--pool-cooldown", "9s"]);
    let sources = Sources::from_process(&matches)
        .with_env("GATEWAY_TLS_CERT_PATH", "/c.pem")
        .with_env("GATEWAY_TLS_KEY_PATH", "/k.pem")
        .with_env("BACKEND_BASE_URL", "http://backend:8000");
    assert_eq!(load(&sources).outline_cooldown, Duration::from_secs(9));
}
