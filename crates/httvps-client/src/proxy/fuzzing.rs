//! Private readers of a program's requests, opened to the fuzzer.

pub use super::http::fuzzing::{Judged, chunked, http, http_answer};

use super::Credentials;
use super::socks5::{self, Advance, Negotiation, Next};
use crate::Target;

/// How a negotiation ended: with a stream to a target, with datagrams (no target yet), or with a
/// refusal. None = more bytes are needed.
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
                Next::Associate => return (Some(Ok(None)), at),
                Next::Refuse(answer, _) => return (Some(Err(answer)), at),
            }
        }
        if have == input.len() {
            return (None, at);
        }
        have = (have + piece.max(1)).min(input.len());
    }
}

/// Target, payload, and the header of an answer.
pub type Datagram<'d> = (Target, &'d [u8], Box<[u8]>);

/// Reads a datagram of a program: its target, its payload, and the header of an answer from there.
pub fn socks5_datagram(input: &[u8]) -> Option<Datagram<'_>> {
    let (target, payload) = socks5::datagram(input)?;
    let header = socks5::datagram_header(&target);
    Some((target, payload, header))
}
