//! The readers of HTTP messages, opened to the fuzzer.

use super::answer::rewritten;
use super::body::{Decoder, Encoding, Framing, Step};
use super::request::{Wish, judge};
use crate::Target;
use crate::proxy::Credentials;
use bytes::BytesMut;

/// What the head of an HTTP request led to.
pub enum Judged {
    /// Answered by the proxy, which closes the connection.
    Refused,
    /// Answered by the proxy.
    Answered,
    /// A tunnel.
    Tunnel(Target),
    /// A head that goes on to its origin.
    Forward(Target, Vec<u8>),
}

/// Judges the head of an HTTP request.
pub fn http(head: &[u8], credentials: Option<&Credentials>) -> Judged {
    match judge(head, credentials) {
        Err(_) => Judged::Refused,
        Ok((_, Wish::Answer(_))) => Judged::Answered,
        Ok((_, Wish::Tunnel(target))) => Judged::Tunnel(target),
        Ok((_, Wish::Forward(target, head))) => Judged::Forward(target, head),
    }
}

/// Rewrites the head of an answer to a GET request; None when it is refused.
pub fn http_answer(head: &[u8]) -> Option<Vec<u8>> {
    let (asked, _) = judge(b"GET http://a/ HTTP/1.1\r\n\r\n", None).ok()?;
    rewritten(head, &asked, true).ok().map(|answer| answer.head)
}

/// Decodes a chunked body that arrives in pieces of `piece` bytes, and encodes it again. None when
/// it is malformed; else what was written, and how many bytes were taken when the body is over.
pub fn chunked(input: &[u8], piece: usize) -> Option<(Vec<u8>, Option<usize>)> {
    let mut decoder = Decoder::new(Framing::Chunked);
    let (mut out, mut have, mut at) = (Vec::new(), BytesMut::new(), 0);
    loop {
        match decoder.next(&mut have).ok()? {
            Step::Data(data) => Encoding::Chunked.data(&mut out, &data),
            Step::End(trailers) => {
                Encoding::Chunked.end(&mut out, &trailers);
                return Some((out, Some(at - have.len())));
            }
            Step::More if at == input.len() => return Some((out, None)),
            Step::More => {
                let next = at.saturating_add(piece.max(1)).min(input.len());
                have.extend_from_slice(&input[at..next]);
                at = next;
            }
        }
    }
}
