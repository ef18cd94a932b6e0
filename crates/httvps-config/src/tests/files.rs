//! The YAML file.

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
    for text in ["", "\n", "# only a comment\n", "---\n", "{}", "null", "\u{feff}max_sessions: 0"] {
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
        yaml_error("<<: {log_level: info}\n").starts_with("the file (FILE, line 1): is not valid")
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

#[test]
fn a_file_in_utf_16_is_named_as_such() {
    let wide: Vec<u8> =
        "\u{feff}log_level: info\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let text = yaml_error(wide);
    assert!(text.contains("UTF-16") && text.contains("UTF-8"), "{text}");
}
