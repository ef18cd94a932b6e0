//! Random lives of a pair of sessions.

use crate::pair::{Pair, Story};
use httvps_proto::v2::{Kind, Limits, ResetCode, Side};
use proptest::prelude::*;
use std::time::Duration;

#[derive(Debug, Clone)]
enum Step {
    Open(bool),
    Write(bool, usize, usize),
    Consume(bool, usize, usize),
    Finish(bool, usize),
    Reset(bool, usize),
    Opened(usize),
    Ping(bool),
    Deliver(bool, usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![5 => 0usize..200, 1 => 60_000usize..140_000];
    let step = prop_oneof![
        2 => any::<bool>().prop_map(Step::Open),
        6 => (any::<bool>(), 0usize..9, size.clone()).prop_map(|(s, i, n)| Step::Write(s, i, n)),
        6 => (any::<bool>(), 0usize..9, size).prop_map(|(s, i, n)| Step::Consume(s, i, n)),
        2 => (any::<bool>(), 0usize..9).prop_map(|(s, i)| Step::Finish(s, i)),
        1 => (any::<bool>(), 0usize..9).prop_map(|(s, i)| Step::Reset(s, i)),
        1 => (0usize..9).prop_map(Step::Opened),
        1 => any::<bool>().prop_map(Step::Ping),
        8 => (any::<bool>(), 1usize..6).prop_map(|(s, n)| Step::Deliver(s, n)),
        2 => (0u64..200).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..120)
}

fn side(is_client: bool) -> Side {
    if is_client { Side::Client } else { Side::Gateway }
}

/// The `index`-th stream that this side knows to be open.
fn pick(pair: &mut Pair, side: Side, index: usize) -> Option<u32> {
    let end = pair.end(side);
    let open: Vec<u32> =
        end.stories.keys().copied().filter(|stream| end.session.is_open(*stream)).collect();
    (!open.is_empty()).then(|| open[index % open.len()])
}

fn run(pair: &mut Pair, step: &Step, budget: usize) {
    let now = pair.now;
    match *step {
        Step::Open(is_bytes) => {
            if pair.client.session.stream_count() < 8 {
                pair.open(if is_bytes { Kind::Bytes } else { Kind::Datagrams });
            }
        }
        Step::Write(s, i, n) => {
            if let Some(stream) = pick(pair, side(s), i) {
                pair.end(side(s)).write(stream, n);
            }
        }
        Step::Consume(s, i, n) => {
            if let Some(stream) = pick(pair, side(s), i) {
                pair.end(side(s)).consume(now, stream, n);
            }
        }
        Step::Finish(s, i) => {
            if let Some(stream) = pick(pair, side(s), i) {
                let end = pair.end(side(s));
                let writes = end.session.sendable(stream) > 0;
                if writes {
                    end.finish(stream);
                }
            }
        }
        Step::Reset(s, i) => {
            if let Some(stream) = pick(pair, side(s), i) {
                pair.end(side(s)).reset(stream, ResetCode::Io);
            }
        }
        Step::Opened(i) => {
            if let Some(stream) = pick(pair, Side::Gateway, i) {
                pair.gateway.say(|session, out| session.opened(stream, out));
            }
        }
        Step::Ping(s) => {
            pair.end(side(s)).say(|session, out| session.ping(now, out));
        }
        Step::Deliver(s, n) => {
            for _ in 0..n {
                pair.deliver(side(s));
            }
        }
        Step::Wait(millis) => pair.now += Duration::from_millis(millis),
    }
    let promised = pair.gateway.session.window() - 262_144;
    assert_eq!(pair.budget.left() + promised, budget, "the budget is conserved");
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

proptest! {
    #[test]
    fn no_byte_is_lost_and_nothing_is_left(
        steps in steps(), budget in prop_oneof![Just(0usize), Just(100_000), Just(1 << 28)]
    ) {
        let mut pair = Pair::with_budget(Limits::default(), budget);
        for step in &steps {
            run(&mut pair, step, budget);
        }
        let datagrams: Vec<u32> = pair.client.stories.keys().copied().collect();
        wind_up(&mut pair);
        // Streams of datagrams have no FINISH: they end by a reset.
        for stream in datagrams {
            pair.client.reset(stream, ResetCode::Cancelled);
        }
        pair.settle();
        prop_assert_eq!(pair.client.session.stream_count(), 0);
        prop_assert_eq!(pair.gateway.session.stream_count(), 0);
        prop_assert_eq!((pair.client.session.held(), pair.gateway.session.held()), (0, 0));
        for (stream, client) in &pair.client.stories {
            if let Some(gateway) = pair.gateway.stories.get(stream) {
                agree(client, gateway);
            } else {
                prop_assert!(!client.resets.is_empty(), "it was refused");
            }
        }
        let Pair { budget: left, gateway, .. } = pair;
        drop(gateway);
        prop_assert_eq!(left.left(), budget);
    }

    #[test]
    fn no_bytes_of_a_peer_make_a_session_panic_or_hold_more_than_it_promised(
        messages in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![Just(0u8), 0u8..12, any::<u8>()], 0..200), 0..20),
        is_client: bool,
    ) {
        let mut pair = Pair::new(Limits::default());
        pair.open(Kind::Bytes);
        pair.settle();
        let now = pair.now;
        let end = pair.end(side(is_client));
        'all: for message in &messages {
            for frame in httvps_proto::v2::Frames::new(message, end.side.peer()) {
                let Ok(frame) = frame else { break 'all };
                if end.session.handle_frame(now, frame, &mut Vec::new()).is_err() {
                    break 'all;
                }
                prop_assert!(end.session.held() <= end.session.window());
            }
        }
        end.say(|session, out| {
            session.break_off(httvps_proto::v2::Violation::WrongKind, out);
        });
        prop_assert_eq!(end.session.stream_count(), 0);
    }
}
