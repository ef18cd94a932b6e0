//! Two sessions, the wires between them, and a record of what arrived.

use httvps_proto::v2::{Budget, Event, Frames, Kind, Limits, ResetCode, Session, Side, Violation};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// What one side knows of a stream.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Story {
    /// Bytes written to it here.
    pub sent: u64,
    /// Bytes that arrived here.
    pub received: u64,
    /// Of these, bytes that were not consumed.
    pub held: usize,
    pub has_finished: bool,
    pub saw_finish: bool,
    /// Resets sent and received.
    pub resets: Vec<ResetCode>,
    pub opened: usize,
    pub datagrams: Vec<Vec<u8>>,
}

/// One side of a pair.
pub struct End {
    pub side: Side,
    pub session: Session,
    pub stories: BTreeMap<u32, Story>,
    pub refused: Vec<ResetCode>,
    pub gone_away: Vec<(ResetCode, Duration)>,
    /// Messages on their way to the peer.
    pub wire: VecDeque<Vec<u8>>,
}

pub struct Pair {
    pub now: Instant,
    pub budget: Budget,
    pub client: End,
    pub gateway: End,
}

/// The byte at an offset of a stream in one direction: any loss or swap shows.
pub fn byte_at(side: Side, stream: u32, offset: u64) -> u8 {
    let salt = if side == Side::Client { 17 } else { 101 };
    (offset.wrapping_mul(31) ^ (offset >> 8) ^ (u64::from(stream) * 7) ^ salt) as u8
}

impl End {
    fn new(side: Side, limits: Limits, budget: Budget, now: Instant) -> Self {
        Self {
            side,
            session: Session::new(side, limits, budget, now),
            stories: BTreeMap::new(),
            refused: Vec::new(),
            gone_away: Vec::new(),
            wire: VecDeque::new(),
        }
    }

    /// Runs a command and puts what it has to say on the wire.
    pub fn say<R>(&mut self, command: impl FnOnce(&mut Session, &mut Vec<u8>) -> R) -> R {
        let mut message = Vec::new();
        let result = command(&mut self.session, &mut message);
        if !message.is_empty() {
            self.wire.push_back(message);
        }
        result
    }

    pub fn write(&mut self, stream: u32, len: usize) -> usize {
        let story = self.stories.entry(stream).or_default();
        let start = story.sent;
        let data: Vec<u8> =
            (0..len as u64).map(|i| byte_at(self.side, stream, start + i)).collect();
        let mut written = 0;
        while written < len {
            let count = self.say(|session, out| session.write(stream, &data[written..], out));
            if count == 0 {
                break;
            }
            written += count;
        }
        self.stories.get_mut(&stream).unwrap().sent += written as u64;
        written
    }

    /// Says that the far socket is open, if that has not been said.
    pub fn open_once(&mut self, stream: u32) {
        let story = self.stories.entry(stream).or_default();
        if std::mem::replace(&mut story.opened, 1) == 0 {
            self.say(|session, out| session.opened(stream, out));
        }
    }

    pub fn finish(&mut self, stream: u32) {
        if self.session.is_open(stream) {
            self.stories.entry(stream).or_default().has_finished = true;
        }
        self.say(|session, out| session.finish(stream, out));
    }

    pub fn reset(&mut self, stream: u32, code: ResetCode) {
        if self.session.is_open(stream) {
            let story = self.stories.entry(stream).or_default();
            story.resets.push(code);
            story.held = 0;
        }
        self.say(|session, out| session.reset(stream, code, "words", out));
    }

    pub fn consume(&mut self, now: Instant, stream: u32, max: usize) -> usize {
        let story = self.stories.entry(stream).or_default();
        let count = story.held.min(max);
        story.held -= count;
        self.say(|session, out| session.consumed(stream, count, now, out));
        count
    }

    fn take(&mut self, now: Instant, message: &[u8]) -> Result<(), Violation> {
        for frame in Frames::new(message, self.side.peer()) {
            let mut answer = Vec::new();
            let event = self.session.handle_frame(now, frame?, &mut answer)?;
            if !answer.is_empty() {
                self.wire.push_back(answer);
            }
            self.note(event);
            assert!(self.session.held() <= self.session.window(), "the budget always holds");
        }
        Ok(())
    }

    fn note(&mut self, event: Event<'_>) {
        match event {
            Event::Open { stream, .. } => {
                assert!(self.stories.insert(stream, Story::default()).is_none(), "opened once");
            }
            Event::Refused(code) => self.refused.push(code),
            Event::Opened(stream) => self.stories.get_mut(&stream).unwrap().opened += 1,
            Event::Data { stream, data } => {
                let story = self.stories.get_mut(&stream).unwrap();
                assert!(!story.saw_finish && story.resets.is_empty());
                for byte in data {
                    assert_eq!(*byte, byte_at(self.side.peer(), stream, story.received));
                    story.received += 1;
                }
                story.held += data.len();
            }
            Event::Finish(stream) => {
                let story = self.stories.get_mut(&stream).unwrap();
                assert!(!std::mem::replace(&mut story.saw_finish, true), "finished once");
            }
            Event::Reset { stream, code, .. } => {
                let story = self.stories.get_mut(&stream).unwrap();
                story.resets.push(code);
                story.held = 0;
            }
            Event::Datagram { stream, data } => {
                self.stories.get_mut(&stream).unwrap().datagrams.push(data.to_vec());
            }
            Event::GoAway(gone) => self.gone_away.push((gone.code, gone.deadline)),
            Event::Nothing | Event::Credit(_) | Event::RoundTrip(_) => {}
        }
    }
}

impl Pair {
    pub fn new(limits: Limits) -> Self {
        Self::with_budget(limits, 1 << 30)
    }

    /// The gateway's windows are within `budget`; the client has one of its own.
    pub fn with_budget(limits: Limits, budget: usize) -> Self {
        Self::within(limits, Budget::new(budget))
    }

    pub fn within(limits: Limits, budget: Budget) -> Self {
        let now = Instant::now();
        Self {
            now,
            client: End::new(Side::Client, limits.clone(), Budget::new(1 << 30), now),
            gateway: End::new(Side::Gateway, limits, budget.clone(), now),
            budget,
        }
    }

    pub fn open(&mut self, kind: Kind) -> u32 {
        let now = self.now;
        let stream =
            self.client.say(|session, out| session.open(now, kind, "example.com:443", out));
        let stream = stream.unwrap();
        self.client.stories.insert(stream, Story::default());
        stream
    }

    /// Delivers the next message from one side; false when there was none.
    pub fn deliver(&mut self, from: Side) -> bool {
        let (sender, receiver) = match from {
            Side::Client => (&mut self.client, &mut self.gateway),
            Side::Gateway => (&mut self.gateway, &mut self.client),
        };
        let Some(message) = sender.wire.pop_front() else {
            return false;
        };
        receiver.take(self.now, &message).unwrap();
        true
    }

    /// Delivers everything, without consuming anything.
    pub fn settle(&mut self) {
        while self.deliver(Side::Client) | self.deliver(Side::Gateway) {}
    }

    pub fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Gateway => &mut self.gateway,
        }
    }
}
