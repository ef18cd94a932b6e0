//! The reference page of frames and codes, as Markdown.
//!
//! The page is made from the closed sets themselves, so it cannot miss one of them. Nothing is
//! written here; the caller decides where the text goes.

use crate::{CAPABILITIES, ErrorCode, StreamEnd, StreamRefusal};
use std::fmt::Write as _;

/// One row of the table of frames: type, direction, fields, whether it is an addition.
type FrameRow = (&'static str, &'static str, &'static str, &'static str);

/// Every frame of the JSON protocol. `?` marks an optional field, `+` one that is an addition to
/// the founding page.
const FRAMES: [FrameRow; 11] = [
    (
        "hello",
        "client → gateway, first",
        "`device_id`, `token`, `client_version`?, `capabilities`?, `region`?",
        "founding",
    ),
    (
        "auth_result",
        "gateway → client",
        "`allowed`, `session_id`?, `subscription_status`?, `reason`?, `max_streams`?+, `capabilities`?+",
        "founding",
    ),
    ("stream_open", "client → gateway", "`stream_id`, `target`?", "founding"),
    ("stream_data", "both", "`stream_id`, `data`", "founding"),
    ("stream_close", "both", "`stream_id`, `reason`?", "founding"),
    ("ping", "both", "none", "founding"),
    ("pong", "both", "none", "founding"),
    ("error", "gateway → client", "`code`, `message`?, `stream_id`?+, `reason`?+", "founding"),
    ("stream_opened", "gateway → client", "`stream_id`", "capability `open_ack`"),
    ("go_away", "gateway → client", "`reason`?, `deadline_ms`?", "capability `go_away`"),
    ("*anything else*", "client → gateway", "", "answered with `unsupported`"),
];

/// The page `docs/reference/codes.md`: frames, error codes, ends of streams, refusals.
pub fn codes_markdown() -> String {
    let mut page = String::from(
        "# Frames and codes\n\nGenerated from `httvps-proto`; do not edit. What they mean together: \
         [protocol.md](../protocol.md).\n",
    );
    let frames = FRAMES.map(|(name, direction, fields, since)| {
        let name = if name.starts_with('*') { name.to_owned() } else { format!("`{name}`") };
        [name, direction.to_owned(), fields.to_owned(), since.to_owned()]
    });
    table(&mut page, "Frames", ["type", "direction", "fields", "since"], frames);
    let codes = ErrorCode::ALL.map(|code| {
        let (meaning, session) = meaning(code);
        [quoted(code.as_str()), meaning.to_owned(), session.to_owned()]
    });
    table(&mut page, "Error codes (`code` of `error`)", ["code", "meaning", "session"], codes);
    let ends = StreamEnd::ALL
        .iter()
        .map(|end| [quoted(end.as_str()), frame_of(*end).to_owned(), end.words().to_owned()]);
    table(&mut page, "Ends of a stream (`reason`)", ["reason", "frame", "meaning"], ends);
    let refusals = StreamRefusal::ALL.iter().map(|refusal| {
        let stream = match refusal {
            StreamRefusal::Duplicate => "the one that is open lives on",
            _ => "not open",
        };
        let code = quoted(refusal.code().as_str());
        [quoted(refusal.as_str()), code, refusal.words().to_owned(), stream.to_owned()]
    });
    table(
        &mut page,
        "Refused `stream_*` frames (`reason` of an `error`)",
        ["reason", "code", "meaning", "stream of that id"],
        refusals,
    );
    let capabilities = CAPABILITIES.map(|name| [quoted(name)]);
    table(&mut page, "Capabilities", ["name"], capabilities);
    page
}

/// The meaning of a code, and its effect on the session.
const fn meaning(code: ErrorCode) -> (&'static str, &'static str) {
    match code {
        ErrorCode::BadHello => ("the first message was not a valid `hello`", "closes (1008)"),
        ErrorCode::BadFrame => {
            ("a message is not a JSON object, is binary, or its `type` is not a string", "lives on")
        }
        ErrorCode::BadStream => (
            "a `stream_*` frame lacks a field or has a bad one, or its `data` is not base64",
            "lives on",
        ),
        ErrorCode::StreamError => {
            ("a limit, a duplicate or unknown stream, or a failure of the upstream", "lives on")
        }
        ErrorCode::Unsupported => {
            ("a type that is unknown, missing, or not taken from a client", "lives on")
        }
        ErrorCode::SessionError => ("the session as a whole is in trouble", "closes"),
        ErrorCode::OutlineUnavailable => ("no node could be had", "closes"),
    }
}

/// The frame that carries an end to the client.
const fn frame_of(end: StreamEnd) -> &'static str {
    match end {
        StreamEnd::Eof => "`stream_close`",
        StreamEnd::ClientClosed | StreamEnd::SessionEnded => "none (metric only)",
        _ => "`error`, code `stream_error`",
    }
}

fn quoted(token: &str) -> String {
    format!("`{token}`")
}

fn table<const N: usize>(
    page: &mut String,
    title: &str,
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) {
    let mut line = |text: String| writeln!(page, "{text}").expect("a String takes every write");
    line(format!("\n## {title}\n"));
    line(format!("| {} |", head.join(" | ")));
    line(format!("|{}", "---|".repeat(N)));
    for row in rows {
        line(format!("| {} |", row.join(" | ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Frame, decode};

    /// The type of a frame as its row has it; a new variant does not compile until it is named here.
    fn type_of(frame: &Frame<'_>) -> &'static str {
        match frame {
            Frame::Hello(_) => "hello",
            Frame::AuthResult(_) => "auth_result",
            Frame::StreamOpen { .. } => "stream_open",
            Frame::StreamOpened { .. } => "stream_opened",
            Frame::StreamData { .. } => "stream_data",
            Frame::StreamClose { .. } => "stream_close",
            Frame::Ping => "ping",
            Frame::Pong => "pong",
            Frame::Error { .. } => "error",
            Frame::GoAway { .. } => "go_away",
            Frame::Unknown { .. } => "*anything else*",
        }
    }

    #[test]
    fn every_row_of_frames_is_a_type_that_the_decoder_knows() {
        for (name, ..) in FRAMES {
            let message = format!(
                r#"{{"type":"{name}","device_id":"d","token":"t","stream_id":"s","data":""}}"#
            );
            let mut scratch = Vec::new();
            let frame = decode(message.as_bytes(), &mut scratch).unwrap();
            assert_eq!(type_of(&frame), name);
        }
    }

    #[test]
    fn every_code_stands_on_the_page_once() {
        let page = codes_markdown();
        let tokens = ErrorCode::ALL.iter().map(|code| code.as_str());
        let tokens = tokens.chain(StreamEnd::ALL.iter().map(|end| end.as_str()));
        for token in tokens.chain(StreamRefusal::ALL.iter().map(|refusal| refusal.as_str())) {
            let rows = page.matches(&format!("\n| `{token}` |")).count();
            assert_eq!(rows, 1, "{token}");
        }
    }

    #[test]
    fn every_row_has_the_cells_of_its_head() {
        let page = codes_markdown();
        let mut columns = 0;
        for line in page.lines() {
            let bars = line.matches('|').count();
            if !line.starts_with('|') {
                columns = 0;
            } else if columns == 0 {
                columns = bars;
            } else {
                assert_eq!(bars, columns, "{line}");
            }
        }
    }
}
