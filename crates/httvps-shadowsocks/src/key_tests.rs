//! Tests of access keys.

use super::*;
use httvps_proto::TargetError;
use proptest::prelude::*;

const KEY_16: &str = "AAECAwQFBgcICQoLDA0ODw==";
const KEY_32: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn plain(method: &str, password: &str, node: &str) -> AccessKey {
    AccessKey::new(Target::parse(node).unwrap(), method, password).unwrap()
}

#[test]
fn every_form_of_a_key_means_the_same() {
    let expected = plain("chacha20-ietf-poly1305", "pa:ss@w?rd", "example.com:8388");
    let encode = base64_turbo::STANDARD.encode("chacha20-ietf-poly1305:pa:ss@w?rd");
    let url = encode.replace('+', "-").replace('/', "_");
    let legacy =
        base64_turbo::STANDARD.encode("chacha20-ietf-poly1305:pa:ss@w?rd@example.com:8388");
    for text in [
        "ss://chacha20-ietf-poly1305:pa%3Ass%40w%3Frd@example.com:8388".to_owned(),
        "SS://chacha20-ietf-poly1305:pa:ss@w%3Frd@EXAMPLE.com:8388/".to_owned(),
        format!("ss://{encode}@example.com:8388"),
        format!("ss://{}@example.com:8388/?outline=1", encode.trim_end_matches('=')),
        format!("ss://{}@example.com:8388#tag", encode.replace('=', "%3D")),
        format!("ss://{url}@example.com:8388?plugin=&outline=1"),
        format!("ss://{legacy}"),
        format!(" ss://{}#a%20tag\n", legacy.trim_end_matches('=')),
        format!("ss://{legacy}?outline=1"),
    ] {
        assert_eq!(AccessKey::parse(&text).as_ref(), Ok(&expected), "{text}");
    }
    let parts = AccessKey::from_parts("example.com", 8388, "CHACHA20-IETF-POLY1305", "pa:ss@w?rd");
    assert_eq!(parts, Ok(expected));
}

#[test]
fn nodes_may_be_names_and_addresses_of_both_families() {
    for (written, node) in
        [("[2001:db8::1]:443", "[2001:db8::1]:443"), ("192.0.2.1:1", "192.0.2.1:1")]
    {
        let key = AccessKey::parse(&format!("ss://aes-128-gcm:p@{written}")).unwrap();
        assert_eq!(key.node().to_string(), node);
        assert_eq!(key.cipher(), Cipher::Aes128Gcm);
    }
    let key = AccessKey::from_parts("2001:db8::1", 443, "aes-128-gcm", "p").unwrap();
    assert_eq!(key.node().to_string(), "[2001:db8::1]:443");
}

#[test]
fn the_ciphers_of_2022_take_a_key_of_exactly_their_length() {
    let key = plain("2022-blake3-aes-128-gcm", KEY_16, "a.example:1");
    assert_eq!(key.secret(), (0..16).collect::<Vec<u8>>());
    let encoded = KEY_32.replace('=', "%3D");
    let text = format!("ss://2022-blake3-chacha20-poly1305:{encoded}@a.example:1");
    assert_eq!(AccessKey::parse(&text).unwrap().secret(), (0..32).collect::<Vec<u8>>());
    let (short, long) = (Cipher::Blake3Aes128Gcm, Cipher::Blake3Aes256Gcm);
    for (cipher, password, error) in [
        (short, KEY_32.to_owned(), KeyError::PasswordLength(short)),
        (long, KEY_16.to_owned(), KeyError::PasswordLength(long)),
        (long, "a password!".to_owned(), KeyError::PasswordBase64(long)),
        (long, format!("{KEY_32}:{KEY_32}"), KeyError::ManyUsers),
    ] {
        let node = Target::parse("a.example:1").unwrap();
        assert_eq!(AccessKey::new(node, cipher.name(), &password), Err(error));
    }
}

#[test]
fn a_prefix_has_one_byte_for_each_character() {
    let base = "ss://chacha20-ietf-poly1305:p@a.example:1/?outline=1&prefix=";
    for (written, bytes) in [
        ("%16%03%01%00%C2%A8%01%01", &b"\x16\x03\x01\x00\xa8\x01\x01"[..]),
        ("HTTP%2F1.1%20", b"HTTP/1.1 "),
        ("POST+", b"POST "),
        ("0123456789abcdef", b"0123456789abcdef"),
        ("", b""),
        ("a&prefix=b", b"a"),
    ] {
        let key = AccessKey::parse(&format!("{base}{written}")).unwrap();
        assert_eq!(key.prefix(), bytes, "{written}");
    }
    let cipher = Cipher::Chacha20IetfPoly1305;
    for (written, error) in [
        ("%E2%82%AC", KeyError::PrefixCharacter),
        ("%A8", KeyError::PrefixCharacter),
        ("0123456789abcdefg", KeyError::PrefixLength(cipher, 16)),
    ] {
        assert_eq!(AccessKey::parse(&format!("{base}{written}")), Err(error), "{written}");
    }
    let short = plain("aes-128-gcm", "p", "a.example:1");
    assert!(short.clone().with_prefix("POST").is_ok());
    assert_eq!(
        short.with_prefix("POST "),
        Err(KeyError::PrefixLength(Cipher::Aes128Gcm, 4)),
        "the rest of the salt must stay random"
    );
}

#[test]
fn what_is_no_key_says_why_and_never_shows_the_password() {
    for (text, error) in [
        ("https://example.com/key".to_owned(), KeyError::Scheme),
        ("s\u{fc}://".to_owned(), KeyError::Scheme),
        (format!("ss://{}", "a".repeat(MAX_KEY_LEN)), KeyError::TooLong),
        ("ss://".to_owned(), KeyError::Form),
        ("ss://hunter2".to_owned(), KeyError::Form),
        ("ss://aHVudGVyMg==".to_owned(), KeyError::Form),
        ("ss://@example.com:1".to_owned(), KeyError::UserInfo),
        ("ss://hunter2!@example.com:1".to_owned(), KeyError::UserInfo),
        ("ss://aHVudGVyMg@example.com:1".to_owned(), KeyError::UserInfo),
        ("ss://%ff:hunter2@example.com:1".to_owned(), KeyError::UserInfo),
        ("ss://hunter2:aes-128-gcm@example.com:1".to_owned(), KeyError::Method),
        ("ss://rc4-md5:hunter2@example.com:1".to_owned(), KeyError::Method),
        ("ss://aes-128-gcm:@example.com:1".to_owned(), KeyError::NoPassword),
        ("ss://aes-128-gcm:hunter2@example.com".to_owned(), KeyError::Node(TargetError::NoPort)),
        ("ss://aes-128-gcm:hunter2@:1".to_owned(), KeyError::Node(TargetError::NoHost)),
        ("ss://aes-128-gcm:hunter2@a:1?plugin=obfs-local%3Bobfs=http".to_owned(), KeyError::Plugin),
    ] {
        assert_eq!(AccessKey::parse(&text), Err(error), "{text}");
        assert!(!error.to_string().contains("hunter2"));
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn a_key_shows_nothing_secret_and_compares_by_what_it_does() {
    let key = plain("aes-256-gcm", "hunter2", "a.example:1").with_prefix("POST ").unwrap();
    for shown in [format!("{key}"), format!("{key:?}")] {
        assert_eq!(shown, "ss://aes-256-gcm:***@a.example:1");
    }
    assert_ne!(key, plain("aes-256-gcm", "hunter2", "a.example:1"), "another prefix");
    let tagged = key.clone().with_tag("Amsterdam\u{7} 1");
    assert_eq!((tagged.tag(), &tagged), (Some("Amsterdam 1"), &key));
    let (one, other) = (plain("aes-256-gcm", "a", "a:1"), plain("aes-256-gcm", "b", "a:1"));
    assert_ne!(one, other);
    let tag = "t".repeat(1000);
    assert_eq!(other.with_tag(&tag).tag().map(str::len), Some(MAX_TAG_CHARS));
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic(text in any::<String>(), query in any::<String>()) {
        let _ = AccessKey::parse(&text);
        let _ = AccessKey::parse(&format!("ss://{text}"));
        let _ = AccessKey::parse(&format!("ss://aes-128-gcm:p@a.example:1?{query}"));
        let _ = AccessKey::parse(&format!("ss://{}", base64_turbo::STANDARD.encode(&text)));
        let _ = AccessKey::parse(&format!("ss://{}@a:1", base64_turbo::STANDARD.encode(&text)));
    }

    #[test]
    fn near_keys_are_judged_without_a_panic(
        text in r"ss://(aes-128-gcm|%[0-9a-f]{2}|[a-zA-Z0-9+/_=-]{0,9}|:|@|\[|\]|/|\?|prefix=|plugin=|&|#|\.){0,12}"
    ) {
        if let Ok(key) = AccessKey::parse(&text) {
            prop_assert!(key.prefix().len() <= MAX_PREFIX_LEN);
        }
    }

    #[test]
    fn any_password_reads_back_from_each_form(
        password in "[^\0]{1,40}", cipher in proptest::sample::select(&Cipher::ALL[..3])
    ) {
        let expected = plain(cipher.name(), &password, "a.example:1");
        let user = format!("{cipher}:{password}");
        let encode = |text: &str| base64_turbo::URL_SAFE_NO_PAD.encode(text);
        let escaped = percent_encoding::percent_encode(password.as_bytes(), percent_encoding::NON_ALPHANUMERIC);
        for text in [
            format!("ss://{cipher}:{escaped}@a.example:1"),
            format!("ss://{}@a.example:1", encode(&user)),
            format!("ss://{}", encode(&format!("{user}@a.example:1"))),
        ] {
            prop_assert_eq!(AccessKey::parse(&text), Ok(expected.clone()));
        }
    }
}
