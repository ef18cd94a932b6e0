//! The address of the backend.

use hyper::Uri;
use std::fmt;
use std::str::FromStr;

/// Most bytes of a base URL.
const MAX_LEN: usize = 2_048;

/// The base URL of the backend: `http` or `https`, a host, and perhaps a port and a path.
///
/// It has no credentials, query or fragment. `Display` gives it without a slash at its end, so that
/// the paths of the backend API can be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendUrl {
    /// Without a slash at its end.
    base: String,
    https: bool,
}

impl BackendUrl {
    /// Whether the backend is reached over TLS.
    pub fn is_https(&self) -> bool {
        self.https
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// Why a text is not a base URL: a phrase that follows the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendUrlError(&'static str);

impl fmt::Display for BackendUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BackendUrlError {}

const CREDENTIALS: BackendUrlError =
    BackendUrlError("has credentials in it; set BACKEND_GATEWAY_SECRET instead");

impl FromStr for BackendUrl {
    type Err = BackendUrlError;

    fn from_str(text: &str) -> Result<Self, BackendUrlError> {
        // Before everything else: an @ anywhere may belong to a password.
        if text.contains('@') {
            return Err(CREDENTIALS);
        }
        if text.len() > MAX_LEN {
            return Err(BackendUrlError("is longer than 2048 bytes"));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(BackendUrlError("does not begin with http:// or https://"));
        };
        let https = scheme.eq_ignore_ascii_case("https");
        if !https && !scheme.eq_ignore_ascii_case("http") {
            return Err(BackendUrlError("has a scheme that is neither http nor https"));
        }
        if rest.contains(['?', '#']) {
            return Err(BackendUrlError("has a query or a fragment"));
        }
        let rest = rest.trim_end_matches('/');
        let base = format!("{}://{rest}", if https { "https" } else { "http" });
        // The parser of URIs lets any byte above ASCII through.
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BackendUrlError("has a character that no URL has"));
        }
        let uri: Uri = base.parse().map_err(|_| BackendUrlError("is not a URL"))?;
        let authority = uri.authority().ok_or(BackendUrlError("has no host"))?;
        if uri.host().is_none_or(str::is_empty) {
            return Err(BackendUrlError("has no host"));
        }
        let after = &authority.as_str()[authority.host().len()..];
        if !after.is_empty() && uri.port_u16().is_none_or(|port| port == 0) {
            return Err(BackendUrlError("has a port that is not a number from 1 to 65535"));
        }
        Ok(Self { base, https })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_keeps_its_path_and_loses_its_last_slash() {
        for (text, base) in [
            ("http://backend:8000", "http://backend:8000"),
            ("http://backend:8000/", "http://backend:8000"),
            ("HTTPS://b.example/base/v2//", "https://b.example/base/v2"),
            ("http://[::1]:80", "http://[::1]:80"),
        ] {
            let url: BackendUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), base);
            assert_eq!(url.is_https(), base.starts_with("https"));
        }
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        for (text, part) in [
            ("", "does not begin"),
            ("backend:8000", "does not begin"),
            ("ftp://backend", "neither http nor https"),
            ("http://user:pass@backend", "BACKEND_GATEWAY_SECRET"),
            ("https//token@", "BACKEND_GATEWAY_SECRET"),
            ("http://backend?x=1", "query"),
            ("http://backend/#x", "query"),
            ("http://", "not a URL"),
            ("http:///path", "not a URL"),
            ("http://:80", "no host"),
            ("http://backend:", "port"),
            ("http://backend:0", "port"),
            ("http://backend:99999", "port"),
            ("http://back end", "character"),
            ("http://bäckend", "character"),
            ("http://a\nb", "character"),
        ] {
            let error = text.parse::<BackendUrl>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!("http://x".repeat(500).parse::<BackendUrl>().is_err());
    }
}
