//! Grants that are read, and those that are not.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(json: &str) -> Result<Grant, &'static str> {
    Grant::read(serde_json::from_str(json).expect("the tests write JSON"))
}

fn rate(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).unwrap()
}

#[test]
fn the_grant_of_the_documentation_is_read_in_full() {
    let grant = read(
        r#"{"version":12,"handle":"h4ndle","class":"gold",
            "expires_in_seconds":86400,"ttl_seconds":300,"stale_seconds":3600,
            "session":{"max_streams":64,"opens_per_second":50,"opens_burst":200,"idle_seconds":3600},
            "device":{"max_sessions":2,"up_bytes_per_second":1250000,"down_bytes_per_second":6250000},
            "user":{"max_devices":3,"max_sessions":6,"down_bytes_per_second":12500000},
            "quota":{"id":"2026-11","remaining_bytes":53687091200,"counts":"both",
                     "low_bytes":1073741824,"at_end":"close","throttle_bytes_per_second":32000},
            "at_limit":"replace_oldest"}"#,
    )
    .unwrap();
    let seconds = |number| Some(Duration::from_secs(number));
    assert_eq!(
        grant,
        Grant {
            version: Some(12),
            handle: Some("h4ndle".into()),
            class: Some("gold".into()),
            expires_in: seconds(86_400),
            ttl: seconds(300),
            stale: seconds(3_600),
            session: SessionGrant {
                max_streams: Some(64),
                opens_per_second: Some(rate(50)),
                opens_burst: Some(200),
                idle: seconds(3_600),
            },
            device: DeviceGrant {
                max_sessions: Some(2),
                up_bytes_per_second: Some(rate(1_250_000)),
                down_bytes_per_second: Some(rate(6_250_000)),
            },
            user: UserGrant {
                max_devices: Some(3),
                max_sessions: Some(6),
                up_bytes_per_second: None,
                down_bytes_per_second: Some(rate(12_500_000)),
            },
            quota: Some(QuotaGrant {
                id: "2026-11".into(),
                remaining_bytes: 53_687_091_200,
                counts: Counts::Both,
                low_bytes: Some(1_073_741_824),
                at_end: AtEnd::Close,
            }),
            at_limit: AtLimit::ReplaceOldest,
        }
    );
    let shown = format!("{grant:?}");
    assert!(shown.contains("gold") && !shown.contains("h4ndle"), "{shown}");
}

#[test]
fn null_is_absent_and_unknown_members_are_ignored() {
    for json in [
        "{}",
        r#"{"x":{"y":[1.5,true,{"z":-1}]},"sessions":3}"#,
        r#"{"version":null,"handle":null,"class":null,"expires_in_seconds":null,"ttl_seconds":null,
            "stale_seconds":null,"session":null,"device":null,"user":null,"quota":null,"at_limit":null}"#,
        r#"{"session":{"max_streams":null,"opens_per_second":null,"opens_burst":null,
            "idle_seconds":null},"device":{"up_bytes_per_second":null},"user":{}}"#,
    ] {
        assert_eq!(read(json), Ok(Grant::default()), "{json}");
    }
    let quota = r#"{"quota":{"id":"q","remaining_bytes":1,"counts":null,"low_bytes":null,
                   "at_end":null,"throttle_bytes_per_second":null}}"#;
    let quota = read(quota).unwrap().quota.unwrap();
    assert_eq!((quota.counts, quota.low_bytes, quota.at_end), (Counts::Both, None, AtEnd::Close));
}

#[test]
fn zero_is_a_count_and_never_a_rate() {
    let grant = read(
        r#"{"version":0,"expires_in_seconds":0,"ttl_seconds":0,"stale_seconds":0,
            "session":{"max_streams":0,"opens_burst":0},"device":{"max_sessions":0},
            "user":{"max_devices":0,"max_sessions":0},
            "quota":{"id":"q","remaining_bytes":0,"low_bytes":0}}"#,
    )
    .unwrap();
    assert_eq!((grant.version, grant.expires_in), (Some(0), Some(Duration::ZERO)));
    assert_eq!((grant.ttl, grant.stale), (Some(Duration::ZERO), Some(Duration::ZERO)));
    assert_eq!((grant.session.max_streams, grant.session.opens_burst), (Some(0), Some(0)));
    assert_eq!(grant.device.max_sessions, Some(0));
    assert_eq!((grant.user.max_devices, grant.user.max_sessions), (Some(0), Some(0)));
    let quota = grant.quota.unwrap();
    assert_eq!((quota.remaining_bytes, quota.low_bytes), (0, Some(0)));

    for (section, name) in RATES {
        let error = read(&one(section, name, "0")).unwrap_err();
        assert!(error.contains(name), "{name}: {error}");
    }
}

#[test]
fn words_and_their_rate_are_read() {
    let quota = |members: &str| {
        let json = format!(r#"{{"quota":{{"id":"q","remaining_bytes":1,{members}}}}}"#);
        read(&json).map(|grant| grant.quota.unwrap())
    };
    let throttled = quota(r#""counts":"up","at_end":"throttle","throttle_bytes_per_second":9"#);
    let throttled = throttled.unwrap();
    assert_eq!(throttled.counts, Counts::Up);
    assert_eq!(throttled.at_end, AtEnd::Throttle(rate(9)));
    assert_eq!(quota(r#""counts":"down""#).unwrap().counts, Counts::Down);
    assert_eq!(read(r#"{"at_limit":"refuse"}"#).unwrap().at_limit, AtLimit::Refuse);
    let missing = quota(r#""at_end":"throttle""#);
    assert_eq!(missing, Err("quota.throttle_bytes_per_second is missing"));
}

#[test]
fn bad_grants_are_refused_and_the_error_names_the_member() {
    let long = |len: usize| format!("\"{}\"", "x".repeat(len));
    for (json, named) in [
        ("1", "grant"),
        ("true", "grant"),
        ("[]", "grant"),
        (r#""unlimited""#, "grant"),
        (r#"{"version":"2"}"#, "version"),
        (r#"{"handle":7}"#, "handle"),
        (&format!(r#"{{"handle":{}}}"#, long(513)), "handle"),
        (&format!(r#"{{"class":{}}}"#, long(257)), "class"),
        (r#"{"session":[]}"#, "session"),
        (r#"{"device":5}"#, "device"),
        (r#"{"user":"7"}"#, "user"),
        (r#"{"quota":0}"#, "quota"),
        (r#"{"quota":{}}"#, "quota.id"),
        (r#"{"quota":{"id":"q"}}"#, "quota.remaining_bytes"),
        (r#"{"quota":{"id":"q","remaining_bytes":null}}"#, "quota.remaining_bytes"),
        (r#"{"quota":{"id":"","remaining_bytes":1}}"#, "quota.id"),
        (r#"{"quota":{"id":7,"remaining_bytes":1}}"#, "quota.id"),
        (&format!(r#"{{"quota":{{"id":{},"remaining_bytes":1}}}}"#, long(129)), "quota.id"),
        (r#"{"quota":{"id":"q","remaining_bytes":1,"counts":"all"}}"#, "quota.counts"),
        (r#"{"quota":{"id":"q","remaining_bytes":1,"at_end":"stop"}}"#, "quota.at_end"),
        (
            r#"{"quota":{"id":"q","remaining_bytes":1,"at_end":"close","throttle_bytes_per_second":0}}"#,
            "quota.throttle_bytes_per_second",
        ),
        (r#"{"at_limit":"Refuse"}"#, "at_limit"),
        (r#"{"at_limit":true}"#, "at_limit"),
        (r#"{"version":1,"version":2}"#, "twice"),
        (r#"{"x":1,"x":null}"#, "twice"),
        (r#"{"device":{"max_sessions":1,"max_\u0073essions":9}}"#, "twice"),
        (r#"{"x":[{"y":1,"y":2}]}"#, "twice"),
        (r#"{"handle":"\ud800"}"#, "JSON"),
    ] {
        let error = read(json).expect_err(json);
        assert!(error.contains(named), "{json}: {error}");
    }
    assert!(read(&format!(r#"{{"handle":{},"class":{}}}"#, long(512), long(256))).is_ok());
    assert!(read(&format!(r#"{{"quota":{{"id":{},"remaining_bytes":1}}}}"#, long(128))).is_ok());
}

#[test]
fn what_is_no_whole_number_is_an_error_wherever_a_number_stands() {
    let numbers = COUNTS.iter().chain(RATES);
    for (section, name) in numbers {
        for value in BAD_NUMBERS {
            let error = read(&one(section, name, value)).expect_err(value);
            assert!(error.contains(name), "{name} {value}: {error}");
        }
        assert!(read(&one(section, name, "9007199254740992")).is_ok(), "{name} up to 2^53");
    }
}

#[test]
fn grants_have_bounds_on_length_members_and_depth() {
    let members = |count: usize| {
        let members: Vec<_> = (0..count).map(|number| format!("\"m{number}\":0")).collect();
        members.join(",")
    };
    assert!(read(&format!("{{{}}}", members(64))).is_ok());
    assert!(read(&format!("{{{}}}", members(65))).unwrap_err().contains("too many"));
    let inside = format!(r#"{{"x":{{{}}},"y":[{{{}}}]}}"#, members(31), members(31));
    assert!(read(&inside).is_ok());
    let inside = format!(r#"{{"x":{{{}}},"y":[{{{}}}]}}"#, members(31), members(32));
    assert!(read(&inside).unwrap_err().contains("too many"));

    let padded = |len: usize| format!(r#"{{"x":"{}"}}"#, "y".repeat(len - 8));
    assert!(read(&padded(Grant::MAX_JSON)).is_ok());
    assert!(read(&padded(Grant::MAX_JSON + 1)).unwrap_err().contains("16 KiB"));
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    assert!(read(&deep).is_err());
}

/// The counts and durations of a grant, and the object in which they stand.
const COUNTS: &[(&str, &str)] = &[
    ("", "version"),
    ("", "expires_in_seconds"),
    ("", "ttl_seconds"),
    ("", "stale_seconds"),
    ("session", "max_streams"),
    ("session", "opens_burst"),
    ("device", "max_sessions"),
    ("user", "max_devices"),
    ("user", "max_sessions"),
    ("quota", "remaining_bytes"),
    ("quota", "low_bytes"),
];

/// The numbers that are not 0, likewise.
const RATES: &[(&str, &str)] = &[
    ("session", "opens_per_second"),
    ("session", "idle_seconds"),
    ("device", "up_bytes_per_second"),
    ("device", "down_bytes_per_second"),
    ("user", "up_bytes_per_second"),
    ("user", "down_bytes_per_second"),
    ("quota", "throttle_bytes_per_second"),
];

const BAD_NUMBERS: &[&str] = &[
    "-1",
    "-0",
    "1.0",
    "0.5",
    "1e3",
    "1E0",
    "true",
    "false",
    "\"2\"",
    "\"\"",
    "[]",
    "[1]",
    "{}",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "1e300",
];

/// A grant with this member; the object around it is otherwise complete.
fn one(section: &str, name: &str, value: &str) -> String {
    let rest = match (section, name) {
        ("quota", "remaining_bytes") => r#","id":"q""#,
        ("quota", _) => r#","id":"q","remaining_bytes":1"#,
        _ => "",
    };
    let member = format!(r#"{{"{name}":{value}{rest}}}"#);
    if section.is_empty() { member } else { format!(r#"{{"{section}":{member}}}"#) }
}

/// Names of a grant with values of every type, so that many of them are sound.
fn grants() -> impl Strategy<Value = Value> {
    const NAMES: [&str; 27] = [
        "version",
        "handle",
        "class",
        "expires_in_seconds",
        "ttl_seconds",
        "stale_seconds",
        "session",
        "device",
        "user",
        "quota",
        "at_limit",
        "max_streams",
        "opens_per_second",
        "opens_burst",
        "idle_seconds",
        "max_sessions",
        "up_bytes_per_second",
        "down_bytes_per_second",
        "max_devices",
        "id",
        "remaining_bytes",
        "counts",
        "low_bytes",
        "at_end",
        "throttle_bytes_per_second",
        "x",
        "y",
    ];
    const WORDS: [&str; 6] = ["refuse", "replace_oldest", "both", "up", "close", "throttle"];
    let leaf = prop_oneof![
        4 => (0_u64..3).prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
        2 => prop::sample::select(&WORDS[..]).prop_map(Value::from),
        1 => ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 48, 12, |inner| {
        let members =
            prop::collection::hash_map(prop::sample::select(&NAMES[..]), inner.clone(), 0..8);
        prop_oneof![
            5 => members.prop_map(|members| {
                members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            }),
            1 => prop::collection::vec(inner, 0..3).prop_map(Value::Array),
        ]
    })
}

/// What a number of a grant must be, told another way.
fn is_number(grant: &Value, (section, name): (&str, &str), least: u64) -> bool {
    let object = if section.is_empty() { grant } else { &grant[section] };
    let value = &object[name];
    value.is_null() || value.as_u64().is_some_and(|number| (least..=1 << 53).contains(&number))
}

proptest! {
    #[test]
    fn no_value_panics_and_no_wrong_number_passes(value in grants()) {
        let text = value.to_string();
        if let Ok(grant) = read(&text) {
            prop_assert!(value.is_object());
            for member in COUNTS {
                prop_assert!(is_number(&value, *member, 0), "{member:?} of {text}");
            }
            for member in RATES {
                prop_assert!(is_number(&value, *member, 1), "{member:?} of {text}");
            }
            prop_assert!(grant.session.idle != Some(Duration::ZERO));
            prop_assert_eq!(grant.version, value["version"].as_u64());
            let streams = value["session"]["max_streams"].as_u64();
            prop_assert_eq!(grant.session.max_streams, streams);
            let rate = value["user"]["down_bytes_per_second"].as_u64();
            prop_assert_eq!(grant.user.down_bytes_per_second.map(NonZeroU64::get), rate);
            prop_assert_eq!(grant.quota.is_some(), value["quota"].is_object());
        }
    }

    #[test]
    fn one_number_alone_is_read_or_refused(at in 0..COUNTS.len() + RATES.len(), number: u64) {
        let (member, least) = match COUNTS.get(at) {
            Some(member) => (*member, 0),
            None => (RATES[at - COUNTS.len()], 1),
        };
        for number in [number, number >> 11, number >> 60] {
            let is_sound = (least..=1 << 53).contains(&number);
            prop_assert_eq!(read(&one(member.0, member.1, &number.to_string())).is_ok(), is_sound);
        }
    }

    #[test]
    fn no_text_panics(text in r#"[\[\]{}",:a-c0-9e.\\u-]{0,64}"#) {
        let value = serde_json::from_str::<&RawValue>(&text);
        if let Ok(grant) = value.map_or(Err("no JSON"), Grant::read) {
            prop_assert_eq!(grant, Grant::default(), "{}", json!(text));
        }
    }
}
