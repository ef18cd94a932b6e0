//! The proxy between a program and targets in memory.

use super::{Credentials, Proxy, Serve};
use crate::relay::tests::FakeLocal;
use crate::{Open, OpenDatagrams, OpenError, Secret, Target};
use httvps_mux::StreamFailure;
use httvps_proto::StreamEnd;
use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Gives out what the test has put in, and remembers where to.
#[derive(Default)]
struct FakeOpen {
    ready: Mutex<VecDeque<Result<DuplexStream, OpenError>>>,
    asked: Mutex<Vec<String>>,
}

impl Open for FakeOpen {
    type Stream = DuplexStream;

    async fn open(&self, target: &Target) -> Result<DuplexStream, OpenError> {
        self.asked.lock().unwrap().push(target.to_string());
        self.ready.lock().unwrap().pop_front().unwrap_or(Err(OpenError::NoPlace))
    }

    type Datagrams = Shout;

    async fn open_datagrams(&self, target: &Target) -> Result<Shout, OpenError> {
        self.asked.lock().unwrap().push(target.to_string());
        if target.port == 1 {
            return Err(OpenError::NoDatagrams);
        }
        let (to, from) = mpsc::channel(8);
        Ok(Shout { to, from })
    }
}

/// Answers each datagram with the same in capitals.
struct Shout {
    to: mpsc::Sender<Box<[u8]>>,
    from: mpsc::Receiver<Box<[u8]>>,
}

impl OpenDatagrams for Shout {
    fn send(&self, datagram: &[u8]) {
        self.to.try_send(datagram.to_ascii_uppercase().into()).unwrap();
    }

    async fn recv(&mut self) -> Result<Box<[u8]>, StreamFailure> {
        Ok(self.from.recv().await.unwrap())
    }
}

pub(super) struct Scene {
    pub(super) program: DuplexStream,
    opener: Arc<FakeOpen>,
    pub(super) proxy: JoinHandle<Result<(), super::Rejected>>,
    pub(super) idle_origins: Arc<Semaphore>,
    pub(super) was_reset: Arc<AtomicBool>,
}

pub(super) fn scene(credentials: Option<(&str, &str)>) -> Scene {
    let opener = Arc::new(FakeOpen::default());
    let (program, local) = duplex(512 * 1024);
    let credentials = credentials.map(|(user, password)| {
        Arc::new(Credentials::new(Secret::new(user.into()), Secret::new(password.into())))
    });
    let (idle_origins, was_reset) = (super::http::idle_origins(), Arc::default());
    let proxy = Proxy {
        credentials,
        opener: opener.clone(),
        report: Arc::new(|_| {}),
        idle_origins: idle_origins.clone(),
    };
    let local = FakeLocal(local, Arc::clone(&was_reset));
    let proxy = tokio::spawn(async move { proxy.serve(local).await });
    Scene { program, opener, proxy, idle_origins, was_reset }
}

impl Scene {
    /// The other end of the stream that the next open gives.
    pub(super) fn target(&self) -> DuplexStream {
        let (stream, target) = duplex(64 * 1024);
        self.opener.ready.lock().unwrap().push_back(Ok(stream));
        target
    }

    /// Makes the first open fail, and those that were prepared come behind it.
    pub(super) fn fails_first(&self, error: OpenError) {
        self.opener.ready.lock().unwrap().push_front(Err(error));
    }

    pub(super) fn fails(&self, error: OpenError) {
        self.opener.ready.lock().unwrap().push_back(Err(error));
    }

    pub(super) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.program.write_all(bytes.as_ref()).await.unwrap();
    }

    pub(super) async fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        self.program.read_exact(&mut got).await.unwrap();
        assert_eq!(got, bytes);
    }

    /// A response whose body has a `Content-Length`.
    pub(super) async fn response(&mut self) -> String {
        let mut got = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&got).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.to_lowercase();
                let length = length.split_once("content-length: ");
                let length =
                    length.map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap());
                if body.len() >= length {
                    return text;
                }
            }
            assert!(more(&mut self.program, &mut got).await > 0, "{text}");
        }
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.opener.asked.lock().unwrap().clone()
    }
}

pub(super) fn failed(end: StreamEnd) -> OpenError {
    OpenError::Failed(StreamFailure { end: Some(end), words: end.words().into() })
}

pub(super) async fn head(target: &mut DuplexStream) -> String {
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        assert!(more(target, &mut got).await > 0);
    }
    String::from_utf8(got).unwrap()
}

/// Reads once. The time is virtual: what does not come at all fails at once.
pub(super) async fn more(from: &mut DuplexStream, got: &mut Vec<u8>) -> usize {
    let read = timeout(Duration::from_hours(1), from.read_buf(got));
    read.await.expect("nothing comes").unwrap()
}

const SOCKS_REQUEST: &[u8] = b"\x05\x01\0\x03\x0bexample.org\x01\xbb";

#[tokio::test(start_paused = true)]
async fn socks5_leads_to_the_target_with_what_was_sent_ahead() {
    let mut scene = scene(None);
    let mut target = scene.target();
    scene.say(b"\x05\x01\0").await;
    scene.expect(b"\x05\0").await;
    scene.say([SOCKS_REQUEST, b"early"].concat()).await;
    scene.expect(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    let mut early = [0; 5];
    target.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    target.write_all(b"answer").await.unwrap();
    drop(target);
    scene.expect(b"answer").await;
    assert_eq!(scene.asked(), ["example.org:443"]);
    drop(scene.program);
    scene.proxy.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_failure_has_its_socks5_reply() {
    for (error, reply) in [
        (failed(StreamEnd::Refused), 5),
        (failed(StreamEnd::Unreachable), 4),
        (failed(StreamEnd::ResolveFailed), 4),
        (failed(StreamEnd::Denied), 2),
        (failed(StreamEnd::Timeout), 6),
        (failed(StreamEnd::Overload), 1),
        (OpenError::TimedOut, 6),
        (OpenError::NoSession(None), 1),
        (OpenError::NoPlace, 1),
    ] {
        let mut scene = scene(None);
        scene.fails(error);
        scene.say([b"\x05\x01\0", SOCKS_REQUEST].concat()).await;
        scene.expect(&[5, 0, 5, reply, 0, 1, 0, 0, 0, 0, 0, 0]).await;
        assert_eq!(scene.program.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_program_that_dawdles_is_let_go() {
    for begin in [&b""[..], b"\x05", b"\x05\x01\0\x05\x01\0\x03", b"GET http://a/ HTTP/1.1\r\nX:"] {
        let mut scene = scene(None);
        scene.say(begin).await;
        let mut got = Vec::new();
        let end = timeout(Duration::from_secs(11), scene.program.read_to_end(&mut got)).await;
        assert!(end.is_ok(), "{begin:?}");
        assert!(scene.proxy.await.unwrap().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn connect_opens_a_tunnel() {
    let mut scene = scene(None);
    let mut target = scene.target();
    scene.say("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\nearly").await;
    assert!(scene.response().await.starts_with("HTTP/1.1 200 OK\r\n"));
    let mut early = [0; 5];
    target.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    target.write_all(b"answer").await.unwrap();
    drop(target);
    scene.expect(b"answer").await;
    assert_eq!(scene.asked(), ["example.org:443"]);
}

#[tokio::test(start_paused = true)]
async fn plain_requests_reach_the_origin_in_its_own_form() {
    let mut scene = scene(None);
    for (line, host, path) in [
        ("GET http://example.org/a?b=c", "example.org", "/a?b=c"),
        ("GET http://u:p@example.org:8080", "example.org:8080", "/"),
        ("GET http://[2001:db8::1]:81/?x", "[2001:db8::1]:81", "/?x"),
    ] {
        let mut target = scene.target();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: wrong.example\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\n\
             Connection: keep-alive, x-hop\r\nX-Hop: 1\r\nX-End: 2\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\n\r\n"
        );
        scene.say(&request).await;
        let got = head(&mut target).await;
        let mut lines: Vec<&str> = got.trim_end().split("\r\n").collect();
        assert_eq!(lines.remove(0), format!("GET {path} HTTP/1.1"));
        lines.sort_unstable();
        let host = format!("Host: {host}");
        assert_eq!(lines, ["Connection: TE", &host, "TE: trailers", "X-End: 2"]);
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nKeep-Alive: 1\r\nX-End: 3\r\n\r\nhi";
        target.write_all(answer.as_bytes()).await.unwrap();
        let response = scene.response().await.to_lowercase();
        assert!(response.ends_with("\r\n\r\nhi") && response.contains("x-end: 3"), "{response}");
        assert!(!response.contains("keep-alive: 1"), "{response}");
    }
    assert_eq!(scene.asked(), ["example.org:80", "example.org:8080", "[2001:db8::1]:81"]);
}

#[tokio::test(start_paused = true)]
async fn bodies_flow_in_both_directions() {
    let mut scene = scene(None);
    let mut target = scene.target();
    let body = "x".repeat(50_000);
    scene
        .say(format!(
            "POST http://a.example/ HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    let mut got = Vec::new();
    while got.len() < body.len() || !got.ends_with(b"xx") {
        assert!(target.read_buf(&mut got).await.unwrap() > 0);
    }
    target.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end").await.unwrap();
    drop(target);
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains("0\r\n\r\n") {
        assert!(scene.program.read_buf(&mut got).await.unwrap() > 0);
    }
    assert!(String::from_utf8_lossy(&got).contains("until the end"));
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_in_one_plain_line() {
    for (error, status) in [
        (failed(StreamEnd::Denied), 403),
        (failed(StreamEnd::Refused), 502),
        (failed(StreamEnd::ResolveFailed), 502),
        (failed(StreamEnd::Timeout), 504),
        (failed(StreamEnd::Overload), 503),
        (OpenError::TimedOut, 504),
        (OpenError::NoPlace, 503),
        (OpenError::NoSession(None), 503),
    ] {
        for request in
            ["CONNECT a.example:1 HTTP/1.1\r\n\r\n", "GET http://a.example:1/ HTTP/1.1\r\n\r\n"]
        {
            let mut scene = scene(None);
            let words = error.to_string();
            scene.fails(error.clone());
            scene.say(request).await;
            let response = scene.response().await;
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
            let body = format!("\r\n\r\nhttvps: cannot open a.example:1: {words}\n");
            assert!(response.ends_with(&body), "{response}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_proxy_request_is_told_so() {
    for (request, status, words) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "this is a proxy"),
        ("GET https://a.example/ HTTP/1.1\r\n\r\n", 400, "use CONNECT"),
        ("CONNECT a.example HTTP/1.1\r\n\r\n", 400, "has no port"),
        ("GET http://a_b..c/ HTTP/1.1\r\n\r\n", 400, "malformed target"),
    ] {
        let mut scene = scene(None);
        scene.say(request).await;
        let response = scene.response().await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{request} {response}");
        assert!(response.contains(words), "{response}");
        assert!(scene.asked().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_beyond_the_limit_is_refused() {
    let mut scene = scene(None);
    scene.say(format!("GET http://a/ HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(263_000))).await;
    assert!(scene.response().await.starts_with("HTTP/1.1 431 "));
    assert!(scene.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn with_credentials_http_asks_for_them() {
    for (header, is_let_in) in [
        ("", false),
        ("Proxy-Authorization: Basic YW5uOndyb25n\r\n", false),
        ("Proxy-Authorization: Bearer YW5uOnMzY3JldA==\r\n", false),
        ("Proxy-Authorization: basic YW5uOnMzY3JldA==\r\n", true),
    ] {
        let mut scene = scene(Some(("ann", "s3cret")));
        let _target = scene.target();
        scene.say(format!("CONNECT a.example:1 HTTP/1.1\r\n{header}\r\n")).await;
        let response = scene.response().await;
        let status = if is_let_in { "HTTP/1.1 200 " } else { "HTTP/1.1 407 " };
        assert!(response.starts_with(status), "{header} {response}");
        assert_eq!(response.contains("Proxy-Authenticate: Basic"), !is_let_in);
        assert_eq!(scene.asked().len(), usize::from(is_let_in));
    }
}

/// A control connection with an association; its UDP address.
async fn associated(opener: &Arc<FakeOpen>) -> (TcpStream, std::net::SocketAddr) {
    associated_with(opener, 0, Arc::new(|_| {})).await
}

/// The same for a program that names a port in its request.
async fn associated_with(
    opener: &Arc<FakeOpen>,
    port: u16,
    report: super::ReportRejected,
) -> (TcpStream, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut control = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (local, _) = listener.accept().await.unwrap();
    let proxy = Proxy {
        credentials: None,
        opener: opener.clone(),
        report,
        idle_origins: super::http::idle_origins(),
    };
    tokio::spawn(async move { proxy.serve(local).await });
    let request = [&[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0][..], &port.to_be_bytes()].concat();
    control.write_all(&request).await.unwrap();
    let mut reply = [0; 12];
    control.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply[..10], [5, 0, 5, 0, 0, 1, 127, 0, 0, 1]);
    (control, ([127, 0, 0, 1], u16::from_be_bytes([reply[10], reply[11]])).into())
}

/// A datagram to `192.0.2.1:port` in the form of SOCKS5.
fn packed(port: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 1, 192, 0, 2, 1, 0, port], payload].concat()
}

async fn received(socket: &UdpSocket) -> Vec<u8> {
    let mut space = [0; 100];
    let count = timeout(Duration::from_secs(5), socket.recv(&mut space)).await.unwrap().unwrap();
    space[..count].to_vec()
}

#[tokio::test]
async fn an_association_carries_the_datagrams_of_its_program_only() {
    let opener = Arc::new(FakeOpen::default());
    let (mut control, address) = associated(&opener).await;
    let program = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    program.connect(address).await.unwrap();
    program.send(&packed(7, b"one")).await.unwrap();
    assert_eq!(received(&program).await, packed(7, b"ONE"));
    // Another port of the same machine is another program.
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to(&packed(9, b"let me in"), address).await.unwrap();
    program.send(b"\0\0\x01\x01fragment").await.unwrap();
    program.send(&packed(8, b"two")).await.unwrap();
    assert_eq!(received(&program).await, packed(8, b"TWO"));
    program.send(&packed(7, b"three")).await.unwrap();
    assert_eq!(received(&program).await, packed(7, b"THREE"));
    let asked = opener.asked.lock().unwrap().clone();
    assert_eq!(asked, ["192.0.2.1:7", "192.0.2.1:8"], "one flow a target");
    // A gateway without datagrams ends the association, so that the program knows.
    program.send(&packed(1, b"four")).await.unwrap();
    assert_eq!(control.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_association_does_without_the_port_of_its_request_and_reports_what_it_ignores() {
    let opener = Arc::new(FakeOpen::default());
    let lines = Arc::new(Mutex::new(Vec::new()));
    let report = {
        let lines = lines.clone();
        Arc::new(move |rejected: &super::Rejected| lines.lock().unwrap().push(rejected.to_string()))
    };
    // The port of the target, as some programs have it.
    let (_control, address) = associated_with(&opener, 53, report).await;
    // What is no request does not take the association.
    let garbage = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    garbage.send_to(b"hello", address).await.unwrap();
    garbage.send_to(b"hello again", address).await.unwrap();
    let program = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    program.connect(address).await.unwrap();
    program.send(&packed(7, b"one")).await.unwrap();
    assert_eq!(received(&program).await, packed(7, b"ONE"));
    garbage.send_to(&packed(7, b"late"), address).await.unwrap();
    program.send(&packed(7, b"two")).await.unwrap();
    assert_eq!(received(&program).await, packed(7, b"TWO"));
    let lines = lines.lock().unwrap().clone();
    let source = garbage.local_addr().unwrap();
    let line = |reason| format!("UDP ASSOCIATE ignores datagrams like one from {source}: {reason}");
    assert_eq!(
        lines,
        [
            line("it is a fragment or has no SOCKS5 header with a valid target"),
            line("the association belongs to the port that sent first"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn socks4_is_refused_in_its_own_words_and_ends_in_order() {
    let mut scene = scene(None);
    scene.say(b"\x04\x01\0\x50\xc0\0\x02\x01ann\0").await;
    scene.expect(&[0, 0x5B, 0, 0, 0, 0, 0, 0]).await;
    assert_eq!(scene.program.read(&mut [0; 1]).await.unwrap(), 0);
    drop(scene.program);
    assert!(scene.proxy.await.unwrap().unwrap_err().to_string().contains("SOCKS4"));
    assert!(scene.opener.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_forwarded_socket_has_a_flow_for_each_program() {
    let opener = Arc::new(FakeOpen::default());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let cancel = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(crate::forward::serve_datagrams(
        socket,
        "192.0.2.1:7".parse().unwrap(),
        opener.clone(),
        Arc::new(|_| {}),
        cancel.clone(),
    ));
    for payload in [&b"one"[..], b"two"] {
        let program = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        program.connect(address).await.unwrap();
        for _ in 0..2 {
            program.send(payload).await.unwrap();
            assert_eq!(received(&program).await, payload.to_ascii_uppercase());
        }
    }
    assert_eq!(opener.asked.lock().unwrap().len(), 2);
    cancel.cancel();
    serving.await.unwrap();
}
