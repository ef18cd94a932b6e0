//! A gateway that does not answer while something waits for it.

use crate::gateway::{Seen, limits, open, pair};
use crate::gateway_v2;
use crate::local::settle;
use crate::within;
use httvps_mux::{OpenError, Settings};
use httvps_proto::StreamEnd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

fn silence_after() -> Duration {
    Settings::default().probe_after + Settings::default().probe_timeout
}

#[tokio::test(start_paused = true)]
async fn an_open_that_is_not_answered_fails_and_no_further_one_is_taken() {
    let (connection, _gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let start = Instant::now();
    let error = within(connection.open("target:1")).await.unwrap_err();
    assert!(matches!(error, OpenError::Silent), "{error:?}");
    assert_eq!(start.elapsed(), silence_after());
    assert!(connection.is_silent() && connection.end().is_none());
    assert!(matches!(connection.begin("target:1"), Err(OpenError::Silent)));
}

#[tokio::test(start_paused = true)]
async fn after_a_quiet_time_the_ping_goes_out_with_the_open() {
    let (connection, _gateway) = within(pair(4096, limits(8), Settings::default())).await;
    sleep(Duration::from_mins(1)).await;
    let start = Instant::now();
    assert!(matches!(within(connection.open("target:1")).await, Err(OpenError::Silent)));
    assert_eq!(start.elapsed(), Settings::default().probe_timeout);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_not_answered_shows_and_is_forgiven_when_the_gateway_is_heard() {
    let (connection, mut gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let (mut stream, key) = within(open(&connection, &mut gateway)).await;
    sleep(Duration::from_mins(10)).await;
    assert!(!connection.is_silent(), "nothing was sent");
    stream.write_all(b"an unanswered q.").await.unwrap();
    sleep(silence_after()).await;
    assert!(connection.is_silent());
    let Seen::Data(_, _) = within(gateway.next()).await else { panic!() };
    gateway.write(key, b"yes").await;
    let mut got = [0; 3];
    within(stream.read_exact(&mut got)).await.unwrap();
    settle().await;
    assert!(!connection.is_silent());
    within(open(&connection, &mut gateway)).await;
}

#[tokio::test(start_paused = true)]
async fn flows_of_datagrams_are_told_that_another_connection_may_do() {
    let (connection, _gateway) = within(gateway_v2::pair(4096, Settings::default())).await;
    let mut flow = connection.begin_datagrams("name.example:53").unwrap();
    flow.send(b"query");
    let failure = within(flow.recv()).await.unwrap_err();
    assert_eq!(failure.end, Some(StreamEnd::SessionEnded));
    assert!(matches!(connection.begin_datagrams("name.example:53"), Err(OpenError::Silent)));
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_is_displaced_gives_its_place_back_at_once() {
    let limits = httvps_proto::v2::Limits { max_streams: 100, ..Default::default() };
    let (connection, mut gateway) =
        within(gateway_v2::pair_with(4096, Settings::default(), limits)).await;
    let mut flow = connection.begin_datagrams("name.example:53").unwrap();
    let displacer = flow.displacer();
    let stream = within(gateway.open()).await;
    displacer.displace("another one needs the place");
    assert_eq!(connection.stream_count(), 0);
    let failure = within(flow.recv()).await.unwrap_err();
    assert_eq!(&*failure.words, "another one needs the place");
    let code = httvps_proto::v2::ResetCode::Cancelled;
    assert_eq!(within(gateway.next_deed()).await, gateway_v2::Seen::Reset(stream, code));
    displacer.displace("once more");
    drop(flow);
    displacer.displace("and after its end");
}
