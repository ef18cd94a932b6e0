//! The streams of an authenticated client: what it may ask, and which of its requests are refused.

use crate::side::{Gateway, active, assert_refused};
use httvps_proto::{ErrorCode, Input, Limits, StreamRefusal};
use serde_json::json;
use std::time::Duration;

#[test]
fn an_opened_stream_is_reserved_and_gets_no_answer() {
    let mut gateway = active();
    let input =
        gateway.text(r#"{"type":"stream_open","stream_id":"a","target":"example.com:443"}"#);
    let Input::Open { stream, target } = input else { panic!("{input:?}") };
    assert_eq!(target.as_deref(), Some("example.com:443"));
    assert_eq!(gateway.session.stream_id(stream), Some("a"));
    assert_eq!(gateway.session.stream_count(), 1);
    gateway.session.opened(stream, &mut gateway.out);
    assert!(gateway.sent().is_empty());
}

#[test]
fn open_ack_is_sent_only_to_a_client_that_named_it() {
    let mut gateway = Gateway::active(Limits::default(), &["open_ack"]);
    let stream = gateway.open("a\"\n");
    assert!(gateway.sent().is_empty(), "not before the upstream stands");
    gateway.session.opened(stream, &mut gateway.out);
    assert_eq!(gateway.sent(), [json!({"type": "stream_opened", "stream_id": "a\"\n"})]);

    let mut gateway = Gateway::active(Limits::default(), &["go_away"]);
    let stream = gateway.open("a");
    gateway.session.opened(stream, &mut gateway.out);
    assert!(gateway.sent().is_empty());
}

#[test]
fn open_ack_for_a_stream_that_is_gone_is_not_sent() {
    let mut gateway = Gateway::active(Limits::default(), &["open_ack"]);
    let stream = gateway.open("a");
    gateway.text(r#"{"type":"stream_close","stream_id":"a"}"#);
    gateway.session.opened(stream, &mut gateway.out);
    assert!(gateway.sent().is_empty());
}

#[test]
fn payload_reaches_its_stream_in_whatever_form_the_frame_is_written() {
    let mut gateway = active();
    let (a, b) = (gateway.open("a"), gateway.open("b"));
    for (message, stream, payload) in [
        (r#"{"type":"stream_data","stream_id":"a","data":"aGk="}"#, a, &b"hi"[..]),
        (r#"{"data":"aGk=","stream_id":"b","type":"stream_data"}"#, b, b"hi"),
        (" {\n\"type\" : \"stream_data\",\t\"stream_id\":\"a\",\"data\":\"aGk=\"}\r\n", a, b"hi"),
        (r#"{"type":"stream_data","stream_id":"a","data":"aGk=","seq":7}"#, a, b"hi"),
        (r#"{"type":"stream_data","stream_id":"\u0061","data":"\/\/8="}"#, a, b"\xff\xff"),
        (r#"{"type":"stream_data","stream_id":"b","data":""}"#, b, b""),
    ] {
        assert_eq!(gateway.text(message), Input::Data { stream, data: payload }, "{message}");
    }
    assert!(gateway.sent().is_empty());
}

#[test]
fn the_payload_of_a_frame_is_at_the_front_of_the_scratch_buffer() {
    let mut gateway = active();
    gateway.open("a");
    for (data, more) in [("aGVsbG8=", ""), ("aGk=", r#","x":1"#)] {
        let message = format!(r#"{{"type":"stream_data","stream_id":"a","data":"{data}"{more}}}"#);
        let Input::Data { data, .. } = gateway.text(&message) else { panic!("{message}") };
        let payload = data.to_vec();
        assert!(!payload.is_empty() && gateway.scratch.starts_with(&payload));
    }
}

#[test]
fn payload_of_the_gateway_carries_the_id_as_the_client_wrote_it() {
    let mut gateway = active();
    for id in ["plain", "quote\"", "back\\slash", "\u{1}\n\t\u{7f}", "é🦀", "a/b", "\u{2028}"] {
        let stream = gateway.open(id);
        assert!(gateway.session.write(stream, b"hi", &mut gateway.out));
        assert_eq!(gateway.sent(), [json!({"type":"stream_data","stream_id":id,"data":"aGk="})]);
        let close = json!({"type": "stream_close", "stream_id": id}).to_string();
        assert_eq!(gateway.text(&close), Input::Close { stream });
    }
}

#[test]
fn a_close_frees_the_stream_without_an_answer() {
    let mut gateway = active();
    let stream = gateway.open("a");
    let close = r#"{"type":"stream_close","stream_id":"a","reason":"whatever the client says"}"#;
    assert_eq!(gateway.text(close), Input::Close { stream });
    assert!(gateway.sent().is_empty());
    assert_eq!(gateway.session.stream_count(), 0);
    assert_eq!(gateway.session.stream_id(stream), None);
    assert!(!gateway.session.write(stream, b"x", &mut gateway.out));
    assert!(gateway.sent().is_empty());
}

#[test]
fn an_id_may_be_used_again_after_a_close() {
    let mut gateway = active();
    for _ in 0..100 {
        let stream = gateway.open("a");
        assert_eq!(
            gateway.text(r#"{"type":"stream_data","stream_id":"a","data":"aGk="}"#),
            Input::Data { stream, data: b"hi" }
        );
        gateway.text(r#"{"type":"stream_close","stream_id":"a"}"#);
    }
    assert!(gateway.sent().is_empty());
}

#[test]
fn ids_that_differ_in_anything_are_different_streams() {
    let mut gateway = active();
    let keys = ["a", "A", "a ", "\u{e9}", "e\u{301}", "a\0"].map(|id| gateway.open(id));
    assert_eq!(gateway.session.stream_count(), keys.len());
}

#[test]
fn a_frame_about_an_unknown_stream_is_a_stream_error() {
    let mut gateway = active();
    gateway.open("a");
    for message in [
        r#"{"type":"stream_data","stream_id":"b","data":"aGk="}"#,
        r#"{"type":"stream_data","stream_id":"b","data":"aGk=","extra":1}"#,
        r#"{"type":"stream_close","stream_id":"b"}"#,
    ] {
        let more = json!({"stream_id": "b", "reason": "unknown_stream"});
        assert_refused(&mut gateway, message, ErrorCode::StreamError, more);
    }
}

#[test]
fn a_stream_that_the_client_closed_is_unknown() {
    let mut gateway = active();
    gateway.open("a");
    gateway.text(r#"{"type":"stream_close","stream_id":"a"}"#);
    for _ in 0..2 {
        let close = r#"{"type":"stream_close","stream_id":"a"}"#;
        let more = json!({"stream_id": "a", "reason": "unknown_stream"});
        assert_refused(&mut gateway, close, ErrorCode::StreamError, more);
    }
}

#[test]
fn a_duplicate_open_is_refused_and_the_first_stream_lives_on() {
    let mut gateway = active();
    let stream = gateway.open("a");
    let again = r#"{"type":"stream_open","stream_id":"a"}"#;
    let more = json!({"stream_id": "a", "reason": "duplicate_stream"});
    assert_refused(&mut gateway, again, ErrorCode::StreamError, more);
    assert_eq!(
        gateway.text(r#"{"type":"stream_data","stream_id":"a","data":"aGk="}"#),
        Input::Data { stream, data: b"hi" }
    );
}

#[test]
fn streams_beyond_the_limit_are_refused_until_one_ends() {
    let mut gateway = Gateway::active(Limits { max_streams: 2, ..Limits::default() }, &[]);
    gateway.open("a");
    let b = gateway.open("b");
    let third = r#"{"type":"stream_open","stream_id":"c"}"#;
    let input = gateway.text(third);
    let refusal = Some(StreamRefusal::Limit);
    assert_eq!(input, Input::Refused { code: ErrorCode::StreamError, refusal });
    gateway.out.clear();
    let more = json!({"stream_id": "c", "reason": "stream_limit"});
    assert_refused(&mut gateway, third, ErrorCode::StreamError, more);
    gateway.session.end(b, httvps_proto::StreamEnd::Eof, &mut gateway.out);
    gateway.out.clear();
    gateway.open("c");
}

#[test]
fn at_the_limit_a_duplicate_is_still_called_a_duplicate() {
    let mut gateway = Gateway::active(Limits { max_streams: 1, ..Limits::default() }, &[]);
    gateway.open("a");
    let more = json!({"stream_id": "a", "reason": "duplicate_stream"});
    let again = r#"{"type":"stream_open","stream_id":"a"}"#;
    assert_refused(&mut gateway, again, ErrorCode::StreamError, more);
}

#[test]
fn opens_come_in_a_burst_and_then_at_the_rate() {
    let limits = Limits {
        max_streams: 100,
        max_stream_opens_per_second: 10,
        max_stream_open_burst: 3,
        ..Limits::default()
    };
    let mut gateway = Gateway::active(limits, &[]);
    for id in ["a", "b", "c"] {
        gateway.open(id);
    }
    let fourth = r#"{"type":"stream_open","stream_id":"d"}"#;
    let more = json!({"stream_id": "d", "reason": "open_rate"});
    assert_refused(&mut gateway, fourth, ErrorCode::StreamError, more.clone());
    gateway.wait(Duration::from_millis(99));
    assert_refused(&mut gateway, fourth, ErrorCode::StreamError, more);
    gateway.wait(Duration::from_millis(1));
    gateway.open("d");
}

#[test]
fn an_open_that_is_refused_for_the_limit_costs_no_token_of_the_rate() {
    let limits = Limits {
        max_streams: 1,
        max_stream_opens_per_second: 1,
        max_stream_open_burst: 2,
        ..Limits::default()
    };
    let mut gateway = Gateway::active(limits, &[]);
    gateway.open("a");
    for _ in 0..10 {
        gateway.text(r#"{"type":"stream_open","stream_id":"b"}"#);
    }
    gateway.text(r#"{"type":"stream_close","stream_id":"a"}"#);
    gateway.open("b");
}

#[test]
fn an_open_rate_of_zero_is_no_limit() {
    let limits = Limits {
        max_streams: 5000,
        max_stream_opens_per_second: 0,
        max_stream_open_burst: 1,
        ..Limits::default()
    };
    let mut gateway = Gateway::active(limits, &[]);
    for id in 0..5000 {
        gateway.open(&id.to_string());
    }
}

#[test]
fn a_ping_is_answered_with_a_pong_and_a_pong_with_nothing() {
    let mut gateway = active();
    assert_eq!(gateway.text(r#"{"type":"ping"}"#), Input::Nothing);
    assert_eq!(gateway.text(r#"{"type":"ping","data":"x","t":[1]}"#), Input::Nothing);
    assert_eq!(gateway.sent(), [json!({"type": "pong"}), json!({"type": "pong"})]);
    assert_eq!(gateway.text(r#"{"type":"pong"}"#), Input::Nothing);
    assert!(gateway.sent().is_empty());
}
