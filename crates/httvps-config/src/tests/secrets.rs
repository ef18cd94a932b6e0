//! Secrets show nowhere.

use super::*;

#[test]
fn a_secret_shows_nowhere() {
    let file = yaml("backend_secret: hunter2-yaml\n");
    for sources in [
        required().with_env("BACKEND_GATEWAY_SECRET", "hunter2-env"),
        required().with_file(file.path()),
    ] {
        let (config, warnings) = Config::load(&sources).unwrap();
        let all = format!("{config:?}{config:#?}{}{warnings:?}{sources:?}", config.resolved_text());
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
    assert!(
        url.starts_with("--backend-base-url: the value has credentials in it; set BACKEND_GATEWAY")
    );
    assert!(!url.contains("hunter2"));
}
