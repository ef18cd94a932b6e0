use super::*;
use httvps_egress::ConnectError;
use httvps_mux::MAX_QUEUED_DATAGRAMS as MAX_QUEUED;
use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;

/// The target's end of a scripted socket.
#[derive(Default)]
struct Far {
    /// What the socket receives next.
    incoming: VecDeque<io::Result<Vec<u8>>>,
    /// Datagrams that the system still takes.
    takes: usize,
    refusal: Option<io::ErrorKind>,
    sent: Vec<Vec<u8>>,
}

struct Scripted(Arc<Mutex<Far>>);

impl DatagramSocket for Scripted {
    fn poll_recv(
        &mut self,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0.lock().unwrap().incoming.pop_front() {
            None => Poll::Pending,
            Some(result) => Poll::Ready(result.map(|datagram| {
                let fits = datagram.len().min(buffer.remaining());
                buffer.put_slice(&datagram[..fits]);
            })),
        }
    }

    fn poll_send(&mut self, _cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<()>> {
        let mut far = self.0.lock().unwrap();
        if let Some(kind) = far.refusal.take() {
            return Poll::Ready(Err(kind.into()));
        }
        if far.takes == 0 {
            return Poll::Pending;
        }
        far.takes -= 1;
        far.sent.push(datagram.to_vec());
        Poll::Ready(Ok(()))
    }
}

/// A client that takes `room` more datagrams.
struct Client {
    room: usize,
    got: Vec<Vec<u8>>,
    opened: usize,
    most: usize,
    dropped: [u64; 2],
}

impl Client {
    fn new(room: usize) -> Self {
        Self { room, got: Vec::new(), opened: 0, most: 1 << 20, dropped: [0; 2] }
    }
}

impl Way for Client {
    fn has_room(&self) -> bool {
        self.room > 0
    }
    fn send(&mut self, datagram: &[u8]) {
        self.room = self.room.checked_sub(1).expect("sent beyond the room");
        self.got.push(datagram.to_vec());
    }
    fn opened(&mut self) {
        self.opened += 1;
    }
    fn max_waiting_bytes(&self) -> usize {
        self.most
    }
    fn dropped(&mut self, direction: Direction, count: u64) {
        self.dropped[direction as usize] += count;
    }
}

struct Rig {
    stream: Datagrams,
    far: Arc<Mutex<Far>>,
    ready: Arc<Ready>,
    client: Client,
    now: Instant,
}

impl Rig {
    fn new(outcome: impl FnOnce(Scripted) -> Result<DatagramUpstream, ConnectError>) -> Self {
        let (ready, far, now) =
            (Arc::<Ready>::default(), Arc::<Mutex<Far>>::default(), Instant::now());
        let dial = Box::pin(std::future::ready(outcome(Scripted(far.clone()))));
        let stream = Datagrams::new(dial, Duration::from_secs(9), &ready, StreamKey(7), now);
        Self { stream, far, ready, client: Client::new(usize::MAX), now }
    }

    /// A stream whose socket takes `takes` datagrams, opened.
    fn open(takes: usize) -> Self {
        let mut rig = Self::new(|socket| Ok(DatagramUpstream::Socket(Box::new(socket))));
        rig.far.lock().unwrap().takes = takes;
        assert_eq!(rig.turn(), Turn::Waiting);
        rig
    }

    fn turn(&mut self) -> Turn {
        self.stream.poll(self.now, &mut self.client)
    }

    fn client_sends(&mut self, datagram: &[u8]) {
        self.stream.handle_datagram(datagram, self.now, &mut self.client);
    }

    fn target_sends(&self, datagrams: impl IntoIterator<Item = Vec<u8>>) {
        self.far.lock().unwrap().incoming.extend(datagrams.into_iter().map(Ok));
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        self.far.lock().unwrap().sent.clone()
    }

    fn is_scheduled(&self) -> bool {
        let mut turns: Vec<StreamKey> = Vec::new();
        self.ready.take(|stream| turns.push(stream));
        !turns.is_empty()
    }
}

fn numbered(range: std::ops::Range<u8>) -> Vec<Vec<u8>> {
    range.map(|number| vec![number]).collect()
}

#[test]
fn what_came_before_the_socket_was_ready_goes_first_and_whole() {
    let mut rig = Rig::new(|socket| Ok(DatagramUpstream::Socket(Box::new(socket))));
    rig.far.lock().unwrap().takes = 9;
    rig.client_sends(b"early");
    rig.client_sends(b"");
    assert_eq!((rig.turn(), rig.client.opened), (Turn::Waiting, 1));
    rig.client_sends(b"late");
    assert_eq!(rig.sent(), [b"early".to_vec(), Vec::new(), b"late".to_vec()]);
    assert_eq!(rig.stream.waiting_bytes(), 0);
}

#[test]
fn towards_a_slow_socket_the_oldest_are_dropped_and_counted() {
    let mut rig = Rig::open(0);
    for datagram in numbered(0..70) {
        rig.client_sends(&datagram);
    }
    assert_eq!(rig.client.dropped, [6, 0]);
    rig.far.lock().unwrap().takes = 70;
    rig.client_sends(&[70]);
    assert_eq!(rig.sent().len(), 0, "it does not overtake those that wait");
    assert_eq!(rig.turn(), Turn::Waiting);
    assert_eq!(rig.sent(), numbered(7..71));
}

#[test]
fn without_room_the_socket_is_read_and_the_latest_are_kept() {
    let mut rig = Rig::open(0);
    rig.client.room = 1;
    rig.target_sends(numbered(0..100));
    while rig.turn() == Turn::More {}
    assert_eq!(rig.turn(), Turn::NoRoom);
    assert_eq!((rig.client.got.len(), rig.client.dropped), (1, [0, 99 - MAX_QUEUED as u64]));
    rig.client.room = usize::MAX;
    rig.target_sends([vec![100]]);
    while rig.turn() == Turn::More {}
    assert_eq!(
        rig.client.got[1..],
        numbered(36..101),
        "in order, the new one behind those that waited"
    );
}

#[test]
fn a_turn_is_bounded_by_datagrams_and_by_bytes() {
    let mut rig = Rig::open(0);
    rig.target_sends(numbered(0..100));
    assert_eq!((rig.turn(), rig.client.got.len()), (Turn::More, TURN_DATAGRAMS));
    let mut rig = Rig::open(0);
    rig.target_sends((0..9).map(|_| vec![0; 10_000]));
    assert_eq!((rig.turn(), rig.client.got.len()), (Turn::More, 2));
}

#[test]
fn the_queues_keep_to_what_the_session_leaves_them_but_always_hold_one() {
    let mut rig = Rig::open(0);
    for _ in 0..9 {
        rig.client_sends(&vec![0; 50_000]);
    }
    assert_eq!((rig.stream.waiting_bytes(), rig.client.dropped), (250_000, [4, 0]));
    rig.client.most = 160_000;
    rig.client_sends(&vec![0; 50_000]);
    assert_eq!((rig.stream.waiting_bytes(), rig.client.dropped), (150_000, [7, 0]));
    // The other direction gets the rest, but one datagram in any case.
    rig.client.room = 0;
    rig.target_sends([vec![0; MAX_DATAGRAM], vec![0; MAX_DATAGRAM]]);
    while rig.turn() == Turn::More {}
    assert_eq!(rig.stream.waiting_bytes(), 150_000 + MAX_DATAGRAM);
    assert_eq!(rig.client.dropped, [7, 1]);
    // Or many small ones.
    let mut rig = Rig::open(0);
    rig.client.most = 0;
    for datagram in numbered(0..9) {
        rig.client_sends(&datagram);
    }
    assert_eq!((rig.stream.waiting_bytes(), rig.client.dropped), (9, [0, 0]));
}

#[test]
fn a_datagram_that_no_frame_holds_is_dropped_not_cut() {
    let mut rig = Rig::open(0);
    rig.target_sends([vec![1; MAX_DATAGRAM + 20], vec![2; MAX_DATAGRAM], Vec::new()]);
    while rig.turn() == Turn::More {}
    assert_eq!(rig.client.got, [vec![2; MAX_DATAGRAM], Vec::new()]);
    assert_eq!(rig.client.dropped, [0, 1]);
}

#[test]
fn a_refusal_ends_the_stream_wherever_it_shows() {
    let refused = Turn::Ended(StreamEnd::Refused);
    let mut rig = Rig::open(9);
    rig.far.lock().unwrap().incoming.push_back(Err(io::ErrorKind::ConnectionRefused.into()));
    assert_eq!(rig.turn(), refused);

    let mut rig = Rig::open(9);
    rig.far.lock().unwrap().refusal = Some(io::ErrorKind::ConnectionRefused);
    rig.client_sends(b"ahead of its turn");
    assert!(rig.is_scheduled());
    assert_eq!(rig.turn(), refused);

    let mut rig = Rig::open(0);
    rig.client_sends(b"in its turn");
    rig.far.lock().unwrap().refusal = Some(io::ErrorKind::ConnectionRefused);
    assert_eq!(rig.turn(), refused);
}

#[test]
fn an_error_of_one_datagram_costs_only_that() {
    let mut rig = Rig::open(9);
    let too_large = || io::Error::from_raw_os_error(rustix::io::Errno::MSGSIZE.raw_os_error());
    rig.far.lock().unwrap().incoming.extend([Err(too_large()), Ok(b"next".to_vec())]);
    assert_eq!(rig.turn(), Turn::Waiting);
    assert_eq!(rig.client.got, [b"next"]);
}

#[test]
fn a_dial_that_fails_ends_the_stream_with_its_reason() {
    for (error, end) in [
        (ConnectError::TimedOut, StreamEnd::Timeout),
        (ConnectError::NoTarget, StreamEnd::NoTarget),
    ] {
        assert_eq!(Rig::new(|_| Err(error)).turn(), Turn::Ended(end));
    }
}

#[test]
fn the_echo_keeps_datagrams_apart_and_the_blackhole_keeps_nothing() {
    let mut rig = Rig::new(|_| Ok(DatagramUpstream::Echo));
    rig.client_sends(b"early");
    assert_eq!(rig.turn(), Turn::Waiting);
    rig.client.room = 1;
    for datagram in [&b"a"[..], b"", b"b"] {
        rig.client_sends(datagram);
    }
    assert!(rig.is_scheduled());
    assert_eq!(rig.turn(), Turn::NoRoom);
    rig.client.room = 9;
    rig.client_sends(b"c");
    assert_eq!(rig.turn(), Turn::Waiting);
    assert_eq!(rig.client.got, [&b"early"[..], b"a", b"", b"b", b"c"]);

    let mut rig = Rig::new(|_| Ok(DatagramUpstream::Blackhole));
    rig.client_sends(b"early");
    assert_eq!(rig.turn(), Turn::Waiting);
    rig.client_sends(b"late");
    assert_eq!((rig.stream.waiting_bytes(), rig.client.got.len()), (0, 0));
}

#[test]
fn what_moves_in_either_direction_puts_the_end_off() {
    let mut rig = Rig::open(9);
    let (idle, start) = (Duration::from_secs(9), rig.now);
    assert_eq!(rig.stream.idle_at(), start + idle);
    rig.now += Duration::from_secs(3);
    rig.turn();
    assert_eq!(rig.stream.idle_at(), start + idle, "a turn alone is not life");
    rig.client_sends(b"x");
    assert_eq!(rig.stream.idle_at(), rig.now + idle);
    rig.now += Duration::from_secs(3);
    rig.target_sends([vec![1]]);
    rig.turn();
    assert_eq!(rig.stream.idle_at(), rig.now + idle);
}

#[test]
fn dns_is_idle_sooner() {
    let [long, short] = [300, 2].map(Duration::from_secs);
    for (target, setting, idle) in [
        (Some("192.0.2.1:53"), long, DNS_IDLE),
        (Some("192.0.2.1:53"), short, short),
        (Some("192.0.2.1:5353"), long, long),
        (None, long, long),
    ] {
        let target = target.map(|text| Target::parse(text).unwrap());
        assert_eq!(idle_timeout(setting, target.as_ref()), idle, "{target:?}");
    }
}
