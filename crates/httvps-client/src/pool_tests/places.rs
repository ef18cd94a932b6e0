//! Who gets a place when there are not enough of them.

use super::*;
use crate::Datagrams;

/// A client whose gateways speak v2 and allow `max_streams` on each session.
fn start_v2(world: &Arc<World>, max_sessions: usize, max_streams: usize) -> Client {
    world.speaks_v2.store(true, Relaxed);
    start(world, max_sessions, max_streams)
}

async fn flows(client: &Client, count: usize) -> Vec<Datagrams> {
    let mut flows = Vec::new();
    for _ in 0..count {
        flows.push(client.open_datagrams(&target("u:443")).await.unwrap());
        sleep(Duration::from_millis(10)).await;
    }
    flows
}

async fn is_displaced(flow: &mut Datagrams) -> bool {
    match timeout(Duration::from_millis(1), flow.recv()).await {
        Err(_) => false,
        Ok(result) => result.unwrap_err().words.contains("took the place"),
    }
}

#[tokio::test(start_paused = true)]
async fn flows_of_datagrams_leave_half_of_the_places_to_streams() {
    let world = Arc::new(World::default());
    let client = start_v2(&world, 8, 8);
    let mut held = flows(&client, 96).await;
    let begin = Instant::now();
    let _streams = open_many(&client, 32).await;
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    let mut displaced = Vec::new();
    for (n, flow) in held.iter_mut().enumerate() {
        if is_displaced(flow).await {
            displaced.push(n);
        }
    }
    assert_eq!(displaced, (0..64).collect::<Vec<_>>(), "the quietest go, and no others");
    sleep(Duration::from_secs(30)).await;
    let told = world.told();
    let told: Vec<_> = told.iter().filter(|told| told.starts_with("displaced")).collect();
    assert_eq!(told, ["displaced 64"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_flow_sends_and_receives_keeps_its_place() {
    let world = Arc::new(World::default());
    let client = start_v2(&world, 1, 4);
    let mut held = flows(&client, 2).await;
    held[0].send(b"busy");
    assert_eq!(&*held[0].recv().await.unwrap(), b"busy");
    let _newcomer = client.open_datagrams(&target("u:443")).await.unwrap();
    assert!(!is_displaced(&mut held[0]).await);
    assert!(is_displaced(&mut held[1]).await);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_place_takes_that_of_a_quiet_flow() {
    let world = Arc::new(World::default());
    let client = start_v2(&world, 1, 4);
    let mut held = flows(&client, 2).await;
    let _streams = open_many(&client, 2).await;
    let begin = Instant::now();
    let _stream = client.open(&target("t:1")).await.unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(3), "{:?}", begin.elapsed());
    assert!(is_displaced(&mut held[0]).await);
    assert!(!is_displaced(&mut held[1]).await, "one for each stream");
}

#[tokio::test(start_paused = true)]
async fn a_flow_finds_a_place_among_flows_while_streams_wait() {
    let world = Arc::new(World::default());
    let client = start_v2(&world, 1, 4);
    let mut held = flows(&client, 1).await;
    let _streams = open_many(&client, 3).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.open(&target("t:1")).await }
    });
    settle().await;
    let begin = Instant::now();
    let _flow = client.open_datagrams(&target("u:443")).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert!(is_displaced(&mut held[0]).await);
    waiting.abort();
}

#[tokio::test(start_paused = true)]
async fn idle_streams_get_further_sessions_and_are_not_cut() {
    let world = Arc::new(World::default());
    let client = start(
        &world,
        Config::new("wss://g.example".parse().unwrap(), "d", Secret::new("t".into())).max_sessions,
        8,
    );
    let streams = open_many(&client, 64).await;
    let begin = Instant::now();
    let _next = client.open(&target("t:1")).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(streams.len(), 64);
    assert_eq!(client.session_count(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_place_is_reported_once_in_a_while() {
    let world = Arc::new(World::default());
    let client = start(&world, 1, 1);
    let _held = client.open(&target("t:1")).await.unwrap();
    world.told();
    for _ in 0..4 {
        assert!(matches!(client.open(&target("t:1")).await, Err(OpenError::NoPlace)));
    }
    // 60 s of waiting: after 1 s, and 30 s later.
    assert_eq!(world.told(), ["full, 1 wait", "full, 1 wait"]);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_allows_no_streams_gets_one_session_and_says_so_at_once() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, 0);
    client.connected().await.unwrap();
    let begin = Instant::now();
    for _ in 0..20 {
        assert!(matches!(client.open(&target("t:1")).await, Err(OpenError::NoPlace)));
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(world.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_refuses_every_open_is_not_given_further_sessions() {
    let world = Arc::new(World::default());
    let client = start_v2(&world, 8, 8);
    for _ in 0..4 {
        assert!(matches!(client.open(&target("full:1")).await, Err(OpenError::NoPlace)));
    }
    assert_eq!(world.attempts(), 1);
    let _stream = client.open(&target("t:1")).await.unwrap();
    assert!(matches!(client.open(&target("full:1")).await, Err(OpenError::NoPlace)));
    assert!(world.attempts() <= 2, "{}", world.attempts());
}

#[tokio::test(start_paused = true)]
async fn a_further_session_that_is_refused_does_not_delay_the_return_of_a_lost_one() {
    let world = Arc::new(World::default());
    world.max_sessions.store(1, Relaxed);
    let client = start(&world, 8, 1);
    let held = client.open(&target("t:1")).await.unwrap();
    let refused = client.open(&target("t:1")).await.unwrap_err();
    assert!(matches!(refused, OpenError::NoPlace), "{refused:?}");
    assert!(world.attempts() <= 4, "{} attempts in 15 s", world.attempts());
    drop(held);
    world.order(0, Order::Vanish);
    settle().await;
    let begin = Instant::now();
    client.open(&target("t:1")).await.unwrap();
    assert!(begin.elapsed() <= Duration::from_millis(500), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_allows_any_number_of_streams_is_counted_with() {
    let world = Arc::new(World::default());
    let client = start(&world, 8, usize::MAX);
    client.connected().await.unwrap();
    sleep(Duration::from_mins(2)).await;
    // A session that was silent for a while, and the one that was opened beside it.
    world.order(0, Order::Freeze);
    settle().await;
    let _stream = client.open(&target("t:1")).await.unwrap();
    world.order(0, Order::Thaw);
    settle().await;
    assert_eq!(client.session_count(), 2);
    let _streams = open_many(&client, 100).await;
    assert_eq!(world.attempts(), 2);
}
