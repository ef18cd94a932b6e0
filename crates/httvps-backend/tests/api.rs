//! The API over real loopback HTTP: every answer of the founding page, and what bad requests get.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails, also in its own functions")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use httvps_backend::{
    Backend, EndChange, GatewaySecret, NewDevice, Node, ServeOptions, Store, Usage, serve,
};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const VALIDATE: &str = "/api/v1/auth/validate-device";
const ASSIGN: &str = "/api/v1/nodes/assign-outline";
const USAGE: &str = "/api/v1/usage/report";
const HEARTBEAT: &str = "/api/v1/gateway/heartbeat";

/// Longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Service {
    _directory: tempfile::TempDir,
    store: Store,
    backend: Arc<Backend>,
    address: SocketAddr,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Service {
    /// Starts a backend with the device `anna` of user 7 and returns her token.
    async fn start(options: ServeOptions) -> (Self, String) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("devices.json"));
        let anna = NewDevice { user_id: 7, ..named("anna") };
        let token = store.add(anna).unwrap().1.expose().to_owned();
        let backend = Arc::new(Backend::load(store.path()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Arc::clone(&backend), options, shutdown.clone()));
        (Self { _directory: directory, store, backend, address, shutdown, server }, token)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends one request on a connection of its own.
    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let io = TokioIo::new(self.connect().await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(request));
        let (head, body) = answer.await.unwrap().unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            body: serde_json::from_slice(&body).unwrap(),
        }
    }

    async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(request(Method::POST, path, body)).await
    }

    async fn validate(&self, device_id: &str, token: &str) -> (u16, Value) {
        let body = json!({ "device_id": device_id, "token": token }).to_string();
        let answer = self.post(VALIDATE, body).await;
        (answer.status.as_u16(), answer.body)
    }

    /// Sends bytes and reads until the server ends the connection.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(stream).await
    }
}

fn named(id: &str) -> NewDevice {
    NewDevice { device_id: Some(id.parse().unwrap()), ..NewDevice::default() }
}

fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "backend")
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text)).await.unwrap().unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn validate_device_gives_the_founding_answers() {
    let (service, token) = Service::start(ServeOptions::default()).await;
    let other = service.store.add(named("berta")).unwrap().1;
    let end = EndChange::At("2020-01-31".parse().unwrap());
    service.store.set_status("berta", "trialing".parse().unwrap(), end).unwrap();
    let third = service.store.add(named("carla")).unwrap().1;
    service.store.set_status("carla", "past_due".parse().unwrap(), EndChange::Keep).unwrap();
    service.backend.reload_if_changed();

    assert_eq!(
        service.validate("anna", &token).await,
        (200, json!({ "allowed": true, "user_id": 7, "subscription_status": "active" }))
    );
    let refused = |reason: &str| (403, json!({ "allowed": false, "reason": reason }));
    assert_eq!(service.validate("unknown", &token).await, refused("device_not_found"));
    assert_eq!(service.validate("anna", "wrong").await, refused("invalid_token"));
    assert_eq!(service.validate("anna", "").await, refused("invalid_token"));
    assert_eq!(service.validate("", &token).await, refused("device_not_found"));
    assert_eq!(service.validate("anna", other.expose()).await, refused("device_mismatch"));
    for (id, token, status) in [("berta", &other, "expired"), ("carla", &third, "past_due")] {
        let reason = "no_active_subscription";
        assert_eq!(
            service.validate(id, token.expose()).await,
            (403, json!({ "allowed": false, "reason": reason, "subscription_status": status }))
        );
    }
}

#[tokio::test]
async fn the_other_endpoints_answer_as_documented() {
    let (service, _) = Service::start(ServeOptions::default()).await;
    let answer =
        service.post(ASSIGN, json!({"device_id": "anna", "region_code": null}).to_string()).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, json!({ "detail": "no_outline_nodes_available" }));

    let report = json!({"session_id": null, "device_id": "anna", "bytes_up": 10, "bytes_down": 20});
    for _ in 0..2 {
        let answer = service.post(USAGE, report.to_string()).await;
        assert_eq!((answer.status.as_u16(), answer.body), (200, json!({ "status": "accepted" })));
    }
    assert_eq!(service.backend.usage("anna"), Usage { bytes_up: 20, bytes_down: 40 });

    let beat = json!({
        "node_id": null, "region": "eu", "status": "ok", "uptime_sec": 3.5, "active_sessions": 2,
        "cpu_load": 0.5, "mem_load": 0.25, "bytes_up": 1, "bytes_down": 2, "last_error": null,
        "timestamp": "2026-11-23T00:00:00Z",
    });
    let answer = service.post(HEARTBEAT, beat.to_string()).await;
    assert_eq!((answer.status.as_u16(), answer.body), (200, json!({ "status": "ok" })));
    assert_eq!(answer.headers["content-type"], "application/json");
    assert!(!answer.headers.contains_key("server"));
}

#[tokio::test]
async fn malformed_bodies_get_422_and_repeat_nothing() {
    let (service, _) = Service::start(ServeOptions::default()).await;
    for (path, body) in [
        (VALIDATE, ""),
        (VALIDATE, "{"),
        (VALIDATE, "[]"),
        (VALIDATE, r#"{"device_id":"anna"}"#),
        (VALIDATE, r#"{"token":"s3cret"}"#),
        (VALIDATE, r#"{"device_id":7,"token":"s3cret"}"#),
        (VALIDATE, r#"{"device_id":"anna","token":["s3cret"]}"#),
        (VALIDATE, r#"{"device_id":"anna","token":"s3cret"#),
        (ASSIGN, r#"{"device_id":"anna","region_code":7}"#),
        (USAGE, r#"{"device_id":"anna","bytes_up":-1,"bytes_down":0}"#),
        (USAGE, r#"{"device_id":"anna","bytes_up":0}"#),
        (USAGE, r#"{"session_id":1,"device_id":"anna","bytes_up":0,"bytes_down":0}"#),
        (HEARTBEAT, "{}"),
    ] {
        let answer = service.post(path, body).await;
        assert_eq!(answer.status, 422, "{path} {body}");
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(!detail.is_empty() && !detail.contains("s3cret"), "{path} {body}: {detail}");
    }
    assert_eq!(service.backend.usage("anna"), Usage::default());
}

#[tokio::test]
async fn unknown_paths_wrong_methods_and_large_bodies_are_told_apart() {
    let (service, token) = Service::start(ServeOptions::default()).await;
    for path in ["/", "/api/v1/auth/validate-device/", "/api/v1/nodes"] {
        assert_eq!(service.post(path, "{}").await.status, 404, "{path}");
    }
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let answer = service.send(request(method, VALIDATE, "")).await;
        assert_eq!(answer.status, 405);
        assert_eq!(answer.headers["allow"], "POST");
    }
    let padded = |len: usize| {
        let body = json!({ "device_id": "anna", "token": token }).to_string();
        format!("{body}{}", " ".repeat(len - body.len()))
    };
    assert_eq!(service.post(VALIDATE, padded(64 * 1024)).await.status, 200);
    for len in [64 * 1024 + 1, 1024 * 1024] {
        assert_eq!(service.post(VALIDATE, padded(len)).await.status, 413, "{len}");
    }
    let claimed = service
        .exchange(
            b"POST /api/v1/auth/validate-device HTTP/1.1\r\nhost: b\r\n\
              content-length: 99999999999\r\n\r\n",
        )
        .await;
    assert!(claimed.starts_with("HTTP/1.1 413 "), "{claimed}");
}

#[tokio::test]
async fn a_connection_serves_request_after_request() {
    let (service, token) = Service::start(ServeOptions::default()).await;
    let io = TokioIo::new(service.connect().await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let body = json!({ "device_id": "anna", "token": token }).to_string();
    for path in [VALIDATE, "/nowhere", USAGE, VALIDATE] {
        sender.ready().await.unwrap();
        let answer = sender.send_request(request(Method::POST, path, body.clone())).await.unwrap();
        answer.into_body().collect().await.unwrap();
    }
}

#[tokio::test]
async fn the_secret_is_required_when_there_is_one() {
    let options = ServeOptions {
        gateway_secret: Some(GatewaySecret::new("s3cret").unwrap()),
        ..ServeOptions::default()
    };
    let (service, token) = Service::start(options).await;
    let ask = |path: &str, secret: Option<&'static str>| {
        let body = json!({ "device_id": "anna", "token": token }).to_string();
        let mut request = request(Method::POST, path, body);
        if let Some(secret) = secret {
            request.headers_mut().insert("X-Internal-Secret", secret.parse().unwrap());
        }
        service.send(request)
    };
    for path in [VALIDATE, USAGE, "/nowhere"] {
        for secret in [None, Some(""), Some("wrong"), Some("s3cret2")] {
            let answer = ask(path, secret).await;
            assert_eq!(answer.status, 401, "{path} {secret:?}");
            assert!(answer.body["detail"].is_string());
        }
    }
    assert_eq!(ask(VALIDATE, Some("s3cret")).await.status, 200);
    assert_eq!(ask("/nowhere", Some("s3cret")).await.status, 404);
}

#[tokio::test]
async fn a_changed_file_is_served_without_a_restart() {
    let options =
        ServeOptions { reload_interval: Duration::from_millis(10), ..ServeOptions::default() };
    let (service, token) = Service::start(options).await;
    let (_, fresh) = service.store.rotate_token("anna").unwrap();
    let both = tokio::time::timeout(PATIENCE, async {
        // Each round is a whole request; the loop ends with the first look after the change.
        while service.validate("anna", fresh.expose()).await.0 != 200 {}
        service.validate("anna", &token).await
    });
    assert_eq!(both.await.unwrap().0, 403);
}

#[tokio::test]
async fn slow_senders_are_cut_in_every_phase() {
    let short = Duration::from_millis(100);
    let options =
        ServeOptions { read_deadline: short, idle_deadline: short, ..ServeOptions::default() };
    let (service, _) = Service::start(options).await;
    assert_eq!(service.exchange(b"").await, "", "a connection without a byte");
    assert_eq!(service.exchange(b"POST /api/v1/auth").await, "", "half a head");
    let half_a_body = b"POST /api/v1/auth/validate-device HTTP/1.1\r\nhost: b\r\n\
                        content-length: 10\r\n\r\n{";
    let answer = service.exchange(half_a_body).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let idle = service.exchange(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n").await;
    assert_eq!(idle.matches("HTTP/1.1 404 ").count(), 1, "{idle}");
}

#[tokio::test]
async fn an_idle_connection_has_its_own_deadline() {
    let (read_deadline, idle_deadline) = (Duration::from_millis(50), Duration::from_millis(400));
    let options = ServeOptions { read_deadline, idle_deadline, ..ServeOptions::default() };
    let (service, _) = Service::start(options).await;
    let start = Instant::now();
    service.exchange(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n").await;
    assert!(start.elapsed() >= idle_deadline);
}

#[tokio::test]
async fn the_next_head_on_an_idle_connection_has_the_read_deadline() {
    let (read_deadline, idle_deadline) = (Duration::from_millis(50), 2 * PATIENCE);
    let options = ServeOptions { read_deadline, idle_deadline, ..ServeOptions::default() };
    let (service, _) = Service::start(options).await;
    let mut stream = service.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    stream.read_u8().await.unwrap();
    stream.write_all(b"GET / HT").await.unwrap();
    read_to_end(stream).await;
}

#[tokio::test]
async fn dripping_bytes_do_not_extend_the_deadline() {
    let options =
        ServeOptions { read_deadline: Duration::from_millis(200), ..ServeOptions::default() };
    let (service, _) = Service::start(options).await;
    let (mut reader, mut writer) = service.connect().await.into_split();
    let drip = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while writer.write_all(b"a").await.is_ok() {
            pace.tick().await;
        }
    });
    let mut byte = [0];
    // The end comes as end of file, or as a reset when a byte was under way.
    let end = tokio::time::timeout(PATIENCE, reader.read(&mut byte)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
    tokio::time::timeout(PATIENCE, drip).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_newcomer_waits_when_every_slot_is_taken() {
    let options = ServeOptions { max_connections: 1, ..ServeOptions::default() };
    let (service, token) = Service::start(options).await;
    let mut first = service.connect().await;
    // An answer proves that the only slot is taken by this connection.
    first.write_all(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    first.read_u8().await.unwrap();
    let mut second = Box::pin(service.validate("anna", &token));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
    assert!(early.is_err(), "there was no slot for the second connection");
    drop(first);
    assert_eq!(tokio::time::timeout(PATIENCE, second).await.unwrap().0, 200);
}

#[tokio::test]
async fn shutdown_finishes_answers_and_closes_idle_connections() {
    let (service, _) = Service::start(ServeOptions::default()).await;
    let mut idle = service.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    idle.read_u8().await.unwrap();
    let mut busy = service.connect().await;
    let body = r#"{"device_id":"anna","token":"x"}"#;
    let len = body.len();
    let head = format!(
        "POST {VALIDATE} HTTP/1.1\r\nhost: b\r\nexpect: 100-continue\r\ncontent-length: {len}\r\n\r\n"
    );
    busy.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    busy.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    service.shutdown.cancel();
    read_to_end(idle).await;
    busy.write_all(body.as_bytes()).await.unwrap();
    let answer = read_to_end(busy).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    tokio::time::timeout(PATIENCE, service.server).await.unwrap().unwrap();
    TcpStream::connect(service.address).await.unwrap_err();
}

#[tokio::test]
async fn shutdown_cuts_who_does_not_finish() {
    let options =
        ServeOptions { drain_deadline: Duration::from_millis(50), ..ServeOptions::default() };
    let (service, _) = Service::start(options).await;
    let mut stuck = service.connect().await;
    let head = format!(
        "POST {VALIDATE} HTTP/1.1\r\nhost: b\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
    );
    stuck.write_all(head.as_bytes()).await.unwrap();
    stuck.read_u8().await.unwrap();
    service.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), service.server).await.unwrap().unwrap();
}

#[tokio::test]
async fn nodes_are_assigned_in_turn_and_follow_the_file() {
    let (service, _) = Service::start(ServeOptions::default()).await;
    let node = |id: &str, region: &str| Node {
        node_id: id.parse().unwrap(),
        region: Some(region.to_owned()),
        host: "192.0.2.7".to_owned(),
        port: 8388,
        method: Some("aes-256-gcm".to_owned()),
        password: Some("p4ss".to_owned()),
        access_key_id: None,
        access_url: None,
        enabled: true,
    };
    for (id, region) in [("a", "eu"), ("b", "eu"), ("c", "us")] {
        service.store.add_node(node(id, region)).unwrap();
    }
    service.backend.reload_if_changed();
    let ask = |region: &str| json!({"device_id": "anna", "region_code": region}).to_string();
    let mut given = Vec::new();
    for region in ["eu", "eu", "us"] {
        let answer = service.post(ASSIGN, ask(region)).await;
        assert_eq!(answer.status, StatusCode::OK);
        given.push(answer.body["node_id"].as_str().unwrap().to_owned());
    }
    given[..2].sort();
    assert_eq!(given, ["a", "b", "c"]);
    let whole = service.post(ASSIGN, ask("us")).await.body;
    let expected = json!({
        "node_id": "c", "host": "192.0.2.7", "port": 8388, "method": "aes-256-gcm",
        "password": "p4ss", "region": "us", "access_key_id": null, "access_url": null,
    });
    assert_eq!(whole, expected);

    service.store.enable_node("c", false).unwrap();
    service.store.remove_node("a").unwrap();
    service.backend.reload_if_changed();
    assert_eq!(service.post(ASSIGN, ask("us")).await.body["node_id"], "b");
    service.store.remove_node("b").unwrap();
    service.backend.reload_if_changed();
    let refused = service.post(ASSIGN, ask("eu")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.body, json!({"detail": "no_outline_nodes_available"}));
    // The devices of the same file are as they were.
    assert_eq!(service.store.devices().unwrap().len(), 1);
}
