//! Properties of the codec: what is encoded is decoded, nothing panics, and the fast path means
//! what the slow one does.

use crate::side::{Client, Gateway};
use crate::slow::{Fault, Fields};
use httvps_proto::json::{self, AuthResult, Frame, Hello, decode, encoded_data_len};
use httvps_proto::{ErrorCode, Limits};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::de::IgnoredAny;
use serde_json::Value;

/// That decoder, fast path and all, and the slow one say the same of a message; and that neither
/// side of a session panics over it.
pub fn check(message: &[u8]) -> Result<(), TestCaseError> {
    let mut scratch = Vec::new();
    let real = decode(message, &mut scratch);
    let Ok(text) = std::str::from_utf8(message) else {
        return Ok(());
    };
    let mut payload = Vec::new();
    match Fields::parse(message) {
        Some(fields) => match (real, fields.judge(&mut payload)) {
            (Ok(real), Ok(slow)) => prop_assert_eq!(real, slow),
            (Err(real), Err(slow)) => prop_assert_eq!(Fault::from(&real), slow),
            (real, slow) => prop_assert!(false, "decoded {:?}, expected {:?}", real, slow),
        },
        // The slow parser reads the values of unknown keys, where it refuses some that are sound
        // JSON (a number beyond f64, half a surrogate pair); what is no JSON at all is no frame.
        None if serde_json::from_slice::<IgnoredAny>(message).is_err() => {
            prop_assert_eq!(real.map_err(|bad| Fault::from(&bad)), Err(Fault::Frame));
        }
        None => {}
    }
    let _ = Gateway::new(Limits::default()).text(text);
    let _ = Gateway::active(Limits::default(), &[]).text(text);
    let _ = Client::new().text(text);
    Ok(())
}

/// The text as it stands inside a JSON string.
fn wire(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap();
    quoted[1..quoted.len() - 1].to_owned()
}

fn sent(encode: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    assert_eq!(out.len(), 1, "one frame is one message");
    assert!(std::str::from_utf8(&out[0]).is_ok());
    out.remove(0)
}

/// Texts that a hostile or unlucky peer would choose.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]{1,12}",
        "[\"\\\\/{}\\[\\]:,\u{0}-\u{20}\u{7f}\u{2028}\u{feff}é🦀u]{1,12}",
        any::<String>().prop_map(|text| text.chars().take(24).collect()),
    ]
}

fn id() -> impl Strategy<Value = String> {
    text().prop_filter("an id is not empty", |id| !id.is_empty())
}

fn label() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(text().prop_filter("a label is short", |label| label.len() <= 128))
}

/// 256 cases, or as many as `PROPTEST_CASES` says; what they find goes into the corpus.
pub fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn stream_data_reads_back(id in id(), payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (wire, mut scratch) = (wire(&id), Vec::new());
        let message = sent(|out| json::stream_data(out, &wire, &payload));
        prop_assert_eq!(message.len(), encoded_data_len(&wire, payload.len()));
        let expected = Frame::StreamData { stream_id: id.as_str().into(), data: &payload };
        prop_assert_eq!(decode(&message, &mut scratch), Ok(expected));
        check(&message)?;
    }

    #[test]
    fn frames_about_a_stream_read_back(id in id(), other in proptest::option::of(text())) {
        let target = other.as_deref().filter(|target| target.len() <= 262);
        let stream_id = || id.as_str().into();
        let mut scratch = Vec::new();
        let message = sent(|out| json::stream_open(out, &id, target));
        let expected = Frame::StreamOpen { stream_id: stream_id(), target: target.map(Into::into) };
        prop_assert_eq!(decode(&message, &mut scratch), Ok(expected));
        let message = sent(|out| json::stream_opened(out, &wire(&id)));
        prop_assert_eq!(decode(&message, &mut scratch), Ok(Frame::StreamOpened { stream_id: stream_id() }));
        let reason = other.as_deref().map(wire);
        let message = sent(|out| json::stream_close(out, &wire(&id), reason.as_deref()));
        let reason = other.as_deref().map(Into::into);
        prop_assert_eq!(decode(&message, &mut scratch), Ok(Frame::StreamClose { stream_id: stream_id(), reason }));
    }

    #[test]
    fn hello_reads_back(
        device_id in id(), token in id(), client_version in label(), region in label(),
        capabilities in proptest::collection::vec(text(), 0..5),
    ) {
        let mut scratch = Vec::new();
        let names: Vec<&str> = capabilities.iter().map(String::as_str).collect();
        let client_version = client_version.unwrap_or_default();
        let message = sent(|out| {
            json::hello(out, &device_id, &token, &client_version, &names, region.as_deref());
        });
        let expected = Hello {
            device_id: device_id.as_str().into(),
            token: token.as_str().into(),
            client_version: Some(client_version.as_str().into()),
            capabilities: names.iter().map(|name| (*name).into()).collect(),
            region: region.as_deref().map(Into::into),
        };
        prop_assert_eq!(decode(&message, &mut scratch), Ok(Frame::Hello(expected)));
    }

    #[test]
    fn auth_result_reads_back(
        allowed in any::<bool>(), texts in [label(), label(), label()],
        max_streams in any::<Option<u64>>(), capabilities in proptest::collection::vec(text(), 0..5),
    ) {
        let mut scratch = Vec::new();
        let [session_id, subscription_status, reason] = texts.map(|text| text.map(Into::into));
        let capabilities = capabilities.into_iter().map(Into::into).collect();
        let result = AuthResult {
            allowed, session_id, subscription_status, reason, max_streams, capabilities,
        };
        let message = sent(|out| json::auth_result(out, &result));
        prop_assert_eq!(decode(&message, &mut scratch), Ok(Frame::AuthResult(result)));
    }

    #[test]
    fn error_and_go_away_read_back(
        code in select(&ErrorCode::ALL[..]), message in text(), id in label(), reason in label(),
        deadline_ms in any::<u64>(),
    ) {
        let mut scratch = Vec::new();
        let encoded = sent(|out| json::error(out, code, &message, id.as_deref(), reason.as_deref()));
        let expected = Frame::Error {
            code: code.as_str().into(),
            message: Some(message.as_str().into()),
            stream_id: id.as_deref().map(Into::into),
            reason: reason.as_deref().map(Into::into),
        };
        prop_assert_eq!(decode(&encoded, &mut scratch), Ok(expected));
        let encoded = sent(|out| json::go_away(out, &message, deadline_ms));
        let expected = Frame::GoAway { reason: Some(message.into()), deadline_ms: Some(deadline_ms) };
        prop_assert_eq!(decode(&encoded, &mut scratch), Ok(expected));
    }

    #[test]
    fn a_scratch_that_held_more_before_changes_nothing(
        first in proptest::collection::vec(any::<u8>(), 0..300),
        second in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut scratch = Vec::new();
        for payload in [&first, &second] {
            let message = sent(|out| json::stream_data(out, "a", payload));
            let expected = Frame::StreamData { stream_id: "a".into(), data: payload };
            prop_assert_eq!(decode(&message, &mut scratch), Ok(expected));
        }
    }
}

/// The keys of all frames, one that none has, and one that only looks like another.
const KEYS: [&str; 19] = [
    "type",
    "stream_id",
    "data",
    "target",
    "reason",
    "device_id",
    "token",
    "client_version",
    "region",
    "capabilities",
    "code",
    "message",
    "session_id",
    "subscription_status",
    "allowed",
    "max_streams",
    "deadline_ms",
    "x",
    "Type",
];

const TYPES: [&str; 12] = [
    "hello",
    "auth_result",
    "stream_open",
    "stream_opened",
    "stream_data",
    "stream_close",
    "ping",
    "pong",
    "error",
    "go_away",
    "",
    "nothing",
];

/// A value as JSON text.
fn value() -> impl Strategy<Value = String> {
    let simple = prop_oneof![
        4 => text().prop_map(|text| serde_json::to_string(&text).unwrap()),
        2 => "[A-Za-z0-9+/]{0,9}={0,2}".prop_map(|data| format!("\"{data}\"")),
        2 => select(&["null", "true", "false", "0", "7", "-1", "1.5", "1e3", "18446744073709551615",
            "18446744073709551616", "{}", "[]", "\"\"", "\"\\u0061\"", "\"\\ud83e\\udd80\"",
            "\"aGk=\"", "\"aGl=\"", "\"aGk\""][..]).prop_map(str::to_owned),
        1 => select(&["01", "+1", "nul", "'a'", "\"\\ud800\"", "1e999", "\"\n\"", "", "[1,]"][..])
            .prop_map(str::to_owned),
    ];
    simple.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(|list| format!("[{}]", list.join(","))),
            inner.prop_map(|value| format!("{{\"k\":{value}}}")),
        ]
    })
}

/// An object of such values, written with white space in all places that JSON allows.
fn object() -> impl Strategy<Value = String> {
    let space = || select(&["", "", "", " ", "\r\n\t"][..]);
    let kind = prop_oneof![
        9 => select(&TYPES[..]).prop_map(|kind| format!("\"{kind}\"")),
        1 => value(),
    ];
    let field = (select(&KEYS[..]), value()).prop_map(|(key, value)| (key.to_owned(), value));
    let id = id().prop_map(|id| ("stream_id".to_owned(), serde_json::to_string(&id).unwrap()));
    (
        kind,
        proptest::option::weighted(0.7, id),
        proptest::collection::vec(field, 0..4),
        [space(), space(), space(), space()],
        any::<Index>(),
    )
        .prop_map(|(kind, id, mut fields, [a, b, c, d], at)| {
            fields.extend(id);
            fields.insert(at.index(fields.len() + 1), ("type".to_owned(), kind));
            let field = |(key, value): &(String, String)| format!("{a}\"{key}\"{b}:{c}{value}{d}");
            let fields: Vec<String> = fields.iter().map(field).collect();
            format!("{a}{{{}}}{d}", fields.join(","))
        })
}

/// An object of the form that the fast path reads, or almost: keys that come twice, raw control
/// characters, a string that a backslash seems to end.
fn nearly_plain() -> impl Strategy<Value = String> {
    let key = select(&["\"type\"", "\"stream_id\"", "\"data\""][..]);
    let value = select(
        &[
            "\"stream_data\"",
            "\"ping\"",
            "\"s1\"",
            "\"QQ==\"",
            "\"\"",
            "\"a\nb\"",
            "\"ping\\",
            "null",
        ][..],
    );
    let odd = proptest::collection::vec((key, value), 0..3);
    let kind = select(&["\"stream_data\"", "\"ping\"", "\"pong\""][..]);
    (kind, odd, any::<Index>()).prop_map(|(kind, mut fields, at)| {
        fields.insert(at.index(fields.len() + 1), ("\"type\"", kind));
        let fields: Vec<String> =
            fields.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        format!("{{{}}}", fields.join(","))
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn fast_and_slow_path_agree_on_objects(message in object()) {
        check(message.as_bytes())?;
    }

    #[test]
    fn fast_and_slow_path_agree_on_objects_that_are_nearly_plain(message in nearly_plain()) {
        check(message.as_bytes())?;
    }

    #[test]
    fn fast_and_slow_path_agree_on_objects_with_a_few_bytes_changed(
        message in object(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>(), 0..3_u8), 1..4),
    ) {
        const BYTES: &[u8] = b"\"\\{}[]:,= \n\0\x1f\x7f\xc3\xa9\xff0-etaZ/+_u";
        let mut message = message.into_bytes();
        for (at, byte, change) in changes {
            let byte = BYTES[usize::from(byte) % BYTES.len()];
            let at = at.index(message.len() + 1);
            match change {
                0 => message.insert(at, byte),
                1 if at < message.len() => message[at] = byte,
                _ if at < message.len() => drop(message.remove(at)),
                _ => {}
            }
        }
        check(&message)?;
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&message)?;
    }

    #[test]
    fn any_text_is_judged_without_a_panic(message in any::<String>()) {
        check(message.as_bytes())?;
        check(Value::String(message).to_string().as_bytes())?;
    }

    #[test]
    fn any_data_is_base64_for_both_or_for_neither(data in "[A-Za-z+/=_ -]{0,12}") {
        check(format!(r#"{{"type":"stream_data","stream_id":"a","data":"{data}"}}"#).as_bytes())?;
    }
}

#[test]
fn every_prefix_of_a_frame_is_no_frame() {
    let frame = r#"{"type":"stream_data","stream_id":"é","data":"aGk=","x":[{"y":1}]}"#;
    for end in (0..frame.len()).filter(|end| frame.is_char_boundary(*end)) {
        check(&frame.as_bytes()[..end]).unwrap();
    }
}

#[test]
fn payloads_around_the_width_of_a_vector_register_read_back() {
    for len in (0..260).chain([1023, 1024, 1025, 16_383, 16_384, 65_535, 786_000]) {
        let payload: Vec<u8> = (0..len).map(|i: usize| ((i * 31) >> 3) as u8).collect();
        let message = sent(|out| json::stream_data(out, "a", &payload));
        let expected = Frame::StreamData { stream_id: "a".into(), data: &payload };
        assert_eq!(decode(&message, &mut Vec::new()), Ok(expected), "{len}");
    }
}

/// The vector code of base64 takes many characters at once; a bad one must be seen wherever it stands.
#[test]
fn a_bad_character_is_seen_at_every_place_of_a_long_payload() {
    let good = "QUJD".repeat(64);
    for at in 0..good.len() {
        for bad in ["\u{1}", "-", "_", " ", "\n", "=", ".", "\u{7f}"] {
            let mut data = good.clone();
            data.replace_range(at..=at, bad);
            let data = serde_json::to_string(&data).unwrap();
            let message = format!(r#"{{"type":"stream_data","stream_id":"a","data":{data}}}"#);
            let mut scratch = Vec::new();
            assert!(decode(message.as_bytes(), &mut scratch).is_err(), "{bad:?} at {at}");
        }
    }
}
