//! Bytes in both directions: all of them, in order, within bounds.

use crate::gateway::{Seen, limits, open, pair};
use crate::gateway_v2;
use crate::local::settle;
use crate::within;
use httvps_mux::{CHUNK, Settings, Stream, StreamFailure};
use httvps_proto::v2::ResetCode;
use httvps_proto::{Limits, StreamEnd};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn pattern(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(seed * 2 + 1) >> 3) as u8).collect()
}

/// Polls once, without waiting.
async fn is_pending<F: Future>(future: F) -> bool {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

#[tokio::test(start_paused = true)]
async fn many_streams_echo_through_a_pipe_of_a_few_bytes() {
    let settings = Settings { max_queued: 300, ..Settings::default() };
    let (connection, gateway) = within(pair(13, limits(8), settings)).await;
    tokio::spawn(gateway.echo());
    let mut tasks = Vec::new();
    let mut streams = Vec::new();
    for seed in 0..8 {
        streams.push((seed, within(connection.open("target:1")).await.unwrap()));
    }
    for (seed, stream) in streams {
        tasks.push(tokio::spawn(async move {
            let body = pattern(seed, 20_000 + seed as usize * 777);
            let (mut reader, mut writer) = tokio::io::split(stream);
            let mut got = vec![0; body.len()];
            let (wrote, read) = tokio::join!(writer.write_all(&body), reader.read_exact(&mut got));
            wrote.unwrap();
            read.unwrap();
            assert!(got == body, "stream {seed} lost or mixed bytes");
        }));
    }
    for task in tasks {
        within(task).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_write_leaves_in_frames_that_fill_a_segment() {
    let (connection, mut gateway) = within(gateway_v2::pair(1 << 20, Settings::default())).await;
    let opening = async { tokio::join!(connection.open("target:1"), gateway.open()) };
    let (stream, key) = within(opening).await;
    let mut stream = stream.unwrap();
    // The credit of a fresh stream is 64 KiB.
    let body = pattern(1, 64 * 1024);
    within(stream.write_all(&body)).await.unwrap();
    // 65,536 without the headers of TCP and IP, those of four records, of the message, and of the frame.
    assert_eq!(CHUNK, 65_332);
    for part in body.chunks(CHUNK) {
        assert!(within(gateway.next_deed()).await == gateway_v2::Seen::Data(key, part.to_vec()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_arrived_is_read_before_the_end() {
    let (connection, mut gateway) = within(pair(1 << 20, limits(8), Settings::default())).await;
    for (end, kind) in [
        (StreamEnd::Eof, None),
        (StreamEnd::Reset, Some(ErrorKind::ConnectionReset)),
        (StreamEnd::Idle, Some(ErrorKind::TimedOut)),
    ] {
        let (mut stream, key) = within(open(&connection, &mut gateway)).await;
        let body = pattern(1, 100_000);
        gateway.write(key, &body).await;
        gateway.end(key, end).await;
        settle().await;
        let mut got = Vec::new();
        let result = within(stream.read_to_end(&mut got)).await;
        assert!(got == body);
        match kind {
            None => assert_eq!(result.unwrap(), body.len()),
            Some(kind) => {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), kind);
                assert_eq!(StreamFailure::of(&error).unwrap().end, Some(end));
            }
        }
        assert_eq!(connection.stream_count(), 0, "the place is free before the stream is dropped");
        assert!(stream.write(b"late").await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_shut_stream_delivers_what_was_written_and_stays_readable() {
    let (connection, mut gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let (mut stream, key) = within(open(&connection, &mut gateway)).await;
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(within(gateway.next()).await, Seen::Data(key, b"question".to_vec()));
    gateway.write(key, b"answer").await;
    gateway.end(key, StreamEnd::Eof).await;
    let mut got = Vec::new();
    within(stream.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"answer");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_is_closed_after_its_last_byte() {
    let (connection, mut gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let (mut stream, key) = within(open(&connection, &mut gateway)).await;
    stream.write_all(b"last words").await.unwrap();
    drop(stream);
    assert_eq!(within(gateway.next()).await, Seen::Data(key, b"last words".to_vec()));
    assert_eq!(within(gateway.next()).await, Seen::Close(key));
    assert_eq!(connection.stream_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn writers_wait_while_the_gateway_takes_nothing_and_all_go_on_after() {
    let settings = Settings { max_queued: 64 * 1024, ..Settings::default() };
    let limits = Limits { max_stream_opens_per_second: 0, ..limits(8) };
    let (connection, mut gateway) = within(pair(1024, limits, settings)).await;
    let mut streams = Vec::new();
    for seed in 0..6 {
        streams.push((seed, within(open(&connection, &mut gateway)).await.0));
    }
    let mut tasks = Vec::new();
    for (seed, mut stream) in streams {
        tasks.push(tokio::spawn(async move {
            stream.write_all(&pattern(seed, 300_000)).await.unwrap();
            // Kept open until everybody is through.
            stream
        }));
    }
    settle().await;
    assert!(tasks.iter().all(|task| !task.is_finished()));
    let opens = (0..100_000).take_while(|_| connection.begin("target:2").is_ok()).count();
    assert!((1..20_000).contains(&opens), "{opens} opens were added to a queue that is full");

    let mut got = 0;
    while got < 6 * 300_000 {
        if let Seen::Data(_, data) = within(gateway.next()).await {
            got += data.len();
        }
    }
    for task in tasks {
        within(task).await.unwrap();
    }
    assert!(connection.begin("target:2").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_gives_up_takes_no_turn_with_it() {
    let settings = Settings { max_queued: 1, ..Settings::default() };
    let (connection, mut gateway) = within(pair(64, limits(8), settings)).await;
    let (mut first, a) = within(open(&connection, &mut gateway)).await;
    let (mut second, b) = within(open(&connection, &mut gateway)).await;
    first.write_all(&[1; 1000]).await.unwrap();
    assert!(is_pending(first.write(&[2; 10])).await);
    let writer = tokio::spawn(async move { second.write_all(&[3; 10]).await.map(|()| second) });
    settle().await;
    drop(first);
    assert_eq!(within(gateway.next()).await, Seen::Data(a, vec![1; 1000]));
    assert_eq!(within(gateway.next()).await, Seen::Close(a));
    assert_eq!(within(gateway.next()).await, Seen::Data(b, vec![3; 10]));
    within(writer).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_given_up_loses_nothing() {
    let (connection, mut gateway) = within(pair(4096, limits(8), Settings::default())).await;
    let (mut stream, key) = within(open(&connection, &mut gateway)).await;
    let mut got = [0; 6];
    for _ in 0..3 {
        assert!(is_pending(stream.read(&mut got)).await);
    }
    gateway.write(key, b"intact").await;
    within(stream.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"intact");
}

async fn fill(gateway: &mut crate::gateway::Gateway, key: httvps_proto::StreamKey) -> usize {
    let mut sent = 0;
    while gateway.link.queued() == 0 {
        gateway.session.write(key, &[7; 8192], &mut gateway.link.outbox());
        sent += 8192;
        let flush = gateway.flush();
        let _ = tokio::time::timeout(Duration::from_millis(10), flush).await;
        assert!(sent < 1 << 20, "nothing held the gateway back");
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_read_holds_a_bounded_number_of_bytes() {
    let settings = Settings { max_stream_buffered: 100_000, ..Settings::default() };
    let (connection, mut gateway) = within(pair(4096, limits(8), settings)).await;
    let (mut stream, key) = within(open(&connection, &mut gateway)).await;
    let sent = fill(&mut gateway, key).await;
    assert!(sent < 100_000 + 3 * 8192 + 4096, "{sent}");

    let resumed = tokio::time::Instant::now();
    let reader = tokio::spawn(async move {
        let mut got = vec![0; sent];
        stream.read_exact(&mut got).await.map(|_| got)
    });
    within(gateway.flush()).await.unwrap();
    assert!(within(reader).await.unwrap().unwrap().iter().all(|&byte| byte == 7));
    assert_eq!(resumed.elapsed(), Duration::ZERO, "room was made and was not noticed");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_loses_its_stream_and_the_others_go_on() {
    let settings = Settings {
        max_stream_buffered: 50_000,
        stall_timeout: Duration::from_secs(10),
        ..Settings::default()
    };
    let (connection, mut gateway) = within(pair(4096, limits(8), settings)).await;
    let (mut stalled, a) = within(open(&connection, &mut gateway)).await;
    let (mut lively, b): (Stream, _) = within(open(&connection, &mut gateway)).await;
    let start = tokio::time::Instant::now();
    fill(&mut gateway, a).await;
    within(gateway.flush()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(10));

    assert_eq!(within(gateway.next()).await, Seen::Close(a));
    let error = stalled.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(StreamFailure::of(&error).unwrap().end, Some(StreamEnd::Stalled));
    gateway.write(b, b"still here").await;
    let mut got = [0; 10];
    within(lively.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"still here");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_no_stalled_one() {
    let settings = Settings {
        max_stream_buffered: 20_000,
        stall_timeout: Duration::from_secs(10),
        ..Settings::default()
    };
    let (connection, mut gateway) = within(pair(1 << 20, limits(8), settings)).await;
    let (mut stream, key) = within(open(&connection, &mut gateway)).await;
    let body = pattern(3, 200_000);
    let sender = tokio::spawn({
        let body = body.clone();
        async move {
            for part in body.chunks(4000) {
                gateway.write(key, part).await;
            }
            gateway.end(key, StreamEnd::Eof).await;
            gateway
        }
    });
    let mut got = Vec::new();
    loop {
        tokio::time::sleep(Duration::from_secs(9)).await;
        let mut part = vec![0; 8000];
        match stream.read(&mut part).await.unwrap() {
            0 => break,
            n => got.extend_from_slice(&part[..n]),
        }
    }
    assert!(got == body);
    within(sender).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_of_a_hundred_thousand_frames_takes_many_turns() {
    let (connection, mut gateway) = within(gateway_v2::pair(1 << 21, Settings::default())).await;
    let opening = async { tokio::join!(connection.open("target:1"), gateway.open()) };
    let (stream, key) = within(opening).await;
    // Others have a turn after each of the connection's.
    let turns = Arc::new(AtomicUsize::new(0));
    let others = tokio::spawn({
        let turns = turns.clone();
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    // A type that the client does not know and passes over.
    let unknown = [0x90, 0, 0, 0, 0, 0, 0, 7].repeat(100_000);
    gateway
        .act(|session, out| {
            out.extend_from_slice(&unknown);
            session.reset(key, ResetCode::Refused, "", out);
        })
        .await;
    let before = turns.load(Ordering::Relaxed);
    let end = within(stream.unwrap().read(&mut [0; 1])).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let taken = turns.load(Ordering::Relaxed) - before;
    // 32,768 frames a turn.
    assert!((4..20).contains(&taken), "{taken}");
    others.abort();
}
