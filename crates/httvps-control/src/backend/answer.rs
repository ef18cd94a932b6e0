//! Parsing responses to `validate-device`.

use super::error::{BackendError, parse};
use serde::Deserialize;

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
}

#[derive(Deserialize)]
struct Body {
    allowed: Option<bool>,
    user_id: Option<UserId>,
    subscription_status: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum UserId {
    Number(i64),
    Text(String),
}

#[derive(Deserialize)]
struct Wrapped {
    detail: Body,
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
            Ok(body.into_result(allowed))
        }
        403 => {
            let body = parse::<Wrapped>(body, TYPES)
                .map(|wrapped| wrapped.detail)
                .or_else(|_| parse::<Body>(body, TYPES))
                .map_err(bad)?;
            match (body.allowed, &body.reason) {
                (Some(true), _) => Err(bad("allowed is true although the status is a refusal")),
                (None, None) => Err(bad("allowed and reason are missing")),
                _ => Ok(body.into_result(false)),
            }
        }
        other => Err(BackendError::Status(other)),
    }
}

impl Body {
    fn into_result(self, allowed: bool) -> ValidateDeviceResult {
        ValidateDeviceResult {
            allowed,
            user_id: self.user_id.map(|id| match id {
                UserId::Number(number) => number.to_string(),
                UserId::Text(text) => cut(text),
            }),
            subscription_status: self.subscription_status.map(cut),
            reason: self.reason.map(cut),
        }
    }
}

fn cut(mut text: String) -> String {
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
    fn long_texts_are_cut_between_characters() {
        let body = format!(r#"{{"allowed":false,"reason":"{}"}}"#, "é".repeat(300));
        let reason = read(200, body.as_bytes()).unwrap().reason.unwrap();
        assert!(reason.len() <= MAX_TEXT && reason.chars().all(|c| c == 'é'));
    }
}
