use super::*;
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf};

/// The gateway's end of an in-memory connection of small capacity.
struct Wire(DuplexStream);

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl ByteStream for Wire {
    fn reset(&mut self) {}
}

/// Takes everything at once and passes it on when it is flushed, as an upstream that encrypts.
struct Sealing {
    wire: DuplexStream,
    held: Vec<u8>,
    was_reset: Arc<std::sync::atomic::AtomicBool>,
}

impl AsyncRead for Sealing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.wire).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Sealing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        std::task::ready!(self.as_mut().poll_flush(cx))?;
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        while !this.held.is_empty() {
            let sent = Pin::new(&mut this.wire).poll_write(cx, &this.held);
            this.held.drain(..std::task::ready!(sent)?);
        }
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        std::task::ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

impl ByteStream for Sealing {
    fn reset(&mut self) {
        self.was_reset.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A relay whose upstream holds ten bytes of which its target takes four at a time.
fn holding() -> (Relay, DuplexStream, Instant, Arc<std::sync::atomic::AtomicBool>) {
    let (wire, theirs) = tokio::io::duplex(4);
    let was_reset = Arc::<std::sync::atomic::AtomicBool>::default();
    let sealing = Sealing { wire, held: Vec::new(), was_reset: was_reset.clone() };
    let (mut relay, now) = relay(Ok(Upstream::Stream(Box::new(sealing))));
    let mut client = Client { room: 9, ..Client::default() };
    relay.poll(now, &mut client);
    relay.handle_data(b"0123456789", now, &mut client);
    (relay, theirs, now, was_reset)
}

/// A client that takes `room` more payloads.
struct Client {
    room: usize,
    most: usize,
    got: Vec<Vec<u8>>,
    opened: usize,
    has_half_close: bool,
    upstream_limit: usize,
    finished: usize,
}

impl Default for Client {
    fn default() -> Self {
        let (got, has_half_close, upstream_limit) = (Vec::new(), false, usize::MAX);
        Self {
            room: 0,
            most: usize::MAX,
            got,
            opened: 0,
            has_half_close,
            upstream_limit,
            finished: 0,
        }
    }
}

impl Sink for Client {
    fn room(&self) -> usize {
        if self.room > 0 { self.most } else { 0 }
    }
    fn upstream_limit(&self) -> usize {
        self.upstream_limit
    }
    fn keeps_boundaries(&self) -> bool {
        !self.has_half_close
    }
    fn fill<R>(&mut self, read: impl FnOnce(&mut Vec<u8>, usize) -> R) -> R {
        let mut payload = Vec::with_capacity(1024);
        let result = read(&mut payload, self.most.min(1024));
        if !payload.is_empty() {
            self.send(&payload);
        }
        result
    }
    fn finish(&mut self) -> bool {
        self.finished += usize::from(self.has_half_close);
        self.has_half_close
    }
    fn send(&mut self, payload: &[u8]) {
        self.room = self.room.saturating_sub(1);
        self.got.push(payload.to_vec());
    }
    fn opened(&mut self) {
        self.opened += 1;
    }
}

fn relay(dial: Result<Upstream, ConnectError>) -> (Relay, Instant) {
    let now = Instant::now();
    let dial = Box::pin(std::future::ready(dial));
    (Relay::new(dial, &Arc::default(), StreamKey(0), now), now)
}

fn wired(capacity: usize) -> (Relay, DuplexStream, Instant) {
    let (ours, theirs) = tokio::io::duplex(capacity);
    let (relay, now) = relay(Ok(Upstream::Stream(Box::new(Wire(ours)))));
    (relay, theirs, now)
}

#[tokio::test]
async fn data_that_came_before_the_dial_was_done_is_not_lost() {
    let (mut relay, mut target, now) = wired(64);
    let mut client = Client { room: 9, ..Client::default() };
    relay.handle_data(b"early ", now, &mut client);
    assert!(!relay.load(1).is_full, "a dial does not hold up the session");
    assert_eq!(relay.poll(now, &mut client), Turn::Waiting);
    relay.handle_data(b"late", now, &mut client);
    let mut got = [0; 10];
    target.read_exact(&mut got).await.unwrap();
    assert_eq!((&got, client.opened), (b"early late", 1));
}

#[tokio::test]
async fn single_bytes_cost_little_more_than_themselves() {
    let now = Instant::now();
    let dial = Box::pin(std::future::pending());
    let mut dialling = Relay::new(dial, &Arc::default(), StreamKey(0), now);
    let (mut echo, _) = relay(Ok(Upstream::Echo));
    // The second format, in which boundaries mean nothing.
    let mut client = Client { has_half_close: true, ..Client::default() };
    for relay in [&mut dialling, &mut echo] {
        relay.poll(now, &mut client);
        for _ in 0..10_000 {
            relay.handle_data(b"x", now, &mut client);
        }
        assert!(relay.load(usize::MAX).cost < 10_200, "{:?}", relay.load(usize::MAX));
    }
}

#[tokio::test]
async fn what_a_slow_target_does_not_take_waits_in_order_and_counts() {
    let (mut relay, mut target, now) = wired(4);
    let mut client = Client { room: 9, ..Client::default() };
    relay.poll(now, &mut client);
    relay.handle_data(b"0123456789", now, &mut client);
    assert!(relay.load(6).is_full && relay.has_unsent());
    let (stall, idle) = (Duration::from_secs(1), Duration::ZERO);
    assert_eq!(relay.deadline(stall, idle), Some((now + stall, StreamEnd::Stalled)));
    let mut got = Vec::new();
    while got.len() < 10 {
        let mut piece = [0; 3];
        let count = target.read(&mut piece).await.unwrap();
        got.extend_from_slice(&piece[..count]);
        relay.poll(now, &mut client);
    }
    assert_eq!(got, b"0123456789");
    assert!(!relay.has_unsent() && relay.load(6).cost == 0);
    assert_eq!(relay.deadline(stall, idle), None, "nothing waits any more");
}

#[tokio::test]
async fn the_echo_keeps_messages_apart_until_there_is_room() {
    let (mut relay, now) = relay(Ok(Upstream::Echo));
    let mut client = Client::default();
    relay.poll(now, &mut client);
    for message in [&b"a"[..], b"", b"bc"] {
        relay.handle_data(message, now, &mut client);
    }
    assert_eq!(relay.poll(now, &mut client), Turn::NoRoom);
    client.room = 9;
    assert_eq!(relay.poll(now, &mut client), Turn::Waiting);
    assert_eq!(client.got, [b"a".to_vec(), Vec::new(), b"bc".to_vec()]);
}

#[tokio::test]
async fn a_target_is_read_only_while_there_is_room_and_its_end_comes_last() {
    let (mut relay, mut target, now) = wired(64);
    let mut client = Client::default();
    target.write_all(b"last words").await.unwrap();
    drop(target);
    assert_eq!(relay.poll(now, &mut client), Turn::NoRoom);
    client.room = 1;
    assert_eq!(relay.poll(now, &mut client), Turn::More);
    client.room = 1;
    assert_eq!(relay.poll(now, &mut client), Turn::Ended(StreamEnd::Eof));
    assert_eq!(client.got, [b"last words"]);
}

#[tokio::test]
async fn a_target_that_went_away_is_still_heard_before_its_stream_ends() {
    let (mut relay, mut target, now) = wired(64);
    let mut client = Client { room: 9, ..Client::default() };
    relay.poll(now, &mut client);
    target.write_all(b"no thanks").await.unwrap();
    drop(target);
    relay.handle_data(b"an upload", now, &mut client);
    assert_eq!(relay.poll(now, &mut client), Turn::More);
    assert_eq!(client.got, [b"no thanks"]);
    let Turn::Ended(end) = relay.poll(now, &mut client) else { panic!("it is over") };
    assert_ne!(end, StreamEnd::Eof, "the upload did not arrive");
}

#[tokio::test]
async fn a_half_closed_stream_lives_until_both_sides_have_finished() {
    let (mut relay, mut target, now) = wired(64);
    let mut client = Client { room: 9, has_half_close: true, ..Client::default() };
    relay.handle_data(b"question", now, &mut client);
    relay.handle_finish();
    assert_eq!(relay.poll(now, &mut client), Turn::Waiting);
    let mut question = String::new();
    target.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question", "the finish comes behind the bytes");
    target.write_all(b"answer").await.unwrap();
    assert_eq!(relay.poll(now, &mut client), Turn::More);
    assert_eq!(client.got, [b"answer"]);
    drop(target);
    assert_eq!(relay.poll(now, &mut client), Turn::Ended(StreamEnd::Eof));
    assert_eq!(client.finished, 1);
}

#[tokio::test]
async fn a_target_that_finished_first_still_gets_the_rest() {
    let (mut relay, mut target, now) = wired(64);
    let mut client = Client { room: 9, has_half_close: true, ..Client::default() };
    target.shutdown().await.unwrap();
    assert_eq!(relay.poll(now, &mut client), Turn::Waiting);
    assert_eq!(client.finished, 1);
    relay.handle_data(b"late", now, &mut client);
    let mut got = [0; 4];
    target.read_exact(&mut got).await.unwrap();
    relay.handle_finish();
    assert_eq!(relay.poll(now, &mut client), Turn::Ended(StreamEnd::Eof));
    assert_eq!(client.finished, 1, "told once");
}

#[tokio::test]
async fn a_turn_hands_no_more_to_the_upstream_than_its_limit() {
    const PART: usize = 80 * 1024;
    let (mut relay, mut target, now) = wired(1 << 20);
    let mut client = Client { room: 9, upstream_limit: 2 * PART, ..Client::default() };
    for _ in 0..4 {
        relay.handle_data(&vec![7; PART], now, &mut client);
    }
    relay.poll(now, &mut client);
    assert_eq!(relay.waiting_bytes(), 2 * PART);
    assert!(relay.stream_waker.is_queued(), "it asks for another turn by itself");
    relay.poll(now, &mut client);
    assert_eq!(relay.waiting_bytes(), 0);
    let mut got = vec![0; 4 * PART];
    target.read_exact(&mut got).await.unwrap();
}

#[tokio::test]
async fn no_more_is_read_or_echoed_than_the_client_has_credit_for() {
    let (mut relay, mut target, now) = wired(64);
    let mut client = Client { room: 1, most: 4, ..Client::default() };
    relay.poll(now, &mut client);
    target.write_all(b"0123456789").await.unwrap();
    assert_eq!(relay.poll(now, &mut client), Turn::More);
    assert_eq!(relay.poll(now, &mut client), Turn::NoRoom);
    assert_eq!(client.got, [b"0123"]);

    let (mut relay, now) = self::relay(Ok(Upstream::Echo));
    let mut client = Client { room: 2, most: 4, ..Client::default() };
    relay.poll(now, &mut client);
    relay.handle_data(b"0123456789", now, &mut client);
    assert_eq!(relay.waiting_bytes(), 10);
    assert_eq!(relay.poll(now, &mut client), Turn::NoRoom);
    assert_eq!((client.got.concat(), relay.waiting_bytes()), (b"01234567".to_vec(), 2));
    relay.handle_finish();
    client.room = 1;
    assert_eq!(relay.poll(now, &mut client), Turn::Ended(StreamEnd::Eof));
    assert_eq!(client.got.concat(), b"0123456789");
}

#[tokio::test]
async fn a_failed_dial_ends_the_stream_with_its_reason() {
    for (error, end) in [
        (ConnectError::Refused, StreamEnd::Refused),
        (ConnectError::TimedOut, StreamEnd::Timeout),
        (ConnectError::NoTarget, StreamEnd::NoTarget),
    ] {
        let (mut relay, now) = relay(Err(error));
        assert_eq!(relay.poll(now, &mut Client::default()), Turn::Ended(end));
    }
}

#[tokio::test]
async fn a_delivery_ends_with_a_finish_behind_the_last_byte() {
    let (mut relay, mut target, now) = wired(4);
    relay.handle_data(b"the last bytes", now, &mut Client::default());
    let reading = tokio::spawn(async move {
        let mut got = Vec::new();
        target.read_to_end(&mut got).await.map(|_| got)
    });
    relay.deliver(Duration::from_mins(1), Duration::from_mins(1)).await;
    assert_eq!(reading.await.unwrap().unwrap(), b"the last bytes");
}

#[tokio::test]
async fn what_an_upstream_holds_counts_as_unsent_and_is_delivered() {
    let (relay, mut target, now, was_reset) = holding();
    assert_eq!(relay.waiting_bytes(), 0);
    assert!(relay.has_unsent() && relay.holds_taken());
    let (stall, idle) = (Duration::from_secs(1), Duration::ZERO);
    assert_eq!(relay.deadline(stall, idle), Some((now + stall, StreamEnd::Stalled)));
    let reading = tokio::spawn(async move {
        let mut got = Vec::new();
        target.read_to_end(&mut got).await.map(|_| got)
    });
    relay.deliver(Duration::from_mins(1), Duration::from_mins(1)).await;
    assert_eq!(reading.await.unwrap().unwrap(), b"0123456789");
    assert!(!was_reset.load(std::sync::atomic::Ordering::Relaxed));
}

#[tokio::test]
async fn what_an_upstream_held_no_longer_counts_once_it_is_gone() {
    let (mut relay, mut target, now, _) = holding();
    let mut client = Client { room: 9, ..Client::default() };
    let mut got = [0; 3];
    for _ in 0..3 {
        target.read_exact(&mut got).await.unwrap();
        relay.poll(now, &mut client);
    }
    assert!(!relay.has_unsent());
    assert_eq!(relay.deadline(Duration::from_secs(1), Duration::ZERO), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_delivered_in_time_ends_with_a_reset() {
    let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
    for (stall, limit) in [(second, hour), (hour, second), (Duration::ZERO, second)] {
        let (relay, _target, _, was_reset) = holding();
        let begun = tokio::time::Instant::now();
        relay.deliver(stall, limit).await;
        assert!(begun.elapsed() < second * 3);
        assert!(was_reset.load(std::sync::atomic::Ordering::Relaxed));
    }
}

/// An upstream that opens once it is told, as one that has to hear its target's name first.
struct Opening {
    wire: Wire,
    is_open: Arc<std::sync::atomic::AtomicBool>,
}

impl AsyncRead for Opening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.is_opening() {
            Poll::Pending
        } else {
            Pin::new(&mut self.wire).poll_read(cx, buffer)
        }
    }
}

impl AsyncWrite for Opening {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.is_opening() {
            Poll::Pending
        } else {
            Pin::new(&mut self.wire).poll_write(cx, bytes)
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.is_opening() { Poll::Pending } else { Pin::new(&mut self.wire).poll_flush(cx) }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.is_opening() { Poll::Pending } else { Pin::new(&mut self.wire).poll_shutdown(cx) }
    }
}

impl ByteStream for Opening {
    fn reset(&mut self) {}
    fn is_opening(&self) -> bool {
        !self.is_open.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[tokio::test]
async fn an_upstream_that_opens_late_counts_as_dialling_until_it_is_open() {
    let (wire, mut target) = tokio::io::duplex(4);
    let is_open = Arc::<std::sync::atomic::AtomicBool>::default();
    let opening = Opening { wire: Wire(wire), is_open: is_open.clone() };
    let (mut relay, now) = relay(Ok(Upstream::Stream(Box::new(opening))));
    let mut client = Client { room: 9, ..Client::default() };
    let (stall, idle) = (Duration::from_secs(1), Duration::ZERO);
    relay.poll(now, &mut client);
    assert!(!relay.has_unsent() && !relay.holds_taken(), "a flush that waits holds nothing");
    relay.handle_data(b"0123456789", now, &mut client);
    relay.poll(now, &mut client);
    assert!(!relay.load(6).is_full && relay.has_unsent());
    assert_eq!(relay.deadline(stall, idle), None);
    is_open.store(true, std::sync::atomic::Ordering::Relaxed);
    relay.poll(now + stall * 9, &mut client);
    assert!(relay.load(6).is_full);
    assert_eq!(relay.deadline(stall, idle), Some((now + stall * 10, StreamEnd::Stalled)));
    let mut got = [0; 4];
    target.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"0123");
}
