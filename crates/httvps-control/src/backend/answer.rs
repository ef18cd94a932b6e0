//! Parsing responses to `validate-device`.

use super::error::{BackendError, parse};
use crate::grant::Grant;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;

/// The verdict on a device (`ValidateDeviceResult` of the founding page).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidateDeviceResult {
    /// Whether the device is admitted.
    pub allowed: bool,
    /// The user that the device belongs to, as text.
    pub user_id: Option<String>,
    /// The state of the subscription, in the backend's words.
    pub subscription_status: Option<String>,
    /// The reason of a refusal, in the backend's words.
    pub reason: Option<String>,
    /// What the device is allowed, if the backend says so; none with a refusal.
    pub grant: Option<Box<Grant>>,
    /// How long a refusal holds, at most [`ValidateDeviceResult::MAX_RETRY_AFTER`].
    pub retry_after: Option<Duration>,
}

impl ValidateDeviceResult {
    /// Longest [`Self::retry_after`]; a longer one is this long.
    pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);
}

#[derive(Deserialize)]
struct Body<'a> {
    allowed: Option<bool>,
    user_id: Option<UserId>,
    subscription_status: Option<String>,
    reason: Option<String>,
    #[serde(borrow)]
    grant: Option<&'a RawValue>,
    #[serde(borrow)]
    retry_after_seconds: Option<&'a RawValue>,
}

/// The name of a user. A number and its digits as text are one name.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum UserId {
    Number(i64),
    Text(String),
}

impl UserId {
    /// The name as text, cut as every text of the backend.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => cut(text),
        }
    }
}

#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    detail: Body<'a>,
}

const TYPES: &str = "a member has another type than the API says: allowed is true or false, user_id a \
                     number or text, subscription_status and reason are text";

/// Longest text of the backend that is passed on to a client or a log, in bytes.
const MAX_TEXT: usize = 256;

/// Parses a response. Only a 200 with `"allowed": true` admits a device; everything that
/// is neither that nor an explicit refusal is an error of the backend.
pub(super) fn read(status: u16, body: &[u8]) -> Result<ValidateDeviceResult, BackendError> {
    let body = httvps_text::without_mark(body);
    let bad = |problem| BackendError::BadBody { status, problem };
    match status {
        200 => {
            let body: Body = parse(body, TYPES).map_err(bad)?;
            let allowed = body.allowed.ok_or(bad("allowed is missing"))?;
            body.into_result(allowed).map_err(bad)
        }
        403 => {
            let body = parse::<Wrapped>(body, TYPES)
                .map(|wrapped| wrapped.detail)
                .or_else(|_| parse::<Body>(body, TYPES))
                .map_err(bad)?;
            match (body.allowed, &body.reason) {
                (Some(true), _) => Err(bad("allowed is true although the status is a refusal")),
                (None, None) => Err(bad("allowed and reason are missing")),
                _ => body.into_result(false).map_err(bad),
            }
        }
        other => Err(BackendError::Status(other)),
    }
}

impl Body<'_> {
    /// A refusal stands whatever else is wrong; a device whose grant cannot be read is not admitted.
    fn into_result(self, allowed: bool) -> Result<ValidateDeviceResult, &'static str> {
        let grant = self.grant.filter(|_| allowed).map(Grant::read).transpose()?;
        Ok(ValidateDeviceResult {
            allowed,
            user_id: self.user_id.map(UserId::into_text),
            subscription_status: self.subscription_status.map(cut),
            reason: self.reason.map(cut),
            grant: grant.map(Box::new),
            retry_after: self.retry_after_seconds.filter(|_| !allowed).and_then(retry_after),
        })
    }
}

/// What is not a number of seconds is none: a backend may have had such a member before it meant
/// something here.
fn retry_after(value: &RawValue) -> Option<Duration> {
    let seconds = Duration::from_secs(value.get().parse().ok()?);
    Some(seconds.min(ValidateDeviceResult::MAX_RETRY_AFTER))
}

pub(super) fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> String {
        let result = read(status, body.as_bytes()).unwrap();
        assert!(!result.allowed);
        result.reason.unwrap_or_default()
    }

    #[test]
    fn the_founding_answers_are_read() {
        let allowed =
            read(200, br#"{"allowed":true,"user_id":7,"subscription_status":"active"}"#).unwrap();
        assert!(allowed.allowed);
        assert_eq!(allowed.user_id.as_deref(), Some("7"));
        assert_eq!(allowed.subscription_status.as_deref(), Some("active"));
        assert_eq!(refusal(403, r#"{"allowed":false,"reason":"invalid_token"}"#), "invalid_token");
        assert_eq!(
            refusal(403, r#"{"detail":{"allowed":false,"reason":"device_mismatch"}}"#),
            "device_mismatch"
        );
        assert_eq!(refusal(200, r#"{"allowed":false,"reason":"no"}"#), "no");
        assert_eq!(refusal(200, r#"{"allowed":false}"#), "");
    }

    #[test]
    fn a_byte_order_mark_before_an_answer_does_not_matter() {
        assert!(read(200, "\u{feff}{\"allowed\":true}".as_bytes()).unwrap().allowed);
        let refused = "\u{feff}{\"detail\":{\"allowed\":false,\"reason\":\"no\"}}";
        assert_eq!(refusal(403, refused), "no");
    }

    #[test]
    fn whatever_is_not_clear_is_an_error() {
        for (status, body) in [
            (200, ""),
            (200, "{}"),
            (200, "[]"),
            (200, "<html>"),
            (200, r#"{"allowed":"true"}"#),
            (200, r#"{"allowed":1}"#),
            (200, r#"{"detail":{"allowed":true}}"#),
            (403, ""),
            (403, "{}"),
            (403, r#"{"detail":"Forbidden"}"#),
            (403, r#"{"allowed":true}"#),
            (403, r#"{"detail":{"allowed":true,"reason":"x"}}"#),
            (201, r#"{"allowed":true}"#),
            (204, ""),
            (302, ""),
            (401, r#"{"allowed":false,"reason":"x"}"#),
            (500, r#"{"allowed":true}"#),
        ] {
            assert!(read(status, body.as_bytes()).is_err(), "{status} {body}");
        }
    }

    #[test]
    fn an_error_says_what_is_wrong_and_nothing_of_what_was_sent() {
        for (status, body, problem) in [
            (200, r#"{"allow":true,"reason":"s3cret"}"#, "allowed is missing"),
            (200, "", "the body is empty"),
            (200, "<html>s3cret", "the body is not JSON"),
            (200, r#"["s3cret"]"#, "the body is not a JSON object"),
            (200, r#"{"allowed":"s3cret"}"#, TYPES),
            (403, r#"{"detail":"s3cret"}"#, "allowed and reason are missing"),
            (403, r#"{"allowed":true}"#, "allowed is true although the status is a refusal"),
        ] {
            let error = read(status, body.as_bytes()).unwrap_err();
            assert_eq!(error, BackendError::BadBody { status, problem }, "{body}");
            assert!(!format!("{error:?}").contains("s3cret"));
        }
        let (found, hint) = (BackendError::Status(404), "BACKEND_BASE_URL");
        assert_eq!(found.status(), Some(404));
        assert!(found.hint().unwrap().contains(hint));
        assert!(BackendError::Status(401).hint().unwrap().contains("BACKEND_GATEWAY_SECRET"));
    }

    #[test]
    fn a_grant_belongs_to_a_yes_and_a_bad_one_admits_no_device() {
        let yes =
            |grant: &str| read(200, format!(r#"{{"allowed":true,"grant":{grant}}}"#).as_bytes());
        let grant = yes(r#"{"device":{"max_sessions":2}}"#).unwrap().grant.unwrap();
        assert_eq!(grant.device.max_sessions, Some(2));
        assert_eq!(yes("null").unwrap().grant, None);
        assert_eq!(yes("{}").unwrap().grant, Some(Box::default()));
        for bad in ["7", "[]", "\"unlimited\"", r#"{"device":{"max_sessions":"s3cret"}}"#] {
            let error = yes(bad).unwrap_err();
            assert_eq!(error.code().as_str(), "bad_body", "{bad}");
            assert!(!format!("{error:?}").contains("s3cret"));
        }
        for (status, body) in [
            (200, r#"{"allowed":false,"grant":7}"#),
            (403, r#"{"allowed":false,"reason":"no","grant":{"version":-1}}"#),
            (403, r#"{"detail":{"allowed":false,"grant":[]}}"#),
        ] {
            let refused = read(status, body.as_bytes()).unwrap();
            assert!(!refused.allowed && refused.grant.is_none(), "{body}");
        }
    }

    #[test]
    fn a_refusal_may_say_how_long_it_holds() {
        let after = |value: &str| {
            let body = format!(r#"{{"detail":{{"reason":"no","retry_after_seconds":{value}}}}}"#);
            read(403, body.as_bytes()).unwrap().retry_after
        };
        assert_eq!(after("90"), Some(Duration::from_secs(90)));
        assert_eq!(after("86401"), Some(ValidateDeviceResult::MAX_RETRY_AFTER));
        assert_eq!(after("18446744073709551615"), Some(ValidateDeviceResult::MAX_RETRY_AFTER));
        for other in ["null", "-1", "1.5", "\"90\"", "[1]", "{}", "true", "1e400"] {
            assert_eq!(after(other), None, "{other}");
        }
        let allowed = read(200, br#"{"allowed":true,"retry_after_seconds":9}"#).unwrap();
        assert_eq!(allowed.retry_after, None);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let body = format!(r#"{{"allowed":false,"reason":"{}"}}"#, "é".repeat(300));
        let reason = read(200, body.as_bytes()).unwrap().reason.unwrap();
        assert!(reason.len() <= MAX_TEXT && reason.chars().all(|c| c == 'é'));
    }
}
