//! Windows: who is held up, who is not, and how they grow.

use crate::pair::Pair;
use httvps_proto::v2::{
    Budget, Frame, INITIAL_SESSION_CREDIT, INITIAL_STREAM_CREDIT, Kind, Limits, ResetCode, Scarce,
    Session, Side,
};
use std::time::Duration;

/// Moves bytes up one stream as fast as the credit lets them, a round trip at a time; returns the
/// bytes of each round trip.
fn pump(pair: &mut Pair, stream: u32, round_trip: Duration, turns: usize) -> Vec<usize> {
    let now = pair.now;
    pair.gateway.say(|session, out| session.ping(now, out));
    (0..turns)
        .map(|_| {
            let sent = pair.client.session.sendable(stream);
            pair.client.write(stream, sent);
            pair.now += round_trip / 2;
            while pair.deliver(Side::Client) {
                pair.gateway.consume(pair.now, stream, usize::MAX);
            }
            pair.now += round_trip / 2;
            while pair.deliver(Side::Gateway) {}
            sent
        })
        .collect()
}

#[test]
fn a_window_grows_until_it_fits_a_long_path() {
    let mut pair = Pair::new(Limits::default());
    let stream = pair.open(Kind::Bytes);
    let sent = pump(&mut pair, stream, Duration::from_millis(100), 20);
    assert_eq!(sent[0], INITIAL_STREAM_CREDIT as usize);
    assert!(*sent.last().unwrap() >= 8 * 1024 * 1024, "{sent:?}");
    assert!(pair.gateway.session.window() <= 32 * 1024 * 1024);
}

#[test]
fn a_window_grows_on_a_path_that_is_slower_than_at_its_best() {
    let mut pair = Pair::new(Limits::default());
    let stream = pair.open(Kind::Bytes);
    pump(&mut pair, stream, Duration::from_millis(10), 2);
    let sent = pump(&mut pair, stream, Duration::from_millis(30), 20);
    assert!(*sent.last().unwrap() >= 512 * 1024, "{sent:?}");
}

#[test]
fn a_burst_does_not_make_a_window_grow_nor_do_queues_on_the_way() {
    let mut pair = Pair::new(Limits::default());
    let stream = pair.open(Kind::Bytes);
    let millisecond = Duration::from_millis(1);
    for _ in 0..40 {
        pump(&mut pair, stream, millisecond, 4);
        pair.now += 20 * millisecond;
    }
    assert_eq!(pair.gateway.session.window(), INITIAL_SESSION_CREDIT as usize, "bursts");
    // Each round trip takes longer than the last one: a queue grows.
    for millis in 5..200 {
        pump(&mut pair, stream, millis * millisecond, 1);
    }
    assert_eq!(pair.gateway.session.window(), INITIAL_SESSION_CREDIT as usize, "queues");
}

#[test]
fn growth_is_bounded_by_the_stream_the_session_and_the_process() {
    let max_stream_window = 1024 * 1024;
    let limits = Limits { max_stream_window, ..Limits::default() };
    let mut pair = Pair::new(limits.clone());
    let stream = pair.open(Kind::Bytes);
    let sent = pump(&mut pair, stream, Duration::from_millis(100), 20);
    assert!(sent.iter().all(|sent| *sent <= max_stream_window as usize), "{sent:?}");
    assert!(*sent.last().unwrap() >= max_stream_window as usize * 3 / 4, "{sent:?}");

    let limits = Limits { max_session_window: 300_000, ..Limits::default() };
    let mut pair = Pair::new(limits);
    let stream = pair.open(Kind::Bytes);
    let sent = pump(&mut pair, stream, Duration::from_millis(100), 20);
    assert!(pair.gateway.session.window() <= 300_000, "{sent:?}");

    let mut pair = Pair::with_budget(Limits::default(), 500_000);
    let stream = pair.open(Kind::Bytes);
    let sent = pump(&mut pair, stream, Duration::from_millis(100), 20);
    let most = INITIAL_SESSION_CREDIT as usize + 500_000;
    assert!(pair.gateway.session.window() <= most, "{sent:?}");
    assert_eq!(pair.budget.left(), most - pair.gateway.session.window());
}

#[test]
fn sessions_that_took_much_leave_some_for_those_that_come_late() {
    const MIB: usize = 1024 * 1024;
    let budget = Budget::shared(20 * MIB);
    let grown = |_| {
        let mut pair = Pair::within(Limits::default(), budget.clone());
        for _ in 0..2 {
            let stream = pair.open(Kind::Bytes);
            pump(&mut pair, stream, Duration::from_millis(100), 10);
        }
        pair
    };
    let sessions: Vec<Pair> = (0..6).map(grown).collect();
    let windows: Vec<usize> = sessions.iter().map(|pair| pair.gateway.session.window()).collect();
    assert!(windows[0] > 4 * MIB && windows[0] < 5 * MIB, "a fifth of it: {windows:?}");
    assert!(windows[5] > MIB, "{windows:?}");
    assert!(budget.left() > 4 * MIB, "{windows:?}");
    drop(sessions);
    assert_eq!(budget.left(), 20 * MIB);
}

#[test]
fn a_peer_that_answers_late_gets_no_window_for_it() {
    let mut pair = Pair::new(Limits::default());
    let stream = pair.open(Kind::Bytes);
    let sent = pump(&mut pair, stream, Duration::from_secs(4), 10);
    assert_eq!(sent.iter().max(), Some(&(INITIAL_STREAM_CREDIT as usize)), "{sent:?}");
}

#[test]
fn the_budget_comes_back_with_the_stream_and_with_the_session() {
    let mut pair = Pair::with_budget(Limits::default(), 10_000_000);
    let stream = pair.open(Kind::Bytes);
    pump(&mut pair, stream, Duration::from_millis(100), 20);
    assert!(pair.budget.left() < 10_000_000);
    let Pair { budget, gateway, .. } = pair;
    drop(gateway);
    assert_eq!(budget.left(), 10_000_000);
}

/// A pair whose window has grown and that has then been silent for longer than growth stays.
fn rested(budget: &Budget) -> (Pair, u32) {
    let mut pair = Pair::within(Limits::default(), budget.clone());
    let stream = pair.open(Kind::Bytes);
    pump(&mut pair, stream, Duration::from_millis(100), 10);
    let taken = budget.left();
    assert!(pair.gateway.session.rest(pair.now).is_some(), "not yet");
    assert_eq!(budget.left(), taken);
    pair.now += Duration::from_secs(10);
    assert_eq!(pair.gateway.session.rest(pair.now), None);
    (pair, stream)
}

#[test]
fn growth_that_is_not_used_comes_back_after_a_while_and_is_taken_again_with_the_next_bytes() {
    let budget = Budget::new(20_000_000);
    let (mut pair, stream) = rested(&budget);
    assert_eq!(budget.left(), 20_000_000);
    let window = pair.gateway.session.window();
    assert!(window > 1_000_000, "the peer keeps its credit");
    pump(&mut pair, stream, Duration::from_millis(100), 1);
    assert_eq!(
        budget.left(),
        20_000_000 + INITIAL_SESSION_CREDIT as usize - pair.gateway.session.window()
    );
    assert!(pair.gateway.session.window() >= window);
    assert_eq!(pair.gateway.session.take_lack(), None);
    drop(pair);
    assert_eq!(budget.left(), 20_000_000);
}

#[test]
fn a_session_that_comes_back_when_others_have_the_budget_shrinks_and_is_read_no_further_than_it_has()
 {
    let budget = Budget::shared(20_000_000);
    let (mut pair, stream) = rested(&budget);
    let others: Vec<Pair> = (0..40)
        .map(|_| {
            let mut other = Pair::within(Limits::default(), budget.clone());
            let stream = other.open(Kind::Bytes);
            pump(&mut other, stream, Duration::from_millis(100), 10);
            other
        })
        .collect();
    let left = budget.left();
    let sent = pair.client.session.sendable(stream);
    assert!(left < sent, "{left} of {sent}");
    // The next hop takes nothing: the owner is told in time.
    pair.client.write(stream, sent);
    while pair.deliver(Side::Client) && !pair.gateway.session.is_overdrawn() {}
    let held = pair.gateway.session.held();
    assert!(held > INITIAL_SESSION_CREDIT as usize && held < sent / 2, "{held} of {sent}");
    assert_eq!(pair.gateway.session.take_lack(), Some(Scarce::Process));
    // It takes them: the reading goes on, and the window ends where it began.
    loop {
        pair.gateway.consume(pair.now, stream, usize::MAX);
        pair.now += Duration::from_millis(20);
        if !pair.deliver(Side::Client) {
            break;
        }
    }
    assert!(!pair.gateway.session.is_overdrawn());
    assert_eq!(pair.gateway.session.window(), INITIAL_SESSION_CREDIT as usize);
    assert_eq!(budget.left(), left, "nothing was taken and nothing given back twice");
    drop((pair, others));
    assert_eq!(budget.left(), 20_000_000);
}

#[test]
fn a_session_that_must_not_be_read_goes_on_when_others_give_back_whatever_its_next_hops_do() {
    let budget = Budget::shared(20_000_000);
    let (mut pair, stream) = rested(&budget);
    let hoard: Vec<Pair> = (0..40)
        .map(|_| {
            let mut other = Pair::within(Limits::default(), budget.clone());
            let stream = other.open(Kind::Bytes);
            pump(&mut other, stream, Duration::from_millis(100), 10);
            other
        })
        .collect();
    pair.client.write(stream, pair.client.session.sendable(stream));
    while pair.deliver(Side::Client) && !pair.gateway.session.is_overdrawn() {}
    assert!(pair.gateway.session.is_overdrawn());
    let again = pair.gateway.session.rest(pair.now).unwrap();
    assert!(pair.gateway.session.is_overdrawn() && again > pair.now);
    drop(hoard);
    assert!(pair.gateway.session.rest(again).is_some(), "what it holds is not idle");
    assert!(!pair.gateway.session.is_overdrawn());
    drop(pair);
    assert_eq!(budget.left(), 20_000_000);
}

#[test]
fn a_slow_next_hop_does_not_make_the_window_grow() {
    let mut pair = Pair::new(Limits::default());
    let stream = pair.open(Kind::Bytes);
    for _ in 0..200 {
        pair.client.write(stream, 1024 * 1024);
        pair.now += Duration::from_millis(50);
        while pair.deliver(Side::Client) {}
        // It takes a little less than what is there: something always waits.
        let held = pair.gateway.stories[&stream].held;
        pair.gateway.consume(pair.now, stream, held.saturating_sub(1).min(10_000));
        while pair.deliver(Side::Gateway) {}
    }
    let held = pair.gateway.session.held();
    assert!(held > 0 && held <= INITIAL_STREAM_CREDIT as usize);
    assert!(pair.gateway.session.window() <= INITIAL_SESSION_CREDIT as usize + held);
}

#[test]
fn a_full_window_leaves_credit_for_a_new_stream_at_once() {
    let mut pair = Pair::new(Limits::default());
    let stuck = pair.open(Kind::Bytes);
    pump(&mut pair, stuck, Duration::from_millis(100), 6);
    while pair.client.write(stuck, 1 << 20) > 0 {
        pair.settle();
    }
    assert!(pair.gateway.session.held() > INITIAL_SESSION_CREDIT as usize, "it has grown");
    let next = pair.open(Kind::Bytes);
    assert_eq!(pair.client.write(next, 1 << 20), INITIAL_STREAM_CREDIT as usize);
}

#[test]
fn stuck_streams_do_not_hold_up_another() {
    let mut pair = Pair::new(Limits { max_streams: 64, ..Limits::default() });
    let streams: Vec<u32> = (0..64).map(|_| pair.open(Kind::Bytes)).collect();
    pair.settle();
    let (alive, stuck) = streams.split_last().unwrap();
    for stream in stuck {
        assert_eq!(pair.client.write(*stream, 1 << 20), 65_536);
        pair.settle();
    }
    let mut moved = 0;
    for _ in 0..100 {
        moved += pair.client.write(*alive, 1 << 20);
        pair.settle();
        pair.gateway.consume(pair.now, *alive, usize::MAX);
        pair.settle();
    }
    assert!(moved > 100 * 30_000, "{moved}");
    assert_eq!(pair.gateway.session.held(), 63 * 65_536);
}

#[test]
fn a_grown_window_leaves_the_others_their_share_of_the_session() {
    let mut pair = Pair::new(Limits { max_session_window: 300_000, ..Limits::default() });
    let (grown, other) = (pair.open(Kind::Bytes), pair.open(Kind::Bytes));
    pump(&mut pair, grown, Duration::from_millis(100), 20);
    let sent = pair.client.write(grown, 1 << 20);
    assert!(sent > 100_000, "it has grown: {sent}");
    pair.settle();
    assert_eq!(pair.client.write(other, 65_536), 65_536, "what is stuck is not its credit");
    pair.settle();
}

#[test]
fn without_budget_sessions_work_with_their_first_credit() {
    let mut pair = Pair::with_budget(Limits { max_streams: 64, ..Limits::default() }, 0);
    let streams: Vec<u32> = (0..64).map(|_| pair.open(Kind::Bytes)).collect();
    let mut moved = 0;
    for _ in 0..20 {
        for stream in &streams {
            moved += pair.client.write(*stream, 10_000);
        }
        pair.settle();
        for stream in &streams {
            pair.gateway.consume(pair.now, *stream, usize::MAX);
        }
        pair.settle();
    }
    assert!(moved >= 20 * 200_000, "{moved}");
    assert_eq!(pair.gateway.session.window(), INITIAL_SESSION_CREDIT as usize);
}

/// The cost of a grant: a client that uploads gets one CREDIT of its stream for a quarter of a window.
#[test]
fn grants_are_few() {
    let mut pair = Pair::new(Limits::default());
    let stream = pair.open(Kind::Bytes);
    pair.client.wire.clear();
    let session: &mut Session = &mut pair.gateway.session;
    let mut out = Vec::new();
    let open = Frame::Open { stream, kind: Kind::Bytes, target: "" };
    session.handle_frame(pair.now, open, &mut out).unwrap();
    for _ in 0..32 {
        let frame = Frame::Data { stream, data: &[0; 1024] };
        session.handle_frame(pair.now, frame, &mut out).unwrap();
        session.consumed(stream, 1024, pair.now, &mut out);
    }
    assert_eq!(out.len(), 24, "two CREDITs for 32 KiB in pieces of 1 KiB");
}

/// A path of 0.2 ms on which bulk comes at 200 MB/s for `turns` round trips, and with it what `beside` sends.
fn bulk_beside(pair: &mut Pair, bulk: u32, turns: usize, mut beside: impl FnMut(&mut Pair)) {
    const ROUND_TRIP: Duration = Duration::from_micros(200);
    for _ in 0..turns {
        let count = pair.client.session.sendable(bulk).min(40_000);
        pair.client.write(bulk, count);
        beside(pair);
        pair.now += ROUND_TRIP;
        pair.settle();
        pair.gateway.consume(pair.now, bulk, usize::MAX);
        pair.settle();
    }
}

/// Bytes above its first credit that the gateway's window of the session has.
fn grown(pair: &Pair) -> usize {
    pair.gateway.session.window() - INITIAL_SESSION_CREDIT as usize
}

/// A pair on a path of 0.2 ms with a stream whose window has grown as far as it does there.
fn short_path() -> (Pair, u32) {
    // Room for it once, so that a window that shrank must have given its room back to grow again.
    let limits = Limits { max_session_window: 1_300_000, ..Limits::default() };
    let mut pair = Pair::with_budget(limits, 64 * 1024 * 1024);
    let bulk = pair.open(Kind::Bytes);
    let now = pair.now;
    pair.gateway.say(|session, out| session.ping(now, out));
    bulk_beside(&mut pair, bulk, 137, |_| {});
    assert!(grown(&pair) > 700_000, "two round trips of 2 ms: {}", grown(&pair));
    (pair, bulk)
}

#[test]
fn a_window_of_a_short_path_shrinks_beside_small_messages_and_grows_again() {
    let (mut pair, bulk) = short_path();
    let small = pair.open(Kind::Bytes);
    let before = pair.gateway.stories[&bulk].received;
    bulk_beside(&mut pair, bulk, 137, |pair| {
        pair.client.write(small, 64);
        pair.settle();
        pair.gateway.consume(pair.now, small, usize::MAX);
    });
    let moved = pair.gateway.stories[&bulk].received - before;
    assert!(grown(&pair) < 50_000, "two round trips of 0.25 ms: {}", grown(&pair));
    assert_eq!(pair.budget.left(), 64 * 1024 * 1024 - grown(&pair));
    assert_eq!(moved, 137 * 40_000, "and it is as fast as before");

    pair.now += Duration::from_secs(2);
    bulk_beside(&mut pair, bulk, 137, |_| {});
    assert!(grown(&pair) > 700_000, "they ended two seconds ago: {}", grown(&pair));

    pair.client.reset(bulk, ResetCode::Cancelled);
    pair.settle();
    assert_eq!(pair.budget.left(), 64 * 1024 * 1024 - grown(&pair));
}

#[test]
fn a_stream_that_pauses_is_not_beside_itself() {
    let (mut pair, bulk) = short_path();
    for _ in 0..3 {
        pair.client.write(bulk, 100);
        pair.now += Duration::from_millis(50);
        pair.settle();
        pair.gateway.consume(pair.now, bulk, usize::MAX);
    }
    bulk_beside(&mut pair, bulk, 137, |_| {});
    assert!(grown(&pair) > 700_000, "{}", grown(&pair));
}

#[test]
fn a_slower_transfer_carries_no_small_messages() {
    let (mut pair, bulk) = short_path();
    let slower = pair.open(Kind::Bytes);
    bulk_beside(&mut pair, bulk, 137, |pair| {
        pair.client.write(slower, 1_000);
        pair.settle();
        pair.gateway.consume(pair.now, slower, usize::MAX);
    });
    assert!(grown(&pair) > 700_000, "{}", grown(&pair));
}

#[test]
fn a_path_that_is_no_local_network_keeps_its_windows_beside_small_messages() {
    let limits = Limits { max_stream_window: 500_000, ..Limits::default() };
    let mut pair = Pair::new(limits);
    let bulk = pair.open(Kind::Bytes);
    let flow = pair.open(Kind::Datagrams);
    pump(&mut pair, bulk, Duration::from_millis(1), 60);
    let before = grown(&pair);
    assert!(before > 400_000, "{before}");
    for _ in 0..20 {
        pair.client.say(|session, out| session.write_datagram(flow, b"voice", out));
        pump(&mut pair, bulk, Duration::from_millis(5), 1);
    }
    assert_eq!(grown(&pair), before);
}

#[test]
fn datagrams_are_small_messages() {
    let (mut pair, bulk) = short_path();
    let flow = pair.open(Kind::Datagrams);
    bulk_beside(&mut pair, bulk, 137, |pair| {
        pair.client.say(|session, out| session.write_datagram(flow, b"voice", out));
    });
    assert!(grown(&pair) < 50_000, "{}", grown(&pair));
}

#[test]
fn a_stream_that_its_next_hop_holds_up_carries_no_small_messages() {
    let (mut pair, bulk) = short_path();
    let stuck = pair.open(Kind::Bytes);
    bulk_beside(&mut pair, bulk, 137, |pair| {
        pair.client.write(stuck, 1_000);
        pair.settle();
        pair.gateway.consume(pair.now, stuck, 10);
    });
    assert!(grown(&pair) > 700_000, "{}", grown(&pair));
}

#[test]
fn a_window_of_a_long_path_stays_beside_small_messages() {
    let mut pair = Pair::new(Limits::default());
    let bulk = pair.open(Kind::Bytes);
    let small = pair.open(Kind::Bytes);
    let sent = pump(&mut pair, bulk, Duration::from_millis(20), 20);
    let before = grown(&pair);
    for _ in 0..20 {
        pair.client.write(small, 64);
        pump(&mut pair, bulk, Duration::from_millis(20), 1);
        pair.gateway.consume(pair.now, small, usize::MAX);
    }
    assert!(before > 2 * 1024 * 1024, "{sent:?}");
    assert!(grown(&pair) >= before, "{} after {before}", grown(&pair));
}

#[test]
fn the_round_trip_is_measured_often_at_first_and_then_every_ten_seconds() {
    let mut pair = Pair::new(Limits::default());
    let start = pair.now;
    let mut at = Vec::new();
    while pair.now < start + Duration::from_secs(40) {
        let now = pair.now;
        pair.client.say(|session, out| session.ping_when_due(now, out));
        if pair.deliver(Side::Client) {
            at.push((pair.now - start).as_millis());
        }
        pair.settle();
        pair.now += Duration::from_millis(50);
    }
    assert_eq!(at, [0, 100, 300, 700, 1_500, 3_100, 6_300, 12_700, 22_700, 32_700]);
}

#[test]
fn a_peer_that_answers_no_ping_gets_no_more_than_sixteen() {
    let mut pair = Pair::new(Limits::default());
    for _ in 0..100 {
        pair.now += Duration::from_secs(10);
        let now = pair.now;
        pair.client.say(|session, out| session.ping_when_due(now, out));
    }
    assert_eq!(pair.client.wire.len(), 16);
}
