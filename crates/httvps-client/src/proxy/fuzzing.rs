//! Private readers of a program's requests, opened to the fuzzer.

use super::Credentials;
use super::request::{is_authorized, target_of};
use super::socks5::{Advance, Negotiation, Next};
use crate::Target;
use hyper::{HeaderMap, Method, Uri};

/// How a negotiation ended; None = more bytes are needed.
pub type Verdict = Option<Result<Target, Vec<u8>>>;

/// Takes a SOCKS5 negotiation that arrives in pieces of `piece` bytes; its end, and how many bytes
/// belonged to it.
pub fn socks5(input: &[u8], piece: usize, credentials: Option<&Credentials>) -> (Verdict, usize) {
    let mut negotiation = Negotiation::Methods;
    let (mut at, mut have) = (0, 0);
    loop {
        while let Some(Advance { consumed, next }) =
            negotiation.advance(&input[at..have], credentials)
        {
            at += consumed;
            match next {
                Next::Answer(_) => {}
                Next::Connect(target) => return (Some(Ok(target)), at),
                Next::Refuse(answer, _) => return (Some(Err(answer)), at),
            }
        }
        if have == input.len() {
            return (None, at);
        }
        have = (have + piece.max(1)).min(input.len());
    }
}

/// Judges the head of an HTTP request: whether it may, and where it wants to go.
pub fn http(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    credentials: Option<&Credentials>,
) -> (bool, Result<Target, String>) {
    (is_authorized(headers, credentials), target_of(method, uri))
}
