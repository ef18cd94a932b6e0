//! What is wrong with an access key.

use std::fmt;

use httvps_proto::TargetError;

use crate::Cipher;

/// Why a text is not an access key. `Display` says what is wrong and what is accepted; it never repeats a part of the
/// key, since a password may stand anywhere in a key that is written wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// More than 4,096 bytes.
    TooLong,
    /// It does not begin with `ss://`.
    Scheme,
    /// Nothing like `method:password@host:port`, plain or in base64, stands behind `ss://`.
    Form,
    /// The part before the `@` is neither `method:password` nor that in base64.
    UserInfo,
    /// The method is none of the six that are known.
    Method,
    /// No password.
    NoPassword,
    /// The password of this 2022 method is not base64 of a key of the right length.
    PasswordLength(Cipher),
    /// The password of this 2022 method is not base64.
    PasswordBase64(Cipher),
    /// The password of a 2022 method is a chain of keys (`iPSK:uPSK`), for one node with several users.
    ManyUsers,
    /// The node's host or port.
    Node(TargetError),
    /// A `plugin` is asked for.
    Plugin,
    /// The `prefix` has a character beyond U+00FF, or is not UTF-8.
    PrefixCharacter,
    /// The `prefix` is longer than this many bytes, the most that this cipher's salt has room for.
    PrefixLength(Cipher, usize),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the access key is longer than 4096 bytes",
            Self::Scheme => "an access key begins with ss://",
            Self::Form => "an access key looks like ss://method:password@host:port; this one has no host",
            Self::UserInfo => {
                "what stands before the @ of the access key is neither method:password nor that in base64"
            }
            Self::Method => {
                f.write_str("the access key's method is not known; known are ")?;
                for (i, cipher) in Cipher::ALL.iter().enumerate() {
                    write!(f, "{}{cipher}", if i > 0 { ", " } else { "" })?;
                }
                return Ok(());
            }
            Self::NoPassword => "the access key has no password",
            Self::PasswordLength(cipher) => {
                let length = cipher.key_len();
                return write!(
                    f,
                    "the password of {cipher} is {length} bytes in base64 (openssl rand -base64 {length})"
                );
            }
            Self::PasswordBase64(cipher) => {
                return write!(f, "the password of {cipher} is a key in base64, and this one is none");
            }
            Self::ManyUsers => {
                "the access key is for a node with several users (two keys with a colon between), which is not supported"
            }
            Self::Node(error) => return write!(f, "the access key's host and port: {error}"),
            Self::Plugin => {
                "the access key asks for a plugin, and plugins are not supported; use a node without one"
            }
            Self::PrefixCharacter => {
                "the access key's prefix has a character beyond U+00FF; each stands for one byte"
            }
            Self::PrefixLength(cipher, most) => {
                return write!(
                    f,
                    "the access key's prefix is longer than {most} bytes, the most that is safe with {cipher}"
                );
            }
        })
    }
}

impl std::error::Error for KeyError {}
