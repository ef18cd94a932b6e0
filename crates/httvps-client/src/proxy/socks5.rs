//! The server's side of a SOCKS5 negotiation (RFC 1928, RFC 1929), without I/O.

use super::Credentials;
use crate::{Host, Target, TargetError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first byte of every message but those of RFC 1929.
pub(super) const VERSION: u8 = 5;

/// The version of the user and password negotiation.
const AUTH_VERSION: u8 = 1;

const NO_AUTH: u8 = 0;
const USER_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;

/// The longest message: version, two lengths, user and password.
pub(super) const MAX_MESSAGE: usize = 3 + 255 + 255;

/// The `REP` field of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Succeeded = 0,
    GeneralFailure = 1,
    NotAllowed = 2,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    TtlExpired = 6,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

impl Reply {
    /// The whole reply. The bound address is left unspecified: there is none here.
    pub(super) const fn message(self) -> [u8; 10] {
        [VERSION, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

/// ```text
/// Methods ──▶ Password ──▶ Request ──▶ (target)
///    └─────────────────────▲
/// ```
/// Feed it what has arrived by [`Self::advance`]; a mistake ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Negotiation {
    Methods,
    Password,
    Request,
}

/// What one message of the program led to.
#[derive(Debug, PartialEq)]
pub(super) struct Advance {
    /// Bytes of the input that the message was.
    pub(super) consumed: usize,
    pub(super) next: Next,
}

#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Send this and go on.
    Answer([u8; 2]),
    /// Open a stream there, then send a [`Reply`].
    Connect(Target),
    /// Carry datagrams; answer with [`bound_reply`].
    Associate,
    /// Send this, as far as it goes, and close.
    Refuse(Vec<u8>, &'static str),
}

impl Negotiation {
    /// Takes the next message out of `input`; None while it is not complete. Never asks for more
    /// than [`MAX_MESSAGE`] bytes.
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        credentials: Option<&Credentials>,
    ) -> Option<Advance> {
        match self {
            Self::Methods => self.methods(input, credentials),
            Self::Password => self.password(input, credentials),
            Self::Request => request(input),
        }
    }

    fn methods(&mut self, input: &[u8], credentials: Option<&Credentials>) -> Option<Advance> {
        if *input.first()? != VERSION {
            return Some(refuse(&[], "not SOCKS5"));
        }
        let count = usize::from(*input.get(1)?);
        let methods = input.get(2..2 + count)?;
        let (wanted, after) = match credentials {
            Some(_) => (USER_PASSWORD, Self::Password),
            None => (NO_AUTH, Self::Request),
        };
        if !methods.contains(&wanted) {
            let words = match credentials {
                Some(_) => "a program offered no user and password, which this proxy asks for",
                None => "a program insists on an authentication that this proxy does not ask for",
            };
            return Some(refuse(&[VERSION, NO_METHOD], words));
        }
        *self = after;
        Some(Advance { consumed: 2 + count, next: Next::Answer([VERSION, wanted]) })
    }

    fn password(&mut self, input: &[u8], credentials: Option<&Credentials>) -> Option<Advance> {
        if *input.first()? != AUTH_VERSION {
            return Some(refuse(&[AUTH_VERSION, 1], "a malformed SOCKS5 authentication"));
        }
        let (user, rest) = prefixed(input.get(1..)?)?;
        let (password, rest) = prefixed(rest)?;
        if !credentials.is_some_and(|known| known.is_user(user, password)) {
            return Some(refuse(
                &[AUTH_VERSION, 1],
                "a program gave a wrong proxy user or password",
            ));
        }
        *self = Self::Request;
        Some(Advance { consumed: input.len() - rest.len(), next: Next::Answer([AUTH_VERSION, 0]) })
    }
}

fn refuse(answer: &[u8], words: &'static str) -> Advance {
    Advance { consumed: 0, next: Next::Refuse(answer.to_vec(), words) }
}

/// Splits a text off that is preceded by its length.
fn prefixed(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = input.split_first()?;
    rest.split_at_checked(usize::from(length))
}

fn request(input: &[u8]) -> Option<Advance> {
    const CONNECT: u8 = 1;
    const ASSOCIATE: u8 = 3;
    if *input.first()? != VERSION {
        return Some(refuse(&Reply::GeneralFailure.message(), "a malformed SOCKS5 request"));
    }
    let [command, _reserved, kind] = *input.get(1..4)?.first_chunk()?;
    if !matches!(kind, IPV4 | DOMAIN | IPV6) {
        let reply = Reply::AddressTypeNotSupported.message();
        return Some(refuse(&reply, "an unknown SOCKS5 address type"));
    }
    let (host, port, rest) = address(&input[3..])?;
    let next = match command {
        CONNECT => match target(host, port) {
            Ok(target) => Next::Connect(target),
            Err(_) => Next::Refuse(
                Reply::GeneralFailure.message().to_vec(),
                "a SOCKS5 request for a malformed host or port",
            ),
        },
        // The address and port that it names are not used: programs put the target's there, or
        // their own as it is in front of a translation of addresses.
        ASSOCIATE => Next::Associate,
        _ => {
            let words = "a SOCKS5 command other than CONNECT and UDP ASSOCIATE";
            return Some(refuse(&Reply::CommandNotSupported.message(), words));
        }
    };
    Some(Advance { consumed: input.len() - rest.len(), next })
}

const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;

/// An address from its type on, the port behind it, and what follows; None when the type is unknown
/// or something is missing. A name comes as bytes.
#[expect(clippy::type_complexity, reason = "a name for it would say no more")]
fn address(input: &[u8]) -> Option<(Result<IpAddr, &[u8]>, u16, &[u8])> {
    let (kind, rest) = input.split_first()?;
    let (host, rest) = match *kind {
        IPV4 => {
            let (bytes, rest) = rest.split_first_chunk::<4>()?;
            (Ok(IpAddr::V4(Ipv4Addr::from(*bytes))), rest)
        }
        IPV6 => {
            let (bytes, rest) = rest.split_first_chunk::<16>()?;
            (Ok(IpAddr::V6(Ipv6Addr::from(*bytes))), rest)
        }
        DOMAIN => {
            let (name, rest) = prefixed(rest)?;
            (Err(name), rest)
        }
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk::<2>()?;
    Some((host, u16::from_be_bytes(*port), rest))
}

/// The reply that names the socket of a UDP association.
pub(super) fn bound_reply(bound: SocketAddr) -> Vec<u8> {
    let mut reply = vec![VERSION, Reply::Succeeded as u8, 0];
    push_ip(&mut reply, bound.ip(), bound.port());
    reply
}

fn push_ip(out: &mut Vec<u8>, address: IpAddr, port: u16) {
    match address {
        IpAddr::V4(address) => {
            out.push(IPV4);
            out.extend(address.octets());
        }
        IpAddr::V6(address) => {
            out.push(IPV6);
            out.extend(address.octets());
        }
    }
    out.extend(port.to_be_bytes());
}

/// What a program's datagram is for (RFC 1928 section 7); None for a fragment and for what is none.
pub(super) fn datagram(input: &[u8]) -> Option<(Target, &[u8])> {
    let rest = input.strip_prefix(&[0, 0, 0])?;
    let (host, port, payload) = address(rest)?;
    Some((target(host, port).ok()?, payload))
}

/// The header of a datagram that comes from `target`.
pub(super) fn datagram_header(target: &Target) -> Box<[u8]> {
    let mut header = vec![0; 3];
    match &target.host {
        Host::Ip(address) => push_ip(&mut header, *address, target.port),
        Host::Name(name) => {
            let name = name.as_bytes();
            let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
            header.extend([DOMAIN, len]);
            header.extend(&name[..usize::from(len)]);
            header.extend(target.port.to_be_bytes());
        }
    }
    header.into()
}

fn target(host: Result<IpAddr, &[u8]>, port: u16) -> Result<Target, TargetError> {
    match host {
        Ok(address) => Target::from_parts(&address.to_string(), port),
        Err(name) => {
            let name = std::str::from_utf8(name).map_err(|_| TargetError::NotAscii)?;
            Target::from_parts(name, port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;
    use proptest::prelude::*;

    fn credentials() -> Credentials {
        Credentials::new(Secret::new("ann".into()), Secret::new("s3cret".into()))
    }

    /// Feeds `input` in pieces that end at `cuts`; the messages it led to.
    fn run(input: &[u8], cuts: &[usize], credentials: Option<&Credentials>) -> (Vec<Next>, usize) {
        let mut negotiation = Negotiation::Methods;
        let (mut steps, mut at, mut have) = (Vec::new(), 0, 0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        cuts.push(input.len());
        cuts.sort_unstable();
        for cut in cuts {
            have = have.max(cut);
            while let Some(Advance { consumed, next }) =
                negotiation.advance(&input[at..have], credentials)
            {
                at += consumed;
                let is_last = !matches!(next, Next::Answer(_));
                steps.push(next);
                if is_last {
                    return (steps, at);
                }
            }
        }
        (steps, at)
    }

    fn connect(kind: u8, address: &[u8]) -> Option<Next> {
        let mut input = vec![5, 1, 0, 5, 1, 0, kind];
        input.extend_from_slice(address);
        run(&input, &[], None).0.pop()
    }

    fn to(text: &str) -> Next {
        Next::Connect(text.parse().unwrap())
    }

    #[test]
    fn every_kind_of_address_is_read() {
        assert_eq!(connect(1, &[192, 0, 2, 7, 0, 80]), Some(to("192.0.2.7:80")));
        let mut v6 = Ipv6Addr::LOCALHOST.octets().to_vec();
        v6.extend([1, 0]);
        assert_eq!(connect(4, &v6), Some(to("[::1]:256")));
        assert_eq!(connect(3, b"\x0bexample.org\x01\xbb"), Some(to("example.org:443")));
    }

    #[test]
    fn an_association_is_answered_with_its_socket() {
        let asked = run(&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 9], &[], None).0.pop();
        assert_eq!(asked, Some(Next::Associate));
        let v6 = "[2001:db8::1]:258".parse().unwrap();
        let reply = bound_reply(v6);
        assert_eq!((&reply[..5], &reply[20..]), (&[5, 0, 0, 4, 0x20][..], &[1, 2][..]));
    }

    #[test]
    fn a_datagram_and_its_answer_name_the_target_alike() {
        for target in ["192.0.2.7:80", "[2001:db8::1]:53", "example.org:443"] {
            let target: Target = target.parse().unwrap();
            let mut bytes = datagram_header(&target).to_vec();
            bytes.extend(b"payload");
            assert_eq!(datagram(&bytes), Some((target, &b"payload"[..])));
            for missing in 1..bytes.len() - 7 {
                assert_eq!(datagram(&bytes[..missing]), None);
            }
            bytes[2] = 1;
            assert_eq!(datagram(&bytes), None, "a fragment");
        }
        assert_eq!(datagram(&[0, 0, 0, 9, 1, 1, 1, 1, 0, 1]), None);
    }

    #[test]
    fn what_cannot_be_done_has_its_own_reply() {
        let code = |input: &[u8]| match run(input, &[], None).0.pop() {
            Some(Next::Refuse(answer, _)) => answer[1],
            other => panic!("{other:?}"),
        };
        for command in [0, 2, 4, 0xff] {
            assert_eq!(code(&[5, 1, 0, 5, command, 0, 1, 1, 1, 1, 1, 0, 1]), 7);
        }
        assert_eq!(code(&[5, 1, 0, 5, 1, 0, 2]), 8);
        assert_eq!(code(b"\x05\x01\0\x05\x01\0\x03\x03a b\0\x01"), 1);
        assert_eq!(code(&[5, 1, 0, 5, 1, 0, 1, 1, 1, 1, 1, 0, 0]), 1);
        assert_eq!(code(&[5, 2, 1, 2]), NO_METHOD);
        assert_eq!(code(&[5, 0]), NO_METHOD);
    }

    #[test]
    fn configured_credentials_are_required() {
        let known = credentials();
        let log_in = |user: &str, password: &str| {
            let mut input = vec![5, 2, 0, 2, 1, user.len() as u8];
            input.extend_from_slice(user.as_bytes());
            input.push(password.len() as u8);
            input.extend_from_slice(password.as_bytes());
            input.extend([5, 1, 0, 1, 1, 1, 1, 1, 0, 1]);
            run(&input, &[], Some(&known)).0
        };
        assert_eq!(log_in("ann", "s3cret").pop(), Some(to("1.1.1.1:1")));
        for (user, password) in [("ann", "wrong!"), ("bob", "s3cret"), ("", ""), ("ann", "s3cre")] {
            let last = log_in(user, password).pop();
            assert!(matches!(last, Some(Next::Refuse(answer, _)) if answer == [1, 1]));
        }
        let (steps, _) = run(&[5, 1, 0], &[], Some(&known));
        assert!(matches!(&steps[..], [Next::Refuse(answer, _)] if *answer == [5, NO_METHOD]));
    }

    #[test]
    fn what_follows_the_request_is_left_alone() {
        let (steps, at) = run(b"\x05\x01\0\x05\x01\0\x01\x01\x01\x01\x01\0\x01hello", &[], None);
        assert_eq!(steps.len(), 2);
        assert_eq!(at, 13);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            methods in prop::collection::vec(0_u8..4, 0..4),
            tail in prop::collection::vec(any::<u8>(), 0..80),
            host in "[a-z0-9.:-]{0,20}",
            cuts in prop::collection::vec(any::<usize>(), 0..8),
            has_credentials in any::<bool>(),
        ) {
            let mut input = vec![5, methods.len() as u8];
            input.extend(&methods);
            if has_credentials {
                input.extend(b"\x01\x03ann\x06s3cret");
            }
            input.extend([5, 1, 0, 3, host.len() as u8]);
            input.extend(host.as_bytes());
            input.extend(&tail);
            let known = has_credentials.then(credentials);
            prop_assert_eq!(run(&input, &cuts, known.as_ref()), run(&input, &[], known.as_ref()));
        }

        #[test]
        fn any_bytes_end_within_the_bound(input in prop::collection::vec(any::<u8>(), 0..1200)) {
            let mut negotiation = Negotiation::Methods;
            let mut at = 0;
            while let Some(Advance { consumed, next: Next::Answer(_) }) =
                negotiation.advance(&input[at..], None)
            {
                prop_assert!(consumed > 0);
                at += consumed;
            }
            for start in [Negotiation::Methods, Negotiation::Password, Negotiation::Request] {
                let mut negotiation = start;
                let enough = &input[..input.len().min(MAX_MESSAGE)];
                if enough.len() == MAX_MESSAGE {
                    prop_assert!(negotiation.advance(enough, None).is_some());
                }
            }
        }
    }
}
