//! Local connections in the hands of the driver: every byte, within the credit.

use crate::gateway_v2::{Seen, ample, pair, pair_with};
use crate::local::{Carried, carried, local, open, pattern, settle, start};
use crate::{gateway, within};
use httvps_mux::{Carry, Local, Settings, Stream};
use httvps_proto::v2::{self, INITIAL_SESSION_CREDIT, INITIAL_STREAM_CREDIT, ResetCode};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const STREAM: usize = INITIAL_STREAM_CREDIT as usize;
const SESSION: usize = INITIAL_SESSION_CREDIT as usize;

#[tokio::test(start_paused = true)]
async fn every_byte_goes_both_ways() {
    for (link, capacity, len) in [
        (1 << 20, 1 << 20, 200_000),
        (4096, 100, 200_000),
        (13, 100, 20_000),
        (4096, 1, 5000),
        (100, 70_000, 100_000),
    ] {
        let (connection, mut gateway) = within(pair(link, Settings::default())).await;
        let Carried { key, mut program, carry, .. } =
            carried(&connection, &mut gateway, capacity).await;
        let body = pattern(len);
        let (sent, expected) = (body.clone(), body);
        let talk = tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(&mut program);
            let mut got = vec![0; expected.len()];
            let (wrote, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut got));
            wrote.unwrap();
            read.unwrap();
            assert!(got == expected);
            program
        });
        within(gateway.echo(key, len)).await;
        let program = within(talk).await.unwrap();
        assert!(!carry.is_finished(), "both sides are open");
        drop(program);
        within(carry).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_credit_the_program_is_not_read() {
    let (_connection, mut gateway, mut carried) = start(1 << 20).await;
    let body = pattern(STREAM + 150_000);
    carried.program.write_all(&body).await.unwrap();
    let mut got = Vec::new();
    while got.len() < STREAM {
        match within(gateway.next_deed()).await {
            Seen::Data(_, data) => got.extend(data),
            other => panic!("{other:?}"),
        }
    }
    settle().await;
    assert_eq!((got.len(), carried.watched.read()), (STREAM, STREAM));
    let resumed = Instant::now();
    gateway.consumed(carried.key, STREAM).await;
    got.extend(within(gateway.read(carried.key, body.len() - STREAM)).await);
    assert_eq!(resumed.elapsed(), Duration::ZERO, "credit came and was not noticed");
    assert!(got == body);
    assert!(!carried.carry.is_finished());
}

#[tokio::test(start_paused = true)]
async fn streams_share_the_credit_of_the_session() {
    let limits = v2::Limits { max_session_window: INITIAL_SESSION_CREDIT, ..ample() };
    let pair = pair_with(1 << 20, Settings::default(), limits);
    let (connection, mut gateway) = within(pair).await;
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(carried(&connection, &mut gateway, 1 << 20).await);
    }
    for carried in &mut all {
        carried.program.write_all(&pattern(STREAM)).await.unwrap();
    }
    let mut got = Vec::new();
    while got.len() < SESSION {
        match within(gateway.next_deed()).await {
            Seen::Data(key, data) => got.extend(data.iter().map(|_| key)),
            other => panic!("{other:?}"),
        }
    }
    settle().await;
    assert_eq!(got.len(), SESSION);
    assert_eq!(all.iter().map(|carried| carried.watched.read()).sum::<usize>(), SESSION);
    // Once the session has credit again everybody goes on, those without a grant of their own too.
    for carried in &all {
        let taken = got.iter().filter(|&&key| key == carried.key).count();
        gateway.consumed(carried.key, taken).await;
    }
    let mut total = SESSION;
    while total < all.len() * STREAM {
        match within(gateway.next_deed()).await {
            Seen::Data(key, data) => {
                total += data.len();
                gateway.consumed(key, data.len()).await;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_program_gets_no_further_credit_and_no_other_stream_waits() {
    let (connection, mut gateway, mut slow) = start(1000).await;
    let mut quick = carried(&connection, &mut gateway, 1000).await;
    let mut body = pattern(STREAM);
    gateway.write(slow.key, &body).await;
    settle().await;
    assert_eq!(gateway.session.sendable(slow.key), 0);
    let next = tokio::time::timeout(Duration::from_mins(1), gateway.next()).await;
    assert!(next.is_err(), "credit for bytes that were not taken: {next:?}");

    gateway.write(quick.key, b"meanwhile").await;
    let mut got = [0; 9];
    within(quick.program.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"meanwhile");

    let resumed = Instant::now();
    let mut read = vec![0; body.len()];
    let reader = tokio::spawn(async move {
        slow.program.read_exact(&mut read).await.unwrap();
        (slow.program, read)
    });
    while gateway.session.sendable(slow.key) == 0 {
        within(gateway.next()).await;
    }
    gateway.write(slow.key, b"more").await;
    let (mut program, mut read) = within(reader).await.unwrap();
    let mut more = [0; 4];
    within(program.read_exact(&mut more)).await.unwrap();
    read.extend(more);
    body.extend(b"more");
    assert!(read == body);
    assert!(resumed.elapsed() < Duration::from_millis(1), "room was made and was not noticed");
}

#[tokio::test(start_paused = true)]
async fn all_that_a_program_takes_is_credited() {
    let (_connection, mut gateway, mut carried) = start(5000).await;
    let body = pattern(8 * STREAM);
    let expected = body.clone();
    let reader = tokio::spawn(async move {
        let mut got = vec![0; expected.len()];
        carried.program.read_exact(&mut got).await.unwrap();
        assert!(got == expected);
        carried.program
    });
    let mut rest = &body[..];
    while !rest.is_empty() {
        let sent = gateway.act(|session, out| session.write(carried.key, rest, out)).await;
        rest = &rest[sent..];
        if sent == 0 {
            within(gateway.next()).await;
        }
    }
    let _program = within(reader).await.unwrap();
    settle().await;
    // What was not granted yet is less than a quarter of a window.
    while let Ok(seen) = tokio::time::timeout(Duration::from_millis(1), gateway.next()).await {
        assert!(matches!(seen, Seen::Credit(_)), "{seen:?}");
    }
    assert!(gateway.session.sendable(carried.key) > STREAM / 2);
    assert!(gateway.session.session_sendable() > SESSION / 2);
}

#[tokio::test(start_paused = true)]
async fn programs_are_not_read_while_the_gateway_takes_nothing() {
    let settings = Settings { max_queued: 10_000, ..Settings::default() };
    let (connection, mut gateway) = within(pair(512, settings)).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(carried(&connection, &mut gateway, 2000).await);
    }
    let mut keys = Vec::new();
    let mut watched = Vec::new();
    let mut programs = Vec::new();
    for Carried { key, mut program, watched: seen, carry } in all {
        keys.push(key);
        watched.push(seen);
        programs.push(tokio::spawn(async move {
            program.write_all(&pattern(50_000)).await.unwrap();
            (program, carry)
        }));
    }
    settle().await;
    let read: usize = watched.iter().map(|watched| watched.read()).sum();
    // One read of each program may exceed the bound, and the pipe takes a little.
    assert!((10_000..10_000 + 3 * 2000 + 1024).contains(&read), "{read}");
    assert!(watched.iter().all(|watched| watched.read() > 2000), "everybody has had turns");
    let resumed = Instant::now();
    let mut got = 0;
    while got < 3 * 50_000 {
        match within(gateway.next_deed()).await {
            Seen::Data(key, data) => {
                got += data.len();
                gateway.consumed(key, data.len()).await;
            }
            other => panic!("{other:?}"),
        }
    }
    for program in programs {
        within(program).await.unwrap();
    }
    assert_eq!(resumed.elapsed(), Duration::ZERO, "room was made and was not noticed");
}

#[tokio::test(start_paused = true)]
async fn what_arrived_before_it_was_carried_goes_first() {
    let (connection, mut gateway) = within(pair(1 << 20, Settings::default())).await;
    let (stream, key) = within(open(&connection, &mut gateway)).await;
    gateway.write(key, b"before, ").await;
    settle().await;
    let (near, mut program, _) = local(4096);
    let _carry = tokio::spawn(stream.carry(Box::new(near)));
    gateway.write(key, b"behind").await;
    let mut got = [0; 14];
    within(program.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"before, behind");
}

/// What comes back at once.
async fn at_once(carry: Carry) -> (Box<dyn Local>, Stream) {
    let (local, stream, broken) =
        tokio::time::timeout(Duration::ZERO, carry).await.expect("it is not carried");
    assert!(broken.is_none());
    (local, stream)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_carried_where_one_side_is_over_or_the_protocol_has_no_credit() {
    let (connection, mut gateway) = within(pair(4096, Settings::default())).await;
    let (mut shut, key) = within(open(&connection, &mut gateway)).await;
    shut.shutdown().await.unwrap();
    assert_eq!(within(gateway.next_deed()).await, Seen::Finish(key));
    let _shut = at_once(shut.carry(Box::new(local(10).0))).await;

    let (finished, key) = within(open(&connection, &mut gateway)).await;
    gateway.finish(key).await;
    settle().await;
    let (near, mut program, watched) = local(10);
    program.write_all(b"x").await.unwrap();
    let _finished = at_once(finished.carry(Box::new(near))).await;
    settle().await;
    assert_eq!(watched.read(), 0);

    let (ended, key) = within(open(&connection, &mut gateway)).await;
    gateway.reset(key, ResetCode::Reset).await;
    settle().await;
    let _ended = at_once(ended.carry(Box::new(local(10).0))).await;

    let json = gateway::pair(4096, gateway::limits(8), Settings::default());
    let (connection, mut gateway) = within(json).await;
    let (stream, key) = within(gateway::open(&connection, &mut gateway)).await;
    let (_local, mut stream) = at_once(stream.carry(Box::new(local(10).0))).await;
    stream.write_all(b"still usable").await.unwrap();
    let seen = within(gateway.next()).await;
    assert_eq!(seen, gateway::Seen::Data(key, b"still usable".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_program_that_has_spoken_already_is_heard() {
    let (connection, mut gateway) = within(pair(4096, Settings::default())).await;
    let (stream, key) = within(open(&connection, &mut gateway)).await;
    let (near, mut program, _) = local(100);
    program.write_all(b"early").await.unwrap();
    settle().await;
    let _carry = stream.carry(Box::new(near));
    assert_eq!(within(gateway.next_deed()).await, Seen::Data(key, b"early".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_program_with_much_to_say_waits_for_its_turn() {
    let (connection, mut gateway, mut much) = start(1 << 20).await;
    let mut little = carried(&connection, &mut gateway, 1 << 20).await;
    much.watched.most_read.store(1000, Ordering::SeqCst);
    settle().await;
    much.program.write_all(&pattern(50_000)).await.unwrap();
    little.program.write_all(b"a word").await.unwrap();
    let mut before = 0;
    while within(gateway.next_deed()).await != Seen::Data(little.key, b"a word".to_vec()) {
        before += 1;
    }
    assert_eq!(before, 1, "turns of the other one");
}
