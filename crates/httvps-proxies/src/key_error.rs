//! What is wrong with a key.

use std::fmt;

use httvps_proto::TargetError;

/// Why a text is no proxy's key. `Display` says what is wrong and what is accepted, and repeats no part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Longer than 4,096 bytes.
    TooLong,
    /// Neither `socks5://`, `http://` nor `https://`.
    Scheme,
    /// Something behind host and port.
    Path,
    /// A `/`, `?` or `#` before an `@`: of a user or password, as it is.
    Unescaped,
    /// Host and port are no target.
    Node(TargetError),
    /// No user before the `@`, or a colon or control character in it.
    User,
    /// A control character in the password.
    Password,
    /// User or password is longer than 255 bytes.
    UserInfoTooLong,
    /// A user without a password, which SOCKS5 does not have.
    NoPassword,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("it is longer than 4096 bytes"),
            Self::Scheme => f.write_str("it begins with none of socks5://, http:// and https://"),
            Self::Path => f.write_str("a proxy has nothing behind HOST:PORT"),
            Self::Unescaped => f.write_str(
                "in user and password # is written %23, / %2F, ? %3F and @ %40 (in a #name @ is %40 too)",
            ),
            Self::Node(error) => write!(f, "the proxy's address: {error}"),
            Self::User => f.write_str(
                "the user before the @ is empty, or has a colon or a control character in it",
            ),
            Self::Password => f.write_str("the password has a control character in it"),
            Self::UserInfoTooLong => f.write_str("user or password is longer than 255 bytes"),
            Self::NoPassword => {
                f.write_str("SOCKS5 needs a password with a user; write user:password@")
            }
        }
    }
}

impl std::error::Error for KeyError {}
