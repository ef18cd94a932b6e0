//! Private readers of a program's requests, opened to the fuzzer.

use super::Credentials;
use super::request::{is_authorized, target_of};
use super::socks5::{Advance, Negotiation, Next, datagram, datagram_header};
use crate::Target;
use hyper::{HeaderMap, Method, Uri};

/// How a negotiation ended: with a target, with an association (no target), or with a refusal; None =
/// more bytes are needed.
pub type Verdict = Option<Result<Option<Target>, Vec<u8>>>;

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
                Next::Connect(target) => return (Some(Ok(Some(target))), at),
                Next::Associate(_) => return (Some(Ok(None)), at),
                Next::Refuse(answer, _) => return (Some(Err(answer)), at),
            }
        }
        if have == input.len() {
            return (None, at);
        }
        have = (have + piece.max(1)).min(input.len());
    }
}

/// Takes a datagram of an association; its target and its payload, which what comes back in the
/// target's name must lead to as well.
///
/// # Panics
/// When the answer's header does not lead back to the same target, which is what is fuzzed for.
pub fn socks5_datagram(input: &[u8]) -> Option<(Target, &[u8])> {
    let (target, payload) = datagram(input)?;
    let answer = [&datagram_header(&target), payload].concat();
    assert!(datagram(&answer) == Some((target.clone(), payload)), "the answer is another's");
    Some((target, payload))
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
