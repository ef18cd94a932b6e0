//! Short texts: targets, URLs, durations, sizes; and the answer of the backend.

use super::{behaviour, choice, seeds};
use crate::run::Decoder;
use httvps_client::GatewayUrl;
use httvps_config::{BackendUrl, ListenAddr, fuzzing};
use httvps_control::backend::read_answer;
use httvps_proto::Target;

/// What is a target reads back as itself, and its parts make the same one.
pub(super) struct Targets;

impl Decoder for Targets {
    fn seeds(&self) -> Vec<Vec<u8>> {
        seeds::corpus("target", "")
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[b"[", b"]", b"::", b":80", b"0x", b"127.0.0.1", b"ffff:", b"xn--", b".", b"65535"]
    }

    fn longest(&self) -> usize {
        300
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let Ok(text) = std::str::from_utf8(input) else { return 0 };
        match Target::parse(text) {
            Ok(target) => {
                let shown = target.to_string();
                assert!(
                    Target::parse(&shown).as_ref() == Ok(&target),
                    "{shown:?} reads differently"
                );
                let parts = Target::from_parts(&target.host.to_string(), target.port);
                assert!(parts == Ok(target), "the parts of {shown:?} read differently");
                behaviour((shown.len(), shown.matches([':', '.']).count()))
            }
            Err(error) => behaviour((format!("{error:?}"), input.len() / 16)),
        }
    }
}

/// What is a duration, a size, an address or a URL reads back as itself.
pub(super) struct Values;

impl Decoder for Values {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let texts: [&[u8]; 24] = [
            b"0",
            b"1h30m",
            b"1.5s",
            b"300ms",
            b"10\xc2\xb5s",
            b"9223372036854775807ns",
            b"-5s",
            b"16KiB",
            b"1 MiB",
            b"99999999999GiB",
            b":8443",
            b"0.0.0.0:8443",
            b"[::1]:8443",
            b"localhost:0",
            b"http://backend:8000",
            b"https://user:pw@host/x?y#z",
            b"http://[::1]:80/api/",
            b"wss://gateway.example/ws",
            b"wss://[2001:db8::1]:8443/a?b",
            b"wss://u@h",
            b"WSS://h/",
            b"wss://h:70000",
            b"wss://h/\xc3\xa9",
            b"2562047h47m16.854775807s",
        ];
        texts.iter().map(|text| text.to_vec()).collect()
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"://",
            b"ns",
            b"us",
            b"ms",
            b"h",
            b"m",
            b"s",
            b".",
            b"KiB",
            b"GiB",
            b"18446744073709551615",
            b"[",
            b"]",
            b":",
            b"@",
            b"/",
            b"?",
            b"#",
            b"%",
            b"wss",
            b"http",
            b"https",
        ]
    }

    fn longest(&self) -> usize {
        80
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let Ok(text) = std::str::from_utf8(input) else { return 0 };
        let duration = fuzzing::duration(text);
        if let Some((value, shown)) = &duration {
            let again = fuzzing::duration(shown).map(|(value, _)| value);
            assert!(again == Some(*value), "{shown:?} is another duration");
        }
        let size = fuzzing::size(text);
        if let Some((value, shown)) = &size {
            let again = fuzzing::size(shown).map(|(value, _)| value);
            assert!(again == Some(*value), "{shown:?} is another size");
        }
        let listen = text.parse::<ListenAddr>();
        if let Ok(address) = &listen {
            let shown = address.to_string();
            assert!(shown.parse::<ListenAddr>().as_ref() == Ok(address), "{shown:?} is another");
        }
        let backend = text.parse::<BackendUrl>();
        let gateway = text.parse::<GatewayUrl>();
        if let Ok(url) = &gateway {
            let shown = format!("wss://{}{}", url.authority(), url.path());
            assert!(shown.parse::<GatewayUrl>().as_ref() == Ok(url), "{shown:?} is another");
        }
        let kinds =
            (duration.is_some(), size.is_some(), listen.is_ok(), backend.is_ok(), gateway.is_ok());
        let words = gateway.err().map(|error| format!("{error:?}"));
        behaviour((kinds, words, backend.err().map(|error| error.to_string()), input.len() / 4))
    }
}

/// Only a 200 that says so lets a device in, and no text of the backend is long.
pub(super) struct BackendAnswer;

/// The statuses that are chosen from.
const STATUSES: [u16; 6] = [200, 403, 201, 401, 500, 302];

impl Decoder for BackendAnswer {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let bodies: [&[u8]; 8] = [
            br#"{"allowed":true,"user_id":7,"subscription_status":"active"}"#,
            br#"{"allowed":true,"user_id":"u-1","subscription_status":null,"reason":null}"#,
            br#"{"allowed":false,"reason":"invalid_token"}"#,
            br#"{"detail":{"allowed":false,"reason":"device_mismatch","user_id":-1}}"#,
            br#"{"detail":"Forbidden"}"#,
            br#"{"allowed":1,"user_id":18446744073709551616}"#,
            br#"{"allowed":true,"allowed":false,"x":[[[{}]]],"reason":"\ud83e\udd80"}"#,
            b"<html>",
        ];
        seeds::led_by(&bodies, &[0, 1, 2])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"true",
            b"false",
            b"null",
            b"\"allowed\":",
            b"\"reason\":",
            b"\"detail\":",
            b"\"user_id\":",
            b"{",
            b"}",
            b"[",
            b"]",
            b"\"",
            b"\\u",
            b"\\ud800",
            b",",
            b"1e999",
            b"\xc3\xa9",
        ]
    }

    fn longest(&self) -> usize {
        1024
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, body) = choice(input);
        let status = STATUSES[usize::from(first) % STATUSES.len()];
        let answer = read_answer(status, body);
        if let Some(answer) = &answer {
            let texts = [&answer.user_id, &answer.subscription_status, &answer.reason];
            assert!(
                texts.into_iter().flatten().all(|text| text.len() <= 256),
                "a text is too long"
            );
            // What cannot be read as a whole (bytes that are no text in a field that is passed over)
            // has no second opinion.
            let other = serde_json::from_slice::<serde_json::Value>(body);
            let denies = other.is_ok_and(|value| value["allowed"] != true);
            assert!(!answer.allowed || (status == 200 && !denies), "it was not admitted");
        }
        behaviour((
            status,
            answer.map(|a| (a.allowed, a.user_id.is_some(), a.reason.map(|r| r.len()))),
        ))
    }
}
