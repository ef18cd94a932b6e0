//! SOCKS5 (RFC 1928) with user and password (RFC 1929), the client's side.

use std::net::IpAddr;

use httvps_proto::Target;
use httvps_proto::address::{self, ADDRESS_MAX};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::credentials::Credentials;
use crate::{Error, Refusal};

const VERSION: u8 = 5;
const NO_AUTH: u8 = 0;
const PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
/// The version of the negotiation of RFC 1929.
const AUTH_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const ASSOCIATE: u8 = 3;

/// Agrees on a method, and gives user and password if the proxy wants them.
pub(crate) async fn greet<S>(io: &mut S, credentials: Option<&Credentials>) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let methods: &[u8] = match credentials {
        Some(_) => &[VERSION, 2, NO_AUTH, PASSWORD],
        None => &[VERSION, 1, NO_AUTH],
    };
    io.write_all(methods).await?;
    io.flush().await?;
    let mut answer = [0; 2];
    io.read_exact(&mut answer).await?;
    match (answer, credentials) {
        ([VERSION, NO_AUTH], _) => Ok(()),
        ([VERSION, PASSWORD], Some(credentials)) => log_in(io, credentials).await,
        ([VERSION, NO_METHOD], None) => Err(Error::NoCredentials),
        // The proxy accepts neither of the two methods that were offered.
        ([VERSION, NO_METHOD], Some(_)) => Err(Error::Credentials),
        _ => Err(Error::NotAProxy),
    }
}

async fn log_in<S>(io: &mut S, credentials: &Credentials) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Zeroizing::new(Vec::with_capacity(3 + 2 * 255));
    request.push(AUTH_VERSION);
    for text in [&credentials.user, &credentials.password] {
        // A key has no longer ones than 255 bytes.
        request.push(text.len() as u8);
        request.extend_from_slice(text);
    }
    io.write_all(&request).await?;
    io.flush().await?;
    let mut answer = [0; 2];
    io.read_exact(&mut answer).await?;
    // Some proxies put the version of SOCKS there; what counts is the status.
    match answer[1] {
        0 => Ok(()),
        _ => Err(Error::Credentials),
    }
}

/// Asks for a stream to `target`. Reads no byte behind the answer.
pub(crate) async fn connect<S>(io: &mut S, target: &Target) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    request(io, CONNECT, Some(target)).await.map(drop)
}

/// Asks for datagrams; gives where the proxy takes them, no address standing for the proxy's own. So does a name: the
/// proxy would choose whom we ask for it.
pub(crate) async fn associate<S>(io: &mut S) -> Result<(Option<IpAddr>, u16), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // What this host sends from shows at the proxy: behind a translation of addresses we could not say.
    let bound = request(io, ASSOCIATE, None).await?;
    let (relay, _) = address::split(&bound).ok_or(Error::NotAProxy)?;
    if relay.port == 0 {
        return Err(Error::Unsupported);
    }
    Ok((relay.ip.filter(|ip| !ip.is_unspecified()), relay.port))
}

/// Sends a request and reads the answer; gives the address header in it.
async fn request<S>(io: &mut S, command: u8, target: Option<&Target>) -> Result<Vec<u8>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = Vec::with_capacity(3 + ADDRESS_MAX);
    request.extend_from_slice(&[VERSION, command, 0]);
    match target {
        Some(target) => address::encode(target, &mut request),
        None => request.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0]),
    }
    io.write_all(&request).await?;
    io.flush().await?;
    // A refusal may end right behind its reason.
    let mut start = [0; 2];
    io.read_exact(&mut start).await?;
    match start {
        [VERSION, 0] => {}
        [VERSION, reply] => return Err(refusal(reply)),
        _ => return Err(Error::NotAProxy),
    }
    // The reserved byte, and as much of the address as tells its length.
    let mut rest = [0; 3];
    io.read_exact(&mut rest).await?;
    let length = address::header_len(&rest[1..]).ok().flatten().ok_or(Error::NotAProxy)?;
    let mut bound = rest[1..].to_vec();
    bound.resize(length, 0);
    io.read_exact(&mut bound[2..]).await?;
    Ok(bound)
}

/// What a reply other than 0 means (RFC 1928 section 6).
fn refusal(reply: u8) -> Error {
    match reply {
        2 => Error::Target(Refusal::Denied),
        5 => Error::Target(Refusal::Refused),
        6 => Error::Target(Refusal::TimedOut),
        7 => Error::Unsupported,
        // General failure, network and host unreachable, no such type of address; others are not in the RFC.
        _ => Error::Target(Refusal::Unreachable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Script, read_all};

    const KEY: &str = "socks5://ann:s3cret@h:1080";
    const BOUND: &[u8] = &[5, 0, 0, 1, 192, 0, 2, 1, 4, 56];
    const LOGIN: &[u8] = b"\x01\x03ann\x06s3cret";

    async fn opened(key: &str, script: &[(&[u8], &[u8])]) -> Result<Vec<u8>, Error> {
        read_all(key, "a.example:443", script).await
    }

    const REQUEST: &[u8] = b"\x05\x01\0\x03\x09a.example\x01\xbb";

    #[tokio::test]
    async fn a_name_is_passed_as_a_name_and_no_byte_is_lost() {
        let early = [BOUND, b"first bytes"].concat();
        let open: [(&[u8], &[u8]); 2] = [(&[5, 1, 0], &[5, 0]), (REQUEST, &early)];
        assert_eq!(opened("socks5://h:1", &open).await.unwrap(), b"first bytes");
        let named = [b"\x05\0\0\x03\x05x.org\0\x01".as_slice(), b"x"].concat();
        let open: [(&[u8], &[u8]); 2] = [(&[5, 2, 0, 2], &[5, 0]), (REQUEST, &named)];
        assert_eq!(opened(KEY, &open).await.unwrap(), b"x");
    }

    #[tokio::test]
    async fn user_and_password_are_given_when_wanted() {
        let wanted: (&[u8], &[u8]) = (&[5, 2, 0, 2], &[5, 2]);
        let script = [wanted, (LOGIN, &[1, 0]), (REQUEST, BOUND)];
        assert_eq!(opened(KEY, &script).await.unwrap(), b"");
        let error = opened(KEY, &[wanted, (LOGIN, &[1, 1])]).await.unwrap_err();
        assert!(matches!(error, Error::Credentials), "{error}");
        let none: [(&[u8], &[u8]); 1] = [(&[5, 1, 0], &[5, 0xff])];
        let error = opened("socks5://h:1", &none).await.unwrap_err();
        assert!(matches!(error, Error::NoCredentials), "{error}");
    }

    #[tokio::test]
    async fn each_reply_has_its_meaning() {
        for (reply, expected) in [
            (1, Refusal::Unreachable),
            (2, Refusal::Denied),
            (3, Refusal::Unreachable),
            (4, Refusal::Unreachable),
            (5, Refusal::Refused),
            (6, Refusal::TimedOut),
            (8, Refusal::Unreachable),
        ] {
            let script: [(&[u8], &[u8]); 2] = [(&[5, 1, 0], &[5, 0]), (REQUEST, &[5, reply])];
            let error = opened("socks5://h:1", &script).await.unwrap_err();
            assert!(matches!(error, Error::Target(got) if got == expected), "{reply}: {error}");
        }
    }

    #[tokio::test]
    async fn what_is_no_socks_and_what_ends_is_told() {
        let http: [(&[u8], &[u8]); 1] = [(&[5, 1, 0], b"HTTP/1.1 400 Bad Request")];
        assert!(matches!(opened("socks5://h:1", &http).await, Err(Error::NotAProxy)));
        let short: [(&[u8], &[u8]); 2] = [(&[5, 1, 0], &[5, 0]), (REQUEST, &BOUND[..7])];
        assert!(matches!(opened("socks5://h:1", &short).await, Err(Error::Io(_))));
        let kind: [(&[u8], &[u8]); 2] = [(&[5, 1, 0], &[5, 0]), (REQUEST, &[5, 0, 0, 9, 9, 9])];
        assert!(matches!(opened("socks5://h:1", &kind).await, Err(Error::NotAProxy)));
    }

    #[tokio::test]
    async fn the_relay_of_datagrams_is_where_the_proxy_says() {
        const ASK: &[u8] = &[5, 3, 0, 1, 0, 0, 0, 0, 0, 0];
        for (answer, expected) in [
            (&[5, 0, 0, 1, 192, 0, 2, 1, 4, 56][..], Some((Some("192.0.2.1"), 1080_u16))),
            (&[5, 0, 0, 1, 0, 0, 0, 0, 4, 56], Some((None, 1080))),
            (b"\x05\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\x38", Some((None, 1080))),
            (b"\x05\0\0\x04\0\0\0\0\0\0\0\0\0\0\xff\xff\0\0\0\0\x04\x38", Some((None, 1080))),
            (b"\x05\0\0\x03\x05x.org\x04\x38", Some((None, 1080))),
            (b"\x05\0\0\x03\x01 \x04\x38", Some((None, 1080))),
        ] {
            let (mut io, proxy) = Script::run(&[(ASK, answer)]);
            let relay = associate(&mut io).await.ok();
            drop(io);
            proxy.await.unwrap();
            let expected = expected.map(|(ip, port)| (ip.map(|ip| ip.parse().unwrap()), port));
            assert_eq!(relay, expected, "{answer:?}");
        }
        for answer in [&[5, 7][..], &[5, 0, 0, 1, 192, 0, 2, 1, 0, 0]] {
            let (mut io, proxy) = Script::run(&[(ASK, answer)]);
            let relay = associate(&mut io).await;
            assert!(matches!(relay, Err(Error::Unsupported)), "{answer:?}: {relay:?}");
            proxy.await.unwrap();
        }
    }
}
