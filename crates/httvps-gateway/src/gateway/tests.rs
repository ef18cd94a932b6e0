//! Whole sessions over loopback, with a way out of the test's own.

use super::*;
use httvps_config::Sources;
use httvps_egress::{Addresses, BoxFuture, Connector, Fake, LookupShare, Resolve, ResolveError};
use httvps_proto::v2::{self, Frame, Frames, Side};
use httvps_testkit::backend::{Answer, ScriptedBackend};
use httvps_testkit::certificates;
use httvps_tls::{CertificateDer, ClientTls, Roots, TlsStream, server_name};
use httvps_transport::ws::{self, Event, Kind, Role, WebSocket};
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// A gateway that runs until the test ends.
struct Running {
    address: SocketAddr,
    tls: ClientTls,
    metrics: Metrics,
    _backend: ScriptedBackend,
    _files: TempDir,
}

async fn run(connector: Arc<dyn Connector>) -> Running {
    let files = tempfile::tempdir().unwrap();
    let made = certificates::make(files.path());
    let backend = ScriptedBackend::start(Answer::Allow).await;
    let sources = Sources::default()
        .with("tls_cert_path", &made.cert_path)
        .with("tls_key_path", &made.key_path)
        .with("backend_base_url", backend.url());
    let mut parts = parts(Config::load(&sources).unwrap().0).unwrap();
    parts.egress = EgressSetup::Common(connector);
    let metrics = parts.metrics.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gateway = Gateway { context: Arc::new(Context::new(parts)), listener, admin: None };
    tokio::spawn(gateway.run(Signals::default()));
    let tls = ClientTls::new(Roots::Bundle(vec![CertificateDer::from(made.ca_der)])).unwrap();
    Running { address, tls, metrics, _backend: backend, _files: files }
}

/// A client in the first format.
struct Client(WebSocket<TlsStream<TcpStream>>);

impl Running {
    /// Lets a device in.
    async fn enter(&self, device: &str) -> Client {
        self.enter_with(device, "").await
    }

    async fn enter_with(&self, device: &str, members: &str) -> Client {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let tls = self.tls.connect(server_name("localhost").unwrap(), tcp).await.unwrap();
        let (tls, early) = ws::connect::connect(tls, "localhost", "/ws", &[]).await.unwrap();
        let mut client = Client(WebSocket::new(tls, Role::Client, ws::Limits::default(), &early));
        let hello = format!(r#"{{"type":"hello","device_id":"{device}","token":"t"{members}}}"#);
        client.say(&hello).await;
        assert_eq!(client.hear().await, Event::Message(Kind::Text));
        let answer = String::from_utf8_lossy(client.0.message()).into_owned();
        assert!(answer.contains(r#""allowed":true"#), "{answer}");
        client
    }
}

impl Client {
    async fn say(&mut self, text: &str) {
        self.0.queue_message(Kind::Text, text.len(), |out| out.extend_from_slice(text.as_bytes()));
        self.flush().await;
    }

    /// Queues one binary message.
    fn queue(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut message = Vec::new();
        fill(&mut message);
        self.0.queue_message(Kind::Binary, message.len(), |out| out.extend_from_slice(&message));
    }

    /// Hears messages until there is this PONG in one of them; what is queued leaves meanwhile.
    async fn hear_pong(&mut self, opaque: [u8; 8]) {
        loop {
            let event = poll_fn(|cx| {
                let _ = self.0.poll_flush(cx);
                self.0.poll_recv(cx)
            });
            assert_eq!(event.await.unwrap(), Event::Message(Kind::Binary));
            let mut frames = Frames::new(self.0.message(), Side::Gateway);
            if frames.any(|frame| frame == Ok(Frame::Pong { opaque })) {
                return;
            }
        }
    }

    async fn flush(&mut self) {
        poll_fn(|cx| self.0.poll_flush(cx)).await.unwrap();
    }

    async fn hear(&mut self) -> Event {
        poll_fn(|cx| self.0.poll_recv(cx)).await.unwrap()
    }

    /// Opens so many streams to names of a device, and has something for each of their targets.
    async fn open(&mut self, device: &str, streams: usize) {
        for id in 0..streams {
            let target = format!("{device}.example:80");
            self.say(&format!(
                r#"{{"type":"stream_open","stream_id":"{id}","target":"{target}"}}"#
            ))
            .await;
            self.say(&format!(r#"{{"type":"stream_data","stream_id":"{id}","data":"aGk="}}"#))
                .await;
        }
    }

    /// Ends the session; returns when the gateway has ended it too.
    async fn leave(mut self) {
        self.0.queue_close(ws::CloseCode::NORMAL, "");
        self.flush().await;
        while !matches!(self.hear().await, Event::Close { .. }) {}
    }
}

/// Lookups of the names of devices `a` and `b`: how many were asked for, and how many have a place.
#[derive(Default, Clone, Copy)]
struct Lookups {
    asked: [usize; 2],
    placed: [usize; 2],
}

/// Looks names up for ever, each in its place.
struct Silent(watch::Sender<Lookups>);

impl Resolve for Silent {
    fn resolve(
        &self,
        name: &str,
        share: &LookupShare,
    ) -> BoxFuture<'static, Result<Addresses, ResolveError>> {
        let (device, share) = (usize::from(name.starts_with('b')), share.clone());
        let lookups = self.0.clone();
        Box::pin(async move {
            lookups.send_modify(|lookups| lookups.asked[device] += 1);
            let _place = share.place().await?;
            lookups.send_modify(|lookups| lookups.placed[device] += 1);
            std::future::pending().await
        })
    }
}

/// A gateway whose name server does not answer, and what it was asked.
async fn unanswered() -> (Running, watch::Receiver<Lookups>) {
    let (lookups, seen) = watch::channel(Lookups::default());
    let resolver = Arc::new(Silent(lookups));
    (run(Arc::new(Direct::new(EgressPolicy::default(), resolver))).await, seen)
}

/// Waits until device `a` has asked for so many names, and has `b` look one up behind them.
async fn pass_by(gateway: &Running, seen: &mut watch::Receiver<Lookups>, asked: usize) -> Lookups {
    seen.wait_for(|lookups| lookups.asked[0] == asked).await.unwrap();
    let mut other = gateway.enter("b").await;
    other.open("b", 1).await;
    *seen.wait_for(|lookups| lookups.placed[1] == 1).await.unwrap()
}

#[tokio::test]
async fn the_sessions_of_a_device_share_its_lookups() {
    let (gateway, mut seen) = unanswered().await;
    let (mut one, mut two) = (gateway.enter("a").await, gateway.enter("a").await);
    one.open("a", 8).await;
    two.open("a", 8).await;
    let mut three = gateway.enter("a").await;
    three.open("a", 8).await;
    assert_eq!(pass_by(&gateway, &mut seen, 24).await.placed[0], 16);
}

#[tokio::test]
async fn a_device_that_comes_back_finds_the_share_that_it_left() {
    let (gateway, mut seen) = unanswered().await;
    for asked in [8, 16] {
        let mut session = gateway.enter("a").await;
        session.open("a", 8).await;
        seen.wait_for(|lookups| lookups.placed[0] == asked).await.unwrap();
        // What was sent is still to be delivered, so that the names are looked up all the same.
        session.leave().await;
    }
    let mut back = gateway.enter("a").await;
    back.open("a", 1).await;
    assert_eq!(pass_by(&gateway, &mut seen, 17).await.placed[0], 16);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_noticed_and_one_that_ends_is_not() {
    let within_a_second = Duration::from_secs(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(async {});
    tokio::time::timeout(within_a_second, first_panic(&mut tasks)).await.unwrap_err();
    tasks.spawn(async { panic!("a helper panics") });
    tokio::time::timeout(within_a_second, first_panic(&mut tasks)).await.unwrap();
}

#[test]
fn a_name_with_addresses_of_both_families_is_listened_on_by_ipv4() {
    let addresses = |texts: &[&str]| -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    for (found, chosen) in [
        (&["::1", "127.0.0.1"][..], Some("127.0.0.1")),
        (&["127.0.0.2", "::1", "127.0.0.1"], Some("127.0.0.2")),
        (&["::1"], Some("::1")),
        (&[], None),
    ] {
        assert_eq!(preferred(&addresses(found)), chosen.map(|text| text.parse().unwrap()));
    }
}

#[tokio::test]
async fn localhost_is_listened_on_by_ipv4() {
    let address = "localhost:0".parse().unwrap();
    let listener = listen("listen_addr", &address).await.unwrap();
    assert!(listener.local_addr().unwrap().ip().is_ipv4());
}

/// A device in the second format, with a stream that goes nowhere.
async fn enter_v2(gateway: &Running) -> Client {
    let mut client = gateway.enter_with("a", r#","capabilities":["v2"]"#).await;
    client.queue(|out| Frame::Open { stream: 1, kind: v2::Kind::Bytes, target: "" }.encode(out));
    client.flush().await;
    client
}

/// Counts the turns that other tasks of the thread have, from now on.
fn count_turns() -> Arc<AtomicUsize> {
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    turns
}

#[tokio::test]
async fn a_message_of_many_frames_takes_many_turns_of_its_session() {
    let gateway = run(Arc::new(Fake::blackhole())).await;
    let mut client = enter_v2(&gateway).await;
    let turns = count_turns();
    client.queue(|out| {
        for _ in 0..50_000 {
            Frame::Data { stream: 1, data: b"x" }.encode(out);
        }
        Frame::Ping { opaque: *b"the last" }.encode(out);
    });
    client.hear_pong(*b"the last").await;
    // Each of these frames may be a call of the system: 127 a turn.
    let taken = turns.load(Ordering::Relaxed);
    assert!(taken > 390, "{taken}");
}

#[tokio::test]
async fn answers_that_are_not_read_stop_the_reading_inside_a_message() {
    const MESSAGES: u8 = 12;
    let gateway = run(Arc::new(Fake::blackhole())).await;
    let mut client = enter_v2(&gateway).await;
    // An answer of 18 bytes to each, 13 MB in all: more than the kernel keeps.
    for number in 0..MESSAGES {
        client.queue(|out| {
            for _ in 0..60_000 {
                Frame::Ping { opaque: *b"whatever" }.encode(out);
            }
            Frame::Ping { opaque: [number; 8] }.encode(out);
        });
    }
    let bound = 256 * 1024;
    let deadline = Instant::now() + Duration::from_mins(1);
    poll_fn(|cx| {
        assert!(Instant::now() < deadline, "the queue does not fill");
        let _ = client.0.poll_flush(cx);
        cx.waker().wake_by_ref();
        let queued = gateway.metrics.client_queue.get();
        if queued < bound { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    for _ in 0..1000 {
        let queued = gateway.metrics.client_queue.get();
        assert!(queued <= bound + 64 * 1024 + 100, "{queued}");
        tokio::task::yield_now().await;
    }
    for number in 0..MESSAGES {
        client.hear_pong([number; 8]).await;
    }
}
