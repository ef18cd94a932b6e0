//! From the first message to `auth_result`.

use crate::side::{ALLOWED, Gateway, SESSION_ID};
use httvps_proto::{CloseCause, Input, Limits, Verdict};
use serde_json::{Value, json};

fn gateway() -> Gateway {
    Gateway::new(Limits::default())
}

fn hello_with(key: &str, value: Value) -> String {
    let mut hello = json!({"type": "hello", "device_id": "d", "token": "t"});
    hello[key] = value;
    hello.to_string()
}

#[track_caller]
fn assert_bad_hello(message: &str) {
    let mut gateway = gateway();
    let input = gateway.text(message);
    let Input::Fatal(cause) = input else { panic!("{message}: {input:?}") };
    assert_eq!(cause.words(), "bad hello", "{message}");
    let answer = gateway.sent_one();
    assert_eq!(answer["type"], "error", "{message}");
    assert_eq!(answer["code"], "bad_hello", "{message}");
    assert!(answer["message"].is_string(), "{message}");
    gateway.assert_over();
}

#[test]
fn a_hello_comes_out_with_all_its_fields() {
    let mut gateway = gateway();
    let message = r#"{"type":"hello","device_id":"dev","token":"tok\"en","client_version":"app/2",
        "capabilities":["open_ack","x"],"region":"eu","unknown":{"a":[1]}}"#;
    let Input::Hello(hello) = gateway.text(message) else { panic!("not taken") };
    assert_eq!(hello.device_id, "dev");
    assert_eq!(hello.token, "tok\"en");
    assert_eq!(hello.client_version.as_deref(), Some("app/2"));
    assert_eq!(hello.capabilities, ["open_ack", "x"]);
    assert_eq!(hello.region.as_deref(), Some("eu"));
    assert!(gateway.sent().is_empty(), "the answer waits for the verdict");
}

#[test]
fn a_hello_needs_only_device_and_token_and_null_is_absent() {
    let mut gateway = gateway();
    let message = r#"{"type":"hello","device_id":"d","token":"t","client_version":null,
        "capabilities":null,"region":null}"#;
    let Input::Hello(hello) = gateway.text(message) else { panic!("not taken") };
    assert_eq!((hello.client_version, hello.region), (None, None));
    assert!(hello.capabilities.is_empty());
}

#[test]
fn the_token_is_not_in_the_debug_text_of_a_hello() {
    let mut gateway = gateway();
    let input = gateway.text(r#"{"type":"hello","device_id":"d","token":"hunter2"}"#);
    assert!(!format!("{input:?}").contains("hunter2"));
}

#[test]
fn a_first_message_of_another_type_is_a_bad_hello() {
    for kind in ["ping", "pong", "stream_open", "stream_data", "stream_close", "error", "Hello"] {
        let message = json!({"type": kind, "stream_id": "a", "data": "", "code": "x"}).to_string();
        assert_bad_hello(&message);
    }
    assert_bad_hello(r#"{"device_id":"d","token":"t"}"#);
}

#[test]
fn a_first_message_that_is_no_frame_is_a_bad_hello() {
    for message in ["", "hello", "[]", "null", "\"hello\"", "{", r#"{"type":7}"#, "{}\u{0}"] {
        assert_bad_hello(message);
    }
}

#[test]
fn a_binary_first_message_is_a_bad_hello() {
    let mut gateway = gateway();
    let input = gateway.session.handle_binary(gateway.now, &mut gateway.out);
    assert_eq!(input, Input::Fatal(CloseCause::BadHello));
    assert_eq!(gateway.sent_one()["code"], "bad_hello");
    gateway.assert_over();
}

#[test]
fn device_and_token_must_be_non_empty_strings() {
    for key in ["device_id", "token"] {
        for value in [json!(""), json!(null), json!(1), json!(["d"]), json!({}), json!(true)] {
            assert_bad_hello(&hello_with(key, value));
        }
    }
    assert_bad_hello(r#"{"type":"hello","device_id":"d"}"#);
    assert_bad_hello(r#"{"type":"hello","token":"t"}"#);
}

#[test]
fn a_field_of_the_hello_that_comes_twice_is_a_bad_hello() {
    for twice in [
        r#""token":"u""#,
        r#""device_id":null"#,
        r#""region":null,"region":"eu""#,
        r#""capabilities":[],"capabilities":[]"#,
    ] {
        assert_bad_hello(&format!(r#"{{"type":"hello","device_id":"d","token":"t",{twice}}}"#));
    }
}

#[test]
fn the_fields_of_a_hello_are_taken_up_to_their_limits_and_no_further() {
    for (key, limit) in [("device_id", 128), ("token", 8192)] {
        let at = hello_with(key, json!("x".repeat(limit)));
        assert!(matches!(gateway().text(&at), Input::Hello(_)), "{key}");
        assert_bad_hello(&hello_with(key, json!("x".repeat(limit + 1))));
    }
}

#[test]
fn the_optional_fields_of_a_hello_may_have_any_length() {
    for key in ["client_version", "region"] {
        let hello = hello_with(key, json!("x".repeat(5000)));
        assert!(matches!(gateway().text(&hello), Input::Hello(_)), "{key}");
    }
}

#[test]
fn lengths_are_counted_in_bytes() {
    assert_bad_hello(&hello_with("device_id", json!("é".repeat(65))));
    assert!(matches!(
        gateway().text(&hello_with("device_id", json!("é".repeat(64)))),
        Input::Hello(_)
    ));
}

#[test]
fn optional_fields_of_a_hello_must_have_their_type() {
    assert_bad_hello(&hello_with("client_version", json!(2)));
    assert_bad_hello(&hello_with("region", json!(["eu"])));
    for list in
        [json!("open_ack"), json!({}), json!([1]), json!(["a", null]), json!([["open_ack"]])]
    {
        assert_bad_hello(&hello_with("capabilities", list));
    }
}

#[test]
fn capabilities_beyond_the_first_32_are_ignored() {
    let mut names = vec!["x"; 31];
    names.extend(["go_away", "open_ack"]);
    let mut gateway = gateway();
    let hello = hello_with("capabilities", json!(names));
    let Input::Hello(hello) = gateway.text(&hello) else { panic!("not taken") };
    assert_eq!(hello.capabilities.len(), 32);
    gateway.verdict(&ALLOWED);
    assert_eq!(gateway.sent_one()["capabilities"], json!(["go_away"]));
}

#[test]
fn an_allowed_client_learns_its_session_and_its_limit() {
    let mut gateway = Gateway::new(Limits { max_streams: 5, ..Limits::default() });
    gateway.text(&hello_with("capabilities", json!([])));
    gateway.verdict(&ALLOWED);
    let expected = json!({"type": "auth_result", "allowed": true, "session_id": SESSION_ID,
        "subscription_status": "active", "max_streams": 5});
    assert_eq!(gateway.sent(), [expected]);
    gateway.assert_alive();
}

#[test]
fn a_status_that_the_backend_did_not_give_is_left_out() {
    let mut gateway = gateway();
    gateway.text(&hello_with("capabilities", json!([])));
    gateway.verdict(&Verdict::Allowed { session_id: SESSION_ID, subscription_status: None });
    assert_eq!(gateway.sent_one().get("subscription_status"), None);
}

#[test]
fn only_capabilities_that_both_sides_name_are_accepted() {
    for (named, accepted) in [
        (json!(["open_ack"]), Some(json!(["open_ack"]))),
        (json!(["go_away", "mux2", "open_ack", "go_away"]), Some(json!(["open_ack", "go_away"]))),
        (json!(["Open_Ack", "go_away "]), None),
        (json!([]), None),
    ] {
        let mut gateway = gateway();
        gateway.text(&hello_with("capabilities", named.clone()));
        gateway.verdict(&ALLOWED);
        assert_eq!(gateway.sent_one().get("capabilities"), accepted.as_ref(), "{named}");
    }
}

#[test]
fn a_refused_client_learns_why_and_the_session_is_over() {
    for status in [Some("expired"), None] {
        let mut gateway = gateway();
        gateway.text(&hello_with("region", json!("eu")));
        let reason = "no_active_subscription";
        gateway.verdict(&Verdict::Refused { reason, subscription_status: status });
        let mut expected = json!({"type": "auth_result", "allowed": false, "reason": reason});
        if let Some(status) = status {
            expected["subscription_status"] = json!(status);
        }
        assert_eq!(gateway.sent(), [expected]);
        gateway.assert_over();
    }
}

#[test]
fn a_device_without_a_node_gets_an_error_in_place_of_the_result() {
    let mut gateway = gateway();
    gateway.text(&hello_with("region", json!("eu")));
    gateway.verdict(&Verdict::Unavailable { reason: "no_outline_nodes_available" });
    let sent = gateway.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0]["type"], "error");
    assert_eq!(sent[0]["code"], "outline_unavailable");
    assert_eq!(sent[0]["reason"], "no_outline_nodes_available");
    gateway.assert_over();
}

#[test]
fn nothing_is_answered_while_the_backend_is_asked() {
    let mut gateway = gateway();
    gateway.text(&hello_with("region", json!("eu")));
    for message in [r#"{"type":"ping"}"#, r#"{"type":"stream_open","stream_id":"a"}"#, "garbage"] {
        assert_eq!(gateway.text(message), Input::Nothing);
    }
    assert_eq!(gateway.session.stream_count(), 0);
    assert!(gateway.sent().is_empty());
}

#[test]
fn a_verdict_before_the_hello_admits_no_client() {
    let mut gateway = gateway();
    gateway.verdict(&ALLOWED);
    assert!(gateway.sent().is_empty());
    assert_eq!(gateway.text(r#"{"type":"ping"}"#), Input::Fatal(CloseCause::BadHello));
}

#[test]
fn a_second_verdict_changes_nothing() {
    let mut gateway = Gateway::active(Limits::default(), &[]);
    gateway.open("a");
    gateway.verdict(&Verdict::Refused { reason: "late", subscription_status: None });
    gateway.verdict(&ALLOWED);
    assert!(gateway.sent().is_empty());
    assert_eq!(gateway.session.stream_count(), 1);
}
