//! What an authenticated client may ask, and how each mistake is answered.

use crate::side::Gateway;
use httvps_proto::{ErrorCode, Input, Limits, StreamRefusal};
use serde_json::{Value, json};
use std::time::Duration;

fn active() -> Gateway {
    Gateway::active(Limits::default(), &[])
}

/// That the message is refused with exactly this error (plain words aside), and nothing else suffers.
#[track_caller]
fn assert_refused(gateway: &mut Gateway, message: &str, code: ErrorCode, more: Value) {
    let streams = gateway.session.stream_count();
    let input = gateway.text(message);
    assert!(matches!(input, Input::Refused { code: c, .. } if c == code), "{message}: {input:?}");
    let mut answer = gateway.sent_one();
    let words = answer.as_object_mut().unwrap().remove("message");
    assert!(words.is_some_and(|words| words.as_str().is_some_and(|w| !w.is_empty())));
    let mut expected = json!({"type": "error", "code": code.as_str()});
    expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    assert_eq!(answer, expected, "{message}");
    assert_eq!(gateway.session.stream_count(), streams);
    gateway.assert_alive();
}

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
fn a_stream_frame_needs_an_id_that_is_a_non_empty_string() {
    let mut gateway = active();
    for kind in ["stream_open", "stream_data", "stream_close", "stream_opened"] {
        for id in [json!(""), json!(1), json!(null), json!(["a"]), json!({}), json!(false)] {
            let message = json!({"type": kind, "stream_id": id, "data": "aGk="}).to_string();
            assert_refused(&mut gateway, &message, ErrorCode::BadStream, json!({}));
        }
        let message = json!({"type": kind, "data": "aGk="}).to_string();
        assert_refused(&mut gateway, &message, ErrorCode::BadStream, json!({}));
    }
}

#[test]
fn an_id_of_64_bytes_is_taken_and_a_longer_one_is_not() {
    let mut gateway = active();
    gateway.open(&"x".repeat(64));
    let long = "x".repeat(65);
    let message = json!({"type": "stream_open", "stream_id": long}).to_string();
    let reason = json!({"reason": "stream_id_too_long"});
    assert_refused(&mut gateway, &message, ErrorCode::BadStream, reason);
}

#[test]
fn an_id_that_is_too_long_is_never_sent_back() {
    let mut gateway = active();
    let long = "x".repeat(65);
    let data = json!({"type": "stream_data", "stream_id": long, "data": "aGk="}).to_string();
    let more = json!({"reason": "unknown_stream"});
    assert_refused(&mut gateway, &data, ErrorCode::StreamError, more);
    let bad = json!({"type": "stream_data", "stream_id": long, "data": 1}).to_string();
    assert_refused(&mut gateway, &bad, ErrorCode::BadStream, json!({}));
}

#[test]
fn a_target_must_be_a_string_of_at_most_262_bytes() {
    let mut gateway = active();
    for target in [json!(1), json!({}), json!(["a:1"]), json!("x".repeat(263))] {
        let message = json!({"type": "stream_open", "stream_id": "a", "target": target});
        let more = json!({"stream_id": "a"});
        assert_refused(&mut gateway, &message.to_string(), ErrorCode::BadStream, more);
    }
    for (id, target) in [("a", json!(null)), ("b", json!("")), ("c", json!("x".repeat(262)))] {
        let message = json!({"type": "stream_open", "stream_id": id, "target": target}).to_string();
        let input = gateway.text(&message);
        let Input::Open { target: taken, .. } = input else { panic!("{message}: {input:?}") };
        assert_eq!(taken.as_deref(), target.as_str());
    }
}

#[test]
fn a_target_that_the_upstream_refuses_is_a_bad_stream() {
    let mut gateway = active();
    let stream = gateway.open("a");
    let input = gateway.session.refuse_target(gateway.now, stream, "no port", &mut gateway.out);
    assert_eq!(input, Input::Refused { code: ErrorCode::BadStream, refusal: None });
    let expected = json!({"type": "error", "code": "bad_stream", "message": "no port",
        "stream_id": "a", "reason": "bad_target"});
    assert_eq!(gateway.sent(), [expected]);
    assert_eq!(gateway.session.stream_count(), 0);
    gateway.open("a");
}

#[test]
fn data_that_is_not_padded_standard_base64_is_a_bad_stream_and_the_stream_lives_on() {
    let mut gateway = active();
    let stream = gateway.open("a");
    for data in [
        "aGk",         // no padding
        "aGk==",       // too much of it
        "aG=k",        // in the middle
        "aGk=aGk=",    // two texts in one
        "a",           // no whole byte
        "=",           // nothing but padding
        "====",        // likewise
        "aGl=",        // bits that encode nothing are set
        "aH==",        // likewise
        "-_8=",        // the URL-safe alphabet
        "aG k",        // white space
        "aGk=\\n",     // at the end
        "\\r\\naGk=",  // at the beginning
        "aGkö",        // outside ASCII
        "aGk=\\u0000", // NUL
        "a.b=",        // another character
    ] {
        let message = format!(r#"{{"type":"stream_data","stream_id":"a","data":"{data}"}}"#);
        assert_refused(&mut gateway, &message, ErrorCode::BadStream, json!({"stream_id": "a"}));
    }
    assert_eq!(
        gateway.text(r#"{"type":"stream_data","stream_id":"a","data":"aGk="}"#),
        Input::Data { stream, data: b"hi" }
    );
}

#[test]
fn data_must_be_a_string() {
    let mut gateway = active();
    gateway.open("a");
    for data in [json!(1), json!(null), json!([1, 2]), json!({}), json!(true)] {
        let message = json!({"type": "stream_data", "stream_id": "a", "data": data}).to_string();
        assert_refused(&mut gateway, &message, ErrorCode::BadStream, json!({"stream_id": "a"}));
    }
    let message = r#"{"type":"stream_data","stream_id":"a"}"#;
    assert_refused(&mut gateway, message, ErrorCode::BadStream, json!({"stream_id": "a"}));
}

#[test]
fn a_close_whose_reason_is_no_string_is_a_bad_stream_and_closes_nothing() {
    let mut gateway = active();
    gateway.open("a");
    let message = r#"{"type":"stream_close","stream_id":"a","reason":1}"#;
    assert_refused(&mut gateway, message, ErrorCode::BadStream, json!({"stream_id": "a"}));
    assert_eq!(gateway.session.stream_count(), 1);
}

#[test]
fn what_is_no_json_object_is_a_bad_frame() {
    let mut gateway = active();
    for message in [
        "",
        " ",
        "garbage",
        "[]",
        "null",
        "1",
        "\"ping\"",
        "{",
        "{}}",
        "{}{}",
        "{type:\"ping\"}",
        r#"{"type":"ping",}"#,
        "{'type':'ping'}",
        "\u{feff}{\"type\":\"ping\"}",
        "{\"type\":\"ping\"}\0",
        "{\"type\":\"pi\nng\"}",
        "{\"type\":\"ping\",\"data\":\"\n\"}",
        "{\"type\":\"pong\",\"stream_id\":\"\u{1}\"}",
        r#"{"type":"ping\}"#,
        r#"{"type":"stream_data\,"stream_id":"a","data":"aGk="}"#,
        r#"{"type":"\ud800"}"#,
        r#"{"type":"\x"}"#,
    ] {
        assert_refused(&mut gateway, message, ErrorCode::BadFrame, json!({}));
    }
}

#[test]
fn a_type_that_is_no_string_is_a_bad_frame() {
    let mut gateway = active();
    for message in [r#"{"type":1}"#, r#"{"type":["ping"]}"#, r#"{"type":{}}"#, r#"{"type":true}"#] {
        assert_refused(&mut gateway, message, ErrorCode::BadFrame, json!({}));
    }
}

#[test]
fn a_known_key_that_comes_twice_is_a_bad_frame() {
    let mut gateway = active();
    gateway.open("a");
    for message in [
        r#"{"type":"ping","type":"ping"}"#,
        r#"{"type":null,"type":"ping"}"#,
        r#"{"type":"ping","type":null}"#,
        r#"{"type":"stream_data","stream_id":"a","stream_id":"b","data":""}"#,
        r#"{"type":"stream_data","stream_id":"a","data":"","data":""}"#,
        r#"{"type":"ping","\u0074ype":"ping"}"#,
        r#"{"type":"ping","allowed":true,"allowed":true}"#,
        r#"{"type":"ping","max_streams":null,"max_streams":1}"#,
    ] {
        assert_refused(&mut gateway, message, ErrorCode::BadFrame, json!({}));
    }
    assert_eq!(gateway.text(r#"{"type":"pong","x":1,"x":2}"#), Input::Nothing);
}

#[test]
fn nesting_is_taken_to_128_levels_and_no_further_wherever_it_stands() {
    let mut gateway = active();
    gateway.open("a");
    let nested = |key: &str, levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!(r#"{{"type":"stream_data","stream_id":"a","{key}":{open}{close}}}"#)
    };
    for levels in [2, 3, 127, 128] {
        // A value of another type: the frame is understood, and its data is bad.
        let more = json!({"stream_id": "a"});
        assert_refused(&mut gateway, &nested("data", levels), ErrorCode::BadStream, more.clone());
        assert_refused(&mut gateway, &nested("x", levels), ErrorCode::BadStream, more);
    }
    for levels in [129, 1000, 200_000] {
        assert_refused(&mut gateway, &nested("data", levels), ErrorCode::BadFrame, json!({}));
        assert_refused(&mut gateway, &nested("x", levels), ErrorCode::BadFrame, json!({}));
    }
    let objects =
        format!(r#"{{"type":"pong","x":{}1{}}}"#, r#"{"x":"#.repeat(127), "}".repeat(127));
    assert_eq!(gateway.text(&objects), Input::Nothing);
    let objects = objects.replace('1', r#"{"x":1}"#);
    assert_refused(&mut gateway, &objects, ErrorCode::BadFrame, json!({}));
}

#[test]
fn brackets_inside_strings_do_not_nest() {
    let mut gateway = active();
    let message = format!(r#"{{"type":"pong","x":"\"{}\\"}}"#, "[{".repeat(500));
    assert_eq!(gateway.text(&message), Input::Nothing);
}

#[test]
fn a_binary_message_is_a_bad_frame() {
    let mut gateway = active();
    let input = gateway.session.handle_binary(gateway.now, &mut gateway.out);
    assert_eq!(input, Input::Refused { code: ErrorCode::BadFrame, refusal: None });
    assert_eq!(gateway.sent_one()["code"], "bad_frame");
    gateway.assert_alive();
}

#[test]
fn a_second_hello_is_unsupported_whatever_is_in_it() {
    let mut gateway = active();
    gateway.open("a");
    for message in
        [r#"{"type":"hello","device_id":"d","token":"t"}"#, r#"{"type":"hello","device_id":1}"#]
    {
        assert_refused(&mut gateway, message, ErrorCode::Unsupported, json!({}));
    }
}

#[test]
fn types_that_only_a_gateway_sends_are_unsupported() {
    let mut gateway = active();
    gateway.open("a");
    for message in [
        r#"{"type":"auth_result","allowed":true}"#,
        r#"{"type":"error","code":"bad_frame"}"#,
        r#"{"type":"go_away"}"#,
        r#"{"type":"stream_opened","stream_id":"a"}"#,
    ] {
        assert_refused(&mut gateway, message, ErrorCode::Unsupported, json!({}));
    }
}

#[test]
fn an_unknown_or_missing_type_is_unsupported() {
    let mut gateway = active();
    for message in
        ["{}", r#"{"type":null}"#, r#"{"type":""}"#, r#"{"type":"PING"}"#, r#"{"stream_id":"a"}"#]
    {
        assert_refused(&mut gateway, message, ErrorCode::Unsupported, json!({}));
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
