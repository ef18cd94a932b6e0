//! The document behind the URL of a dynamic key: an `ss://` line, a JSON object, or Outline's YAML.

use httvps_shadowsocks::AccessKey;
use serde_json::{Map, Value};

/// How deep transports may be nested.
const MAX_DEPTH: u32 = 8;

/// Parses a document. The error contains nothing of it, since any part may be
/// secret.
pub(super) fn read(text: &str) -> Result<AccessKey, String> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("ss://")) {
        let line = text.lines().next().unwrap_or_default();
        return key(line);
    }
    // JSON is YAML too. The parser's own words are left out: they may quote the key.
    let document: Value = serde_saphyr::from_str_with_options(text, options())
        .map_err(|_| "is neither an ss:// line nor JSON nor YAML".to_owned())?;
    let Value::Object(document) = document else {
        return Err("is neither an ss:// line nor an object".to_owned());
    };
    if document.get("error").is_some_and(|error| !error.is_null()) {
        return Err("reports an error".to_owned());
    }
    match document.get("transport") {
        Some(transport) => of_transport(transport, 0),
        None => of_parts(&document, ["server", "server_port", "method", "password"]),
    }
}

/// The limits of the parser. A key has some twenty values in four levels, with an anchor or a merge or two;
/// without these bounds 64 KiB of merges, aliases or brackets cost a second and a hundred megabytes.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 4_096,
            max_nodes: 2_048,
            max_depth: 24,
            flow_nesting_limit: 24,
            max_aliases: 64,
            max_anchors: 64,
            max_recorded_anchor_events: 4_096,
            max_recorded_anchor_bytes: 256 * 1024,
            max_merge_keys: 16,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 4_096,
            max_replay_stack_depth: 8,
            max_alias_expansions_per_anchor: 64,
        },
        with_snippet: false,
    }
}

fn key(line: &str) -> Result<AccessKey, String> {
    AccessKey::parse(line).map_err(|error| error.to_string())
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    object.get(name).and_then(Value::as_str).ok_or_else(|| format!("has no text {name}"))
}

/// The older object: host, port, method and password side by side.
fn of_parts(
    object: &Map<String, Value>,
    [host, port, method, password]: [&str; 4],
) -> Result<AccessKey, String> {
    let number = match object.get(port) {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let number = number
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| format!("has no port {port}"))?;
    let (host, method) = (text(object, host)?, text(object, method)?);
    let key = AccessKey::from_parts(host, number, method, text(object, password)?)
        .map_err(|error| error.to_string())?;
    with_prefix(key, object)
}

fn with_prefix(key: AccessKey, object: &Map<String, Value>) -> Result<AccessKey, String> {
    match object.get("prefix") {
        None | Some(Value::Null) => Ok(key),
        Some(Value::String(prefix)) => key.with_prefix(prefix).map_err(|error| error.to_string()),
        Some(_) => Err("has a prefix that is no text".to_owned()),
    }
}

/// The newer form: `transport`, an `ss://` line or an object with a `$type`.
fn of_transport(transport: &Value, depth: u32) -> Result<AccessKey, String> {
    if depth > MAX_DEPTH {
        return Err("has transports in transports too deep".to_owned());
    }
    let object = match transport {
        Value::String(line) => return key(line.trim()),
        Value::Object(object) => object,
        _ => return Err("has a transport that is neither a text nor an object".to_owned()),
    };
    match object.get("$type").and_then(Value::as_str) {
        Some("tcpudp") => {
            let part = |name| object.get(name).ok_or_else(|| format!("has no transport.{name}"));
            let tcp = of_transport(part("tcp")?, depth + 1)?;
            if let Some(udp) = object.get("udp").filter(|udp| !udp.is_null()) {
                let bare = |key: AccessKey| key.with_prefix("").map_err(|error| error.to_string());
                let udp = of_transport(udp, depth + 1)?;
                if bare(udp)? != bare(tcp.clone())? {
                    return Err(
                        "has one node for tcp and another for udp, which is not supported".into()
                    );
                }
            }
            Ok(tcp)
        }
        Some("first-supported") => {
            let options = object.get("options").and_then(Value::as_array);
            let options = options.ok_or("has a first-supported without options")?;
            let mut problem = "has a first-supported without options".to_owned();
            for option in options {
                match of_transport(option, depth + 1) {
                    Ok(key) => return Ok(key),
                    Err(error) => problem = error,
                }
            }
            Err(problem)
        }
        Some("shadowsocks") => of_shadowsocks(object),
        Some(_) => Err("has a transport other than shadowsocks, which is not supported".to_owned()),
        None => Err("has a transport without a $type".to_owned()),
    }
}

fn of_shadowsocks(object: &Map<String, Value>) -> Result<AccessKey, String> {
    let endpoint = object.get("endpoint").ok_or("has a shadowsocks without an endpoint")?;
    let address = match endpoint {
        Value::String(address) => address,
        Value::Object(dial) if dial.get("$type").is_none_or(|kind| kind == "dial") => {
            text(dial, "address")?
        }
        _ => return Err("has an endpoint that is not host:port, which is not supported".to_owned()),
    };
    let (host, port) = address.rsplit_once(':').ok_or("has an endpoint without a port")?;
    let port: u16 = port.parse().map_err(|_| "has an endpoint without a port")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let (cipher, secret) = (text(object, "cipher")?, text(object, "secret")?);
    let key = AccessKey::from_parts(host, port, cipher, secret).map_err(|e| e.to_string())?;
    with_prefix(key, object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str =
        "ss://Y2hhY2hhMjAtaWV0Zi1wb2x5MTMwNTpodW50ZXIy@ss.example.com:8388/?outline=1";

    fn plain() -> AccessKey {
        AccessKey::parse(LINE).unwrap()
    }

    #[test]
    fn every_form_of_outline_is_read() {
        for document in [
            LINE,
            "\u{feff} ss://Y2hhY2hhMjAtaWV0Zi1wb2x5MTMwNTpodW50ZXIy@ss.example.com:8388#x\nmore",
            r#"{"server":"ss.example.com","server_port":8388,"method":"chacha20-ietf-poly1305","password":"hunter2"}"#,
            r#"{"server":"ss.example.com","server_port":"8388","method":"chacha20-ietf-poly1305","password":"hunter2","prefix":null}"#,
            "transport:\n  $type: tcpudp\n  tcp: &shared\n    $type: shadowsocks\n    endpoint: ss.example.com:8388\n    cipher: chacha20-ietf-poly1305\n    secret: hunter2\n  udp: *shared\n",
            "transport:\n  $type: shadowsocks\n  endpoint: {$type: dial, address: 'ss.example.com:8388'}\n  cipher: chacha20-ietf-poly1305\n  secret: hunter2\n",
            &format!("transport: {LINE}"),
            &format!(
                "transport:\n  $type: first-supported\n  options:\n    - {{$type: quic}}\n    - {LINE}"
            ),
        ] {
            assert_eq!(read(document).as_ref(), Ok(&plain()), "{document}");
        }
    }

    #[test]
    fn a_prefix_is_of_the_streams_alone() {
        let document = "transport:\n  $type: tcpudp\n  tcp:\n    <<: &shared\n      $type: shadowsocks\n      endpoint: ss.example.com:8388\n      cipher: chacha20-ietf-poly1305\n      secret: hunter2\n    prefix: 'POST '\n  udp: *shared\n";
        assert_eq!(read(document), Ok(plain().with_prefix("POST ").unwrap()));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        let shadowsocks = "$type: shadowsocks, endpoint: 'a:1', cipher: aes-128-gcm, secret";
        for (document, part) in [
            ("", "neither"),
            ("hunter2", "neither"),
            ("<html>hunter2: [", "neither"),
            ("[hunter2]", "nor an object"),
            (r#"{"error":{"message":"hunter2 revoked","details":"hunter2"}}"#, "reports an error"),
            (r#"{"error":"hunter2"}"#, "reports an error"),
            (r#"{"server":"h","method":"m","password":"hunter2"}"#, "no port server_port"),
            (r#"{"server":"h","server_port":1,"password":"hunter2"}"#, "no text method"),
            (r#"{"server":"h","server_port":1,"method":"rot13","password":"hunter2"}"#, ""),
            ("transport: {$type: websocket, url: hunter2}", "other than shadowsocks"),
            ("transport: {tcp: hunter2}", "without a $type"),
            ("transport: {$type: shadowsocks, cipher: hunter2}", "without an endpoint"),
            (
                &format!(
                    "transport: {{$type: tcpudp, tcp: {{{shadowsocks}: hunter2}}, udp: {{{shadowsocks}: other}}}}"
                ),
                "another for udp",
            ),
        ] {
            let problem = read(document).expect_err(document);
            assert!(problem.contains(part), "{document}: {problem}");
            assert!(!problem.contains("hunter2"), "{document}: {problem}");
        }
    }

    #[test]
    fn documents_that_cost_more_than_a_key_are_refused() {
        let members = (0..200).map(|i| format!("k{i}: v")).collect::<Vec<_>>().join(", ");
        let merges = "  - {<<: *a}\n".repeat(200);
        let sound = "server: ss.example.com\nserver_port: 8388\nmethod: chacha20-ietf-poly1305\npassword: hunter2\n";
        assert!(read(&format!("{sound}more: [1, 2]\n")).is_ok());
        for (what, more) in [
            ("merges", format!("a: &a {{{members}}}\nb:\n{merges}")),
            ("aliases", format!("a: &a {{{members}}}\nb: [{}]\n", "*a, ".repeat(200))),
            ("brackets", format!("a: {}{}\n", "[".repeat(200), "]".repeat(200))),
            ("braces", format!("a: {}1{}\n", "{a: ".repeat(60), "}".repeat(60))),
            ("values", format!("a: [{}]\n", "1, ".repeat(5_000))),
            ("documents", "---\na: 1\n".repeat(10)),
        ] {
            let problem = read(&format!("{sound}{more}")).expect_err(what);
            assert!(problem.contains("neither an ss:// line"), "{what}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn no_document_makes_it_panic(text in "\\PC{0,80}", near in "(transport: )?[{}\\[\\]:,$&* a-z\n\"']{0,60}") {
            let _ = read(&text);
            let _ = read(&near);
        }
    }
}
