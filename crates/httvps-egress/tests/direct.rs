//! The direct connector against real sockets on loopback, with names answered by the test.
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it inside test functions, not in what they share"
)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use httvps_egress::{
    Addresses, BoxFuture, ByteStream, ConnectError, Connector, DEFAULT_DIAL_DEADLINE, Direct,
    EgressPolicy, LookupShare, OpenRequest, Resolve, ResolveError, SystemResolver, Upstream,
    end_of_io_error,
};
use httvps_proto::Target;
use httvps_resolve::Late;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A resolver that gives its answers one after the other, the last one for ever, and counts how often it was asked.
#[derive(Default)]
struct Scripted {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Resolve for Scripted {
    fn resolve(
        &self,
        _: &str,
        _: &LookupShare,
    ) -> BoxFuture<'static, Result<Addresses, ResolveError>> {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        let last = self.answers.len().saturating_sub(1);
        let answer = self.answers.get(turn.min(last)).cloned();
        Box::pin(async move { answer.map(Addresses::from).ok_or(ResolveError::NoSuchName) })
    }
}

/// A resolver that never answers.
struct Silent;

impl Resolve for Silent {
    fn resolve(
        &self,
        _: &str,
        _: &LookupShare,
    ) -> BoxFuture<'static, Result<Addresses, ResolveError>> {
        Box::pin(std::future::pending())
    }
}

/// A resolver whose second family comes after the first, once what is sent says so.
struct InHalves {
    first: &'static str,
    late: std::sync::Mutex<Option<oneshot::Receiver<Vec<IpAddr>>>>,
}

impl Resolve for InHalves {
    fn resolve(
        &self,
        _: &str,
        _: &LookupShare,
    ) -> BoxFuture<'static, Result<Addresses, ResolveError>> {
        let first = vec![self.first.parse().unwrap()];
        let late = self.late.lock().unwrap().take().map(Late::from);
        Box::pin(async move { Ok(Addresses { first, late }) })
    }
}

/// Such a resolver, and where the second half is sent.
fn in_halves(first: &'static str) -> (Arc<InHalves>, oneshot::Sender<Vec<IpAddr>>) {
    let (sender, late) = oneshot::channel();
    (Arc::new(InHalves { first, late: std::sync::Mutex::new(Some(late)) }), sender)
}

fn scripted(answers: &[&[&str]]) -> Arc<Scripted> {
    let parsed = |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
    Arc::new(Scripted { answers: answers.iter().map(parsed).collect(), asked: AtomicUsize::new(0) })
}

fn direct(allow: &[&str], resolver: Arc<dyn Resolve>) -> Direct {
    let allow = allow.iter().map(|net| net.parse().unwrap()).collect();
    Direct::new(EgressPolicy::new(allow), resolver)
}

fn request(target: &str) -> OpenRequest {
    let target = target.parse::<Target>().unwrap();
    OpenRequest {
        target: Some(target),
        deadline: DEFAULT_DIAL_DEADLINE,
        lookups: LookupShare::default(),
    }
}

async fn opened(direct: &Direct, target: &str) -> Result<Box<dyn ByteStream>, ConnectError> {
    match direct.connect(request(target)).await? {
        Upstream::Stream(stream) => Ok(stream),
        other => panic!("a stream was expected, not {other:?}"),
    }
}

async fn failed(direct: &Direct, target: &str) -> ConnectError {
    opened(direct, target).await.err().unwrap_or_else(|| panic!("{target} opened"))
}

async fn listener(address: &str) -> (TcpListener, u16) {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Listens on 127.0.0.2 and on 127.0.0.1 with one port, which another process may hold on the latter.
async fn twin_listeners() -> (TcpListener, TcpListener, u16) {
    loop {
        let (first, port) = listener("127.0.0.2").await;
        if let Ok(second) = TcpListener::bind(("127.0.0.1", port)).await {
            return (first, second, port);
        }
    }
}

/// Opens the target and gives both ends. The connection waits in the listener's queue until it is accepted.
async fn pair(direct: &Direct, target: &str, on: &TcpListener) -> (Box<dyn ByteStream>, TcpStream) {
    let ours = opened(direct, target).await.unwrap();
    (ours, on.accept().await.unwrap().0)
}

/// Says whether no connection has reached the listener. A connection on loopback stands before `connect` returns.
fn is_untouched(listener: TcpListener) -> bool {
    let accepted = listener.into_std().unwrap().accept();
    accepted.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[tokio::test]
async fn bytes_and_the_end_of_each_half_pass_both_ways() {
    let (listener, port) = listener("127.0.0.1").await;
    let direct = direct(&["127.0.0.0/8"], scripted(&[]));
    let (mut ours, mut theirs) = pair(&direct, &format!("127.0.0.1:{port}"), &listener).await;

    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut read = Vec::new();
    theirs.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"question");

    theirs.write_all(b"answer").await.unwrap();
    drop(theirs);
    read.clear();
    ours.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"answer");
    assert_eq!(direct.name(), "direct");
}

#[tokio::test]
async fn a_port_without_a_listener_refuses() {
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = bound.local_addr().unwrap().as_socket().unwrap().port();
    let direct = direct(&["127.0.0.0/8"], scripted(&[]));
    assert_eq!(failed(&direct, &format!("127.0.0.1:{port}")).await, ConnectError::Refused);
}

#[tokio::test]
async fn loopback_is_denied_by_default_in_every_spelling_and_not_even_touched() {
    let (listener, port) = listener("127.0.0.1").await;
    let resolver = scripted(&[&["127.0.0.1"]]);
    let direct = direct(&[], resolver.clone());
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::127.0.0.1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[fe80::5efe:127.0.0.1]",
        "localhost",
        "LOCALHOST.",
        "any.localhost",
    ] {
        let error = failed(&direct, &format!("{host}:{port}")).await;
        assert_eq!(error.reason(), "denied", "{host}");
    }
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 0);

    let error = failed(&direct, &format!("inside.example:{port}")).await;
    assert_eq!(error.reason(), "denied");
    assert!(is_untouched(listener));
}

#[tokio::test]
async fn localhost_works_as_far_as_it_is_allowed() {
    let (listener, port) = listener("127.0.0.1").await;
    let localhost = format!("localhost:{port}");
    let four = direct(&["127.0.0.0/8"], scripted(&[]));
    pair(&four, &localhost, &listener).await;
    // No program listens on ::1, so the second address is the one that answers.
    let both = direct(&["127.0.0.0/8", "::1/128"], scripted(&[]));
    pair(&both, &localhost, &listener).await;
}

#[tokio::test]
async fn one_denied_answer_denies_the_target() {
    let (listener, port) = listener("127.0.0.2").await;
    for answers in [
        &["127.0.0.2", "127.0.0.1"][..],
        &["10.0.0.1", "127.0.0.2"],
        &["127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.2", "::1"],
        &["127.0.0.2", "::ffff:169.254.169.254"],
    ] {
        let direct = direct(&["127.0.0.2/32"], scripted(&[answers]));
        let error = failed(&direct, &format!("mixed.example:{port}")).await;
        assert_eq!(error.reason(), "denied", "{answers:?}");
    }
    assert!(is_untouched(listener));
}

#[tokio::test]
async fn a_name_is_asked_for_once_and_the_checked_answer_is_dialled() {
    let (permitted, rebound, port) = twin_listeners().await;
    let resolver = scripted(&[&["127.0.0.2"], &["127.0.0.1"]]);
    let direct = direct(&["127.0.0.2/32"], resolver.clone());
    let target = format!("rebinding.example:{port}");

    pair(&direct, &target, &permitted).await;
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);

    // The next stream asks anew, and is judged anew.
    assert_eq!(failed(&direct, &target).await.reason(), "denied");
    assert!(is_untouched(rebound));
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses() {
    let (listener, port) = listener("127.0.0.2").await;
    let direct = direct(&["127.0.0.0/8"], scripted(&[&["127.0.0.3", "127.0.0.2"]]));
    pair(&direct, &format!("two.example:{port}"), &listener).await;
}

#[tokio::test]
async fn a_name_without_an_address_and_a_stream_without_a_target_say_so() {
    let direct = direct(&[], scripted(&[&[]]));
    let error = failed(&direct, "empty.example:80").await;
    assert_eq!(error, ConnectError::ResolveFailed(ResolveError::NoAddress));

    let request = OpenRequest {
        target: None,
        deadline: DEFAULT_DIAL_DEADLINE,
        lookups: LookupShare::default(),
    };
    assert_eq!(direct.connect(request).await.unwrap_err(), ConnectError::NoTarget);
}

#[tokio::test]
async fn localhost_does_not_depend_on_the_systems_files() {
    let (listener, port) = listener("127.0.0.1").await;
    let direct = direct(&["127.0.0.0/8"], SystemResolver::shared());
    pair(&direct, &format!("localhost:{port}"), &listener).await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_the_resolver() {
    let start = tokio::time::Instant::now();
    let direct = direct(&[], Arc::new(Silent));
    assert_eq!(failed(&direct, "slow.example:80").await, ConnectError::TimedOut);
    assert_eq!(start.elapsed(), DEFAULT_DIAL_DEADLINE);
}

/// A listener whose queue is full: it drops every further attempt to connect without a word.
struct Deaf {
    _sockets: Vec<Socket>,
    port: u16,
}

impl Deaf {
    /// Fills the queue until an attempt gets no answer; on loopback an answer takes microseconds.
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![listener];
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            match socket.connect_timeout(&address, Duration::from_millis(300)) {
                Ok(()) => sockets.push(socket),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                Err(error) => panic!("the queue cannot be filled: {error}"),
            }
        }
        Self { _sockets: sockets, port: address.as_socket().unwrap().port() }
    }

    /// How many attempts to connect are waiting for an answer, from the kernel's own table.
    fn attempts(&self) -> usize {
        const SYN_SENT: &str = "02";
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let peer = format!("0100007F:{:04X}", self.port);
        let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        columns.filter(|c| c[2] == peer && c[3] == SYN_SENT).count()
    }
}

#[tokio::test(start_paused = true)]
#[cfg(target_os = "linux")]
async fn a_target_that_does_not_answer_times_out_and_leaves_no_socket() {
    let deaf = Deaf::new();
    let direct = direct(&["127.0.0.0/8"], scripted(&[]));
    let error = failed(&direct, &format!("127.0.0.1:{}", deaf.port)).await;
    assert_eq!(error, ConnectError::TimedOut);
    assert_eq!(deaf.attempts(), 0);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn dropping_the_attempt_frees_its_sockets_at_once() {
    let deaf = Deaf::new();
    let direct = direct(&["127.0.0.0/8"], scripted(&[]));
    let mut attempt = direct.connect(request(&format!("127.0.0.1:{}", deaf.port)));
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(attempt.as_mut().poll(cx))).await;
    assert!(polled.is_pending());
    assert_eq!(deaf.attempts(), 1);
    drop(attempt);
    assert_eq!(deaf.attempts(), 0);
}

#[tokio::test]
async fn a_reset_is_told_from_an_end_on_both_sides() {
    let (listener, port) = listener("127.0.0.1").await;
    let target = format!("127.0.0.1:{port}");
    let direct = direct(&["127.0.0.0/8"], scripted(&[]));

    let (mut ours, theirs) = pair(&direct, &target, &listener).await;
    theirs.set_zero_linger().unwrap();
    drop(theirs);
    let error = ours.read_u8().await.unwrap_err();
    assert_eq!(end_of_io_error(&error), "reset");

    let (mut ours, mut theirs) = pair(&direct, &target, &listener).await;
    ours.reset();
    drop(ours);
    let error = theirs.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    let (ours, mut theirs) = pair(&direct, &target, &listener).await;
    drop(ours);
    assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_family_that_comes_late_is_dialled_when_the_other_leads_nowhere() {
    let (listener, port) = listener("127.0.0.2").await;
    let (resolver, late) = in_halves("127.0.0.3");
    let direct = direct(&["127.0.0.0/8"], resolver);
    late.send(vec!["127.0.0.2".parse().unwrap()]).unwrap();
    pair(&direct, &format!("halves.example:{port}"), &listener).await;
}

#[tokio::test]
async fn a_family_that_comes_late_is_judged_as_a_whole_before_any_of_it_is_dialled() {
    let (listener, port) = listener("127.0.0.2").await;
    let (resolver, late) = in_halves("127.0.0.3");
    let direct = direct(&["127.0.0.2/31"], resolver);
    let mixed = ["127.0.0.2", "10.0.0.1"].map(|text| text.parse().unwrap());
    late.send(mixed.to_vec()).unwrap();
    let error = failed(&direct, &format!("halves.example:{port}")).await;
    assert_eq!(error, ConnectError::Refused);
    assert!(is_untouched(listener));
}
