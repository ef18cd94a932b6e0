//! The layers of the workspace: which crate may depend on which.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Each crate and the crates of this workspace that it may depend on. Everything else is upward or sideways.
const ALLOWED: &[(&str, &[&str])] = &[
    ("httvps-proto", &[]),
    ("httvps-text", &[]),
    ("httvps-tls", &["httvps-text"]),
    ("httvps-telemetry", &["httvps-proto"]),
    ("httvps-config", &["httvps-proto", "httvps-text", "httvps-telemetry"]),
    ("httvps-transport", &["httvps-tls"]),
    ("httvps-shadowsocks", &["httvps-proto"]),
    ("httvps-proxies", &["httvps-proto"]),
    ("httvps-resolve", &[]),
    ("httvps-https", &["httvps-resolve", "httvps-tls", "httvps-transport"]),
    (
        "httvps-control",
        &[
            "httvps-config",
            "httvps-https",
            "httvps-proto",
            "httvps-resolve",
            "httvps-telemetry",
            "httvps-text",
            "httvps-tls",
        ],
    ),
    (
        "httvps-egress",
        &[
            "httvps-config",
            "httvps-control",
            "httvps-https",
            "httvps-proto",
            "httvps-proxies",
            "httvps-resolve",
            "httvps-shadowsocks",
            "httvps-telemetry",
            "httvps-text",
            "httvps-tls",
            "httvps-transport",
        ],
    ),
    ("httvps-mux", &["httvps-proto", "httvps-tls", "httvps-transport"]),
    (
        "httvps-gateway",
        &[
            "httvps-config",
            "httvps-telemetry",
            "httvps-proto",
            "httvps-text",
            "httvps-tls",
            "httvps-transport",
            "httvps-control",
            "httvps-https",
            "httvps-resolve",
            "httvps-egress",
            "httvps-mux",
        ],
    ),
    (
        "httvps-client",
        &[
            "httvps-proto",
            "httvps-text",
            "httvps-tls",
            "httvps-transport",
            "httvps-resolve",
            "httvps-mux",
        ],
    ),
    ("httvps-backend", &["httvps-proto", "httvps-text"]),
    (
        "httvps-testkit",
        &["httvps-proto", "httvps-transport", "httvps-egress", "httvps-mux", "httvps-backend"],
    ),
    (
        "httvps",
        &[
            "httvps-config",
            "httvps-telemetry",
            "httvps-proto",
            "httvps-text",
            "httvps-tls",
            "httvps-transport",
            "httvps-egress",
            "httvps-mux",
            "httvps-gateway",
            "httvps-client",
            "httvps-backend",
        ],
    ),
    // The load generator judges the gateway from outside, so it shares no code with it.
    ("httvps-bench", &[]),
    (
        "httvps-fuzz",
        &[
            "httvps-config",
            "httvps-proto",
            "httvps-tls",
            "httvps-transport",
            "httvps-shadowsocks",
            "httvps-proxies",
            "httvps-client",
            "httvps-control",
            "httvps-egress",
        ],
    ),
    ("xtask", &["httvps-proto", "httvps-config", "httvps-telemetry"]),
];

/// What any crate may depend on for its tests, besides what it may depend on anyway.
const ALLOWED_IN_TESTS: &[&str] = &["httvps-testkit"];

/// Fails when a crate of the workspace depends on one that it must not know.
pub(crate) fn check(root: &Path) -> Result<String, String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let crates = metadata["packages"].as_array().map_or(0, Vec::len);
    let wrong = wrong_dependencies(&metadata);
    if wrong.is_empty() {
        Ok(format!("{crates} crates keep to their layers"))
    } else {
        Err(wrong.join("\n"))
    }
}

/// One line for each dependency that is not allowed and each crate that the table lacks.
fn wrong_dependencies(metadata: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let members: Vec<String> = packages.iter().map(name).collect();
    for package in packages {
        let of = name(package);
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == of) else {
            wrong.push(format!("{of} has no place in the table of layers (xtask/src/layers.rs)"));
            continue;
        };
        for dependency in package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default()
        {
            let on = name(dependency);
            let in_tests = dependency["kind"] == "dev" && ALLOWED_IN_TESTS.contains(&on.as_str());
            if members.contains(&on) && !allowed.contains(&on.as_str()) && !in_tests {
                wrong.push(format!("{of} must not depend on {on}"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_workspace_keeps_to_its_layers() {
        check(crate::root()).unwrap();
    }

    #[test]
    fn upward_sideways_and_unknown_are_found() {
        let metadata = json!({"packages": [
            {"name": "httvps-proto", "dependencies": [{"name": "httvps-mux", "kind": null}]},
            {"name": "httvps-mux", "dependencies": [
                {"name": "httvps-proto", "kind": null},
                {"name": "serde", "kind": null},
                {"name": "httvps-testkit", "kind": "dev"},
            ]},
            {"name": "httvps-client", "dependencies": [
                {"name": "httvps-testkit", "kind": null},
                {"name": "httvps-gateway", "kind": "dev"},
            ]},
            {"name": "httvps-gateway", "dependencies": []},
            {"name": "httvps-testkit", "dependencies": []},
            {"name": "httvps-extra", "dependencies": []},
        ]});
        assert_eq!(
            wrong_dependencies(&metadata),
            [
                "httvps-proto must not depend on httvps-mux",
                "httvps-client must not depend on httvps-testkit",
                "httvps-client must not depend on httvps-gateway",
                "httvps-extra has no place in the table of layers (xtask/src/layers.rs)",
            ]
        );
    }
}
