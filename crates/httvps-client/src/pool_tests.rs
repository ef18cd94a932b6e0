//! The pool against gateways in memory, in virtual time.

mod places;
mod silence;

use crate::keeper::Dial;
use crate::{
    Client, Config, ConnectError, Event, OpenError, Secret, Session, Step, StreamEnd, Target,
    Timing,
};
use httvps_mux::{Connection, Greeting, Link, LinkTiming, Settings, Stream};
use httvps_proto::v2::{self, Budget, Event as V2Event, Frames, ResetCode, Side};
use httvps_proto::{Input, Limits, Session as GatewaySession, Verdict};
use httvps_transport::ws::{self, Role, WebSocket};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// What the test tells a gateway to do.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    GoAway,
    Vanish,
    /// Takes no byte and sends none any more.
    Freeze,
    /// Goes on where it froze.
    Thaw,
}

/// The world of one client: gateways that it gets to know one after the other.
#[derive(Default)]
struct World {
    /// What the next attempts meet; when used up, a gateway.
    obstacles: Mutex<VecDeque<ConnectError>>,
    /// Until then every attempt is refused by the system.
    down_until: Mutex<Option<Instant>>,
    /// Until then an attempt gets no answer.
    is_unreachable: AtomicBool,
    /// Sessions that the gateway allows; 0 for any number.
    max_sessions: AtomicUsize,
    speaks_v2: AtomicBool,
    /// Payload of the datagrams that gateways have got.
    datagrams: Mutex<Vec<Vec<u8>>>,
    attempts: Mutex<Vec<Instant>>,
    gateways: Mutex<Vec<mpsc::Sender<Order>>>,
    events: Mutex<Vec<Event>>,
}

const TIMING: LinkTiming = LinkTiming {
    keepalive_interval: Duration::ZERO,
    keepalive_max_missed: 2,
    write_timeout: Duration::ZERO,
};

fn link(io: DuplexStream, role: Role) -> Link<DuplexStream> {
    let ws = WebSocket::new(io, role, ws::Limits::default(), &[]);
    Link::new(ws, TIMING, Instant::now().into_std())
}

/// A gateway that opens every stream, and closes it when the target is `refused:1`.
struct Gateway {
    link: Link<DuplexStream>,
    session: GatewaySession,
    scratch: Vec<u8>,
    v2: Option<v2::Session>,
    max_streams: usize,
    world: Arc<World>,
}

impl Gateway {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now().into_std();
        while let Poll::Ready(event) = self.link.poll_recv(cx, now) {
            match event {
                Ok(ws::Event::Message(ws::Kind::Text)) => self.take(),
                Ok(ws::Event::Message(ws::Kind::Binary)) => self.take_frames(),
                Ok(ws::Event::Close { .. }) | Err(_) => {
                    let _ = self.link.poll_flush(cx, now);
                    return Poll::Ready(());
                }
                Ok(_) => {}
            }
        }
        let _ = self.link.poll_flush(cx, now);
        Poll::Pending
    }

    fn take(&mut self) {
        let now = Instant::now().into_std();
        let (message, mut out) = self.link.message();
        match self.session.handle_text(now, message, &mut self.scratch, &mut out) {
            Input::Hello(_) => {
                let verdict = Verdict::Allowed { session_id: "s", subscription_status: None };
                self.session.handle_verdict(now, &verdict, &mut out);
                let limits = v2::Limits { max_streams: self.max_streams, ..Default::default() };
                self.v2 = self
                    .session
                    .has_v2()
                    .then(|| v2::Session::new(Side::Gateway, limits, Budget::new(1 << 30), now));
            }
            Input::Open { stream, target } if target.as_deref() == Some("refused:1") => {
                self.session.end(stream, StreamEnd::Refused, &mut out);
            }
            Input::Open { stream, .. } => self.session.opened(stream, &mut out),
            _ => {}
        }
    }

    /// Opens streams, but none to `full:1`; keeps datagrams and sends them back.
    fn take_frames(&mut self) {
        let now = Instant::now().into_std();
        let (message, mut out) = self.link.message();
        let session = self.v2.as_mut().unwrap();
        for frame in Frames::new(message, Side::Client) {
            let event = out.frames(|frames| session.handle_frame(now, frame.unwrap(), frames));
            match event.unwrap() {
                V2Event::Open { stream, target: "full:1", .. } => out.frames(|frames| {
                    session.reset(stream, ResetCode::Limit, "", frames);
                }),
                V2Event::Open { stream, .. } => {
                    out.frames(|frames| session.opened(stream, frames));
                }
                V2Event::Finish(stream) => out.frames(|frames| session.finish(stream, frames)),
                V2Event::Datagram { stream, data } => {
                    self.world.datagrams.lock().unwrap().push(data.to_vec());
                    out.frames(|frames| session.write_datagram(stream, data, frames));
                }
                _ => {}
            }
        }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut is_frozen = false;
        loop {
            let order = tokio::select! {
                () = poll_fn(|cx| self.poll(cx)), if !is_frozen => return,
                order = orders.recv() => order,
            };
            match order {
                Some(Order::Freeze) => is_frozen = true,
                Some(Order::Thaw) => is_frozen = false,
                Some(Order::GoAway) => {
                    let mut out = self.link.outbox();
                    self.session.go_away(Duration::from_secs(30), &mut out);
                }
                Some(Order::Vanish) | None => return,
            }
        }
    }
}

impl World {
    async fn dial(
        self: Arc<Self>,
        limits: Limits,
        changes: tokio::sync::watch::Sender<()>,
    ) -> Result<Session, ConnectError> {
        self.attempts.lock().unwrap().push(Instant::now());
        if let Some(error) = self.obstacles.lock().unwrap().pop_front() {
            return Err(error);
        }
        if self.down_until.lock().unwrap().is_some_and(|until| Instant::now() < until) {
            return Err(ConnectError::ConnectionRefused { gateway: "g:443".into() });
        }
        if self.is_unreachable.load(Relaxed) {
            sleep(Timing::default().dial_timeout).await;
            return Err(ConnectError::TimedOut { gateway: "g:443".into(), step: Step::Tcp });
        }
        let living = self.gateways.lock().unwrap().iter().filter(|one| !one.is_closed()).count();
        let max_sessions = self.max_sessions.load(Relaxed);
        if max_sessions > 0 && living >= max_sessions {
            return Err(ConnectError::SessionLimit);
        }
        let (near, far) = duplex(4096);
        let (orders, inbox) = mpsc::channel(8);
        self.gateways.lock().unwrap().push(orders);
        let gateway = Gateway {
            link: link(far, Role::Server),
            max_streams: limits.max_streams,
            session: GatewaySession::new(Arc::new(limits)),
            scratch: Vec::new(),
            v2: None,
            world: self.clone(),
        };
        tokio::spawn(gateway.run(inbox));
        let greeting = Greeting {
            device_id: "d",
            token: "t",
            client_version: "test",
            region: None,
            offers_v2: self.speaks_v2.load(Relaxed),
        };
        let link = link(near, Role::Client);
        let connection =
            Connection::spawn(link, &greeting, Settings::default(), changes).await.unwrap();
        Ok(Session::new(connection, None))
    }

    fn order(&self, gateway: usize, order: Order) {
        self.gateways.lock().unwrap()[gateway].try_send(order).unwrap();
    }

    fn attempts(&self) -> usize {
        self.attempts.lock().unwrap().len()
    }

    /// Events since the last call, in short.
    fn told(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        let short = events.iter().map(|event| match event {
            Event::Connected { sessions, .. } => format!("connected {sessions}"),
            Event::Draining { sessions } => format!("draining {sessions}"),
            Event::Ended { sessions, .. } => format!("ended {sessions}"),
            Event::Failed { sessions, .. } => format!("failed {sessions}"),
            Event::Silent { sessions } => format!("silent {sessions}"),
            Event::Heard { sessions } => format!("heard {sessions}"),
            Event::Full { waiting, .. } => format!("full, {waiting} wait"),
            Event::Displaced { flows, .. } => format!("displaced {flows}"),
        });
        short.collect()
    }
}

fn start(world: &Arc<World>, max_sessions: usize, max_streams: usize) -> Client {
    let limits = Limits { max_streams, ..Limits::default() };
    let dial: Dial = {
        let world = world.clone();
        Box::new(move |changes| Box::pin(world.clone().dial(limits.clone(), changes)))
    };
    let report = {
        let world = world.clone();
        Box::new(move |event: &Event| world.events.lock().unwrap().push(event.clone()))
    };
    let url = "wss://g.example".parse().unwrap();
    let mut config = Config::new(url, "d", Secret::new("t".into()));
    config.max_sessions = max_sessions;
    Client::with_dial(&config, dial, report)
}

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

async fn open_many(client: &Client, count: usize) -> Vec<Stream> {
    let mut tasks = Vec::new();
    for _ in 0..count {
        let client = client.clone();
        tasks.push(tokio::spawn(async move { client.open(&target("t:1")).await }));
    }
    let mut streams = Vec::new();
    for task in tasks {
        streams.push(task.await.unwrap().unwrap());
    }
    streams
}

async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn it_connects_by_itself_and_opens_streams() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 8);
    let _stream = client.open(&target("t:1")).await.unwrap();
    let error = client.open(&target("refused:1")).await.unwrap_err();
    assert!(matches!(error, OpenError::Failed(f) if f.end == Some(StreamEnd::Refused)));
    assert_eq!(world.told(), ["connected 1"]);
    assert_eq!(world.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_browser_full_of_streams_gets_further_sessions_and_gives_them_back() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 8);
    let streams = open_many(&client, 40).await;
    assert_eq!(client.session_count(), 5);
    drop(streams);
    sleep(Duration::from_secs(59)).await;
    assert_eq!(client.session_count(), 5);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(client.session_count(), 1);
    let _stream = client.open(&target("t:1")).await.unwrap();
    assert!(world.told().iter().all(|event| event.starts_with("connected")));
}

#[tokio::test(start_paused = true)]
async fn when_everything_is_full_streams_wait_in_order_and_not_for_ever() {
    let world = Arc::new(World::default());
    let client = start(&world, 2, 1);
    let mut held = open_many(&client, 2).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for n in 0..3 {
        let (client, order) = (client.clone(), order.clone());
        waiting.push(tokio::spawn(async move {
            let stream = client.open(&target("t:1")).await;
            order.lock().unwrap().push(n);
            stream
        }));
        settle().await;
    }
    held.pop();
    settle().await;
    assert_eq!(*order.lock().unwrap(), [0]);
    waiting.remove(1).abort();
    held.pop();
    settle().await;
    assert_eq!(*order.lock().unwrap(), [0, 2], "one who gives up gives his turn on");

    let _held: Vec<_> = {
        let mut streams = Vec::new();
        for task in waiting {
            streams.push(task.await.unwrap().unwrap());
        }
        streams
    };
    let begin = Instant::now();
    assert!(matches!(client.open(&target("t:1")).await, Err(OpenError::NoPlace)));
    assert_eq!(begin.elapsed(), Timing::default().open_timeout);
    assert_eq!(world.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_and_streams_wait_for_the_session() {
    let world = Arc::new(World::default());
    let refused = ConnectError::ConnectionRefused { gateway: "g:443".into() };
    world.obstacles.lock().unwrap().extend([refused.clone(), refused.clone(), refused]);
    let client = start(&world, 8, 8);
    let begin = Instant::now();
    let _stream = client.open(&target("t:1")).await.unwrap();
    assert!(begin.elapsed() <= Duration::from_millis(500 + 1000 + 2000));
    assert_eq!(world.told(), ["failed 0", "failed 0", "failed 0", "connected 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_stays_away_is_named_when_the_wait_is_over() {
    let world = Arc::new(World::default());
    let refused = ConnectError::ConnectionRefused { gateway: "g:443".into() };
    world.obstacles.lock().unwrap().extend(std::iter::repeat_n(refused, 1000));
    let client = start(&world, 8, 8);
    let begin = Instant::now();
    let error = client.open(&target("t:1")).await.unwrap_err();
    assert_eq!(begin.elapsed(), Timing::default().open_timeout);
    assert!(error.to_string().contains("no program listens at g:443"), "{error}");
    sleep(Duration::from_hours(1)).await;
    let attempts = world.attempts();
    assert!((120..600).contains(&attempts), "{attempts} attempts in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_fails_streams_at_once_and_is_retried_slowly() {
    let world = Arc::new(World::default());
    let refused = ConnectError::Refused {
        reason: "no_active_subscription".into(),
        subscription_status: Some("expired".into()),
    };
    world.obstacles.lock().unwrap().extend(std::iter::repeat_n(refused, 3));
    let client = start(&world, 8, 8);
    settle().await;
    let begin = Instant::now();
    let error = client.open(&target("t:1")).await.unwrap_err();
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert!(error.to_string().ends_with("no active subscription (expired)"), "{error}");

    timeout(Duration::from_mins(15), client.connected()).await.unwrap().unwrap();
    let attempts = world.attempts.lock().unwrap().clone();
    assert_eq!(attempts.len(), 4);
    for pair in attempts.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause >= Duration::from_secs(30) && pause <= Duration::from_mins(5));
    }
    client.open(&target("t:1")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_replaced_soon() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 8);
    client.connected().await.unwrap();
    sleep(Duration::from_mins(2)).await;
    world.order(0, Order::Vanish);
    settle().await;
    let begin = Instant::now();
    client.connected().await.unwrap();
    assert!(begin.elapsed() <= Duration::from_millis(500));
    assert_eq!(world.told(), ["connected 1", "ended 0", "connected 1"]);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_die_young_make_it_more_patient() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 8);
    for round in 0..60 {
        client.connected().await.unwrap();
        world.order(round, Order::Vanish);
        settle().await;
    }
    let attempts = world.attempts.lock().unwrap().clone();
    let took = attempts[59] - attempts[0];
    // Sixty pauses drawn from up to 30 s each; about 15 minutes, and not the 30 s of sixty
    // first pauses.
    assert!(took > Duration::from_mins(5), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_lost_together_count_once() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 1);
    let streams = open_many(&client, 8).await;
    (0..8).for_each(|gateway| world.order(gateway, Order::Vanish));
    settle().await;
    drop(streams);
    let begin = Instant::now();
    client.connected().await.unwrap();
    assert!(begin.elapsed() <= Duration::from_millis(500), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_drain_moves_new_streams_and_lets_old_ones_finish() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 8);
    let old = client.open(&target("t:1")).await.unwrap();
    sleep(Duration::from_secs(20)).await;
    world.order(0, Order::GoAway);
    settle().await;
    settle().await;
    assert_eq!(world.told(), ["connected 1", "draining 0", "connected 1"]);
    let _new = client.open(&target("t:1")).await.unwrap();
    assert!(!world.gateways.lock().unwrap()[0].is_closed());
    drop(old);
    sleep(Duration::from_secs(1)).await;
    assert!(world.gateways.lock().unwrap()[0].is_closed(), "a drained session without streams");
    assert_eq!(client.session_count(), 1);
    assert_eq!(world.told(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_always_drains_is_not_asked_all_the_time() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 8);
    let begin = Instant::now();
    for round in 0..60 {
        client.connected().await.unwrap();
        world.order(round, Order::GoAway);
        settle().await;
    }
    assert!(begin.elapsed() > Duration::from_mins(5), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn closing_ends_the_sessions_and_those_who_wait() {
    let world = Arc::new(World::default());
    let client = start(&world, 1, 1);
    let _held = client.open(&target("t:1")).await.unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.open(&target("t:1")).await }
    });
    settle().await;
    client.close().await;
    assert!(matches!(waiting.await.unwrap(), Err(OpenError::Closed)));
    assert!(matches!(client.open(&target("t:1")).await, Err(OpenError::Closed)));
    settle().await;
    assert!(world.gateways.lock().unwrap()[0].is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_client_leaves_nothing_behind() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 8);
    client.connected().await.unwrap();
    drop(client);
    sleep(Duration::from_secs(10)).await;
    assert!(world.gateways.lock().unwrap()[0].is_closed());
    assert_eq!(world.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_panics_ends_the_client_instead_of_leaving_it_deaf() {
    let config = Config::new("wss://g.example/ws".parse().unwrap(), "d", Secret::new("t".into()));
    let dial: Dial = Box::new(|_| Box::pin(async { Err(ConnectError::BackendUnavailable) }));
    let client = Client::with_dial(&config, dial, Box::new(|_| panic!("the report panics")));
    timeout(Duration::from_secs(1), client.ended()).await.unwrap();
    let start = Instant::now();
    let error = client.open(&target("a:1")).await.unwrap_err();
    assert!(matches!(error, OpenError::Closed), "{error}");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_panics_is_made_again_after_a_pause() {
    let attempts = Arc::new(Mutex::new(0));
    let counted = attempts.clone();
    let dial: Dial = Box::new(move |_| {
        *counted.lock().unwrap() += 1;
        Box::pin(async { panic!("the attempt panics") })
    });
    let config = Config::new("wss://g.example/ws".parse().unwrap(), "d", Secret::new("t".into()));
    let _client = Client::with_dial(&config, dial, Box::new(|_| {}));
    sleep(Duration::from_mins(2)).await;
    let attempts = *attempts.lock().unwrap();
    assert!((2..100).contains(&attempts), "{attempts}");
}
