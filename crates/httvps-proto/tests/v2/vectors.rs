//! The test vectors of `testdata/vectors/v2.json`, which other implementations may use as well.

use httvps_proto::v2::{BadFrame, Frame, Frames, Kind, Side};
use serde_json::{Value, json};
use std::fmt::Write as _;

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// Bytes in hex, or a list of parts that may repeat a byte.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(hex) => unhex(hex),
        Value::Array(parts) => parts.iter().flat_map(bytes).collect(),
        Value::Object(part) => {
            let repeat = part["repeat"].as_array().unwrap();
            unhex(repeat[0].as_str().unwrap()).repeat(repeat[1].as_u64().unwrap() as usize)
        }
        other => panic!("no bytes: {other}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn shown(frame: &Frame<'_>) -> Value {
    match *frame {
        Frame::Open { stream, kind, target } => {
            let kind = if kind == Kind::Bytes { "bytes" } else { "datagrams" };
            json!({"type": "open", "stream": stream, "kind": kind, "target": target})
        }
        Frame::Opened { stream } => json!({"type": "opened", "stream": stream}),
        Frame::Data { stream, data } => {
            json!({"type": "data", "stream": stream, "data": hex(data)})
        }
        Frame::Finish { stream } => json!({"type": "finish", "stream": stream}),
        Frame::Reset { stream, code, words } => {
            json!({"type": "reset", "stream": stream, "code": code.as_str(), "words": words})
        }
        Frame::Credit { stream, increment } => {
            json!({"type": "credit", "stream": stream, "increment": increment})
        }
        Frame::Datagram { stream, data } => {
            json!({"type": "datagram", "stream": stream, "data": hex(data)})
        }
        Frame::Ping { opaque } => json!({"type": "ping", "data": hex(&opaque)}),
        Frame::Pong { opaque } => json!({"type": "pong", "data": hex(&opaque)}),
        Frame::GoAway { code, deadline_ms, words } => {
            json!({"type": "go_away", "code": code.as_str(), "deadline_ms": deadline_ms,
                "words": words})
        }
        Frame::Skipped => json!({"type": "skipped"}),
    }
}

fn kind(bad: BadFrame) -> &'static str {
    match bad {
        BadFrame::Truncated => "truncated",
        BadFrame::UnknownType => "unknown_type",
        BadFrame::WrongDirection => "wrong_direction",
        BadFrame::BadLength => "bad_length",
        BadFrame::BadStream => "bad_stream",
        BadFrame::BadValue => "bad_value",
    }
}

/// The frames of a vector with their payloads in plain hex; the raw code is not kept by us.
fn wanted(vector: &Value) -> Vec<Value> {
    let mut frames = vector["frames"].as_array().cloned().unwrap_or_default();
    for frame in &mut frames {
        let frame = frame.as_object_mut().unwrap();
        frame.remove("raw_code");
        if let Some(data) = frame.get_mut("data") {
            *data = hex(&bytes(data)).into();
        }
    }
    frames
}

#[test]
fn every_vector_decodes_as_it_says_and_good_ones_encode_back() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/vectors/v2.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let vectors = file["messages"].as_array().unwrap();
    assert!(vectors.len() >= 50, "only {} vectors", vectors.len());
    for vector in vectors {
        let name = vector["name"].as_str().unwrap();
        let sender = if vector["from"] == "client" { Side::Client } else { Side::Gateway };
        let message = bytes(&vector["hex"]);
        let (mut frames, mut error, mut again) = (Vec::new(), None, Vec::new());
        for frame in Frames::new(&message, sender) {
            match frame {
                Ok(frame) => {
                    frames.push(shown(&frame));
                    frame.encode(&mut again);
                }
                Err(bad) => error = Some(kind(bad)),
            }
        }
        assert_eq!(frames, wanted(vector), "{name}");
        assert_eq!(error, vector["error"].as_str(), "{name}");
        let text = vector["frames"].to_string();
        if error.is_none() && !text.contains("skipped") && !text.contains("raw_code") {
            assert_eq!(again, message, "{name}");
        }
    }
}
