use super::*;

#[test]
fn booleans_are_those_of_go() {
    for text in ["1", "t", "T", "TRUE", "true", "True"] {
        assert_eq!(Switch::parse(text), Ok(true), "{text}");
    }
    for text in ["0", "f", "F", "FALSE", "false", "False"] {
        assert_eq!(Switch::parse(text), Ok(false), "{text}");
    }
    for text in ["yes", "on", "tRUE", "", " true", "2"] {
        assert!(Switch::parse(text).is_err(), "{text}");
    }
}

#[test]
fn networks_are_whole_and_a_bare_address_is_one() {
    let nets = Networks::parse("10.0.0.0/8, ::1,,127.0.0.1,fd00::/8").unwrap();
    assert_eq!(Networks::show(&nets), "10.0.0.0/8,::1/128,127.0.0.1/32,fd00::/8");
    assert_eq!(Networks::parse(" , ").unwrap(), []);
    for (text, part) in [
        ("10.1.2.3/8", "write 10.0.0.0/8"),
        ("10.0.0.0/33", "not a network"),
        ("10.0.0.0/8 11.0.0.0/8", "not a network"),
        ("localhost", "not a network"),
        ("010.0.0.1", "not a network"),
    ] {
        let error = Networks::parse(text).expect_err(text);
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!(Networks::parse(&"::1,".repeat(1_024)).is_ok());
    assert!(Networks::parse(&"::1,".repeat(1_025)).is_err());
}

#[test]
fn a_secret_may_not_break_its_header_nor_be_shown() {
    for text in ["hunter2\n", "hunter2\r\nX: y", "hunter2ä", " hunter2", "hunter2 ", "hunter2\t"] {
        let error = Hidden::parse(text).expect_err(text);
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert_eq!(Hidden::show(&Hidden::parse("two words!").unwrap()), "***");
    assert!(Hidden::parse(&"a".repeat(4_097)).is_err());
}

#[test]
fn a_route_is_plain_and_free() {
    assert!(Route::parse("/internal/metrics").is_ok());
    for text in ["metrics", "", "/ws", "/healthz", "/readyz", "/a?b", "/a b", "/ä", "/a#"] {
        assert!(Route::parse(text).is_err(), "{text}");
    }
    assert!(Route::parse(&format!("/{}", "a".repeat(256))).is_err());
}

#[test]
fn numbers_are_plain_digits() {
    assert_eq!(<Whole as Kind<u32>>::parse("007"), Ok(7));
    for text in ["", "-1", "+1", "1.0", "1e3", "0x10", "4294967296", "١"] {
        assert!(<Whole as Kind<u32>>::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_path_has_no_nul() {
    assert!(File::parse("a\0b").is_err());
    assert!(File::parse(&"a".repeat(4_097)).is_err());
    assert_eq!(File::parse("/a b/ä.pem").unwrap(), PathBuf::from("/a b/ä.pem"));
}
