//! Close codes and the body of a Close frame (RFC 6455 sections 5.5.1 and 7.4).

use super::codec::{CONTROL_MAX, Violation};

/// A status code of a Close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: an endpoint goes away.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: a type of data that this endpoint does not take.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1007: the data does not fit its type; text that is not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: against the policy of this endpoint.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message is too big.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: an unexpected condition at the server.
    pub const INTERNAL: Self = Self(1011);
    /// 1012: the service restarts; reconnect.
    pub const RESTART: Self = Self(1012);
    /// 1013: try again later.
    pub const TRY_AGAIN: Self = Self(1013);

    /// A code that may stand in a frame: 1000–1003, 1007–1014, 3000–4999. None for others; 1005,
    /// 1006 and 1015 exist only as words for the absence of a code.
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl From<CloseCode> for u16 {
    fn from(code: CloseCode) -> Self {
        code.0
    }
}

impl std::fmt::Display for CloseCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads the body of a Close frame. None if it is empty.
pub(super) fn parse(body: &[u8]) -> Result<Option<CloseCode>, Violation> {
    let [high, low, reason @ ..] = body else {
        return if body.is_empty() { Ok(None) } else { Err(Violation::CloseBody) };
    };
    let code = CloseCode::new(u16::from_be_bytes([*high, *low])).ok_or(Violation::CloseCode)?;
    if simdutf8::basic::from_utf8(reason).is_err() {
        return Err(Violation::CloseReason);
    }
    Ok(Some(code))
}

/// The body of a Close frame. The reason is cut at a character boundary to fit (123 bytes).
pub(super) fn body(code: Option<CloseCode>, reason: &str) -> Vec<u8> {
    let Some(code) = code else {
        return Vec::new();
    };
    let mut cut = reason.len().min(CONTROL_MAX - 2);
    while !reason.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut body = code.get().to_be_bytes().to_vec();
    body.extend_from_slice(&reason.as_bytes()[..cut]);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_stand_in_a_frame() {
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert!(CloseCode::new(code).is_some(), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert!(CloseCode::new(code).is_none(), "{code}");
        }
    }

    #[test]
    fn bodies_are_judged() {
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"\x03"), Err(Violation::CloseBody));
        assert_eq!(parse(b"\x03\xe8"), Ok(Some(CloseCode::NORMAL)));
        assert_eq!(parse(b"\x03\xe8bye"), Ok(Some(CloseCode::NORMAL)));
        assert_eq!(parse(b"\x03\xed"), Err(Violation::CloseCode));
        assert_eq!(parse(b"\x03\xe8\xff"), Err(Violation::CloseReason));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let cut = body(Some(CloseCode::POLICY), &"ä".repeat(100));
        assert_eq!(cut.len(), 2 + 122);
        assert_eq!(parse(&cut), Ok(Some(CloseCode::POLICY)));
        assert!(body(None, "unused").is_empty());
    }
}
