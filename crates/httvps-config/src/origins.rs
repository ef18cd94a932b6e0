//! Which web pages may open sessions.

/// Reads one origin, `scheme://host[:port]`, as a browser sends it (RFC 6454 section 6.2); gives it
/// in lower case.
///
/// The error is a phrase that follows the value of the whole list.
pub(super) fn parse(text: &str) -> Result<String, String> {
    let wrong = |why: &str| Err(format!("has the item {}, which {why}", super::error::shown(text)));
    let Some((scheme, authority)) = text.split_once("://") else {
        return wrong("is not scheme://host[:port]");
    };
    if scheme.is_empty()
        || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    {
        return wrong("has no scheme");
    }
    if authority.contains('*') {
        return wrong("has a wildcard; name each origin");
    }
    if authority.contains(['/', '?', '#', '@']) {
        return wrong("has more than scheme, host and port; a browser sends no path");
    }
    if authority.is_empty() || !authority.bytes().all(|b| b.is_ascii_graphic()) {
        return wrong("has no host in plain ASCII");
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_kept_in_lower_case() {
        assert_eq!(parse("https://App.example:444").unwrap(), "https://app.example:444");
        assert_eq!(parse("http://[::1]:3000").unwrap(), "http://[::1]:3000");
    }

    #[test]
    fn refuses_what_no_browser_sends() {
        for text in
            ["app.example", "https://a/", "https://*.a", "://a", "https://", "https://ä", "a b://c"]
        {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with("has the item "), "{error}");
        }
    }
}
