//! Keys of proxies.

use super::{behaviour, choice, seeds};
use crate::run::Decoder;
use httvps_egress::nodes::KeySource;
use httvps_proto::Target;
use httvps_proxies::ProxyKey;
use hyper::Uri;
use std::fmt::Write as _;

/// A key leads where any reader of URLs says, reads the same in all of its forms, and neither it nor an error shows
/// what is secret.
pub(super) struct Keys;

const SCHEMES: [&str; 3] = ["socks5", "http", "https"];

/// What stands for a secret in the texts; no key's node or error may have it.
const SECRET: &str = "s3cret";

fn percent(text: &str, is_plain: impl Fn(u8) -> bool) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if is_plain(byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// Forms of one key that an operator may write.
fn forms(scheme: &str, user: &str, password: &str) -> [String; 4] {
    const NODE: &str = "[2001:db8::7]:1080";
    let all = |text| percent(text, |_| false);
    // What must be encoded, and no more; what is not ASCII shows in neither form.
    let least = |text| percent(text, |byte| byte.is_ascii() && !b"@:/?#%".contains(&byte));
    [
        format!("{scheme}://{}:{}@{NODE}", all(user), all(password)),
        format!("{}://{}:{}@{NODE}/", scheme.to_uppercase(), all(user), least(password)),
        format!(" {scheme}://{}:{}@{NODE}#a%20name\n", least(user), all(password)),
        format!("{scheme}://{}:{}@[2001:DB8:0::7]:1080/#", least(user), least(password)),
    ]
}

impl Decoder for Keys {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let texts: [&[u8]; 12] = [
            b"socks5://ann:s3cret@192.0.2.1:1080",
            b"http://ann:s3cret@p.example:3128/",
            b"https://ann:p%40s3cret@[2001:db8::1]:443/#Name",
            b"https://ann:123#s3cret@p:443",
            b"https://ann:1/s3cret@p:443",
            b"https://ann:12?s3cret@p:443",
            b"http://p:1@s3cret@p:443#x",
            b"https://keys.example/s3cret",
            b"https://keys.example:8443?s3cret#me",
            b"socks5://h:1080",
            b"ann s3cret",
            b"\xc3\xa9nn:@ \x01:/?#%+@",
        ];
        seeds::led_by(&texts, &[0, 1, 3, 5])
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"socks5://",
            b"http://",
            b"https://",
            b"ssconf://",
            b"@",
            b":",
            b"/",
            b"?",
            b"#",
            b"%",
            b"%40",
            b"%2F",
            b"%0d",
            b"%00",
            b":443",
            b"[::1]",
            b"s3cret",
            b":s3cret@",
            b"p.example:1",
        ]
    }

    fn longest(&self) -> usize {
        200
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, rest) = choice(input);
        let Ok(text) = std::str::from_utf8(rest) else { return 0 };
        if first % 2 == 0 {
            return Self::run_text(text);
        }
        let user = text.split(' ').next().unwrap_or_default();
        let password = text.get(user.len() + 1..).unwrap_or_default();
        Self::run_forms(SCHEMES[usize::from(first / 2) % 3], user, password)
    }
}

impl Keys {
    fn run_text(text: &str) -> u64 {
        let parsed = ProxyKey::parse(text);
        let source = KeySource::parse(text);
        let same = match &source {
            Ok(KeySource::Proxy(key)) => Some(key),
            _ => None,
        };
        assert!(parsed.as_ref().ok() == same, "a key in one place and another in the other");
        let trimmed = text.trim_ascii();
        let uri = trimmed.parse::<Uri>();
        match (&parsed, &source) {
            (Ok(key), _) => {
                let scheme = key.kind().scheme();
                assert!(trimmed.to_ascii_lowercase().starts_with(scheme), "of another kind");
                let node = key.node().to_string();
                assert!(
                    Target::parse(&node).as_ref() == Ok(key.node()),
                    "{node:?} is another node"
                );
                let bare = format!("{scheme}://{node}");
                let guarded = format!("{scheme}://***@{node}");
                let shown = key.to_string();
                let is_bare = ProxyKey::parse(&bare).as_ref() == Ok(key);
                assert!(shown == if is_bare { bare } else { guarded }, "shown as {shown}");
                assert!(format!("{key:?}") == shown, "shown as {key:?}");
                let authority = uri.as_ref().ok().and_then(|uri| uri.authority());
                let place =
                    authority.map(|all| all.as_str().rsplit('@').next().unwrap_or_default());
                let is_there = |place| Target::parse(place).as_ref() == Ok(key.node());
                assert!(place.is_none_or(is_there), "others would go to {place:?}");
            }
            // With an @ it may be a proxy's key, and what stands before that a user and a password.
            (_, Ok(KeySource::Dynamic(_)))
                if !trimmed.to_ascii_lowercase().starts_with("ssconf") =>
            {
                assert!(!trimmed.contains('@'), "a password may go to a server of keys");
            }
            _ => {}
        }
        let words = [
            parsed.as_ref().err().map(|error| format!("{error} {error:?}")),
            source.as_ref().err().map(|error| format!("{error} {error:?}")),
        ];
        for words in words.iter().flatten() {
            assert!(words.len() <= 300 && !words.contains(char::is_control), "{words:?}");
            assert!(!words.contains(SECRET), "it repeats the text: {words:?}");
        }
        let kind =
            parsed.as_ref().ok().map(|key| (key.kind().scheme(), key.to_string().contains('@')));
        behaviour((words, kind, text.len() / 32))
    }

    fn run_forms(scheme: &str, user: &str, password: &str) -> u64 {
        let keys = forms(scheme, user, password).map(|form| (ProxyKey::parse(&form), form));
        let (first, _) = &keys[0];
        for (key, form) in &keys {
            assert!(key == first, "{form:?} is another key: {key:?} and {first:?}");
        }
        let is_good =
            |text: &str| text.len() <= 255 && !text.contains(|c: char| c.is_ascii_control());
        let may_be = is_good(user)
            && is_good(password)
            && !user.is_empty()
            && !user.contains(':')
            && (scheme != "socks5" || !password.is_empty());
        assert!(first.is_ok() == may_be, "{first:?} of {user:?} and {password:?}");
        if let Ok(key) = first {
            let shown = format!("{scheme}://***@[2001:db8::7]:1080");
            assert!(key.to_string() == shown && format!("{key:?}") == shown, "shown as {key}");
            // Another password is another key.
            let other = ProxyKey::parse(&forms(scheme, user, &format!("{password}x"))[0]);
            assert!(password.len() == 255 || other.is_ok_and(|other| other != *key), "one for all");
        }
        let problem = first.as_ref().err().map(ToString::to_string);
        behaviour((scheme, problem, user.len() / 8, password.len() / 8))
    }
}
