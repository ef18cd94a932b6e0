//! Opening, refusing, draining, ending.

use crate::gateway::{Gateway, OFF, Seen, greet, limits, open, pair, pair_with, pipe};
use crate::local::settle;
use crate::within;
use httvps_mux::{ConnectionEnd, LinkTiming, OpenError, Settings, StreamFailure};
use httvps_proto::{ErrorCode, Limits, StreamEnd, json};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(start_paused = true)]
async fn opening_waits_for_the_target() {
    let (connection, mut gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let mut opening = connection.begin("db.example:5432").unwrap();
    let Seen::Open(key, target) = within(gateway.next()).await else { panic!() };
    assert_eq!(target, "db.example:5432");
    tokio::select! {
        result = &mut opening => panic!("{result:?}"),
        seen = gateway.next() => panic!("{seen:?}"),
        () = tokio::time::sleep(Duration::from_mins(1)) => {}
    }
    gateway.session.opened(key, &mut gateway.link.outbox());
    gateway.flush().await.unwrap();
    within(opening).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_target_that_fails_is_an_error_of_the_opening() {
    let (connection, mut gateway) = within(pair(4096, limits(8), Settings::default())).await;
    for (end, kind) in [
        (StreamEnd::Refused, ErrorKind::ConnectionRefused),
        (StreamEnd::Unreachable, ErrorKind::HostUnreachable),
        (StreamEnd::Timeout, ErrorKind::TimedOut),
        (StreamEnd::Denied, ErrorKind::PermissionDenied),
    ] {
        let script = async {
            let Seen::Open(key, _) = gateway.next().await else { panic!() };
            gateway.end(key, end).await;
        };
        let (result, ()) =
            within(async { tokio::join!(connection.open("target:1"), script) }).await;
        let Err(OpenError::Failed(failure)) = result else { panic!("{result:?}") };
        assert_eq!((failure.end, failure.kind()), (Some(end), kind));
    }
    assert_eq!(connection.stream_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_is_given_up_is_closed() {
    let (connection, mut gateway) = within(pair(4096, limits(1), Settings::default())).await;
    let opening = connection.begin("target:1").unwrap();
    let Seen::Open(key, _) = within(gateway.next()).await else { panic!() };
    drop(opening);
    assert_eq!(within(gateway.next()).await, Seen::Close(key));
    within(open(&connection, &mut gateway)).await;
}

/// The gateway of the founding page: no capabilities, no positive answer to `stream_open`.
#[tokio::test(start_paused = true)]
async fn without_open_ack_a_stream_opens_at_once_and_fails_when_read() {
    let (near, far) = pipe(4096, OFF);
    let mut gateway = Gateway::new(far, limits(8));
    let admit = async {
        gateway.hello().await;
        let result = json::AuthResult { allowed: true, ..json::AuthResult::default() };
        json::auth_result(&mut gateway.link.outbox(), &result);
        gateway.flush().await.unwrap();
    };
    let (connection, ()) =
        within(async { tokio::join!(greet(near, Settings::default()), admit) }).await;
    let connection = connection.unwrap();
    assert_eq!((connection.has_open_ack(), connection.max_streams()), (false, 8));

    let mut stream = connection.open("target:1").await.unwrap();
    let mut out = gateway.link.outbox();
    json::error(&mut out, ErrorCode::StreamError, "no", Some("1"), Some("refused"));
    gateway.flush().await.unwrap();
    let error = within(stream.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

    let mut stream = connection.open("target:1").await.unwrap();
    json::error(&mut gateway.link.outbox(), ErrorCode::StreamError, "broken", Some("2"), None);
    gateway.flush().await.unwrap();
    let error = within(stream.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(StreamFailure::of(&error).unwrap().words, "broken".into());
}

#[tokio::test(start_paused = true)]
async fn a_full_session_has_no_place_until_a_stream_ends() {
    let (connection, mut gateway) = within(pair(4096, limits(2), Settings::default())).await;
    let (_first, a) = within(open(&connection, &mut gateway)).await;
    let (second, _) = within(open(&connection, &mut gateway)).await;
    assert!(matches!(connection.begin("target:1"), Err(OpenError::NoPlace)));
    drop(second);
    let (_third, _) = within(async {
        let Seen::Close(_) = gateway.next().await else { panic!() };
        open(&connection, &mut gateway).await
    })
    .await;
    assert!(connection.begin("target:1").is_err());
    gateway.end(a, StreamEnd::Eof).await;
    settle().await;
    assert!(connection.begin("target:1").is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_open_that_the_gateway_has_no_place_for_says_so() {
    let limits =
        Limits { max_stream_opens_per_second: 1, max_stream_open_burst: 1, ..Limits::default() };
    let (connection, mut gateway) = within(pair(4096, limits, Settings::default())).await;
    let (_stream, _) = within(open(&connection, &mut gateway)).await;
    let too_fast = connection.open("target:1");
    let refuse = async {
        tokio::select! {
            seen = gateway.next() => panic!("{seen:?}"),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    };
    let (result, ()) = within(async { tokio::join!(too_fast, refuse) }).await;
    assert!(matches!(result, Err(OpenError::NoPlace)));
    assert_eq!(connection.stream_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_draining_connection_keeps_its_streams_and_takes_no_more() {
    let (connection, mut gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let (mut stream, key) = within(open(&connection, &mut gateway)).await;
    assert!(gateway.session.go_away(Duration::from_secs(30), &mut gateway.link.outbox()));
    gateway.write(key, b"on").await;
    let mut got = [0; 2];
    within(stream.read_exact(&mut got)).await.unwrap();
    assert!(connection.is_draining());
    assert!(matches!(connection.begin("target:1"), Err(OpenError::Draining)));
    stream.write_all(b"still").await.unwrap();
    assert_eq!(within(gateway.next()).await, Seen::Data(key, b"still".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn streams_outlive_the_handle_and_the_last_one_closes() {
    let (connection, mut gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let (mut stream, key) = within(open(&connection, &mut gateway)).await;
    drop(connection);
    stream.write_all(b"alone").await.unwrap();
    assert_eq!(within(gateway.next()).await, Seen::Data(key, b"alone".to_vec()));
    drop(stream);
    assert_eq!(within(gateway.next()).await, Seen::Close(key));
    assert_eq!(within(gateway.next()).await, Seen::Closed(Some(1000)));
}

#[tokio::test(start_paused = true)]
async fn closing_tells_the_gateway_and_ends_the_streams() {
    let (connection, mut gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let (mut stream, key) = within(open(&connection, &mut gateway)).await;
    stream.write_all(b"sent").await.unwrap();
    connection.close();
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    assert_eq!(within(gateway.next()).await, Seen::Data(key, b"sent".to_vec()));
    assert_eq!(within(gateway.next()).await, Seen::Closed(Some(1000)));
    drop(gateway);
    assert_eq!(*within(connection.closed()).await, ConnectionEnd::Local);
    assert!(matches!(connection.begin("target:1"), Err(OpenError::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_never_closes_is_not_waited_for() {
    let (connection, _gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let start = tokio::time::Instant::now();
    connection.close();
    within(connection.closed()).await;
    assert_eq!(start.elapsed().as_secs(), Settings::default().close_timeout.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_close_of_the_gateway_carries_its_words() {
    let (connection, mut gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let (mut stream, _) = within(open(&connection, &mut gateway)).await;
    let mut out = gateway.link.outbox();
    json::error(&mut out, ErrorCode::SessionError, "too many errors", None, None);
    gateway.link.queue_close(1008, "");
    gateway.flush().await.unwrap();
    let end = within(connection.closed());
    let (end, ()) = tokio::join!(end, async { drop(within(gateway.next()).await) });
    let words = Some("too many errors".into());
    assert_eq!(*end, ConnectionEnd::Gateway { code: Some(1008), words });
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert!(error.to_string().contains("too many errors"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_arrived_before_the_connection_broke_is_still_read() {
    let (connection, mut gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let (mut stream, key) = within(open(&connection, &mut gateway)).await;
    gateway.write(key, b"rescued").await;
    drop(gateway);
    assert!(matches!(*within(connection.closed()).await, ConnectionEnd::Lost(_)));
    let mut got = [0; 7];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"rescued");
    let error = stream.read(&mut got).await.unwrap_err();
    let failure = StreamFailure::of(&error).unwrap();
    assert_eq!(failure.end, Some(StreamEnd::SessionEnded));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_answers_no_pings_is_given_up() {
    let timing =
        LinkTiming { keepalive_interval: Duration::from_secs(25), keepalive_max_missed: 2, ..OFF };
    let (connection, _gateway) =
        within(pair_with(4096, limits(8), Settings::default(), timing)).await;
    let start = tokio::time::Instant::now();
    assert_eq!(*within(connection.closed()).await, ConnectionEnd::KeepAlive);
    assert_eq!(start.elapsed().as_secs(), 75);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_takes_nothing_is_given_up() {
    let timing = LinkTiming { write_timeout: Duration::from_secs(30), ..OFF };
    let (connection, mut gateway) =
        within(pair_with(64, limits(8), Settings::default(), timing)).await;
    let (mut stream, _) = within(open(&connection, &mut gateway)).await;
    stream.write_all(&[0; 1000]).await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(*within(connection.closed()).await, ConnectionEnd::WriteTimeout);
    assert_eq!(start.elapsed().as_secs(), 30);
}
