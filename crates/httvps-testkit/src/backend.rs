//! A subscription backend over real loopback HTTP that answers, or misbehaves, as told.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Requests that are kept; older ones are forgotten, but stay in the count.
pub const MAX_KEPT_REQUESTS: usize = 10_000;

/// Length of the body of [`Answer::Huge`], in bytes.
pub const HUGE_LEN: usize = 8 * 1024 * 1024;

/// Where [`Answer::Redirect`] sends its clients; a request there is answered as by
/// [`Answer::Allow`], so a client that follows gets in, and is seen to.
pub const REDIRECTED_PATH: &str = "/redirected";

const VALIDATE_PATH: &str = "/api/v1/auth/validate-device";

/// Largest request, head and body, in bytes; a larger one ends its connection.
const MAX_REQUEST_LEN: usize = 1024 * 1024;

/// What a [`ScriptedBackend`] does with a request.
///
/// [`Answer::Allow`], [`Answer::Refuse403`] and [`Answer::Allowed200False`] concern
/// `validate-device`; the other endpoints then answer as the founding page says. All other answers
/// concern every path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200: user 7, `active`.
    Allow,
    /// 403 with this reason and the status `expired`.
    Refuse403 {
        /// One of the reasons of the API, or any other word.
        reason: String,
        /// Whether the object comes inside `{"detail": …}`.
        wrapped: bool,
    },
    /// 200 with `"allowed": false` and the reason `no_active_subscription`.
    Allowed200False,
    /// This status, with a small JSON object that says nothing.
    Status(u16),
    /// As [`Answer::Allow`], after this long.
    Slow(Duration),
    /// 200 with a body that is not JSON.
    Garbage,
    /// 200 with valid JSON that allows the device, in a body of [`HUGE_LEN`] bytes.
    Huge,
    /// 307 to [`REDIRECTED_PATH`] on this backend.
    Redirect,
    /// The connection is reset (RST) in place of an answer.
    ResetConnection,
    /// The connection is closed (FIN) in place of an answer.
    CloseWithoutAnswer,
    /// These bytes as they are, then the connection is closed.
    Raw(Vec<u8>),
}

/// One request as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// Such as `POST`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names as sent, in the order of sending; values that are not UTF-8 are made so.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl ReceivedRequest {
    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A backend on a free port of 127.0.0.1; dropping it ends it and all of its connections, soon;
/// [`ScriptedBackend::stop`] waits for that.
pub struct ScriptedBackend {
    address: SocketAddr,
    script: Arc<Script>,
    accepting: JoinHandle<()>,
}

/// What the connections share.
struct Script {
    answer: Mutex<Answer>,
    requests: Mutex<VecDeque<ReceivedRequest>>,
    request_count: watch::Sender<usize>,
    connection_count: watch::Sender<usize>,
}

impl ScriptedBackend {
    /// Starts a backend that gives this answer.
    ///
    /// # Panics
    /// When there is no port to listen on, or no Tokio runtime.
    pub async fn start(answer: Answer) -> Self {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), answer).await
    }

    /// Starts a backend at this address, such as that of one that was stopped.
    ///
    /// # Panics
    /// When the address cannot be listened on, or there is no Tokio runtime.
    pub async fn start_on(address: SocketAddr, answer: Answer) -> Self {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let address = listener.local_addr().expect("a listener has an address");
        let script = Arc::new(Script {
            answer: Mutex::new(answer),
            requests: Mutex::new(VecDeque::new()),
            request_count: watch::Sender::new(0),
            connection_count: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&script)));
        Self { address, script, accepting }
    }

    /// Cuts all connections and frees the address, so that newcomers are refused or
    /// [`ScriptedBackend::start_on`] can take it again.
    pub async fn stop(mut self) -> SocketAddr {
        self.accepting.abort();
        // An error says only that the task was cancelled, as was meant.
        let _ = (&mut self.accepting).await;
        self.address
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value for `BACKEND_BASE_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the answer for the requests that are read from now on.
    pub fn set(&self, answer: Answer) {
        *lock(&self.script.answer) = answer;
    }

    /// How many requests were received.
    pub fn request_count(&self) -> usize {
        *self.script.request_count.borrow()
    }

    /// How many connections were accepted.
    pub fn connection_count(&self) -> usize {
        *self.script.connection_count.borrow()
    }

    /// The newest requests, oldest first; at most [`MAX_KEPT_REQUESTS`].
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        lock(&self.script.requests).iter().cloned().collect()
    }

    /// Waits until at least `count` requests were received. Cancel safe.
    pub async fn wait_for_requests(&self, count: usize) {
        let mut counts = self.script.request_count.subscribe();
        // The sender lives in `self`, so there is always a next value to wait for.
        let _ = counts.wait_for(|&received| received >= count).await;
    }
}

impl Drop for ScriptedBackend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                script.connection_count.send_modify(|count| *count += 1);
                connections.spawn(serve(stream, Arc::clone(&script)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Script>) {
    // A client that breaks off ends its own connection and nothing else.
    let _ = answer_requests(&mut stream, &script).await;
}

/// Answers request after request until the client closes or the script says so.
async fn answer_requests(stream: &mut TcpStream, script: &Script) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    while let Some(request) = read_request(stream, &mut unread).await? {
        let (answer, path) = (lock(&script.answer).clone(), request.path.clone());
        script.record(request);
        let bytes = match answer {
            Answer::ResetConnection => {
                return stream.set_zero_linger();
            }
            Answer::CloseWithoutAnswer => return stream.shutdown().await,
            Answer::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Answer::Slow(pause) => {
                tokio::time::sleep(pause).await;
                orderly(&path, validate_allowed())
            }
            Answer::Redirect if path != REDIRECTED_PATH => redirect(),
            Answer::Allow | Answer::Redirect => orderly(&path, validate_allowed()),
            Answer::Refuse403 { reason, wrapped } => orderly(&path, refused(&reason, wrapped)),
            Answer::Allowed200False => orderly(
                &path,
                respond(200, r#"{"allowed":false,"reason":"no_active_subscription"}"#),
            ),
            Answer::Status(status) => respond(status, r#"{"detail":"scripted"}"#),
            Answer::Garbage => respond(200, "<html>This is not what you expected</html>"),
            Answer::Huge => huge(),
        };
        stream.write_all(&bytes).await?;
    }
    Ok(())
}

impl Script {
    fn record(&self, request: ReceivedRequest) {
        let mut requests = lock(&self.requests);
        if requests.len() == MAX_KEPT_REQUESTS {
            requests.pop_front();
        }
        requests.push_back(request);
        drop(requests);
        self.request_count.send_modify(|count| *count += 1);
    }
}

/// Reads one request of HTTP/1.1; `None` when the client closed instead.
async fn read_request(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
) -> io::Result<Option<ReceivedRequest>> {
    loop {
        if let Some((request, len)) = parse(unread)? {
            unread.drain(..len);
            return Ok(Some(request));
        }
        if unread.len() > MAX_REQUEST_LEN {
            return Err(malformed("the request is too large"));
        }
        if stream.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    }
}

/// Takes a whole request and its length from the front of `bytes`; `None` while some is missing.
fn parse(bytes: &[u8]) -> io::Result<Option<(ReceivedRequest, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut fields);
    let head_len = match head.parse(bytes).map_err(malformed)? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial => return Ok(None),
    };
    let headers = head
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()));
    let mut request = ReceivedRequest {
        method: head.method.unwrap_or_default().to_owned(),
        path: head.path.unwrap_or_default().to_owned(),
        headers: headers.collect(),
        body: Vec::new(),
    };
    if request.header("transfer-encoding").is_some() {
        return Err(malformed("this backend reads bodies with content-length only"));
    }
    let body_len = match request.header("content-length") {
        Some(len) => len.parse().map_err(malformed)?,
        None => 0_usize,
    };
    let Some(body) = bytes[head_len..].get(..body_len) else { return Ok(None) };
    request.body = body.to_vec();
    Ok(Some((request, head_len + body_len)))
}

fn malformed(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Gives the answer to a question about a device, and the founding answers to everything else.
fn orderly(path: &str, validated: Vec<u8>) -> Vec<u8> {
    match path {
        VALIDATE_PATH | REDIRECTED_PATH => validated,
        "/api/v1/nodes/assign-outline" => {
            respond(503, r#"{"detail":"no_outline_nodes_available"}"#)
        }
        "/api/v1/usage/report" => respond(200, r#"{"status":"accepted"}"#),
        "/api/v1/gateway/heartbeat" => respond(200, r#"{"status":"ok"}"#),
        _ => respond(404, r#"{"detail":"not found"}"#),
    }
}

fn validate_allowed() -> Vec<u8> {
    respond(200, r#"{"allowed":true,"user_id":7,"subscription_status":"active"}"#)
}

fn refused(reason: &str, wrapped: bool) -> Vec<u8> {
    let object =
        format!(r#"{{"allowed":false,"reason":"{reason}","subscription_status":"expired"}}"#);
    respond(403, &if wrapped { format!(r#"{{"detail":{object}}}"#) } else { object })
}

fn huge() -> Vec<u8> {
    let start = r#"{"allowed":true,"user_id":7,"subscription_status":"active","padding":""#;
    let padding = "x".repeat(HUGE_LEN - start.len() - 2);
    respond(200, &format!("{start}{padding}\"}}"))
}

fn redirect() -> Vec<u8> {
    format!("HTTP/1.1 307 Scripted\r\nlocation: {REDIRECTED_PATH}\r\ncontent-length: 0\r\n\r\n")
        .into_bytes()
}

fn respond(status: u16, body: &str) -> Vec<u8> {
    let len = body.len();
    format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\n\
         content-length: {len}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// What is behind these locks is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper::Request;
    use hyper::client::conn::http1::{SendRequest, handshake};
    use hyper_util::rt::TokioIo;
    use serde_json::{Value, json};

    use super::*;

    const QUESTION: &str = r#"{"device_id":"anna","token":"t"}"#;

    async fn connect(backend: &ScriptedBackend) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(backend.address()).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn post(
        sender: &mut SendRequest<Full<Bytes>>,
        path: &str,
    ) -> hyper::Result<(u16, Bytes)> {
        sender.ready().await?;
        let request = Request::post(path)
            .header("host", "backend")
            .header("X-Internal-Secret", "s3cret")
            .body(Full::from(QUESTION))
            .unwrap();
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    /// The answer to `validate-device` on a connection of its own.
    async fn ask(backend: &ScriptedBackend) -> hyper::Result<(u16, Bytes)> {
        post(&mut connect(backend).await, VALIDATE_PATH).await
    }

    async fn ask_for_json(backend: &ScriptedBackend) -> (u16, Value) {
        let (status, body) = ask(backend).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn answers_are_switched_while_it_runs() {
        let backend = ScriptedBackend::start(Answer::Allow).await;
        let allowed = json!({"allowed": true, "user_id": 7, "subscription_status": "active"});
        assert_eq!(ask_for_json(&backend).await, (200, allowed.clone()));
        let object = json!({
            "allowed": false, "reason": "invalid_token", "subscription_status": "expired",
        });
        for (wrapped, expected) in [(false, object.clone()), (true, json!({ "detail": object }))] {
            backend.set(Answer::Refuse403 { reason: "invalid_token".to_owned(), wrapped });
            assert_eq!(ask_for_json(&backend).await, (403, expected));
        }
        backend.set(Answer::Allowed200False);
        let (status, body) = ask_for_json(&backend).await;
        assert_eq!((status, &body["allowed"]), (200, &json!(false)));
        for status in [204, 500, 503] {
            backend.set(Answer::Status(status));
            assert_eq!(ask(&backend).await.unwrap().0, status);
        }
        backend.set(Answer::Garbage);
        let (status, body) = ask(&backend).await.unwrap();
        assert_eq!(status, 200);
        assert!(serde_json::from_slice::<Value>(&body).is_err());
        backend.set(Answer::Huge);
        let (status, body) = ask(&backend).await.unwrap();
        assert_eq!((status, body.len()), (200, HUGE_LEN));
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["allowed"], true);
        backend.set(Answer::Slow(Duration::from_millis(30)));
        let start = Instant::now();
        assert_eq!(ask_for_json(&backend).await, (200, allowed));
        assert!(start.elapsed() >= Duration::from_millis(30));
    }

    #[tokio::test]
    async fn connections_end_as_told() {
        let backend = ScriptedBackend::start(Answer::CloseWithoutAnswer).await;
        for (answer, kind) in [
            (Answer::CloseWithoutAnswer, None),
            (Answer::ResetConnection, Some(io::ErrorKind::ConnectionReset)),
        ] {
            backend.set(answer);
            let mut stream = TcpStream::connect(backend.address()).await.unwrap();
            stream.write_all(b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
            let end = stream.read(&mut [0; 16]).await;
            assert_eq!(end.as_ref().err().map(io::Error::kind), kind);
            assert_eq!(end.ok(), kind.is_none().then_some(0));
        }
        backend.set(Answer::Raw(b"SSH-2.0-none\r\n".to_vec()));
        assert!(ask(&backend).await.unwrap_err().is_parse());
    }

    #[tokio::test]
    async fn a_redirect_lets_in_who_follows_it() {
        let backend = ScriptedBackend::start(Answer::Redirect).await;
        let mut sender = connect(&backend).await;
        assert_eq!(post(&mut sender, VALIDATE_PATH).await.unwrap().0, 307);
        assert_eq!(post(&mut sender, REDIRECTED_PATH).await.unwrap().0, 200);
        let paths: Vec<_> = backend.requests().into_iter().map(|request| request.path).collect();
        assert_eq!(paths, [VALIDATE_PATH, REDIRECTED_PATH]);
    }

    #[tokio::test]
    async fn requests_are_recorded_and_counted() {
        let backend = ScriptedBackend::start(Answer::Allow).await;
        assert_eq!(backend.url(), format!("http://{}", backend.address()));
        let mut sender = connect(&backend).await;
        post(&mut sender, VALIDATE_PATH).await.unwrap();
        let beat = post(&mut sender, "/api/v1/gateway/heartbeat").await.unwrap();
        assert_eq!(beat, (200, Bytes::from(r#"{"status":"ok"}"#)));
        backend.wait_for_requests(2).await;
        assert_eq!((backend.request_count(), backend.connection_count()), (2, 1));
        let request = backend.requests().remove(0);
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", VALIDATE_PATH));
        assert_eq!(request.header("x-internal-secret"), Some("s3cret"));
        assert_eq!(request.body, QUESTION.as_bytes());
    }

    #[tokio::test]
    async fn a_stopped_backend_is_gone_and_can_come_back() {
        let backend = ScriptedBackend::start(Answer::Slow(Duration::from_hours(1))).await;
        let mut sender = connect(&backend).await;
        let waiting = tokio::spawn(async move { post(&mut sender, VALIDATE_PATH).await });
        backend.wait_for_requests(1).await;
        let address = backend.stop().await;
        assert!(waiting.await.unwrap().is_err());
        TcpStream::connect(address).await.unwrap_err();
        let again = ScriptedBackend::start_on(address, Answer::Allow).await;
        assert_eq!(ask(&again).await.unwrap().0, 200);
    }

    #[test]
    fn requests_are_taken_whole() {
        let text = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET";
        for cut in 0..text.len() - 3 {
            assert_eq!(parse(&text[..cut]).unwrap(), None, "{cut}");
        }
        let (request, len) = parse(text).unwrap().unwrap();
        assert_eq!((request.body.as_slice(), &text[len..]), (&b"abc"[..], &b"GET"[..]));
        parse(b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n").unwrap_err();
        parse(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap_err();
        parse(b"nonsense\r\n\r\n").unwrap_err();
    }
}
