//! The client's side.

use crate::side::Client;
use httvps_proto::{ClientInput, ClientSession, OpenError, StreamEnd};
use serde_json::json;

#[test]
fn the_hello_is_the_first_thing_sent_and_names_the_capabilities() {
    let mut out = Vec::new();
    ClientSession::hello("dev", "to\"k", "app/1", Some("eu"), false, &mut out);
    let hello: serde_json::Value = serde_json::from_slice(&out[0]).unwrap();
    assert_eq!(out.len(), 1);
    let expected = json!({"type": "hello", "device_id": "dev", "token": "to\"k",
        "client_version": "app/1", "capabilities": ["open_ack", "go_away"], "region": "eu"});
    assert_eq!(hello, expected);
}

#[test]
fn nothing_can_be_opened_before_the_gateway_allows_it() {
    let mut client = Client::new();
    client.out.clear();
    assert_eq!(client.session.open(None, &mut client.out), Err(OpenError::NotActive));
    client.frame(json!({"type": "stream_opened", "stream_id": "1"}));
    assert_eq!(client.session.open(None, &mut client.out), Err(OpenError::NotActive));
    assert!(client.sent().is_empty());
}

#[test]
fn a_refusal_ends_the_session_with_its_reason() {
    let mut client = Client::new();
    client.out.clear();
    let input = client.text(r#"{"type":"auth_result","allowed":false,"reason":"invalid_token"}"#);
    let ClientInput::Authenticated(result) = input else { panic!("{input:?}") };
    assert!(!result.allowed);
    assert_eq!(result.reason.as_deref(), Some("invalid_token"));
    assert_eq!(client.session.open(None, &mut client.out), Err(OpenError::NotActive));
    client.frame(json!({"type": "auth_result", "allowed": true}));
    assert_eq!(client.session.open(None, &mut client.out), Err(OpenError::NotActive));
}

#[test]
fn an_answer_that_does_not_say_allowed_is_a_refusal() {
    for allowed in [json!(null), json!("true"), json!(1), json!([true])] {
        let mut client = Client::new();
        client.frame(json!({"type": "auth_result", "allowed": allowed, "session_id": "s"}));
        assert_eq!(client.session.open(None, &mut client.out), Err(OpenError::NotActive));
    }
}

#[test]
fn an_answer_that_says_two_things_is_taken_for_neither() {
    let mut client = Client::new();
    let twice = r#"{"type":"auth_result","allowed":false,"allowed":true}"#;
    assert!(matches!(client.text(twice), ClientInput::Error { .. }));
    assert_eq!(client.session.open(None, &mut client.out), Err(OpenError::NotActive));
}

#[test]
fn a_second_auth_result_changes_nothing() {
    let mut client = Client::active(json!({"max_streams": 3}));
    assert_eq!(client.frame(json!({"type": "auth_result", "allowed": false})), "Nothing");
    assert_eq!(client.session.max_streams(), 3);
    client.open();
}

#[test]
fn the_limit_is_the_one_announced_and_eight_otherwise() {
    for (more, limit) in
        [(json!({}), 8), (json!({"max_streams": 2}), 2), (json!({"max_streams": -1}), 8)]
    {
        let mut client = Client::active(more);
        for _ in 0..limit {
            client.open();
        }
        assert_eq!(client.session.open(None, &mut client.out), Err(OpenError::Limit));
        assert_eq!(client.sent().len(), limit);
    }
}

#[test]
fn open_ack_is_on_only_when_the_gateway_accepted_it() {
    assert!(Client::active(json!({"capabilities": ["x", "open_ack"]})).session.has_open_ack());
    for more in
        [json!({}), json!({"capabilities": ["go_away"]}), json!({"capabilities": "open_ack"})]
    {
        assert!(!Client::active(more).session.has_open_ack());
    }
}

#[test]
fn an_id_is_never_used_twice() {
    let mut client = Client::active(json!({"max_streams": 2}));
    let mut ids = std::collections::HashSet::new();
    for _ in 0..100 {
        let stream = client.open();
        let sent = client.sent();
        assert_eq!(sent[0]["type"], "stream_open");
        assert_eq!(sent[0]["target"], "example.com:80");
        assert!(ids.insert(sent[0]["stream_id"].as_str().unwrap().to_owned()));
        client.session.close(stream, &mut client.out);
        client.sent();
    }
}

#[test]
fn a_stream_without_a_target_has_no_such_field() {
    let mut client = Client::active(json!({}));
    client.session.open(None, &mut client.out).unwrap();
    assert_eq!(client.sent(), [json!({"type": "stream_open", "stream_id": "1"})]);
}

#[test]
fn payload_may_be_written_at_once_and_comes_back_to_its_stream() {
    let mut client = Client::active(json!({}));
    let stream = client.open();
    client.sent();
    assert!(client.session.write(stream, b"hi", &mut client.out));
    assert_eq!(client.sent(), [json!({"type":"stream_data","stream_id":"1","data":"aGk="})]);
    let echo = r#"{"type":"stream_data","stream_id":"1","data":"aGk="}"#;
    assert_eq!(client.text(echo), ClientInput::Data { stream, data: b"hi" });
}

#[test]
fn a_closed_stream_is_gone_and_what_crossed_the_close_is_ignored() {
    let mut client = Client::active(json!({}));
    let stream = client.open();
    client.sent();
    assert!(client.session.close(stream, &mut client.out));
    assert_eq!(client.sent(), [json!({"type": "stream_close", "stream_id": "1"})]);
    assert_eq!(client.session.stream_count(), 0);
    for frame in [
        json!({"type": "stream_data", "stream_id": "1", "data": "aGk="}),
        json!({"type": "stream_opened", "stream_id": "1"}),
        json!({"type": "stream_close", "stream_id": "1", "reason": "eof"}),
        json!({"type": "error", "code": "stream_error", "stream_id": "1", "reason": "reset"}),
        json!({"type": "error", "code": "stream_error", "stream_id": "1", "reason": "unknown_stream"}),
    ] {
        assert_eq!(client.frame(frame.clone()), "Nothing", "{frame}");
    }
    assert!(!client.session.write(stream, b"x", &mut client.out));
    assert!(!client.session.close(stream, &mut client.out));
    assert!(client.sent().is_empty());
}

#[test]
fn the_end_of_the_target_frees_the_stream() {
    for reason in [json!("eof"), json!(null)] {
        let mut client = Client::active(json!({}));
        let stream = client.open();
        let message =
            json!({"type": "stream_close", "stream_id": "1", "reason": reason}).to_string();
        let ClientInput::Ended { stream: ended, end, .. } = client.text(&message) else { panic!() };
        assert_eq!((ended, end), (stream, Some(StreamEnd::Eof)));
        assert_eq!(client.session.stream_count(), 0);
    }
}

#[test]
fn every_failure_that_the_gateway_can_name_is_understood() {
    let mut client = Client::active(json!({}));
    for expected in StreamEnd::ALL {
        client.open();
        let id = client.sent()[0]["stream_id"].clone();
        let message = json!({"type": "error", "code": "stream_error", "message": expected.words(),
            "stream_id": id, "reason": expected.as_str()})
        .to_string();
        let ClientInput::Ended { end, words, .. } = client.text(&message) else { panic!() };
        assert_eq!(end, Some(*expected));
        assert_eq!(words, expected.words());
        assert_eq!(client.session.stream_count(), 0);
    }
}

#[test]
fn a_reason_that_is_not_known_ends_the_stream_all_the_same() {
    let mut client = Client::active(json!({}));
    client.open();
    let message = r#"{"type":"error","code":"stream_error","stream_id":"1","reason":"new_one"}"#;
    let ClientInput::Ended { end: None, words, .. } = client.text(message) else { panic!() };
    assert_eq!(words, "stream_error", "without a message the code has to do");
    client.open();
    let message = r#"{"type":"stream_close","stream_id":"2","reason":"because"}"#;
    let ClientInput::Ended { end: None, words, .. } = client.text(message) else { panic!() };
    assert_eq!(words, "because");
}

#[test]
fn a_stream_refused_for_the_limit_lowers_the_limit() {
    let mut client = Client::active(json!({}));
    let streams = [client.open(), client.open(), client.open()];
    let refused =
        r#"{"type":"error","code":"stream_error","stream_id":"3","reason":"stream_limit"}"#;
    assert_eq!(client.text(refused), ClientInput::NoPlace(streams[2]));
    assert_eq!((client.session.stream_count(), client.session.max_streams()), (2, 2));
}

#[test]
fn a_stream_refused_for_the_rate_does_not_lower_the_limit() {
    let mut client = Client::active(json!({"max_streams": 6}));
    let stream = client.open();
    let refused = r#"{"type":"error","code":"stream_error","stream_id":"1","reason":"open_rate"}"#;
    assert_eq!(client.text(refused), ClientInput::NoPlace(stream));
    assert_eq!((client.session.stream_count(), client.session.max_streams()), (0, 6));
}

#[test]
fn the_limit_never_sinks_below_one() {
    let mut client = Client::active(json!({}));
    client.open();
    client
        .text(r#"{"type":"error","code":"stream_error","stream_id":"1","reason":"stream_limit"}"#);
    assert_eq!(client.session.max_streams(), 1);
    client.open();
}

#[test]
fn an_error_that_names_no_stream_leaves_the_streams_alone() {
    let mut client = Client::active(json!({}));
    client.open();
    let message = r#"{"type":"error","code":"stream_error","message":"something"}"#;
    let expected =
        ClientInput::Error { code: "stream_error".into(), words: "something".into(), reason: None };
    assert_eq!(client.text(message), expected);
    assert_eq!(client.session.stream_count(), 1);
}

#[test]
fn what_is_no_frame_is_reported_and_harms_nothing() {
    let mut client = Client::active(json!({}));
    client.open();
    client.sent();
    for message in [
        "",
        "garbage",
        "[]",
        r#"{"type":1}"#,
        r#"{"type":"stream_data","stream_id":"1","data":"!"}"#,
        r#"{"type":"stream_close"}"#,
        r#"{"type":"hello"}"#,
    ] {
        assert!(matches!(client.text(message), ClientInput::Error { .. }), "{message}");
    }
    assert_eq!(client.session.stream_count(), 1);
    assert!(client.sent().is_empty());
}

#[test]
fn frames_that_a_gateway_does_not_send_are_ignored() {
    let mut client = Client::active(json!({}));
    client.open();
    client.sent();
    for frame in [
        json!({"type": "hello", "device_id": "d", "token": "t"}),
        json!({"type": "stream_open", "stream_id": "9"}),
        json!({"type": "pong"}),
        json!({"type": "from_the_future", "stream_id": "1"}),
        json!({}),
    ] {
        assert_eq!(client.frame(frame.clone()), "Nothing", "{frame}");
    }
    assert_eq!(client.session.stream_count(), 1);
    assert!(client.sent().is_empty());
}

#[test]
fn a_ping_is_answered_with_a_pong() {
    let mut client = Client::active(json!({}));
    assert_eq!(client.frame(json!({"type": "ping"})), "Nothing");
    assert_eq!(client.sent(), [json!({"type": "pong"})]);
}

#[test]
fn the_news_of_an_upstream_that_stands_reaches_its_stream() {
    let mut client = Client::active(json!({"capabilities": ["open_ack"]}));
    let stream = client.open();
    let message = r#"{"type":"stream_opened","stream_id":"1"}"#;
    assert_eq!(client.text(message), ClientInput::Opened(stream));
}

#[test]
fn a_drain_leaves_the_open_streams_open() {
    let mut client = Client::active(json!({}));
    client.open();
    assert_eq!(client.frame(json!({"type": "go_away", "deadline_ms": "soon"})), "GoAway");
    assert_eq!(client.session.stream_count(), 1);
}
