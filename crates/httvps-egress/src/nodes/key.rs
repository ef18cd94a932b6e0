//! A key in a configuration: the key itself, or the URL to fetch it from.

use httvps_config::Secret;
use httvps_control::backend::OutlineKey;
use httvps_proto::{Target, TargetError};
use httvps_proxies::ProxyKey;
use httvps_shadowsocks::{AccessKey, Cipher, KeyError};
use hyper::Uri;
use std::fmt;

/// Longest URL of a dynamic key, in bytes.
const MAX_URL: usize = 4096;

/// The cipher of a node for which the backend names none: Outline's.
const DEFAULT_METHOD: &str = "chacha20-ietf-poly1305";

/// The error for a URL with an `@`.
const AT: &str = "the URL of a dynamic key has no user, and @ in it is written %40; \
                  in a proxy's user and password / is written %2F, ? %3F, # %23 and @ %40";

/// A parsed key.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// An `ss://` key.
    Static(AccessKey),
    /// A `socks5://`, `http://` or `https://` proxy.
    Proxy(ProxyKey),
    /// An `ssconf://` or `https://` key: the URL from which the key is fetched.
    Dynamic(KeyUrl),
}

/// The URL of a dynamic key. It gives access to the key, so it is shown nowhere.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyUrl(Uri);

/// Why a text is not a key. `Display` contains no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyProblem {
    /// An invalid `ss://` key.
    Key(KeyError),
    /// An invalid key of a proxy.
    Proxy(httvps_proxies::KeyError),
    /// An empty text.
    Empty,
    /// An unknown scheme.
    Scheme,
    /// A key of another kind where only an Outline key is accepted.
    NoOutline,
    /// An invalid URL, with the fault.
    Url(&'static str),
}

impl KeySource {
    /// Reads `ss://…`, `ssconf://…`, `https://…`, or a proxy's `socks5://…`, `http://…`, `https://…`.
    ///
    /// `https://` with a path is a dynamic key, without one a proxy.
    pub fn parse(text: &str) -> Result<Self, KeyProblem> {
        let text = text.trim_ascii();
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        match scheme.to_ascii_lowercase().as_str() {
            "ssconf" => KeyUrl::parse(rest).map(Self::Dynamic),
            // The @ may stand behind a proxy's password that has a / in it and a # behind that.
            "https" if has_path(rest) && rest.contains('@') => Err(KeyProblem::Url(AT)),
            "https" if has_path(rest) => KeyUrl::parse(rest).map(Self::Dynamic),
            "http" if has_path(rest) && !is_unescaped(text) => Err(KeyProblem::Url(
                "http:// shows the key to the whole path; use https:// (a proxy is http://HOST:PORT)",
            )),
            scheme @ ("socks5" | "socks5h" | "http" | "https") => match ProxyKey::parse(text) {
                Err(httvps_proxies::KeyError::Node(TargetError::NoPort)) if scheme == "https" => {
                    Err(KeyProblem::Url(
                        "the proxy has no port; write HOST:PORT (a dynamic key has a path behind the host)",
                    ))
                }
                key => key.map(Self::Proxy).map_err(KeyProblem::Proxy),
            },
            "ss" => AccessKey::parse(text).map(Self::Static).map_err(KeyProblem::Key),
            _ if text.is_empty() => Err(KeyProblem::Empty),
            _ => Err(KeyProblem::Scheme),
        }
    }

    /// Checks what a backend is to assign: host and port, and the key, which is `access_url` where there is one.
    pub fn check_assigned(
        host: &str,
        port: u16,
        method: Option<&str>,
        password: Option<&str>,
        access_url: Option<&str>,
    ) -> Result<(), KeyProblem> {
        Target::from_parts(host, port).map_err(|error| KeyProblem::Key(KeyError::Node(error)))?;
        if let Some(method) = method {
            Cipher::from_name(method).ok_or(KeyProblem::Key(KeyError::Method))?;
        }
        let key = match (access_url, password) {
            (Some(url), _) => OutlineKey::Url(Secret::new(url.to_owned())),
            (None, Some(password)) => OutlineKey::Parts {
                host: host.to_owned(),
                port,
                method: method.map(str::to_owned),
                password: Secret::new(password.to_owned()),
            },
            (None, None) => return Err(KeyProblem::Empty),
        };
        Self::of_backend(&key).map(drop)
    }

    /// Builds the key that a backend assigned. A backend assigns Outline nodes only; proxies come from the operator's pool.
    pub(crate) fn of_backend(key: &OutlineKey) -> Result<Self, KeyProblem> {
        match key {
            OutlineKey::Url(url) => match Self::parse(url.expose())? {
                Self::Proxy(_) => Err(KeyProblem::NoOutline),
                key => Ok(key),
            },
            OutlineKey::Parts { host, port, method, password } => {
                let method = method.as_deref().unwrap_or(DEFAULT_METHOD);
                AccessKey::from_parts(host, *port, method, password.expose())
                    .map(Self::Static)
                    .map_err(KeyProblem::Key)
            }
        }
    }
}

/// Whether a proxy's key has a user or password that can be read in more than one way.
fn is_unescaped(text: &str) -> bool {
    ProxyKey::parse(text) == Err(httvps_proxies::KeyError::Unescaped)
}

/// Whether there is something behind host and port, as behind those of a proxy there is not.
fn has_path(rest: &str) -> bool {
    let rest = rest.split('#').next().unwrap_or_default();
    rest.split_once(['/', '?']).is_some_and(|(_, path)| !path.is_empty())
}

impl KeyUrl {
    /// Parses the part after `ssconf://` or `https://`.
    fn parse(rest: &str) -> Result<Self, KeyProblem> {
        // The fragment is a name for people.
        let rest = rest.split('#').next().unwrap_or_default();
        if rest.len() > MAX_URL {
            return Err(KeyProblem::Url("the URL is longer than 4096 bytes"));
        }
        // With a `/` in a proxy's password the user would be taken for the host of a dynamic key.
        if rest.contains('@') {
            return Err(KeyProblem::Url(AT));
        }
        let uri: Uri = format!("https://{rest}")
            .parse()
            .map_err(|_| KeyProblem::Url("the URL cannot be read"))?;
        if uri.host().is_none_or(str::is_empty) {
            return Err(KeyProblem::Url("the URL has no host"));
        }
        let has_port = uri.authority().is_some_and(|a| a.as_str().len() > a.host().len());
        if has_port && uri.port_u16().is_none_or(|port| port == 0) {
            return Err(KeyProblem::Url(
                "the URL's port is no number from 1 to 65535; a proxy's password needs %2F for /",
            ));
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
            Self::Proxy(key) => key.fmt(f),
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
            Self::Proxy(error) => error.fmt(f),
            Self::Empty => f.write_str("it is empty"),
            Self::Scheme => {
                f.write_str("a key begins with ss://, ssconf://, https://, socks5:// or http://")
            }
            Self::NoOutline => f.write_str("it is no NodePool key"),
            Self::Url(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for KeyProblem {}

#[cfg(test)]
mod tests {
    use super::*;
    use httvps_config::Secret;

    const STATIC: &str = "ss://Y2hhY2hhMjAtaWV0Zi1wb2x5MTMwNTpodW50ZXIy@192.0.2.1:8388/?outline=1";

    #[test]
    fn each_scheme_is_told_apart() {
        assert!(matches!(KeySource::parse(STATIC), Ok(KeySource::Static(_))));
        let urls = [
            "ssconf://h.example/hunter2#A@B",
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
            ("https://", "no port"),
            ("https://h.example/", "no port"),
            ("ssconf:///k", "cannot be read"),
            ("https://u:hunter2@h.example/k", "no user"),
            ("https://ann:hunter2/b@p.example:443", "/ is written %2F"),
            ("https://ann:123/hunter2@p.example:443", "/ is written %2F"),
            ("https://ann:123?hunter2@p.example:443", "? %3F"),
            ("https://ann:123#hunter2@p.example:443", "# is written %23"),
            ("https://ann:1/2#hunter2@p.example:443", "# %23"),
            ("http://ann:1/hunter2@p.example:443", "/ %2F"),
            ("https://h.example/hunter2@b", "@ in it is written %40"),
            ("ssconf://h.example/hunter2@b", "@ in it is written %40"),
            ("https://ann:hunter2/b", "port is no number"),
            ("https://h:0/k", "port is no number"),
            ("https://h:65536/k", "port is no number"),
            ("https://keys.example", "a dynamic key has a path"),
            ("socks4://h:1", "a key begins with ss://"),
            ("vmess://hunter2", "a key begins with ss://"),
            ("https://h example/k", "cannot be read"),
            ("socks5://hunter2@h:1", "needs a password"),
            ("socks5://h:1/hunter2", "nothing behind"),
            ("https://u:hunter2@h", "no port"),
            ("hunter2", "a key begins with ss://"),
            ("", "it is empty"),
        ] {
            let problem = KeySource::parse(text).expect_err(text).to_string();
            assert!(problem.contains(part) && !problem.contains("hunter2"), "{text}: {problem}");
        }
    }

    #[test]
    fn a_proxy_has_no_path_and_a_dynamic_key_has_one() {
        for text in
            ["socks5://u:hunter2@h:1", "SOCKS5H://h:1", "http://h:1", "https://u:hunter2@h:1/#x"]
        {
            let Ok(KeySource::Proxy(key)) = KeySource::parse(text) else { panic!("{text}") };
            assert!(!format!("{key:?}").contains("hunter2"));
            let url = OutlineKey::Url(Secret::new(text.to_owned()));
            assert_eq!(KeySource::of_backend(&url), Err(KeyProblem::NoOutline));
        }
        for text in ["https://h:1/k", "https://h?k", "ssconf://h:1"] {
            assert!(matches!(KeySource::parse(text), Ok(KeySource::Dynamic(_))), "{text}");
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
