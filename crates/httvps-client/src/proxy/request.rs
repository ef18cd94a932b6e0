//! One HTTP request of a local program.

use super::Credentials;
use crate::{Open, OpenError, StreamEnd, Target, TargetError};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;

type Body = BoxBody<Bytes, hyper::Error>;

pub(super) enum Answer<S> {
    Response(Response<Body>),
    /// The program wants a tunnel and gets one, once the response has been sent.
    Tunnel(Response<Body>, Tunnel<S>),
}

pub(super) struct Tunnel<S> {
    pub(super) upgrade: OnUpgrade,
    pub(super) stream: S,
    pub(super) target: Target,
}

/// Fields that concern one connection only (RFC 9110 section 7.6.1), those meant for a proxy, and
/// `Expect`, which is answered here.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::EXPECT,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Answers a request: with a tunnel (CONNECT), with the origin's response (`http://…`), or with
/// what is wrong in one line.
pub(super) async fn answer<O: Open>(
    mut request: Request<Incoming>,
    credentials: Option<&Credentials>,
    opener: &O,
) -> Answer<O::Stream> {
    if !is_authorized(request.headers(), credentials) {
        let words = "this proxy asks for a user name and a password";
        let mut response = plain(StatusCode::PROXY_AUTHENTICATION_REQUIRED, words);
        let challenge = HeaderValue::from_static("Basic realm=\"httvps\"");
        response.headers_mut().insert(header::PROXY_AUTHENTICATE, challenge);
        return Answer::Response(response);
    }
    let target = match target_of(request.method(), request.uri()) {
        Ok(target) => target,
        Err(words) => return Answer::Response(plain(StatusCode::BAD_REQUEST, &words)),
    };
    let stream = match opener.open(&target).await {
        Ok(stream) => stream,
        Err(error) => return Answer::Response(refusal(&target, &error)),
    };
    if request.method() == Method::CONNECT {
        let upgrade = hyper::upgrade::on(&mut request);
        let nothing = Empty::new().map_err(|never| match never {}).boxed();
        return Answer::Tunnel(Response::new(nothing), Tunnel { upgrade, stream, target });
    }
    Answer::Response(forward(request, stream).await.unwrap_or_else(|error| {
        plain(StatusCode::BAD_GATEWAY, &format!("{target} did not answer in HTTP: {error}"))
    }))
}

pub(super) fn is_authorized(headers: &HeaderMap, credentials: Option<&Credentials>) -> bool {
    let Some(known) = credentials else {
        return true;
    };
    headers.get(header::PROXY_AUTHORIZATION).is_some_and(|value| {
        let scheme = value.as_bytes().get(..6);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic "))
            && known.is_basic(value.as_bytes()[6..].trim_ascii())
    })
}

/// Where a request wants to go; else what is wrong with it.
pub(super) fn target_of(method: &Method, uri: &Uri) -> Result<Target, String> {
    let malformed = |error: TargetError| format!("malformed target: {error}");
    let authority = uri.authority().map(hyper::http::uri::Authority::as_str);
    // A user name before the host is for the origin, who gets it in another header.
    let authority = authority.map(|text| text.rsplit_once('@').map_or(text, |(_, host)| host));
    match (authority, uri.scheme_str()) {
        (Some(authority), None) if method == Method::CONNECT => {
            Target::parse(authority).map_err(malformed)
        }
        (Some(authority), Some("http")) if method != Method::CONNECT => {
            let port = uri.port_u16();
            let host = match port {
                Some(_) => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
                None => authority.trim_end_matches(':'),
            };
            Target::from_parts(host, port.unwrap_or(80)).map_err(malformed)
        }
        (Some(_), Some(scheme)) => {
            Err(format!("{scheme}:// is not carried in plain requests; use CONNECT"))
        }
        _ => Err("this is a proxy, not a web server; name it as proxy in the settings of your \
                  program"
            .into()),
    }
}

/// Sends a request over a stream of its own and gives back the response, whose body flows on.
///
/// No `Via` is added: a device behind a tunnel does not want to be told by it.
async fn forward<S>(
    mut request: Request<Incoming>,
    stream: S,
) -> Result<Response<Body>, hyper::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    to_origin_form(&mut request);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the response or with whoever was waiting for it.
    tokio::spawn(connection);
    let mut response = sender.send_request(request).await?;
    remove_hop_by_hop(response.headers_mut());
    Ok(response.map(BodyExt::boxed))
}

/// Rewrites a request as RFC 9112 section 3.2.2 has it: the path alone, `Host` from the URI.
fn to_origin_form(request: &mut Request<Incoming>) {
    let uri = request.uri();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = HeaderValue::from_str(host);
    remove_hop_by_hop(request.headers_mut());
    if let Ok(host) = host {
        request.headers_mut().insert(header::HOST, host);
    }
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    *request.version_mut() = hyper::Version::HTTP_11;
    *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
}

/// Removes the fields of [`HOP_BY_HOP`], `Keep-Alive`, `Proxy-*`, and what `Connection` names.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| name != header::CONTENT_LENGTH && name != header::HOST)
        .collect();
    let proxy = headers.keys().filter(|name| {
        let name = name.as_str();
        name.starts_with("proxy-") || name == "keep-alive"
    });
    let gone: Vec<HeaderName> = proxy.cloned().chain(named).chain(HOP_BY_HOP).collect();
    for name in gone {
        headers.remove(name);
    }
}

fn refusal(target: &Target, error: &OpenError) -> Response<Body> {
    let status = match error {
        OpenError::BadTarget(_) => StatusCode::BAD_REQUEST,
        OpenError::NoSession(_) | OpenError::NoPlace | OpenError::Closed => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        OpenError::TimedOut | OpenError::Silent => StatusCode::GATEWAY_TIMEOUT,
        OpenError::Ended(_) | OpenError::NoDatagrams => StatusCode::BAD_GATEWAY,
        OpenError::Failed(failure) => match failure.end {
            Some(StreamEnd::Denied) => StatusCode::FORBIDDEN,
            Some(StreamEnd::Timeout) => StatusCode::GATEWAY_TIMEOUT,
            Some(StreamEnd::Overload) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        },
    };
    plain(status, &format!("cannot open {target}: {error}"))
}

fn plain(status: StatusCode, words: &str) -> Response<Body> {
    let text = Bytes::from(format!("httvps: {words}\n"));
    let body = Full::new(text).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
