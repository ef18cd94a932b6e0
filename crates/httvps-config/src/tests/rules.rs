//! Rules between settings.

use super::*;

fn with(pairs: &[(&str, &str)]) -> Sources {
    pairs.iter().fold(chosen(), |sources, (key, value)| sources.with(key, *value))
}

#[test]
fn settings_that_contradict_each_other_are_errors() {
    assert_eq!(
        error(&required().with_env("GATEWAY_DRAIN_TIMEOUT", "5s").with("drain_spread", "6s")),
        "--drain-spread: 6s is above (drain_timeout = 5s)\naccepted: at most as long"
    );
    for (pairs, start) in [
        (
            [("max_message_bytes", "8KiB"), ("max_message_bytes_before_auth", "9KiB")],
            "--max-message-bytes: 8KiB is below (max_message_bytes_before_auth = 9KiB)",
        ),
        (
            [("max_stream_queue_bytes", "64KiB"), ("max_session_queue_bytes", "32KiB")],
            "--max-stream-queue-bytes: 64KiB is above (max_session_queue_bytes = 32KiB)",
        ),
        (
            [("max_token_bytes", "8KiB"), ("max_message_bytes_before_auth", "8KiB")],
            "--max-message-bytes-before-auth: 8KiB does not hold a hello",
        ),
        (
            [("admin_addr", "[::1]:1"), ("listen_addr", "[::1]:1")],
            "--admin-addr: [::1]:1 is the same as (listen_addr = [::1]:1)",
        ),
    ] {
        let text = error(&with(&pairs));
        assert!(text.starts_with(start), "{text}");
    }
    load(&with(&[("admin_addr", ":0"), ("listen_addr", ":0")]));
    load(&with(&[("drain_timeout", "5s"), ("drain_spread", "5s")]));
}

#[test]
fn a_pool_needs_its_file_and_the_file_a_pool() {
    for who in ["pool", "backend_then_pool"] {
        let text = error(&with(&[("upstream_mode", "outline"), ("outline_assign", who)]));
        let start =
            format!("--outline-assign: {who} needs a pool and there is none (outline_nodes_path");
        assert!(text.starts_with(&start), "{text}");
    }
    load(&with(&[("upstream_mode", "outline")]));
    let (_, doubts) = Config::load(&with(&[("outline_nodes_path", "nodes.yaml")])).unwrap();
    assert!(doubts[0].starts_with("outline_nodes_path has no effect"), "{doubts:?}");
    let text = error(&with(&[("outline_probe_target", "example.com")]));
    assert!(text.starts_with("--outline-probe-target: \"example.com\" is no target: "), "{text}");
}

#[test]
fn proxy_takes_its_nodes_from_the_pool_alone() {
    let text = error(&with(&[("upstream_mode", "proxy")]));
    assert!(text.starts_with("--upstream-mode: proxy needs a pool"), "{text}");
    let pool = [("upstream_mode", "proxy"), ("outline_nodes_path", "nodes.yaml")];
    let (config, doubts) = Config::load(&with(&pool)).unwrap();
    assert_eq!((config.assigner(), doubts), (OutlineAssign::Pool, vec![]));
    let (config, doubts) =
        Config::load(&with(&[&pool[..], &[("outline_assign", "backend")]].concat())).unwrap();
    assert_eq!(config.assigner(), OutlineAssign::Pool);
    assert!(doubts[0].starts_with("outline_assign has no effect"), "{doubts:?}");
}

#[test]
fn a_source_is_for_direct() {
    let source = [("direct_source_address", "192.0.2.1"), ("direct_interface", "eth0")];
    let (_, doubts) = Config::load(&with(&source)).unwrap();
    assert!(doubts[0].starts_with("direct_source_address has no effect"), "{doubts:?}");
    assert!(doubts[1].starts_with("direct_interface has no effect"), "{doubts:?}");
    let direct = [&source[..], &[("upstream_mode", "direct")]].concat();
    assert!(Config::load(&with(&direct)).unwrap().1.is_empty());
}

#[test]
fn a_default_gives_way_to_what_was_set() {
    assert_eq!(load(&with(&[("drain_timeout", "5s")])).drain_spread, Duration::from_secs(5));
    assert_eq!(load(&with(&[("drain_spread", "1m")])).drain_timeout, Duration::from_mins(1));
    let config = load(&with(&[("max_message_bytes", "8KiB")]));
    assert_eq!(config.max_message_bytes_before_auth, 8 << 10);
    assert!(config.max_token_bytes + config.max_device_id_bytes < 8 << 10);
    let config = load(&with(&[("max_message_bytes_before_auth", "1MiB")]));
    assert_eq!((config.max_message_bytes, config.max_token_bytes), (1 << 20, 8 << 10));
    let config = load(&with(&[("max_token_bytes", "64KiB")]));
    assert!(config.max_message_bytes_before_auth > 64 << 10);
    assert_eq!(
        load(&with(&[("max_session_queue_bytes", "16KiB")])).max_stream_queue_bytes,
        16 << 10
    );
    assert_eq!(load(&with(&[("max_stream_queue_bytes", "1MiB")])).max_session_queue_bytes, 1 << 20);
}

#[test]
fn limits_of_a_device_that_were_not_set_allow_what_one_session_may() {
    let large = [
        ("max_streams_per_session", "2000"),
        ("max_stream_opens_per_second", "3000"),
        ("max_stream_open_burst", "4000"),
    ];
    let config = load(&with(&large));
    assert_eq!((config.max_streams_per_device, config.max_descriptors_per_device), (2000, 2001));
    assert_eq!((config.max_device_opens_per_second, config.max_device_open_burst), (3000, 4000));
    assert_eq!(load(&with(&[("max_stream_opens_per_second", "0")])).max_device_opens_per_second, 0);
    let config =
        load(&with(&[("max_streams_per_device", "3"), ("max_descriptors_per_device", "4")]));
    assert_eq!((config.max_streams_per_device, config.max_descriptors_per_device), (3, 4));
}

#[test]
fn settings_that_hardly_make_sense_are_warnings() {
    let (_, warnings) =
        Config::load(&chosen().with("backend_timeout", "15s").with("backend_ca_path", "/ca"))
            .unwrap();
    assert_eq!(
        warnings,
        [
            "backend_timeout (15s) is longer than handshake_timeout (10s), which ends the handshake first",
            "backend_ca_path has no effect: backend_base_url is not https",
        ]
    );
}

#[test]
fn defaults_that_are_hardly_meant_are_warnings() {
    let warnings = |sources: &Sources| Config::load(sources).unwrap().1;
    let both = warnings(&required());
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both[0].starts_with("upstream_mode was not set and is fake"), "{both:?}");
    assert!(both[1].starts_with("/metrics, /healthz and /readyz are served to everybody"));
    assert!(both[0].contains("GATEWAY_UPSTREAM_MODE") && both[1].contains("GATEWAY_ADMIN_ADDR"));
    let without = warnings(&required().with("metrics_enabled", "false"));
    assert!(without[1].starts_with("/healthz and /readyz"), "{without:?}");
    // What was set is meant.
    assert_eq!(warnings(&chosen().with("upstream_mode", "fake")), Vec::<String>::new());
}

#[test]
fn a_secret_in_quotation_marks_is_a_warning_that_does_not_show_it() {
    for (secret, is_quoted) in
        [("\"hunter2\"", true), ("'hunter2'", true), ("hunter\"2", false), ("\"", false)]
    {
        let sources = chosen().with_env("BACKEND_GATEWAY_SECRET", secret);
        let (config, warnings) = Config::load(&sources).unwrap();
        assert_eq!(config.backend_secret.unwrap().expose(), secret);
        assert_eq!(warnings.len(), usize::from(is_quoted), "{secret}: {warnings:?}");
        assert!(warnings.iter().all(|line| !line.contains("hunter2")), "{warnings:?}");
    }
}
