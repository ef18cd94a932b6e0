use super::*;
use crate::nodes::key::KeySource;
use futures_util::FutureExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::oneshot;
use tokio::time::sleep;

const REFRESH: Duration = Duration::from_mins(10);
/// As many servers as can have all the fetches.
const SERVERS: usize = MAX_FETCHES / MAX_FETCHES_OF_SERVER;

/// A server of keys that answers when the test says so, and counts what it was asked.
struct Server {
    key_cache: Arc<KeyCache>,
    failures: Counter,
    asked: Arc<Mutex<Vec<oneshot::Sender<Outcome>>>>,
    count: Arc<AtomicUsize>,
}

impl Server {
    fn new() -> Self {
        Self::renewing(REFRESH)
    }

    fn renewing(refresh: Duration) -> Self {
        let (failures, asked) = (Counter::default(), Arc::new(Mutex::new(Vec::new())));
        let count = Arc::new(AtomicUsize::new(0));
        let (asking, counting) = (asked.clone(), count.clone());
        let fetch = move |_: &KeyUrl| -> BoxFuture<'static, Outcome> {
            let (answer, answered) = oneshot::channel();
            lock(&asking).push(answer);
            counting.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { answered.await.expect("a test that answers, or hangs") })
        };
        let key_cache = KeyCache::new(refresh, failures.clone(), Box::new(fetch));
        Self { key_cache, failures, asked, count }
    }

    /// One that has given a key for the first URL.
    async fn with_copy() -> Self {
        Self::new().and_copy().await
    }

    async fn and_copy(self) -> Self {
        let server = self;
        let first = server.get(1);
        server.answers(Ok(key("old"))).await;
        assert_eq!(first.await.unwrap(), Ok(key("old")));
        server
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Answers the request that came last.
    async fn answers(&self, outcome: Outcome) {
        pause().await;
        let answer = lock(&self.asked).pop().expect("a request");
        let _ = answer.send(outcome);
        pause().await;
    }

    /// A handshake with its deadline.
    fn get(&self, number: usize) -> tokio::task::JoinHandle<Outcome> {
        self.get_until(number, in_10_s())
    }

    fn get_until(&self, number: usize, deadline: Instant) -> tokio::task::JoinHandle<Outcome> {
        let key_cache = self.key_cache.clone();
        tokio::spawn(async move { key_cache.get(&url(number), None, deadline).await })
    }

    /// What a handshake gets without any waiting.
    fn at_once(&self, number: usize) -> Option<Outcome> {
        self.key_cache.get(&url(number), None, in_10_s()).now_or_never()
    }

    /// What a session gets that doubts a key.
    async fn doubting(&self, suspect: &str) -> Outcome {
        self.key_cache.get(&url(1), Some(&key(suspect)), in_10_s()).await
    }
}

fn in_10_s() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Those of one number modulo [`SERVERS`] are of one server.
fn url(number: usize) -> KeyUrl {
    let server = number % SERVERS;
    match KeySource::parse(&format!("ssconf://keys{server}.example/{number}")) {
        Ok(KeySource::Dynamic(url)) => url,
        other => panic!("{other:?}"),
    }
}

fn key(password: &str) -> AccessKey {
    AccessKey::from_parts("192.0.2.1", 8388, "aes-256-gcm", password).unwrap()
}

/// Lets the tasks run.
async fn pause() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_had_at_once_and_renewed_behind() {
    let server = Server::with_copy().await;
    sleep(REFETCH / 2).await;
    assert_eq!(server.at_once(1), Some(Ok(key("old"))));
    pause().await;
    assert_eq!(server.count(), 1, "a young copy needs no fetch");
    sleep(REFETCH).await;
    for _ in 0..3 {
        assert_eq!(server.at_once(1), Some(Ok(key("old"))));
        pause().await;
        assert_eq!(server.count(), 2, "one fetch at a time");
    }
    server.answers(Ok(key("new"))).await;
    assert_eq!(server.at_once(1), Some(Ok(key("new"))));
    pause().await;
    assert_eq!(server.count(), 2, "and one try in a while");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_or_fails_is_asked_rarely_and_delays_no_caller() {
    let server = Server::with_copy().await;
    for failed in 1..10 {
        sleep(REFETCH).await;
        assert_eq!(server.at_once(1), Some(Ok(key("old"))));
        if failed % 2 == 0 {
            server.answers(Err(FetchError::Status(500))).await;
        } else {
            sleep(fetch::DEADLINE / 2).await;
            assert_eq!(server.at_once(1), Some(Ok(key("old"))));
            sleep(fetch::DEADLINE / 2).await;
            pause().await;
        }
        assert_eq!(server.failures.get(), failed);
        assert_eq!(server.at_once(1), Some(Ok(key("old"))));
        pause().await;
        assert_eq!(server.count() as u64, failed + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_fetch_is_shared_and_outlives_who_waits_for_it() {
    let server = Server::new();
    let (first, second, third) = (server.get(1), server.get(1), server.get(1));
    pause().await;
    first.abort();
    assert!(first.await.is_err());
    assert_eq!(server.count(), 1);
    server.answers(Ok(key("a"))).await;
    assert_eq!(second.await.unwrap(), Ok(key("a")));
    assert_eq!(third.await.unwrap(), Ok(key("a")));
    // All of them may go.
    let only = server.get(2);
    pause().await;
    only.abort();
    server.answers(Ok(key("b"))).await;
    assert_eq!(server.at_once(2), Some(Ok(key("b"))));
    assert_eq!(server.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_first_fetch_that_fails_is_told_to_all_and_for_a_second() {
    let server = Server::new();
    let (first, second) = (server.get(1), server.get(1));
    server.answers(Err(FetchError::Status(404))).await;
    assert_eq!(first.await.unwrap(), Err(FetchError::Status(404)));
    assert_eq!(second.await.unwrap(), Err(FetchError::Status(404)));
    assert_eq!(server.at_once(1), Some(Err(FetchError::Status(404))));
    assert_eq!((server.count(), server.failures.get()), (1, 1));
    sleep(FAILURE_KEPT).await;
    let third = server.get(1);
    server.answers(Ok(key("a"))).await;
    assert_eq!(third.await.unwrap(), Ok(key("a")));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_waits_until_its_own_deadline_and_the_next_for_the_same_fetch() {
    let server = Server::new();
    let soon = Instant::now() + Duration::from_secs(1);
    assert_eq!(server.key_cache.get(&url(1), None, soon).await, Err(FetchError::Timeout));
    assert_eq!(Instant::now(), soon);
    let next = server.get(1);
    sleep(PATIENCE * 2).await;
    assert_eq!(server.count(), 1);
    server.answers(Ok(key("a"))).await;
    assert_eq!(next.await.unwrap(), Ok(key("a")));
}

#[tokio::test(start_paused = true)]
async fn who_doubts_the_copy_waits_for_another_one() {
    let server = Server::with_copy().await;
    assert_eq!(server.doubting("old").await, Ok(key("old")), "it was fetched just now");
    sleep(REFETCH).await;
    let (key_cache, deadline) = (server.key_cache.clone(), in_10_s());
    let doubting =
        tokio::spawn(async move { key_cache.get(&url(1), Some(&key("old")), deadline).await });
    pause().await;
    assert_eq!(server.at_once(1), Some(Ok(key("old"))), "others do not wait");
    server.answers(Ok(key("new"))).await;
    assert_eq!(doubting.await.unwrap(), Ok(key("new")));
    sleep(REFETCH).await;
    let others = server.key_cache.get(&url(1), Some(&key("old")), in_10_s()).now_or_never();
    assert_eq!(others, Some(Ok(key("new"))), "the copy is another key already");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_may_be_of_no_use_stands_in_for_a_server_that_hangs() {
    let server = Server::with_copy().await;
    sleep(REFETCH).await;
    let start = Instant::now();
    assert_eq!(server.doubting("old").await, Ok(key("old")));
    assert_eq!(start.elapsed(), PATIENCE);
    server.answers(Err(FetchError::Broken)).await;
    // It was not used for long: it may have changed meanwhile.
    sleep(REFRESH).await;
    let start = Instant::now();
    assert_eq!(server.get(1).await.unwrap(), Ok(key("old")));
    assert_eq!(start.elapsed(), PATIENCE);
    // Now it is known that no newer one is to be had.
    sleep(fetch::DEADLINE + REFETCH).await;
    assert_eq!(server.at_once(1), Some(Ok(key("old"))));
    pause().await;
    assert_eq!(server.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_doubts_a_key_has_it_fetched() {
    let server = Server::new();
    assert!(server.key_cache.newer(&url(1), &key("old")).is_none());
    assert!(server.at_once(1).is_none());
    server.answers(Ok(key("old"))).await;
    sleep(REFETCH).await;
    assert!(server.key_cache.newer(&url(1), &key("old")).is_none());
    server.answers(Ok(key("new"))).await;
    assert_eq!(server.key_cache.newer(&url(1), &key("old")), Some(key("new")));
    assert_eq!(server.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_url_makes_room_unless_it_is_being_fetched() {
    let server = Server::new();
    let busy = server.get(0);
    pause().await;
    let held = lock(&server.asked).pop().unwrap();
    for number in 1..MAX_SLOTS {
        assert!(server.at_once(number).is_none());
        server.answers(Ok(key("a"))).await;
    }
    assert_eq!(server.at_once(1), Some(Ok(key("a"))));
    server.answers(Ok(key("a"))).await;
    assert!(server.at_once(MAX_SLOTS).is_none());
    server.answers(Ok(key("b"))).await;
    let slots: Vec<_> = lock(&server.key_cache.slots).keys().cloned().collect();
    assert_eq!(slots.len(), MAX_SLOTS);
    assert!(!slots.contains(&url(2)) && [0, 1, MAX_SLOTS].iter().all(|n| slots.contains(&url(*n))));
    held.send(Ok(key("c"))).unwrap();
    assert_eq!(busy.await.unwrap(), Ok(key("c")));
}

#[tokio::test(start_paused = true)]
async fn no_url_makes_room_while_it_is_being_fetched() {
    let server = Server::new();
    for number in 0..MAX_SLOTS {
        assert!(server.at_once(number).is_none());
    }
    assert_eq!(server.at_once(MAX_SLOTS), Some(Err(FetchError::Busy)));
    sleep(fetch::DEADLINE).await;
    pause().await;
    assert!(server.at_once(MAX_SLOTS).is_none(), "they have failed, and one makes room");
}

#[tokio::test(start_paused = true)]
async fn fetches_wait_for_their_turn_and_copies_are_had_meanwhile() {
    let server = Server::with_copy().await;
    sleep(REFETCH).await;
    let first: Vec<_> = (2..MAX_FETCHES + 2).map(|number| server.get(number)).collect();
    pause().await;
    assert_eq!(server.count(), 1 + MAX_FETCHES);
    assert_eq!(server.at_once(1), Some(Ok(key("old"))));
    let last = server.get(MAX_FETCHES + 2);
    pause().await;
    assert_eq!(server.count(), 1 + MAX_FETCHES, "all turns are taken");
    assert_eq!(server.doubting("old").await, Ok(key("old")));
    server.answers(Ok(key("a"))).await;
    assert_eq!(server.count(), 2 + MAX_FETCHES, "one that waited has its turn");
    let mut outcomes = vec![last.await.unwrap()];
    for outcome in first {
        outcomes.push(outcome.await.unwrap());
    }
    let of = |wanted: &Outcome| outcomes.iter().filter(|outcome| *outcome == wanted).count();
    let (good, late) = (of(&Ok(key("a"))), of(&Err(FetchError::Timeout)));
    assert_eq!((good, good + late + of(&Err(FetchError::Busy))), (1, outcomes.len()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_leaves_turns_for_the_others() {
    let server = Server::with_copy().await;
    sleep(REFETCH).await;
    let late = in_10_s() + fetch::DEADLINE;
    let of_one = (1..=2 * MAX_FETCHES).map(|number| number * SERVERS);
    let hanging: Vec<_> = of_one.map(|number| server.get_until(number, late)).collect();
    pause().await;
    assert_eq!(server.count(), 1 + MAX_FETCHES_OF_SERVER);
    let doubting = async {
        pause().await;
        server.answers(Ok(key("new"))).await;
    };
    let (got, ()) = tokio::join!(server.doubting("old"), doubting);
    assert_eq!(got, Ok(key("new")), "the other server's turn");
    let mut hung = 0;
    for outcome in hanging {
        match outcome.await.unwrap() {
            Err(FetchError::Timeout) => hung += 1,
            outcome => assert_eq!(outcome, Err(FetchError::Busy)),
        }
    }
    assert_eq!(hung, MAX_FETCHES_OF_SERVER, "the others are no fault of the server");
    assert!(server.at_once(2).is_none());
    pause().await;
    assert_eq!(
        lock(&server.key_cache.turns_of_server).len(),
        1,
        "one that is not asked is forgotten"
    );
}

#[tokio::test(start_paused = true)]
async fn sessions_with_a_key_follow_it() {
    let server = Server::with_copy().await;
    let protocol = server.key_cache.follow(&url(1), key("old"));
    let others = server.key_cache.follow(&url(1), key("old"));
    let has = |protocol: &SessionKey, password| {
        protocol.get().is_same(&NodeProtocol::of_key(key(password)))
    };
    assert!(has(&protocol, "old") && has(&others, "old"));
    sleep(REFETCH).await;
    assert_eq!(server.at_once(1), Some(Ok(key("old"))));
    server.answers(Err(FetchError::Broken)).await;
    assert!(has(&protocol, "old"), "the last good one stays");
    sleep(REFETCH).await;
    assert_eq!(server.at_once(1), Some(Ok(key("old"))));
    server.answers(Ok(key("new"))).await;
    assert!(has(&protocol, "new") && has(&others, "new"));
    assert!(
        has(&server.key_cache.follow(&url(1), key("old")), "new"),
        "another session was overtaken"
    );
    assert!(has(&server.key_cache.follow(&url(2), key("old")), "old"), "it was forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_delays_no_caller_however_often_its_key_is_renewed() {
    let server = Server::renewing(Duration::from_secs(1)).and_copy().await;
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(server.at_once(1), Some(Ok(key("old"))));
    }
    assert_eq!(server.count(), 1 + 6, "one at a time, 10 s each");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_panics_leaves_no_slot_stuck() {
    let server = Server::new();
    let first = server.get(1);
    pause().await;
    // Its fetch expects an answer.
    lock(&server.asked).clear();
    assert_eq!(first.await.unwrap(), Err(FetchError::Broken));
    let second = server.get(1);
    server.answers(Ok(key("a"))).await;
    assert_eq!(second.await.unwrap(), Ok(key("a")));
}
