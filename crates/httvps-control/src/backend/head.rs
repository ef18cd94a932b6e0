//! What every request to the backend carries besides its body.

use super::{BackendSettings, BackendSetupError};
use bytes::Bytes;
use http_body_util::Full;
use httvps_config::Secret;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};

const INTERNAL_SECRET: HeaderName = HeaderName::from_static("x-internal-secret");
const GATEWAY_ID: HeaderName = HeaderName::from_static("x-gateway-id");
const FEATURES: HeaderName = HeaderName::from_static("x-httvps-features");
/// What this gateway understands of an answer beyond the founding page.
const GRANTS: HeaderValue = HeaderValue::from_static("grant/1");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("httvps-gateway/", env!("CARGO_PKG_VERSION")));

/// Longest name of a gateway, in bytes.
const MAX_GATEWAY_ID: usize = 128;

/// The headers of requests.
pub(super) struct Head {
    secret: Option<HeaderValue>,
    gateway_id: Option<HeaderValue>,
}

impl Head {
    pub(super) fn new(settings: &BackendSettings) -> Result<Self, BackendSetupError> {
        let secret = settings.secret.as_ref().map(secret_header).transpose()?;
        Ok(Self { secret, gateway_id: gateway_id_header(&settings.gateway_id)? })
    }

    /// A request with the headers of the founding page.
    pub(super) fn founding(&self, uri: Uri, body: Vec<u8>) -> Option<Request<Full<Bytes>>> {
        self.request(Method::POST, uri, Some(body))
    }

    /// A request that also names this gateway and the features that it understands. Only headers
    /// do: a strict backend refuses a body with a member that it does not know.
    pub(super) fn negotiating(
        &self,
        method: Method,
        uri: Uri,
        body: Option<Vec<u8>>,
    ) -> Option<Request<Full<Bytes>>> {
        let mut request = self.request(method, uri, body)?;
        request.headers_mut().insert(FEATURES, GRANTS);
        if let Some(id) = &self.gateway_id {
            request.headers_mut().insert(GATEWAY_ID, id.clone());
        }
        Some(request)
    }

    /// None when a part is no part of a request, which [`BackendSettings`] rule out.
    fn request(
        &self,
        method: Method,
        uri: Uri,
        body: Option<Vec<u8>>,
    ) -> Option<Request<Full<Bytes>>> {
        let mut builder = Request::builder().method(method).uri(uri).header(USER_AGENT, AGENT);
        if body.is_some() {
            builder = builder.header(CONTENT_TYPE, JSON);
        }
        if let Some(secret) = &self.secret {
            builder = builder.header(INTERNAL_SECRET, secret.clone());
        }
        builder.body(body.map_or_else(Full::default, |body| Full::new(Bytes::from(body)))).ok()
    }
}

fn secret_header(secret: &Secret) -> Result<HeaderValue, BackendSetupError> {
    let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| {
        BackendSetupError(
            "backend_secret: holds characters that a header cannot carry; use visible ASCII".into(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// None for the empty name.
fn gateway_id_header(id: &str) -> Result<Option<HeaderValue>, BackendSetupError> {
    let bad =
        || BackendSetupError("gateway_id: use at most 128 characters of visible ASCII".into());
    if id.len() > MAX_GATEWAY_ID || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad());
    }
    let header = (!id.is_empty()).then(|| HeaderValue::from_str(id));
    header.transpose().map_err(|_| bad())
}
