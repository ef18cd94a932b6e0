//! Paths that die without a word, and outages.

use super::*;
use crate::flows::{Flows, Way};
use std::net::Ipv4Addr;
use tokio::net::UdpSocket;

/// From the first use of a path that died to the knowledge that it did.
fn silence_after() -> Duration {
    Timing::default().probe_after + Timing::default().probe_timeout
}

#[tokio::test(start_paused = true)]
async fn an_open_on_a_path_that_died_is_made_again_on_a_new_session() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 8);
    let held = client.open(&target("t:1")).await.unwrap();
    sleep(Duration::from_mins(2)).await;
    world.order(0, Order::Freeze);
    settle().await;
    let begin = Instant::now();
    let _stream = client.open(&target("t:1")).await.unwrap();
    // The session was quiet, so it is asked at once.
    let patience = Timing::default().probe_timeout + Duration::from_millis(600);
    assert!(begin.elapsed() <= patience, "{:?}", begin.elapsed());
    assert_eq!(world.told(), ["connected 1", "silent 0", "connected 1"]);
    let begin = Instant::now();
    let _another = client.open(&target("t:1")).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO, "the silent session takes no new streams");
    assert_eq!(world.attempts(), 2);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_heard_again_takes_streams_as_before() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 8);
    client.connected().await.unwrap();
    sleep(Duration::from_mins(2)).await;
    world.is_unreachable.store(true, Relaxed);
    world.order(0, Order::Freeze);
    settle().await;
    let opening = tokio::spawn({
        let client = client.clone();
        async move { client.open(&target("t:1")).await }
    });
    sleep(silence_after()).await;
    assert_eq!(client.session_count(), 0);
    world.order(0, Order::Thaw);
    opening.await.unwrap().unwrap();
    assert_eq!(world.told()[..3], ["connected 1", "silent 0", "heard 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_stays_silent_is_blamed_and_not_the_target() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 8);
    client.connected().await.unwrap();
    sleep(Duration::from_mins(2)).await;
    world.is_unreachable.store(true, Relaxed);
    world.order(0, Order::Freeze);
    settle().await;
    for _ in 0..3 {
        let error = client.open(&target("t:1")).await.unwrap_err();
        assert!(error.to_string().contains("gateway"), "{error}");
        assert!(!matches!(error, OpenError::TimedOut | OpenError::Failed(_)), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn paths_that_die_again_and_again_leave_a_bounded_number_of_sessions() {
    let world = Arc::new(World::default());
    let client = start(&world, 2, 8);
    let mut streams = Vec::new();
    for round in 0..12 {
        streams.push(client.open(&target("t:1")).await.unwrap());
        sleep(Duration::from_mins(2)).await;
        world.order(round, Order::Freeze);
    }
    streams.push(client.open(&target("t:1")).await.unwrap());
    for gateway in world.gateways.lock().unwrap().iter() {
        let _ = gateway.try_send(Order::Thaw);
    }
    sleep(Duration::from_secs(10)).await;
    let left = world.gateways.lock().unwrap().iter().filter(|one| !one.is_closed()).count();
    assert!(left <= 4, "{left} sessions are left");
    drop(streams);
}

#[tokio::test(start_paused = true)]
async fn a_flow_of_datagrams_continues_on_a_new_session() {
    let world = Arc::new(World::default());
    world.speaks_v2.store(true, Relaxed);
    let client = start(&world, 8, 8);
    client.connected().await.unwrap();
    sleep(Duration::from_mins(2)).await;
    world.order(0, Order::Freeze);
    settle().await;
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let (socket, program) = (Arc::new(bind().await.unwrap()), bind().await.unwrap());
    let from = program.local_addr().unwrap();
    let mut flows = Flows::<u8, Client>::new(Arc::new(client), socket);
    let way = || Way { program: from, header: Box::default() };
    flows.pass(&0, &target("t:443"), way, b"query");
    let mut answer = [0; 16];
    let serving = async {
        loop {
            flows.next(|_, _, _| {}).await.unwrap();
        }
    };
    let count = tokio::select! {
        count = program.recv(&mut answer) => count.unwrap(),
        () = serving => unreachable!(),
        () = sleep(Duration::from_mins(2)) => panic!("no answer"),
    };
    assert_eq!(&answer[..count], b"query");
    assert_eq!(*world.datagrams.lock().unwrap(), [b"query"]);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_a_stream_that_waits_has_its_session_soon() {
    for _ in 0..50 {
        let world = Arc::new(World::default());
        let outage = Duration::from_secs(5);
        *world.down_until.lock().unwrap() = Some(Instant::now() + outage);
        let client = start(&world, 8, 8);
        let begin = Instant::now();
        let _stream = client.open(&target("t:1")).await.unwrap();
        let late = begin.elapsed().saturating_sub(outage);
        assert!(late <= Duration::from_secs(2), "{late:?} after the outage");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_comes_late_in_an_outage_hastens_the_next_attempt() {
    let world = Arc::new(World::default());
    let outage = Duration::from_mins(10);
    *world.down_until.lock().unwrap() = Some(Instant::now() + outage);
    let client = start(&world, 8, 8);
    sleep(outage).await;
    let (begin, before) = (Instant::now(), world.attempts());
    let _stream = client.open(&target("t:1")).await.unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(8), "{:?}", begin.elapsed());
    assert_eq!(world.attempts(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn streams_that_always_wait_do_not_make_it_hammer_a_gateway_that_is_down() {
    let world = Arc::new(World::default());
    *world.down_until.lock().unwrap() = Some(Instant::now() + Duration::from_hours(2));
    let client = start(&world, 8, 8);
    let hour = Instant::now() + Duration::from_hours(1);
    while Instant::now() < hour {
        let _ = client.open(&target("t:1")).await;
    }
    let attempts = world.attempts();
    // One in 4 s at most, after the first twenty.
    assert!((400..920).contains(&attempts), "{attempts} attempts in an hour");
}
