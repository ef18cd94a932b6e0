//! A key as it stands in a configuration: itself, or where to fetch it.

use crate::backend::OutlineKey;
use httvps_shadowsocks::{AccessKey, KeyError};
use hyper::Uri;
use std::fmt;

/// Longest URL of a dynamic key, in bytes.
const MAX_URL: usize = 4096;

/// The cipher of a node whose backend names none: Outline's own.
const DEFAULT_METHOD: &str = "chacha20-ietf-poly1305";

/// What a key text means.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// An `ss://` key.
    Static(AccessKey),
    /// An `ssconf://` or `https://` key: where the real one is fetched from.
    Dynamic(KeyUrl),
}

/// Where a dynamic key is fetched from. Whoever knows it has the key, so it is shown nowhere.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyUrl(Uri);

/// Why a text is no key. `Display` repeats no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyProblem {
    /// An `ss://` key that is wrong.
    Key(KeyError),
    /// A URL that is wrong: how.
    Url(&'static str),
}

impl KeySource {
    /// Reads `ss://…`, `ssconf://…` or `https://…`.
    pub fn parse(text: &str) -> Result<Self, KeyProblem> {
        let text = text.trim_ascii();
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        match scheme.to_ascii_lowercase().as_str() {
            "ssconf" | "https" => KeyUrl::parse(rest).map(Self::Dynamic),
            "http" => Err(KeyProblem::Url("http:// shows the key to the whole path; use https://")),
            _ => AccessKey::parse(text).map(Self::Static).map_err(KeyProblem::Key),
        }
    }

    /// Takes what a backend gave.
    pub(crate) fn of_backend(key: &OutlineKey) -> Result<Self, KeyProblem> {
        match key {
            OutlineKey::Url(url) => Self::parse(url.expose()),
            OutlineKey::Parts { host, port, method, password } => {
                let method = method.as_deref().unwrap_or(DEFAULT_METHOD);
                AccessKey::from_parts(host, *port, method, password.expose())
                    .map(Self::Static)
                    .map_err(KeyProblem::Key)
            }
        }
    }
}

impl KeyUrl {
    /// Reads what stands behind `ssconf://` or `https://`.
    fn parse(rest: &str) -> Result<Self, KeyProblem> {
        // The fragment is a name for people.
        let rest = rest.split('#').next().unwrap_or_default();
        if rest.len() > MAX_URL {
            return Err(KeyProblem::Url("the URL is longer than 4096 bytes"));
        }
        let uri: Uri = format!("https://{rest}")
            .parse()
            .map_err(|_| KeyProblem::Url("the URL cannot be read"))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(KeyProblem::Url("the URL has a user name in it; leave it out"));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(KeyProblem::Url("the URL has no host"));
        }
        Ok(Self(uri))
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(key) => key.fmt(f),
            Self::Dynamic(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for KeyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("https://***")
    }
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => error.fmt(f),
            Self::Url(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for KeyProblem {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const STATIC: &str = "ss://Y2hhY2hhMjAtaWV0Zi1wb2x5MTMwNTpodW50ZXIy@192.0.2.1:8388/?outline=1";

    #[test]
    fn each_scheme_is_told_apart() {
        assert!(matches!(KeySource::parse(STATIC), Ok(KeySource::Static(_))));
        let urls = [
            "ssconf://h.example/hunter2#A",
            "SSCONF://h.example/hunter2",
            "https://h.example/hunter2",
        ];
        for text in urls {
            let Ok(KeySource::Dynamic(url)) = KeySource::parse(text) else { panic!("{text}") };
            assert_eq!(url.uri().to_string(), "https://h.example/hunter2");
            assert!(!format!("{url:?}").contains("hunter2"));
        }
        for (text, part) in [
            ("http://h.example/k", "use https://"),
            ("https://", "cannot be read"),
            ("ssconf:///k", "cannot be read"),
            ("https://u:hunter2@h.example/", "user name"),
            ("https://h example/", "cannot be read"),
            ("hunter2", ""),
            ("", ""),
        ] {
            let problem = KeySource::parse(text).expect_err(text).to_string();
            assert!(problem.contains(part) && !problem.contains("hunter2"), "{text}: {problem}");
        }
    }

    #[test]
    fn a_backend_may_leave_the_cipher_out() {
        let parts = |method: Option<&str>| OutlineKey::Parts {
            host: "192.0.2.1".to_owned(),
            port: 8388,
            method: method.map(str::to_owned),
            password: Secret::new("hunter2".to_owned()),
        };
        let bare = KeySource::of_backend(&parts(None)).unwrap();
        assert_eq!(bare, KeySource::parse(STATIC).unwrap());
        assert!(KeySource::of_backend(&parts(Some("rot13"))).is_err());
        let url = OutlineKey::Url(Secret::new(STATIC.to_owned()));
        assert_eq!(KeySource::of_backend(&url).unwrap(), bare);
    }
}
