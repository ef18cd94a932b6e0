//! How a local connection in the hands of the driver ends, on either side.

use crate::gateway_v2::Seen;
use crate::local::{Writes, lying, pattern, settle, start};
use crate::within;
use httvps_mux::{Local, StreamFailure};
use httvps_proto::StreamEnd;
use httvps_proto::v2::ResetCode;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(start_paused = true)]
async fn the_program_finishes_first_and_gets_its_answer() {
    let (connection, mut gateway, mut carried) = start(4096).await;
    carried.program.write_all(b"question").await.unwrap();
    carried.program.shutdown().await.unwrap();
    assert_eq!(within(gateway.read(carried.key, 8)).await, b"question");
    let (mut local, mut stream, broken) = within(carried.carry).await.unwrap();
    assert!(broken.is_none());
    stream.shutdown().await.unwrap();
    assert_eq!(within(gateway.next_deed()).await, Seen::Finish(carried.key));
    gateway.write(carried.key, b"answer").await;
    gateway.finish(carried.key).await;
    let mut got = Vec::new();
    within(stream.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"answer");
    local.write_all(&got).await.unwrap();
    drop(local);
    let mut seen = Vec::new();
    within(carried.program.read_to_end(&mut seen)).await.unwrap();
    assert_eq!(seen, b"answer");
    assert_eq!(connection.stream_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_target_finishes_first_and_hears_the_rest() {
    let (_connection, mut gateway, mut carried) = start(4096).await;
    gateway.write(carried.key, b"early answer").await;
    gateway.finish(carried.key).await;
    let (mut local, mut stream, broken) = within(carried.carry).await.unwrap();
    assert!(broken.is_none());
    assert_eq!(lying(&mut carried.program).await, b"early answer");
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"", "what was handed on is not there twice");
    carried.program.write_all(b"late question").await.unwrap();
    carried.program.shutdown().await.unwrap();
    let mut question = Vec::new();
    within(local.read_to_end(&mut question)).await.unwrap();
    stream.write_all(&question).await.unwrap();
    assert_eq!(within(gateway.read(carried.key, 13)).await, b"late question");
    stream.shutdown().await.unwrap();
    assert_eq!(within(gateway.next_deed()).await, Seen::Finish(carried.key));
}

/// Who ends a stream while bytes wait for its program.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    Program,
    Target,
    Reset,
    Lost,
}

#[tokio::test(start_paused = true)]
async fn what_the_program_has_not_taken_is_handed_back_at_every_end() {
    for ending in [Ending::Program, Ending::Target, Ending::Reset, Ending::Lost] {
        let (_connection, mut gateway, mut carried) = start(700).await;
        let body = pattern(20_000);
        gateway.write(carried.key, &body[..5000]).await;
        settle().await;
        gateway.write(carried.key, &body[5000..]).await;
        settle().await;
        match ending {
            Ending::Program => carried.program.shutdown().await.unwrap(),
            Ending::Target => gateway.finish(carried.key).await,
            Ending::Reset => gateway.reset(carried.key, ResetCode::Reset).await,
            Ending::Lost => drop(gateway),
        }
        let (local, mut stream, broken) = within(carried.carry).await.unwrap();
        assert!(broken.is_none(), "{ending:?}");
        let mut got = lying(&mut carried.program).await;
        assert_eq!(got.len(), 700, "{ending:?}");
        let mut rest = vec![0; body.len() - got.len()];
        within(stream.read_exact(&mut rest)).await.unwrap();
        got.extend(rest);
        assert!(got == body, "{ending:?}: bytes were lost, repeated or out of order");
        let next = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut [0; 1])).await;
        match (ending, next) {
            (Ending::Program, Err(_)) | (Ending::Target, Ok(Ok(0))) => {}
            (Ending::Reset, Ok(Err(error))) => {
                assert_eq!(StreamFailure::of(&error).unwrap().end, Some(StreamEnd::Reset));
            }
            (Ending::Lost, Ok(Err(error))) => assert!(StreamFailure::of(&error).is_some()),
            (_, next) => panic!("{ending:?}: {next:?}"),
        }
        drop(local);
    }
}

#[tokio::test(start_paused = true)]
async fn a_program_that_leaves_over_unread_bytes_breaks_the_stream() {
    let (connection, mut gateway, carried) = start(100).await;
    gateway.write(carried.key, &pattern(1000)).await;
    settle().await;
    drop(carried.program);
    let (_local, stream, broken) = within(carried.carry).await.unwrap();
    assert_eq!(broken.unwrap().kind(), ErrorKind::BrokenPipe);
    stream.reset();
    let seen = within(gateway.next_deed()).await;
    assert_eq!(seen, Seen::Reset(carried.key, ResetCode::Cancelled));
    assert_eq!(connection.stream_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_for_a_program_that_has_gone_break_the_stream() {
    let (_connection, mut gateway, carried) = start(100).await;
    settle().await;
    // Sent before the driver hears that the program has left.
    gateway.write(carried.key, b"too late").await;
    drop(carried.program);
    let (_local, _stream, broken) = within(carried.carry).await.unwrap();
    assert_eq!(broken.unwrap().kind(), ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_local_connection_is_named_once() {
    let (connection, mut gateway, mut carried) = start(4096).await;
    carried.program.write_all(b"half a que").await.unwrap();
    assert_eq!(within(gateway.read(carried.key, 10)).await, b"half a que");
    carried.watched.break_reads();
    let (local, stream, broken) = within(carried.carry).await.unwrap();
    assert_eq!(broken.unwrap().kind(), ErrorKind::ConnectionReset);
    assert_eq!(connection.stream_count(), 1, "its owner decides how the stream ends");
    stream.reset();
    let seen = within(gateway.next_deed()).await;
    assert_eq!(seen, Seen::Reset(carried.key, ResetCode::Cancelled));
    assert!(local.addresses().is_some());
    local.reset_on_drop();
    assert!(carried.watched.was_reset());
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_hands_back_what_it_carried() {
    let (connection, gateway, carried) = start(4096).await;
    drop(gateway);
    let (_local, mut stream, broken) = within(carried.carry).await.unwrap();
    assert!(broken.is_none(), "it was not the local connection that broke");
    assert!(stream.read(&mut [0; 1]).await.is_err());
    assert!(stream.write(b"x").await.is_err());
    within(connection.closed()).await;
}

#[tokio::test(start_paused = true)]
async fn giving_up_drops_the_local_connection_and_finishes_the_stream() {
    let (connection, mut gateway, mut carried) = start(4096).await;
    carried.program.write_all(b"last words").await.unwrap();
    assert_eq!(within(gateway.read(carried.key, 10)).await, b"last words");
    carried.carry.abort();
    assert_eq!(within(gateway.next_deed()).await, Seen::Finish(carried.key));
    assert_eq!(within(carried.program.read(&mut [0; 1])).await.unwrap(), 0);
    // A target that has more to say gets a RESET.
    gateway.write(carried.key, b"answer").await;
    let seen = within(gateway.next_deed()).await;
    assert_eq!(seen, Seen::Reset(carried.key, ResetCode::Cancelled));
    assert_eq!(connection.stream_count(), 0, "its place is free");
}

#[tokio::test(start_paused = true)]
async fn giving_up_over_unread_bytes_resets_the_stream() {
    let (_connection, mut gateway, carried) = start(10).await;
    gateway.write(carried.key, &pattern(100)).await;
    settle().await;
    carried.carry.abort();
    let seen = within(gateway.next_deed()).await;
    assert_eq!(seen, Seen::Reset(carried.key, ResetCode::Cancelled));
}

#[tokio::test]
async fn a_socket_is_reset_when_it_is_told_so_and_knows_its_ends() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for is_reset in [false, true] {
        let mut program = tokio::net::TcpStream::connect(address).await.unwrap();
        let local: Box<dyn Local> = Box::new(listener.accept().await.unwrap().0);
        let local: Box<dyn Local> = Box::new(local);
        assert_eq!(local.addresses(), Some((address, program.local_addr().unwrap())));
        if is_reset {
            local.reset_on_drop();
        }
        drop(local);
        let end = within(program.read(&mut [0; 1])).await.map_err(|error| error.kind());
        assert_eq!(end, if is_reset { Err(ErrorKind::ConnectionReset) } else { Ok(0) });
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_shows_without_a_word_of_the_reading_half() {
    for (writes, kind) in
        [(Writes::Broken, ErrorKind::ConnectionAborted), (Writes::Empty, ErrorKind::WriteZero)]
    {
        let (_connection, mut gateway, carried) = start(4096).await;
        settle().await;
        carried.watched.set_writes(writes);
        gateway.write(carried.key, b"lost").await;
        let (_local, mut stream, broken) = within(carried.carry).await.unwrap();
        assert_eq!(broken.unwrap().kind(), kind);
        let mut got = [0; 4];
        within(stream.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, b"lost", "it was not taken");
    }
}
