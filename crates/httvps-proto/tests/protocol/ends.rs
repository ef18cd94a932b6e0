//! How streams and sessions end, and what crosses on the wire while they do.

use crate::side::Gateway;
use httvps_proto::{CloseCause, ErrorCode, Input, Limits, StreamEnd, StreamRefusal};
use serde_json::{Value, json};
use std::time::Duration;

fn active() -> Gateway {
    Gateway::active(Limits::default(), &[])
}

/// A session that bears `burst` errors at once and one more a second.
fn touchy(burst: u32) -> Gateway {
    let limits = Limits { max_errors_per_second: 1, max_error_burst: burst, ..Limits::default() };
    Gateway::active(limits, &[])
}

const UNKNOWN: Input<'static> =
    Input::Refused { code: ErrorCode::StreamError, refusal: Some(StreamRefusal::Unknown) };
const DATA_FOR_A: &str = r#"{"type":"stream_data","stream_id":"a","data":"aGk="}"#;
const CLOSE_OF_A: &str = r#"{"type":"stream_close","stream_id":"a"}"#;

#[test]
fn the_end_of_the_target_is_a_stream_close() {
    let mut gateway = active();
    let stream = gateway.open("a");
    assert!(gateway.session.end(stream, StreamEnd::Eof, &mut gateway.out));
    assert_eq!(gateway.sent(), [json!({"type":"stream_close","stream_id":"a","reason":"eof"})]);
    assert_eq!(gateway.session.stream_count(), 0);
}

#[test]
fn every_failure_is_one_error_that_names_the_stream_and_the_reason() {
    let mut gateway = active();
    for end in StreamEnd::ALL {
        if matches!(end, StreamEnd::Eof | StreamEnd::ClientClosed) {
            continue;
        }
        let stream = gateway.open("a\"");
        assert!(gateway.session.end(stream, *end, &mut gateway.out));
        let expected = json!({"type": "error", "code": "stream_error", "message": end.words(),
            "stream_id": "a\"", "reason": end.as_str()});
        assert_eq!(gateway.sent(), [expected]);
        assert_eq!(gateway.session.stream_count(), 0);
    }
    gateway.assert_alive();
}

#[test]
fn a_stream_that_the_client_closed_ends_without_a_word() {
    let mut gateway = active();
    let stream = gateway.open("a");
    assert!(gateway.session.end(stream, StreamEnd::ClientClosed, &mut gateway.out));
    assert!(gateway.sent().is_empty());
    assert_eq!(gateway.session.stream_count(), 0);
}

#[test]
fn a_stream_ends_once() {
    let mut gateway = active();
    let stream = gateway.open("a");
    gateway.session.end(stream, StreamEnd::Reset, &mut gateway.out);
    gateway.out.clear();
    assert!(!gateway.session.end(stream, StreamEnd::Eof, &mut gateway.out));
    assert!(!gateway.session.write(stream, b"late", &mut gateway.out));
    gateway.session.opened(stream, &mut gateway.out);
    assert!(gateway.sent().is_empty());
}

#[test]
fn an_id_may_be_used_again_after_every_end() {
    let mut gateway = active();
    for end in StreamEnd::ALL {
        let stream = gateway.open("a");
        assert_eq!(gateway.text(DATA_FOR_A), Input::Data { stream, data: b"hi" });
        gateway.session.end(stream, *end, &mut gateway.out);
        gateway.text(DATA_FOR_A);
    }
}

#[test]
fn data_that_crosses_an_end_costs_one_error_and_then_silence() {
    let mut gateway = touchy(1);
    let stream = gateway.open("a");
    gateway.session.end(stream, StreamEnd::Stalled, &mut gateway.out);
    gateway.out.clear();
    assert_eq!(gateway.text(DATA_FOR_A), UNKNOWN);
    let answer = gateway.sent_one();
    assert_eq!((&answer["stream_id"], &answer["reason"]), (&json!("a"), &json!("unknown_stream")));
    for _ in 0..10_000 {
        assert_eq!(gateway.text(DATA_FOR_A), Input::Nothing);
    }
    assert_eq!(gateway.text(CLOSE_OF_A), Input::Nothing);
    assert!(gateway.sent().is_empty());
    gateway.assert_has_errors_left();
}

#[test]
fn a_close_that_crosses_an_end_does_not_count_towards_the_flood() {
    let mut gateway = touchy(1);
    for _ in 0..300 {
        let stream = gateway.open("a");
        gateway.session.end(stream, StreamEnd::Eof, &mut gateway.out);
        assert_eq!(gateway.text(CLOSE_OF_A), UNKNOWN);
    }
    gateway.assert_has_errors_left();
}

#[test]
fn data_sent_along_with_an_open_that_is_refused_does_not_count_towards_the_flood() {
    let limits = Limits {
        max_streams: 1,
        max_errors_per_second: 1,
        max_error_burst: 3,
        ..Limits::default()
    };
    let mut gateway = Gateway::active(limits, &[]);
    let first = gateway.open("first");
    gateway.text(r#"{"type":"stream_open","stream_id":"a"}"#);
    for _ in 0..100 {
        assert!(!matches!(gateway.text(DATA_FOR_A), Input::Fatal(_)));
    }
    gateway.session.end(first, StreamEnd::Eof, &mut gateway.out);
    let stream = gateway.open("a");
    assert_eq!(gateway.text(DATA_FOR_A), Input::Data { stream, data: b"hi" });
    gateway.session.refuse_target(gateway.now, stream, "no port", &mut gateway.out);
    for _ in 0..100 {
        assert!(!matches!(gateway.text(DATA_FOR_A), Input::Fatal(_)));
    }
    // Of three errors the two refusals have cost one each.
    gateway.assert_has_errors_left();
}

#[test]
fn a_duplicate_open_does_not_excuse_later_frames_about_the_stream() {
    let mut gateway = active();
    gateway.open("a");
    gateway.text(r#"{"type":"stream_open","stream_id":"a"}"#);
    gateway.text(CLOSE_OF_A);
    gateway.out.clear();
    for _ in 0..3 {
        assert_eq!(gateway.text(DATA_FOR_A), UNKNOWN);
        gateway.sent_one();
    }
}

#[test]
fn an_id_that_is_used_again_is_no_longer_excused() {
    let mut gateway = active();
    let stream = gateway.open("a");
    gateway.session.end(stream, StreamEnd::Eof, &mut gateway.out);
    gateway.open("a");
    gateway.text(CLOSE_OF_A);
    gateway.out.clear();
    for _ in 0..3 {
        assert_eq!(gateway.text(DATA_FOR_A), UNKNOWN);
        gateway.sent_one();
    }
}

#[test]
fn only_the_last_32_streams_that_were_taken_away_are_excused() {
    let mut gateway = active();
    for id in 0..33 {
        let stream = gateway.open(&id.to_string());
        gateway.session.end(stream, StreamEnd::Eof, &mut gateway.out);
    }
    gateway.out.clear();
    let twice = |gateway: &mut Gateway, id: u32| {
        let close = json!({"type": "stream_close", "stream_id": id.to_string()}).to_string();
        gateway.text(&close);
        gateway.text(&close);
        gateway.sent().len()
    };
    assert_eq!(twice(&mut gateway, 0), 2);
    assert_eq!(twice(&mut gateway, 1), 1);
    assert_eq!(twice(&mut gateway, 32), 1);
}

/// That the session ended as a flood, and says so once.
#[track_caller]
fn assert_flooded(gateway: &mut Gateway, input: &Input<'static>) {
    assert_eq!(*input, Input::Fatal(CloseCause::ErrorFlood));
    let last: Value = gateway.sent().pop().unwrap();
    assert_eq!((&last["code"], &last["reason"]), (&json!("session_error"), &json!("error_flood")));
    gateway.assert_over();
}

#[test]
fn a_flood_of_bad_frames_closes_the_session() {
    let mut gateway = touchy(5);
    for _ in 0..5 {
        assert!(matches!(gateway.text("garbage"), Input::Refused { .. }));
    }
    assert_eq!(gateway.sent().len(), 5);
    let input = gateway.text("garbage");
    assert_eq!(input, Input::Fatal(CloseCause::ErrorFlood));
    assert_flooded(&mut gateway, &Input::Fatal(CloseCause::ErrorFlood));
}

#[test]
fn a_flood_of_binary_messages_closes_the_session() {
    let mut gateway = touchy(1);
    gateway.session.handle_binary(gateway.now, &mut gateway.out);
    let input = gateway.session.handle_binary(gateway.now, &mut gateway.out);
    assert_flooded(&mut gateway, &input);
}

#[test]
fn a_flood_of_bad_targets_closes_the_session() {
    let mut gateway = touchy(1);
    let stream = gateway.open("a");
    gateway.session.refuse_target(gateway.now, stream, "bad", &mut gateway.out);
    let stream = gateway.open("a");
    let input = gateway.session.refuse_target(gateway.now, stream, "bad", &mut gateway.out);
    assert_flooded(&mut gateway, &input);
}

#[test]
fn a_flood_of_unknown_streams_closes_the_session() {
    let mut gateway = touchy(2);
    gateway.text(DATA_FOR_A);
    gateway.text(CLOSE_OF_A);
    assert!(matches!(gateway.text(DATA_FOR_A), Input::Fatal(_)));
    assert_flooded(&mut gateway, &Input::Fatal(CloseCause::ErrorFlood));
}

#[test]
fn errors_below_the_rate_never_close_the_session() {
    let mut gateway = touchy(2);
    for _ in 0..1000 {
        gateway.wait(Duration::from_secs(1));
        assert!(matches!(gateway.text("garbage"), Input::Refused { .. }));
    }
    gateway.assert_alive();
}

#[test]
fn failures_of_targets_are_not_the_clients_errors() {
    let mut gateway = touchy(1);
    for _ in 0..300 {
        let stream = gateway.open("a");
        gateway.session.end(stream, StreamEnd::Refused, &mut gateway.out);
    }
    gateway.assert_has_errors_left();
}

#[test]
fn an_error_rate_of_zero_is_no_limit() {
    let limits = Limits { max_errors_per_second: 0, max_error_burst: 1, ..Limits::default() };
    let mut gateway = Gateway::active(limits, &[]);
    for _ in 0..5000 {
        assert!(matches!(gateway.text("garbage"), Input::Refused { .. }));
    }
}

#[test]
fn a_drain_is_announced_only_to_a_client_that_named_go_away() {
    let mut gateway = Gateway::active(Limits::default(), &["go_away"]);
    let stream = gateway.open("a");
    assert!(gateway.session.go_away(Duration::from_millis(9500), &mut gateway.out));
    let expected = json!({"type": "go_away", "reason": "draining", "deadline_ms": 9500});
    assert_eq!(gateway.sent(), [expected]);
    assert_eq!(gateway.text(DATA_FOR_A), Input::Data { stream, data: b"hi" });

    assert!(gateway.session.may_outlive_drain());

    let mut gateway = Gateway::active(Limits::default(), &["open_ack"]);
    assert!(!gateway.session.go_away(Duration::from_secs(9), &mut gateway.out));
    assert!(gateway.sent().is_empty());
    assert!(!gateway.session.may_outlive_drain());
}

#[test]
fn a_drain_before_the_hello_is_not_announced() {
    let mut gateway = Gateway::new(Limits::default());
    assert!(!gateway.session.go_away(Duration::from_secs(9), &mut gateway.out));
    gateway.text(r#"{"type":"hello","device_id":"d","token":"t","capabilities":["go_away"]}"#);
    assert!(!gateway.session.go_away(Duration::from_secs(9), &mut gateway.out));
    assert!(gateway.sent().is_empty());
}
