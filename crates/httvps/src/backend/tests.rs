use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use httvps_backend::Verdict;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    backend: BackendArgs,
}

/// Runs `httvps backend …` on the file `devices.json` in `directory`.
pub(super) fn call(directory: &Path, line: &str) -> Result<String, Failure> {
    let devices = directory.join("devices.json").display().to_string();
    let words = ["backend"].into_iter().chain(line.split(' ')).chain(["--devices", &devices]);
    let line = Line::try_parse_from(words).unwrap();
    let mut out = Vec::new();
    execute(line.backend.command, &mut out).map(|()| String::from_utf8(out).unwrap())
}

pub(super) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_command_line_is_consistent() {
    Line::command().debug_assert();
}

#[test]
fn a_node_without_a_key_or_with_two_is_wrong_usage() {
    let node = "backend add-node --node-id a --host 192.0.2.1 --port 1";
    let refusal = |rest: &str| {
        let line = format!("{node} {rest}");
        Line::try_parse_from(line.split_whitespace()).map(|_| ()).unwrap_err()
    };
    let missing = refusal("");
    assert_eq!(missing.kind(), ErrorKind::MissingRequiredArgument);
    assert!(missing.to_string().contains("--password-file"), "{missing}");
    let both = refusal("--password-file p --access-url-file k");
    assert_eq!(both.kind(), ErrorKind::ArgumentConflict);
}

#[test]
fn a_token_is_shown_once() {
    let directory = tempfile::tempdir().unwrap();
    let call = |line: &str| call(directory.path(), line).unwrap();
    let shown = call("add-device --device-id anna --user 7");
    let token = shown
        .lines()
        .find_map(|line| line.trim().strip_prefix("token:"))
        .map(|token| token.trim().to_owned())
        .unwrap();
    assert_eq!(token.len(), 64);
    assert_eq!(shown.matches(&token).count(), 1);
    for line in ["list-devices", "list-devices --json", "set-status --device-id anna --status x"] {
        assert!(!call(line).contains(&token), "{line}");
    }
    let rotated = json(&call("rotate-token --device-id anna --json"));
    call("set-status --device-id anna --status active");
    let backend = Backend::load(directory.path().join("devices.json")).unwrap();
    let is_let_in = |token: &str| {
        matches!(backend.validate("anna", token), Verdict::Allowed { user_id: 7, .. })
    };
    assert!(is_let_in(rotated["token"].as_str().unwrap()));
    assert!(!is_let_in(&token));
}

#[test]
fn devices_are_added_listed_changed_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let call = |line: &str| call(directory.path(), line).unwrap();
    let added = json(&call("add-device --json --status trialing --until 2020-01-31"));
    assert_eq!(added["subscription_end"], "2020-01-31");
    assert_eq!(added["allowed"], false);
    let id = added["device_id"].as_str().unwrap();
    call("add-device --device-id anna --user 7");
    let table = call("list-devices");
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows,
        [
            vec!["DEVICE", "USER", "STATUS", "UNTIL", "ALLOWED"],
            vec![id, "1", "trialing", "2020-01-31", "no"],
            vec!["anna", "7", "active", "never", "yes"],
        ]
    );
    let set = call(&format!("set-status --device-id {id} --status active --until never"));
    assert!(set.contains("is let in"), "{set}");
    call("remove-device --device-id anna");
    let listed = json(&call("list-devices --json"));
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["allowed"], true);
    assert_eq!(listed[0]["subscription_end"], Value::Null);
}

#[test]
fn failures_name_what_and_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let fail = |line: &str| call(directory.path(), line).unwrap_err();
    for line in ["serve", "list-devices", "remove-device --device-id anna"] {
        let failure = fail(line);
        assert!(failure.message.contains("does not exist"), "{}", failure.message);
        assert!(failure.message.contains("httvps backend add-device --devices"));
        assert_eq!(failure.code, 1);
    }
    call(directory.path(), "add-device --device-id anna").unwrap();
    for (line, what, code) in [
        ("add-device --device-id anna", "exists already", 1),
        ("rotate-token --device-id berta", "no device \"berta\"", 1),
        ("serve --listen nonsense", "cannot listen on \"nonsense\"", 2),
        ("serve --secret-file /dev/null", "the secret is empty", 2),
        ("serve --secret-file /nonexistent", "--secret-file /nonexistent", 2),
    ] {
        let failure = fail(line);
        assert!(failure.message.contains(what), "{line}: {}", failure.message);
        assert_eq!(failure.message.lines().count(), 2, "{line}");
        assert_eq!(failure.code, code, "{line}");
    }
}

#[test]
fn wrong_values_are_refused_by_the_command_line() {
    for line in [
        "add-device --until tomorrow",
        "add-device --status Active!",
        "add-device --device-id é",
        "add-device --user -1",
        "set-status --device-id anna",
        "remove-device",
        "serve --secret s3cret",
    ] {
        let words = ["backend"].into_iter().chain(line.split(' '));
        assert!(Line::try_parse_from(words).is_err(), "{line}");
    }
}

#[tokio::test]
async fn localhost_is_served_on_by_ipv4() {
    let listener = bind("localhost:0").await.unwrap();
    assert!(listener.local_addr().unwrap().ip().is_ipv4());
    let problem = bind("localhost").await.unwrap_err();
    assert_eq!(problem.kind(), io::ErrorKind::InvalidInput);
}
