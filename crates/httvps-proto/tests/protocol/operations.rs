//! Random operations on both sides of one session, with messages that take their time.
//!
//! A run is driven by bytes, so that proptest, a fuzzer and the corpus can all feed it. What each
//! stream was given and what came out of it is kept beside the two state machines and compared.

use httvps_proto::{
    ClientInput, ClientSession, Input, Limits, OpenError, Session, StreamEnd, StreamKey,
    StreamRefusal, Verdict,
};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages that the other side must survive. None of them names a stream of the client's.
const HOSTILE: [&str; 14] = [
    "garbage",
    "",
    "{}",
    "[[[[",
    r#"{"type":"ping"}"#,
    r#"{"type":"pong"}"#,
    r#"{"type":"hello","device_id":"d","token":"t"}"#,
    r#"{"type":"stream_data","stream_id":"x0","data":"aGk="}"#,
    r#"{"type":"stream_data","stream_id":"x0","data":"!"}"#,
    r#"{"type":"stream_open","stream_id":"x0"}"#,
    r#"{"type":"stream_open","stream_id":"x1","target":7}"#,
    r#"{"type":"stream_close","stream_id":"x0"}"#,
    r#"{"type":"stream_close","stream_id":"unknown","reason":"\u0000"}"#,
    r#"{"type":"stream_open","stream_id":"x2\"\\"}"#,
];

/// What one stream of the client's was given and gave back.
#[derive(Debug, Default)]
struct Story {
    written: Vec<u8>,
    arrived: Vec<u8>,
    returned: Vec<u8>,
    came_back: Vec<u8>,
    client: Side,
    gateway: Side,
    /// How the gateway ended it; None when it did not.
    end: Option<StreamEnd>,
    /// How the client was told that it ended; None when it closed it itself.
    told: Option<StreamEnd>,
    /// Whether the gateway had no place for it.
    is_refused: bool,
}

/// Where a stream stands on one side.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Side {
    #[default]
    NotYet,
    Open,
    Over,
}

impl Side {
    fn open(&mut self) {
        assert_eq!(*self, Side::NotYet, "a stream opens once");
        *self = Side::Open;
    }

    fn end(&mut self) {
        assert_eq!(*self, Side::Open, "a stream that is open ends, once");
        *self = Side::Over;
    }
}

struct World {
    client: ClientSession,
    gateway: Session,
    limits: Limits,
    start: Instant,
    now: Instant,
    scratch: Vec<u8>,
    up: VecDeque<Vec<u8>>,
    down: VecDeque<Vec<u8>>,
    /// By the number that the client gave the stream, from 1.
    stories: Vec<Story>,
    at_client: HashMap<StreamKey, usize>,
    at_gateway: HashMap<StreamKey, Option<usize>>,
    next_byte: u8,
    opened: u32,
    refused: u32,
    is_over: bool,
}

/// Reads the operations; beyond the end of the input everything is 0.
struct Choices<'i>(&'i [u8]);

impl Choices<'_> {
    fn next(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    /// One of the keys, if there are any.
    fn pick<V>(&mut self, keys: &HashMap<StreamKey, V>) -> Option<StreamKey> {
        let mut keys: Vec<_> = keys.keys().copied().collect();
        keys.sort_unstable();
        let choice = self.next();
        keys.get(choice % keys.len().max(1)).copied()
    }
}

/// Runs the operations and then brings everything to its end; how many there were.
pub fn run(input: &[u8]) -> usize {
    let mut choices = Choices(input);
    let mut world = World::new(choices.next());
    let mut steps = 0;
    while !choices.0.is_empty() && !world.is_over {
        world.step(&mut choices);
        world.check();
        steps += 1;
    }
    world.finish();
    steps
}

impl World {
    fn new(kind: usize) -> Self {
        let limits = Limits {
            max_streams: 1 + kind % 4,
            max_stream_opens_per_second: [0, 50][kind / 4 % 2],
            max_stream_open_burst: 3,
            max_errors_per_second: 10,
            max_error_burst: [4, 100_000][kind / 8 % 2],
            ..Limits::default()
        };
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let (mut scratch, now) = (Vec::new(), Instant::now());
        let mut client = ClientSession::hello("d", "t", "v", None, false, &mut up);
        let mut gateway = Session::new(Arc::new(limits.clone()));
        let hello = gateway.handle_text(now, &up[0], &mut scratch, &mut down);
        assert!(matches!(hello, Input::Hello(_)));
        let verdict = Verdict::Allowed { session_id: "s", subscription_status: None };
        gateway.handle_verdict(now, &verdict, &mut down);
        client.handle_text(&down[0], &mut scratch, &mut up);
        assert_eq!(client.max_streams(), limits.max_streams);
        Self {
            client,
            gateway,
            limits,
            start: now,
            now,
            scratch,
            up: VecDeque::new(),
            down: VecDeque::new(),
            stories: vec![Story::default()],
            at_client: HashMap::new(),
            at_gateway: HashMap::new(),
            next_byte: 0,
            opened: 0,
            refused: 0,
            is_over: false,
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.next() % 16 {
            0 | 1 => self.open(),
            2..4 => self.write(choices),
            4 => self.close(choices),
            5..7 => self.deliver_up(),
            7..9 => self.deliver_down(),
            9 | 10 => self.give_back(choices),
            11 => self.end(choices),
            12 => self.announce(choices),
            13 => self.now += Duration::from_millis(choices.next() as u64),
            14 => self.up.push_back(HOSTILE[choices.next() % HOSTILE.len()].into()),
            _ => self.down.push_back(HOSTILE[choices.next() % 7].into()),
        }
    }

    /// Sends with one side, and puts what it sent on its way.
    fn with_client<T>(
        &mut self,
        act: impl FnOnce(&mut ClientSession, &mut Vec<Vec<u8>>) -> T,
    ) -> T {
        let mut out = Vec::new();
        let result = act(&mut self.client, &mut out);
        self.up.extend(out);
        result
    }

    fn with_gateway<T>(&mut self, act: impl FnOnce(&mut Session, &mut Vec<Vec<u8>>) -> T) -> T {
        let mut out = Vec::new();
        let result = act(&mut self.gateway, &mut out);
        self.down.extend(out);
        result
    }

    fn payload(&mut self, len: usize) -> Vec<u8> {
        let bytes = |_| {
            self.next_byte = self.next_byte.wrapping_add(1);
            self.next_byte
        };
        (0..len).map(bytes).collect()
    }

    fn open(&mut self) {
        let has_room = self.at_client.len() < self.client.max_streams();
        match self.with_client(|client, out| client.open(Some("example.com:80"), out)) {
            Ok(key) => {
                assert!(has_room);
                let mut story = Story::default();
                story.client.open();
                self.stories.push(story);
                let before = self.at_client.insert(key, self.stories.len() - 1);
                assert_eq!(before, None, "a key names one open stream");
            }
            Err(error) => assert!(!has_room && error == OpenError::Limit),
        }
    }

    fn write(&mut self, choices: &mut Choices<'_>) {
        let Some(key) = choices.pick(&self.at_client) else { return };
        let data = self.payload(choices.next());
        assert!(self.with_client(|client, out| client.write(key, &data, out)));
        self.stories[self.at_client[&key]].written.extend(data);
    }

    fn close(&mut self, choices: &mut Choices<'_>) {
        let Some(key) = choices.pick(&self.at_client) else { return };
        assert!(self.with_client(|client, out| client.close(key, out)));
        let number = self.at_client.remove(&key).unwrap();
        self.stories[number].client.end();
    }

    fn deliver_up(&mut self) {
        let Some(message) = self.up.pop_front() else { return };
        let mut out = Vec::new();
        let scratch = &mut self.scratch;
        match self.gateway.handle_text(self.now, &message, scratch, &mut out) {
            Input::Nothing => {}
            Input::Open { stream, .. } => {
                self.opened += 1;
                // A hostile client's own streams are not ours to follow.
                let number = self.gateway.stream_id(stream).and_then(|id| id.parse().ok());
                if let Some(number) = number {
                    let story: &mut Story = &mut self.stories[number];
                    story.gateway.open();
                }
                let before = self.at_gateway.insert(stream, number);
                assert_eq!(before, None, "a key names one open stream");
            }
            Input::Data { stream, data } => {
                if let Some(number) = self.at_gateway[&stream] {
                    assert_eq!(self.stories[number].gateway, Side::Open);
                    self.stories[number].arrived.extend(data);
                }
            }
            Input::Close { stream } => {
                if let Some(number) = self.at_gateway.remove(&stream).unwrap() {
                    self.stories[number].gateway.end();
                }
            }
            Input::Refused { refusal, .. } => {
                self.refused += 1;
                assert_eq!(out.len(), 1, "a refusal is one error");
                if matches!(refusal, Some(StreamRefusal::Limit | StreamRefusal::OpenRate)) {
                    self.note_refused_open(&message);
                }
            }
            Input::Fatal(_) => {
                assert_eq!(out.len(), 1);
                self.is_over = true;
            }
            Input::Hello(_) => panic!("the session has had its hello"),
        }
        assert!(out.len() <= 1, "a message causes one answer at most");
        self.down.extend(out);
    }

    /// Nothing of a stream that was refused may reach a target, then or later.
    fn note_refused_open(&mut self, message: &[u8]) {
        let open: serde_json::Value = serde_json::from_slice(message).unwrap();
        if let Ok(number) = open["stream_id"].as_str().unwrap().parse::<usize>() {
            let story = &mut self.stories[number];
            assert_eq!(story.gateway, Side::NotYet);
            story.gateway = Side::Over;
            story.is_refused = true;
        }
    }

    fn deliver_down(&mut self) {
        let Some(message) = self.down.pop_front() else { return };
        let mut out = Vec::new();
        let scratch = &mut self.scratch;
        match self.client.handle_text(&message, scratch, &mut out) {
            ClientInput::Data { stream, data } => {
                self.stories[self.at_client[&stream]].came_back.extend(data);
            }
            ClientInput::Opened(stream) => {
                assert_ne!(self.stories[self.at_client[&stream]].gateway, Side::NotYet);
            }
            ClientInput::Ended { stream, end, .. } => {
                let number = self.at_client.remove(&stream).unwrap();
                self.stories[number].client.end();
                self.stories[number].told = Some(end.unwrap());
            }
            ClientInput::NoPlace(stream) => {
                let number = self.at_client.remove(&stream).unwrap();
                let story = &mut self.stories[number];
                story.client.end();
                assert!(story.is_refused, "it may be opened elsewhere");
            }
            ClientInput::Authenticated(_) => panic!("the session is authenticated"),
            ClientInput::Nothing | ClientInput::Error { .. } | ClientInput::GoAway => {}
        }
        self.up.extend(out);
    }

    fn give_back(&mut self, choices: &mut Choices<'_>) {
        let Some(key) = choices.pick(&self.at_gateway) else { return };
        let data = self.payload(choices.next());
        assert!(self.with_gateway(|gateway, out| gateway.write(key, &data, out)));
        if let Some(number) = self.at_gateway[&key] {
            self.stories[number].returned.extend(data);
        }
    }

    fn end(&mut self, choices: &mut Choices<'_>) {
        let Some(key) = choices.pick(&self.at_gateway) else { return };
        // The client's own close is the one end that the gateway does not bring about.
        let ends = StreamEnd::ALL.iter().filter(|end| **end != StreamEnd::ClientClosed);
        let end = *ends.cycle().nth(choices.next()).unwrap();
        assert!(self.with_gateway(|gateway, out| gateway.end(key, end, out)));
        self.note_end(key, end);
    }

    fn note_end(&mut self, key: StreamKey, end: StreamEnd) {
        if let Some(number) = self.at_gateway.remove(&key).unwrap() {
            self.stories[number].gateway.end();
            self.stories[number].end = Some(end);
        }
    }

    fn announce(&mut self, choices: &mut Choices<'_>) {
        if let Some(key) = choices.pick(&self.at_gateway) {
            self.with_gateway(|gateway, out| gateway.opened(key, out));
        } else {
            let time = Duration::from_secs(9);
            assert!(self.with_gateway(|gateway, out| gateway.go_away(time, out)));
        }
    }

    /// What must hold after every step.
    fn check(&self) {
        if !self.is_over {
            assert_eq!(self.gateway.stream_count(), self.at_gateway.len());
        }
        assert!(self.gateway.stream_count() <= self.limits.max_streams);
        assert_eq!(self.client.stream_count(), self.at_client.len());
        assert!(self.client.stream_count() <= self.limits.max_streams);
        let most = |rate: u32, burst: u32| {
            let earned = self.now.duration_since(self.start).as_millis() * u128::from(rate) / 1000;
            if rate == 0 { u128::MAX } else { earned + u128::from(burst) }
        };
        let Limits { max_stream_opens_per_second, max_stream_open_burst, .. } = self.limits;
        let opens = most(max_stream_opens_per_second, max_stream_open_burst);
        assert!(u128::from(self.opened) <= opens, "opened {} of {opens}", self.opened);
        // One error for every stream that the gateway took away comes for free.
        let taken = self.opened + self.refused;
        let errors = most(self.limits.max_errors_per_second, self.limits.max_error_burst);
        assert!(u128::from(self.refused) <= errors + u128::from(taken));
        for story in &self.stories {
            assert!(story.written.starts_with(&story.arrived), "lost or out of order");
            assert!(story.returned.starts_with(&story.came_back), "lost or out of order");
        }
    }

    /// Delivers everything, ends what is open, delivers again, and judges the whole.
    fn finish(mut self) {
        for _ in 0..2 {
            while !(self.up.is_empty() && self.down.is_empty()) {
                if self.is_over {
                    self.up.clear();
                }
                self.deliver_up();
                self.deliver_down();
                self.check();
            }
            if self.is_over {
                return self.finish_over();
            }
            for key in self.at_client.keys().copied().collect::<Vec<_>>() {
                self.with_client(|client, out| client.close(key, out));
                let number = self.at_client.remove(&key).unwrap();
                self.stories[number].client.end();
            }
            let foreign = self.at_gateway.iter().filter(|(_, number)| number.is_none());
            for key in foreign.map(|(key, _)| *key).collect::<Vec<_>>() {
                self.with_gateway(|gateway, out| gateway.end(key, StreamEnd::Eof, out));
                self.note_end(key, StreamEnd::Eof);
            }
        }
        assert_eq!((self.client.stream_count(), self.gateway.stream_count()), (0, 0));
        for story in &self.stories[1..] {
            assert_eq!(story.client, Side::Over);
            assert_eq!(story.gateway, Side::Over);
            if story.is_refused {
                assert!(story.arrived.is_empty() && story.came_back.is_empty());
                assert!(story.told.is_none() && story.end.is_none());
                continue;
            }
            if story.end.is_none() {
                assert_eq!(story.written, story.arrived, "the client closed: all of it arrives");
            }
            if let Some(told) = story.told {
                assert_eq!(story.returned, story.came_back, "the gateway ended: all comes back");
                assert_eq!(Some(told), story.end, "the client is told the truth");
            }
        }
        self.reuse_ids();
    }

    /// After a flood of errors the gateway is silent and has no streams.
    fn finish_over(mut self) {
        assert_eq!(self.gateway.stream_count(), 0);
        let mut out = Vec::new();
        for message in HOSTILE {
            let input =
                self.gateway.handle_text(self.now, message.as_bytes(), &mut self.scratch, &mut out);
            assert_eq!(input, Input::Nothing);
        }
        assert!(out.is_empty());
    }

    /// Every id that was ever used may be used again.
    fn reuse_ids(&mut self) {
        for number in 1..self.stories.len() {
            self.now += Duration::from_secs(1);
            let mut out = Vec::new();
            let open = format!(r#"{{"type":"stream_open","stream_id":"{number}"}}"#);
            let scratch = &mut self.scratch;
            let input = self.gateway.handle_text(self.now, open.as_bytes(), scratch, &mut out);
            let Input::Open { stream, .. } = input else { panic!("{number}: {input:?}") };
            self.gateway.end(stream, StreamEnd::Eof, &mut out);
        }
    }
}
