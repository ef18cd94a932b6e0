//! Routes, and which listener may serve them.

use crate::context::Context;
use bytes::Bytes;
use http_body_util::Full;
use httvps_config::Config;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use std::marker::PhantomData;

/// What a route answers with.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Strangers may reach the route: the main listener serves it.
pub(crate) struct Public;

/// Only the operator may reach the route. The main listener gets such routes from
/// [`admin::exposed`](crate::admin::exposed) and nowhere else.
pub(crate) struct Admin;

/// A path and what answers there. `Visibility` is [`Public`] or [`Admin`]: a table holds routes of one kind, and what
/// serves a table says by its type which kind it serves.
pub(crate) struct Route<Visibility> {
    path: fn(&Config) -> Option<&str>,
    answer: fn(&Context, &Request<Incoming>) -> Answer,
    visibility: PhantomData<Visibility>,
}

impl<Visibility> Route<Visibility> {
    /// `path` gives None where the settings switch the route off.
    pub(crate) const fn new(
        path: fn(&Config) -> Option<&str>,
        answer: fn(&Context, &Request<Incoming>) -> Answer,
    ) -> Self {
        Self { path, answer, visibility: PhantomData }
    }
}

/// The answer of the route of the request's path; None where there is no such route.
pub(crate) fn find<Visibility>(
    routes: &[Route<Visibility>],
    gateway: &Context,
    request: &Request<Incoming>,
) -> Option<Answer> {
    let path = request.uri().path();
    let route = routes.iter().find(|route| (route.path)(&gateway.config) == Some(path))?;
    Some((route.answer)(gateway, request))
}

pub(crate) fn not_found() -> Answer {
    page(StatusCode::NOT_FOUND)
}

/// A page as an ordinary web server shows it; it names no product.
pub(crate) fn page(status: StatusCode) -> Answer {
    let words = status.canonical_reason().unwrap_or("Error");
    let title = format!("{} {words}", status.as_u16());
    let body = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n\
         <center><h1>{title}</h1></center>\r\n</body>\r\n</html>\r\n"
    );
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    answer
}
