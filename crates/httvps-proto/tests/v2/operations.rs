//! A life of a pair of sessions, driven by bytes: so proptest and the fuzzer can both feed it.

use super::pair::{Pair, Story};
use httvps_proto::v2::{INITIAL_SESSION_CREDIT, Kind, Limits, ResetCode, Side};
use std::time::Duration;

/// Reads the operations; beyond the end of the input everything is 0.
struct Choices<'i>(&'i [u8]);

impl Choices<'_> {
    fn next(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    /// Mostly little, now and then more than a frame or a window.
    fn size(&mut self) -> usize {
        match self.next() {
            large @ 240.. => 60_000 + (large - 240) * 5_000,
            little => little,
        }
    }
}

/// Runs the operations, lets every stream end, and judges the whole; how many there were.
pub fn run(input: &[u8]) -> usize {
    let mut choices = Choices(input);
    let kind = choices.next();
    let budget = [0, 100_000, 1 << 28][kind % 3];
    let limits = Limits {
        max_session_window: [32 << 20, 400_000][kind / 3 % 2],
        max_stream_window: [16 << 20, 200_000][kind / 6 % 2],
        ..Limits::default()
    };
    let mut pair = Pair::with_budget(limits, budget);
    let mut steps = 0;
    while !choices.0.is_empty() {
        step(&mut pair, &mut choices);
        let promised = pair.gateway.session.window() - INITIAL_SESSION_CREDIT as usize;
        assert_eq!(pair.budget.left() + promised, budget, "the budget is conserved");
        steps += 1;
    }
    if kind >= 200 {
        // The connection is lost: whatever the state, the process has its budget back.
        let Pair { budget: left, gateway, .. } = pair;
        drop(gateway);
        assert_eq!(left.left(), budget);
        return steps;
    }
    finish(pair, budget);
    steps
}

fn step(pair: &mut Pair, choices: &mut Choices<'_>) {
    let (now, choice) = (pair.now, choices.next());
    let side = if choice & 0x80 == 0 { Side::Client } else { Side::Gateway };
    match choice % 32 {
        0 | 1 => {
            if pair.client.session.stream_count() < 8 {
                pair.open(if choice.is_multiple_of(2) { Kind::Bytes } else { Kind::Datagrams });
            }
        }
        2..8 => {
            if let Some(stream) = pick(pair, side, choices) {
                pair.end(side).write(stream, choices.size());
            }
        }
        8..14 => {
            if let Some(stream) = pick(pair, side, choices) {
                pair.end(side).consume(now, stream, choices.size());
            }
        }
        14 | 15 => {
            if let Some(stream) = pick(pair, side, choices) {
                pair.end(side).finish(stream);
            }
        }
        16 => {
            if let Some(stream) = pick(pair, side, choices) {
                pair.end(side).reset(stream, ResetCode::Io);
            }
        }
        17 => {
            if let Some(stream) = pick(pair, Side::Gateway, choices) {
                pair.gateway.open_once(stream);
            }
        }
        18 => {
            pair.end(side).say(|session, out| session.ping(now, out));
        }
        19 => {
            if let Some(stream) = pick(pair, side, choices) {
                let datagram = vec![7; choices.next()];
                pair.end(side).say(|session, out| session.write_datagram(stream, &datagram, out));
            }
        }
        20..30 => {
            for _ in 0..=choice % 5 {
                pair.deliver(side);
            }
        }
        30 => pair.now += Duration::from_micros(200),
        _ => pair.now += Duration::from_millis(choices.next() as u64),
    }
}

/// One of the streams that this side knows to be open.
fn pick(pair: &mut Pair, side: Side, choices: &mut Choices<'_>) -> Option<u32> {
    let end = pair.end(side);
    let open: Vec<u32> =
        end.stories.keys().copied().filter(|stream| end.session.is_open(*stream)).collect();
    let choice = choices.next();
    (!open.is_empty()).then(|| open[choice % open.len()])
}

fn finish(mut pair: Pair, budget: usize) {
    let streams: Vec<u32> = pair.client.stories.keys().copied().collect();
    wind_up(&mut pair);
    // Streams of datagrams have no FINISH: they end by a reset.
    for stream in streams {
        pair.client.reset(stream, ResetCode::Cancelled);
    }
    pair.settle();
    let (client, gateway) = (&pair.client.session, &pair.gateway.session);
    assert_eq!((client.stream_count(), gateway.stream_count()), (0, 0));
    assert_eq!((client.held(), gateway.held()), (0, 0));
    // What was promised is with the sender again, but for what is not worth a grant yet.
    for (sender, receiver) in [(client, gateway), (gateway, client)] {
        let (left, window) = (sender.session_sendable(), receiver.window());
        assert!(left <= window && 4 * left >= 3 * window, "{left} of {window} are left");
    }
    for (stream, client) in &pair.client.stories {
        match pair.gateway.stories.get(stream) {
            Some(gateway) => agree(client, gateway),
            None => assert!(!client.resets.is_empty(), "it was refused"),
        }
    }
    let Pair { budget: left, gateway, .. } = pair;
    drop(gateway);
    assert_eq!(left.left(), budget);
}

/// Both sides bring every stream to an orderly end.
fn wind_up(pair: &mut Pair) {
    let mut is_quiet = false;
    while !is_quiet {
        pair.settle();
        is_quiet = true;
        for side in [Side::Client, Side::Gateway] {
            let now = pair.now;
            let end = pair.end(side);
            let streams: Vec<u32> = end.stories.keys().copied().collect();
            for stream in streams {
                is_quiet &= end.consume(now, stream, usize::MAX) == 0;
                if end.session.is_open(stream) {
                    end.finish(stream);
                }
            }
            is_quiet &= end.wire.is_empty();
        }
    }
}

fn agree(client: &Story, gateway: &Story) {
    if client.resets.is_empty() && gateway.resets.is_empty() {
        assert_eq!((client.sent, gateway.sent), (gateway.received, client.received));
        assert!(client.saw_finish && gateway.saw_finish);
    } else {
        assert!(gateway.received <= client.sent && client.received <= gateway.sent);
        assert!(client.resets.len() <= 1 && gateway.resets.len() <= 1, "one end each");
    }
    assert_eq!((client.held, gateway.held), (0, 0));
}
