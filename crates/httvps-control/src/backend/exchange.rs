//! Requests over kept connections.
//!
//! A kept connection may have died silently, or may close while it is used. A request that breaks on
//! one is sent again on a new one. A request without a response for half of its time is
//! also sent on a new one, and the first response counts. In both cases all kept connections
//! are closed. So a request may reach the backend twice.

use super::breaker::Blame;
use super::connection::{Bounds, Link, Watching};
use super::error::{self, BackendError};
use super::places::Place;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use httvps_https::Https;
use hyper::Request;
use hyper::http::Extensions;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// A request that may be sent more than once.
pub(super) struct Question {
    pub(super) request: Request<Full<Bytes>>,
    /// The statuses whose bodies are parsed.
    pub(super) statuses: &'static [u16],
}

/// A status of the API, and its complete body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// A failed request.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: BackendError,
    pub(super) blame: Blame,
}

/// How connections are kept.
pub(super) struct Keeping {
    /// How long an unused connection is kept; zero = not at all.
    pub(super) idle: Duration,
    /// Most kept connections.
    pub(super) connections: usize,
    pub(super) bounds: Bounds,
}

/// An HTTP/2 connection with open requests is pinged after this time of silence, and
/// closed after the same time without an answer.
const PING_AFTER: Duration = Duration::from_secs(2);

type HttpClient = Client<Watching, Full<Bytes>>;

/// The connections to the backend.
pub(super) struct Connections {
    /// Replaced as a whole to close its connections.
    current: ArcSwap<HttpClient>,
    connector: Watching,
    keeping: Keeping,
}

impl Connections {
    pub(super) fn new(connector: Https, keeping: Keeping) -> Self {
        let connector = Watching::new(connector, keeping.bounds);
        let current = ArcSwap::from_pointee(client(&connector, &keeping));
        Self { current, connector, keeping }
    }

    /// Closes the kept connections, unless that was done since `used`.
    fn let_go(&self, used: &Arc<HttpClient>) {
        let fresh = Arc::new(client(&self.connector, &self.keeping));
        self.current.compare_and_swap(used, fresh);
    }

    /// Sends a request. A second one in parallel needs a place of its own.
    pub(super) async fn ask(
        &self,
        question: &Question,
        until: Instant,
        second_place: impl FnOnce() -> Option<Place>,
    ) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let used = self.current.load_full();
        let (first, mut answer) = self.send(&used, question, begun);
        let doubt_at = begun + until.saturating_duration_since(begun) / 2;
        let result = match timeout_at(doubt_at.into(), &mut answer).await {
            Ok(result) => result,
            Err(_) if first.is_silent() => {
                self.let_go(&used);
                if let Some(_place) = second_place() {
                    return self.ask_beside(question, begun, until, answer).await;
                }
                within(until, answer).await
            }
            Err(_) => within(until, answer).await,
        };
        match result {
            Ok(answer) => Ok(answer),
            Err(error @ BackendError::Broken(_)) if first.is_reused() => {
                self.let_go(&used);
                if Instant::now() >= until {
                    return Err(first.failure(error));
                }
                let (second, answer) = self.send(&self.current.load_full(), question, begun);
                within(until, answer).await.map_err(|error| second.failure(error))
            }
            Err(error) => Err(first.failure(error)),
        }
    }

    /// Sends the request on a new connection while `other` is outstanding.
    async fn ask_beside(
        &self,
        question: &Question,
        begun: Instant,
        until: Instant,
        other: Answering,
    ) -> Result<Answer, Failure> {
        let (second, mut answer) = self.send(&self.current.load_full(), question, begun);
        let race = async {
            tokio::select! {
                biased;
                result = &mut answer => result,
                result = other => match result {
                    Ok(answer) => Ok(answer),
                    Err(_) => answer.await,
                },
            }
        };
        within(until, race).await.map_err(|error| second.failure(error))
    }

    fn send(&self, client: &HttpClient, question: &Question, begun: Instant) -> (Sent, Answering) {
        let mut request = question.request.clone();
        let captured = capture_connection(&mut request);
        let (statuses, max_body) = (question.statuses, self.keeping.bounds.body);
        let asking = client.request(request);
        let answer = Box::pin(async move {
            let response = asking.await.map_err(|error| error::of_request(&error))?;
            let link = response.extensions().get::<Arc<Link>>().cloned();
            let status = response.status().as_u16();
            let result = if statuses.contains(&status) {
                match Limited::new(response.into_body(), max_body).collect().await {
                    Ok(body) => Ok(Answer { status, body: body.to_bytes() }),
                    Err(error) if error.is::<LengthLimitError>() => {
                        Err(BackendError::BodyTooLarge { status })
                    }
                    Err(error) => Err(error::of_body(&*error)),
                }
            } else {
                Err(BackendError::Status(status))
            };
            if let Some(link) = link {
                link.answered();
            }
            result
        });
        (Sent { begun, captured }, answer)
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Answer, BackendError>> + Send>>;

/// Waits for a response until a deadline.
async fn within(
    until: Instant,
    answer: impl Future<Output = Result<Answer, BackendError>>,
) -> Result<Answer, BackendError> {
    timeout_at(until.into(), answer).await.unwrap_or(Err(BackendError::Timeout))
}

/// A request that was sent, or waits for its connection.
struct Sent {
    /// When the request was first sent: a connection that is younger is new.
    begun: Instant,
    captured: CaptureConnection,
}

impl Sent {
    fn link(&self) -> Option<Arc<Link>> {
        let mut extensions = Extensions::new();
        self.captured.connection_metadata().as_ref()?.get_extras(&mut extensions);
        extensions.remove()
    }

    fn is_reused(&self) -> bool {
        self.link().is_some_and(|link| link.is_older_than(self.begun))
    }

    /// Whether a connection that is not new has received nothing.
    fn is_silent(&self) -> bool {
        let begun = self.begun;
        self.link().is_some_and(|link| link.is_older_than(begun) && !link.is_heard_since(begun))
    }

    fn failure(&self, error: BackendError) -> Failure {
        let blame = match (error, self.link()) {
            (BackendError::Unreachable(_), _) | (_, None) => Blame::Transport,
            (BackendError::Broken(_), Some(_)) if self.is_reused() => Blame::Nothing,
            (BackendError::Timeout, Some(_)) if self.is_silent() => Blame::Nothing,
            _ => Blame::Question,
        };
        Failure { error, blame }
    }
}

fn client(connector: &Watching, keeping: &Keeping) -> HttpClient {
    let connections = if keeping.idle.is_zero() { 0 } else { keeping.connections };
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(keeping.idle)
        .pool_max_idle_per_host(connections)
        .http2_keep_alive_interval(PING_AFTER)
        .http2_keep_alive_timeout(PING_AFTER)
        .build(connector.clone())
}
