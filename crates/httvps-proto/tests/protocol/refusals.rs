//! Frames of a client that are refused: their answers, and that the session and its streams live on.

use crate::side::{active, assert_refused};
use httvps_proto::{ErrorCode, Input};
use serde_json::json;

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
fn a_frame_has_at_most_4096_values_wherever_they_stand() {
    let mut gateway = active();
    // The frame, its type and the array itself are three of them.
    let entries = |count: usize| format!(r#"{{"type":"pong","x":[{}1]}}"#, "1,".repeat(count));
    let members = |count: usize| format!(r#"{{"type":"pong"{}}}"#, r#","x":"a,[{""#.repeat(count));
    assert_eq!(gateway.text(&entries(4093)), Input::Nothing);
    assert_eq!(gateway.text(&members(4095)), Input::Nothing);
    for message in [entries(4094), members(4096), members(100_000)] {
        assert_refused(&mut gateway, &message, ErrorCode::BadFrame, json!({}));
    }
    // Within a string nothing counts, whatever is escaped in it.
    let text = r#"\\,[{\","#.repeat(10_000);
    let message = format!(r#"{{"type":"pong","x":"{text}","y":"a"}}"#);
    assert_eq!(gateway.text(&message), Input::Nothing);
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
