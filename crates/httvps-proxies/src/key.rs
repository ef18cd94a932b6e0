//! Keys: address, protocol and credentials of a proxy.

use std::fmt;
use std::net::IpAddr;

use httvps_proto::Target;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

use crate::credentials::Credentials;
use crate::{Error, KeyError, Stream, http, socks5};

/// Longest key that is read, in bytes.
const MAX_KEY_LEN: usize = 4096;

/// Longest user and longest password, in bytes (RFC 1929 section 2).
const MAX_TEXT: usize = 255;

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SOCKS5 (RFC 1928), streams and datagrams.
    Socks5,
    /// HTTP CONNECT (RFC 9110 section 9.3.6), streams alone.
    Http,
    /// The same over TLS.
    Https,
}

/// The address of a proxy, its protocol and credentials.
///
/// `Debug` and `Display` show neither user nor password; memory that held them is overwritten.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyKey {
    kind: Kind,
    node: Target,
    credentials: Option<Credentials>,
}

impl ProxyKey {
    /// Reads `socks5://[user:password@]host:port`, `http://…` or `https://…`, at most 4,096 bytes long. `socks5h://` is
    /// the same as `socks5://`: names are resolved by the proxy in any case. The port must be there. User and password are percent-encoded where they have `@`, `:`, `/`, `?`, `#` or `%` in them; a `/`,
    /// `?` or `#` as it is would end the host for other readers of URLs, so it is refused. A `/` at the end and a
    /// `#name` without `@` are ignored.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim_ascii();
        if text.len() > MAX_KEY_LEN {
            return Err(KeyError::TooLong);
        }
        let (scheme, rest) = text.split_once("://").ok_or(KeyError::Scheme)?;
        let kind = [Kind::Socks5, Kind::Http, Kind::Https]
            .into_iter()
            .find(|kind| kind.schemes().iter().any(|one| one.eq_ignore_ascii_case(scheme)))
            .ok_or(KeyError::Scheme)?;
        let (rest, name) = rest.split_once('#').unwrap_or((rest, ""));
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user_info, node) = match rest.rsplit_once('@') {
            Some((user_info, node)) => (Some(user_info), node),
            None => (None, rest),
        };
        // With a # in a password the user would be taken for the proxy, and the rest of the password for a name.
        if name.contains('@') || user_info.is_some_and(|info| info.contains(['/', '?'])) {
            return Err(KeyError::Unescaped);
        }
        if node.contains(['/', '?']) {
            return Err(KeyError::Path);
        }
        let node = Target::parse(node).map_err(KeyError::Node)?;
        let credentials = user_info.map(|info| Credentials::parse(info, kind)).transpose()?;
        Ok(Self { kind, node, credentials })
    }

    /// The protocol of the proxy.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The proxy's host and port.
    pub fn node(&self) -> &Target {
        &self.node
    }

    /// Performs the exchange before the first target: none with HTTP; method negotiation and authentication with SOCKS5.
    /// An error is a fault of the proxy or of the key.
    pub async fn greet<S>(&self, io: &mut S) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self.kind {
            Kind::Socks5 => socks5::greet(io, self.credentials.as_ref()).await,
            Kind::Http | Kind::Https => Ok(()),
        }
    }

    /// Requests a stream to `target` over a greeted connection, and waits for the answer.
    pub async fn open<S>(&self, mut io: S, target: &Target) -> Result<Stream<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let early = match self.kind {
            Kind::Socks5 => {
                socks5::connect(&mut io, target).await?;
                Box::default()
            }
            Kind::Http | Kind::Https => {
                http::connect(&mut io, target, self.credentials.as_ref()).await?
            }
        };
        Ok(Stream::new(io, early))
    }

    /// Requests datagrams over a greeted connection. Returns the address and port to send them to; `None`
    /// means the proxy's own address, also when the proxy names a host. They pass for as long as `io` is
    /// open. The address is the proxy's claim; the caller must check it before sending there.
    ///
    /// [`Error::Unsupported`] is the answer of an HTTP proxy, and of a SOCKS5 one that does not offer them or names
    /// port 0.
    pub async fn associate<S>(&self, io: &mut S) -> Result<(Option<IpAddr>, u16), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self.kind {
            Kind::Socks5 => socks5::associate(io).await,
            Kind::Http | Kind::Https => Err(Error::Unsupported),
        }
    }
}

impl Kind {
    /// The scheme of its keys.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Socks5 => "socks5",
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// All schemes that are taken for it.
    fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Socks5 => &["socks5", "socks5h"],
            Self::Http => &["http"],
            Self::Https => &["https"],
        }
    }
}

impl Credentials {
    fn parse(user_info: &str, kind: Kind) -> Result<Self, KeyError> {
        let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
        let decoded = |text| Zeroizing::new(percent_decode_str(text).collect::<Vec<u8>>());
        let (user, password) = (decoded(user), decoded(password));
        if user.is_empty() || user.iter().any(|byte| *byte == b':' || byte.is_ascii_control()) {
            return Err(KeyError::User);
        }
        if password.iter().any(u8::is_ascii_control) {
            return Err(KeyError::Password);
        }
        if user.len() > MAX_TEXT || password.len() > MAX_TEXT {
            return Err(KeyError::UserInfoTooLong);
        }
        if kind == Kind::Socks5 && password.is_empty() {
            return Err(KeyError::NoPassword);
        }
        Ok(Self { user, password })
    }
}

impl fmt::Display for ProxyKey {
    /// Scheme and node, without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = if self.credentials.is_some() { "***@" } else { "" };
        write!(f, "{}://{secret}{}", self.kind.scheme(), self.node)
    }
}

impl fmt::Debug for ProxyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_read_and_shown_without_their_secrets() {
        for (text, shown) in [
            ("socks5://192.0.2.1:1080", "socks5://192.0.2.1:1080"),
            (" SOCKS5://ann:hunter2@[2001:db8::1]:1080/#x\n", "socks5://***@[2001:db8::1]:1080"),
            ("Socks5h://h:1", "socks5://h:1"),
            ("http://p.example:3128/", "http://p.example:3128"),
            ("https://ann@P.example:443", "https://***@p.example:443"),
        ] {
            let key = ProxyKey::parse(text).expect(text);
            assert_eq!((key.to_string(), format!("{key:?}")), (shown.to_owned(), shown.to_owned()));
        }
    }

    #[test]
    fn user_and_password_are_percent_decoded() {
        let key = ProxyKey::parse("socks5://a%20nn%40x:p%3Aa:ss%2f%25@h:1").unwrap();
        let credentials = key.credentials.unwrap();
        assert_eq!(*credentials.user, b"a nn@x");
        assert_eq!(*credentials.password, b"p:a:ss/%");
        let plain = ProxyKey::parse("http://ann:p@ss@h:1").unwrap();
        assert_eq!(*plain.credentials.unwrap().password, b"p@ss");
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_repeated() {
        let long = format!("socks5://a:{}@h:1", "b".repeat(256));
        for (text, part) in [
            ("hunter2", "none of socks5"),
            ("socks4://hunter2:1", "none of socks5"),
            ("socks5://ann:hunter2@h", "no port"),
            ("https://", "no port"),
            ("http://hunter2:80/path", "nothing behind"),
            ("http://h:80?hunter2", "nothing behind"),
            ("socks5://:hunter2@h:1", "user"),
            ("http://a%3Ab:hunter2@h:1", "colon"),
            ("http://ann:hunter2%0d%0aX@h:1", "control character"),
            ("https://ann:123#hunter2@p:443", "# is written %23"),
            ("socks5://ann:hunter2@h:1#b@p:443", "# is written %23"),
            ("http://ann:1/hunter2@p:443", "/ %2F"),
            ("socks5://ann:1?hunter2@p:443", "? %3F"),
            ("socks5://ann:hunter2@h:1/@p:443", "/ %2F"),
            ("socks5://hunter2@h:1?@p:443", "? %3F"),
            ("socks5://hunter2@h:1", "needs a password"),
            (&long, "longer than 255"),
            (&"x".repeat(4097), "longer than 4096"),
        ] {
            let problem = ProxyKey::parse(text).expect_err(text).to_string();
            assert!(problem.contains(part) && !problem.contains("hunter2"), "{text}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}", near in "(socks5|http|https)://[a:@/%0-9\\[\\].]{0,40}") {
            let _ = ProxyKey::parse(&text);
            let _ = ProxyKey::parse(&near);
        }

        #[test]
        fn any_user_and_password_come_through(user in "[^:\\p{Cc}]{1,40}", password in "[^\\p{Cc}]{1,40}") {
            use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
            let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let key = format!("socks5://{}:{}@h:1", encoded(&user), encoded(&password));
            let credentials = ProxyKey::parse(&key).unwrap().credentials.unwrap();
            prop_assert_eq!(&**credentials.user, user.as_bytes());
            prop_assert_eq!(&**credentials.password, password.as_bytes());
        }
    }
}
