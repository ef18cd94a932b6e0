//! Local connections in the hands of the driver: every byte, every end, within the credit.

use crate::gateway_v2::{GatewayV2, Seen, ample, pair, pair_with};
use crate::{gateway, within};
use futures_util::task::AtomicWaker;
use httvps_mux::{Carry, Connection, Local, Settings, Stream, StreamFailure};
use httvps_proto::StreamEnd;
use httvps_proto::v2::{self, INITIAL_SESSION_CREDIT, INITIAL_STREAM_CREDIT, ResetCode};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const STREAM: usize = INITIAL_STREAM_CREDIT as usize;
const SESSION: usize = INITIAL_SESSION_CREDIT as usize;

type HandedBack = (Box<dyn Local>, Stream, Option<io::Error>);

/// What the test sees of, and does to, the near side of a local connection.
#[derive(Default)]
struct Watched {
    read: AtomicUsize,
    was_reset: AtomicBool,
    is_broken: AtomicBool,
    reader: AtomicWaker,
}

impl Watched {
    fn read(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }

    /// Lets reads fail from now on.
    fn break_reads(&self) {
        self.is_broken.store(true, Ordering::SeqCst);
        self.reader.wake();
    }
}

/// The near side of a local connection.
struct Near(DuplexStream, Arc<Watched>);

impl AsyncRead for Near {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.1.reader.register(cx.waker());
        if self.1.is_broken.load(Ordering::SeqCst) {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.0).poll_read(cx, buf);
        self.1.read.fetch_add(buf.filled().len() - before, Ordering::SeqCst);
        poll
    }
}

impl AsyncWrite for Near {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Local for Near {
    fn reset_on_drop(&self) {
        self.1.was_reset.store(true, Ordering::SeqCst);
    }

    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        Some((([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()))
    }
}

/// A local connection that holds `capacity` bytes in each direction, and the program at its end.
fn local(capacity: usize) -> (Near, DuplexStream, Arc<Watched>) {
    let (near, program) = tokio::io::duplex(capacity);
    let watched = Arc::new(Watched::default());
    (Near(near, watched.clone()), program, watched)
}

/// A stream that the driver carries.
struct Carried {
    key: u32,
    program: DuplexStream,
    watched: Arc<Watched>,
    carry: JoinHandle<HandedBack>,
}

async fn open(connection: &Connection, gateway: &mut GatewayV2) -> (Stream, u32) {
    let (stream, key) = tokio::join!(connection.open("target:1"), gateway.open());
    (stream.unwrap(), key)
}

async fn carried(connection: &Connection, gateway: &mut GatewayV2, capacity: usize) -> Carried {
    let (stream, key) = within(open(connection, gateway)).await;
    let (near, program, watched) = local(capacity);
    let carry = tokio::spawn(stream.carry(Box::new(near)));
    Carried { key, program, watched, carry }
}

async fn start(capacity: usize) -> (Connection, GatewayV2, Carried) {
    let (connection, mut gateway) = within(pair(1 << 20, Settings::default())).await;
    let carried = carried(&connection, &mut gateway, capacity).await;
    (connection, gateway, carried)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Lets every task run until all of them wait.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// What lies in a local connection for its program.
async fn lying(program: &mut DuplexStream) -> Vec<u8> {
    let mut got = Vec::new();
    let mut part = [0; 4096];
    while let Ok(Ok(count @ 1..)) =
        tokio::time::timeout(Duration::from_millis(1), program.read(&mut part)).await
    {
        got.extend(&part[..count]);
    }
    got
}

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
    assert!(carried.watched.was_reset.load(Ordering::SeqCst));
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
    assert_eq!(resumed.elapsed(), Duration::ZERO, "credit came and nobody noticed");
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
    assert!(next.is_err(), "credit for bytes that nobody has taken: {next:?}");

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
    assert!(resumed.elapsed() < Duration::from_millis(1), "room was made and nobody noticed");
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
    assert_eq!(resumed.elapsed(), Duration::ZERO, "room was made and nobody noticed");
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
    // A target that has more to say is told that nobody listens.
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
