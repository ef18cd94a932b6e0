//! What a peer must not do, and what crosses.

use crate::pair::Pair;
use httvps_proto::v2::{
    BadFrame, Event, Frame, Frames, INITIAL_SESSION_CREDIT, Kind, Limits, MAX_CREDIT, MAX_DATA,
    OpenError, ResetCode, Violation,
};
use std::time::Duration;

/// A gateway with stream 1 (bytes) and stream 2 (datagrams) open.
fn gateway() -> Pair {
    let mut pair = Pair::new(Limits { max_streams: 3, ..Limits::default() });
    pair.open(Kind::Bytes);
    pair.open(Kind::Datagrams);
    pair.settle();
    pair
}

fn judged(pair: &mut Pair, frame: Frame<'_>) -> Result<(), Violation> {
    let mut answer = Vec::new();
    pair.gateway.session.handle_frame(pair.now, frame, &mut answer).map(|_| ())
}

#[test]
fn every_breach_has_its_violation() {
    use Violation as V;
    let data = &vec![0; MAX_DATA][..];
    let open = |stream| Frame::Open { stream, kind: Kind::Bytes, target: "" };
    let credit = |stream, increment| Frame::Credit { stream, increment };
    let cases: [(&[Frame<'_>], V); 12] = [
        (&[open(2)], V::ReusedStream),
        (&[Frame::Data { stream: 3, data: b"x" }], V::UnopenedStream),
        (&[Frame::Finish { stream: 9 }], V::UnopenedStream),
        (&[Frame::Reset { stream: 3, code: ResetCode::Io, words: "" }], V::UnopenedStream),
        (&[Frame::Data { stream: 2, data: b"x" }], V::WrongKind),
        (&[Frame::Finish { stream: 2 }], V::WrongKind),
        (&[credit(2, 1)], V::WrongKind),
        (&[Frame::Datagram { stream: 1, data: b"x" }], V::WrongKind),
        (&[Frame::Finish { stream: 1 }, Frame::Data { stream: 1, data: b"x" }], V::AfterFinish),
        (&[Frame::Finish { stream: 1 }, Frame::Finish { stream: 1 }], V::AfterFinish),
        (
            &[Frame::Data { stream: 1, data }, Frame::Data { stream: 1, data: b"x" }],
            V::CreditExceeded,
        ),
        (&[credit(0, MAX_CREDIT)], V::CreditOverflow),
    ];
    for (frames, violation) in cases {
        let mut pair = gateway();
        let (last, before) = frames.split_last().unwrap();
        for frame in before {
            judged(&mut pair, *frame).unwrap();
        }
        assert_eq!(judged(&mut pair, *last), Err(violation), "{last:?}");
    }
}

#[test]
fn the_session_has_a_credit_of_its_own() {
    let mut pair = Pair::with_budget(Limits { max_streams: 9, ..Limits::default() }, 0);
    let streams: Vec<u32> = (0..5).map(|_| pair.open(Kind::Bytes)).collect();
    let written: usize = streams.iter().map(|stream| pair.client.write(*stream, MAX_DATA)).sum();
    assert_eq!(written, INITIAL_SESSION_CREDIT as usize);
    pair.settle();
    let frame = Frame::Data { stream: streams[4], data: b"x" };
    assert_eq!(judged(&mut pair, frame), Err(Violation::CreditExceeded));
}

#[test]
fn a_violation_is_told_and_ends_all_streams() {
    let mut pair = gateway();
    let violation = Violation::Frame(BadFrame::Truncated);
    pair.gateway.say(|session, out| session.break_off(violation, out));
    pair.settle();
    assert_eq!(pair.gateway.session.stream_count(), 0);
    assert_eq!(pair.client.gone_away, [(ResetCode::ProtocolError, Duration::ZERO)]);
}

#[test]
fn frames_that_cross_with_the_end_of_their_stream_are_nothing() {
    let mut pair = gateway();
    pair.gateway.reset(1, ResetCode::Stalled);
    pair.client.write(1, 1000);
    pair.client.finish(1);
    pair.settle();
    assert!(!pair.client.session.is_open(1) && !pair.gateway.session.is_open(1));
    assert_eq!(pair.gateway.session.held(), 0, "what came late was taken at once");
    let late = [
        Frame::Credit { stream: 1, increment: 1 },
        Frame::Reset { stream: 1, code: ResetCode::Cancelled, words: "" },
        Frame::Datagram { stream: 1, data: b"x" },
    ];
    for frame in late {
        let event = pair.gateway.session.handle_frame(pair.now, frame, &mut Vec::new());
        assert_eq!(event, Ok(Event::Nothing));
    }
}

#[test]
fn limits_answer_with_a_reset_and_the_session_lives_on() {
    let mut pair = gateway();
    pair.open(Kind::Bytes);
    let fourth = pair
        .client
        .say(|session, out| session.open(std::time::Instant::now(), Kind::Bytes, "", out));
    assert_eq!(fourth, Err(OpenError::NoPlace));
    pair.settle();
    judged(&mut pair, Frame::Open { stream: 7, kind: Kind::Bytes, target: "" }).unwrap();
    assert_eq!(pair.gateway.session.stream_count(), 3);

    let limits = Limits { max_opens_per_second: 1, max_open_burst: 1, ..Limits::default() };
    let mut pair = Pair::new(limits);
    pair.open(Kind::Bytes);
    pair.open(Kind::Bytes);
    pair.settle();
    assert_eq!(pair.gateway.refused, [ResetCode::Limit]);
    assert_eq!(pair.client.stories[&2].resets, [ResetCode::Limit]);
}

#[test]
fn after_go_away_streams_go_on_and_new_ones_do_not() {
    let mut pair = gateway();
    let deadline = Duration::from_secs(30);
    pair.gateway.say(|session, out| {
        session.go_away(ResetCode::GoingAway, deadline, "draining", out);
    });
    // Crosses with the announcement.
    pair.open(Kind::Bytes);
    pair.settle();
    assert_eq!(pair.client.gone_away, [(ResetCode::GoingAway, deadline)]);
    assert_eq!(pair.client.stories[&3].resets, [ResetCode::GoingAway]);
    let now = pair.now;
    let refused = pair.client.say(|session, out| session.open(now, Kind::Bytes, "", out));
    assert_eq!(refused, Err(OpenError::GoingAway));
    assert_eq!(pair.client.write(1, 10), 10);
    pair.settle();
    assert_eq!(pair.gateway.stories[&1].received, 10);
}

#[test]
fn a_target_that_is_too_long_is_not_sent() {
    let mut pair = Pair::new(Limits::default());
    let now = pair.now;
    let target = "a".repeat(263);
    let refused = pair.client.say(|session, out| session.open(now, Kind::Bytes, &target, out));
    assert_eq!(refused, Err(OpenError::TargetTooLong));
    assert!(pair.client.wire.is_empty());
}

#[test]
fn frames_of_a_later_version_are_passed_over() {
    let mut pair = gateway();
    let message = [0x80, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 1, 2];
    let frame = Frames::new(&message, pair.client.side).next().unwrap().unwrap();
    let event = pair.gateway.session.handle_frame(pair.now, frame, &mut Vec::new());
    assert_eq!(event, Ok(Event::Nothing));
}

#[test]
fn a_stream_opens_once() {
    let mut pair = gateway();
    for _ in 0..2 {
        pair.gateway.say(|session, out| session.opened(1, out));
    }
    pair.settle();
    assert_eq!(pair.client.stories[&1].opened, 1, "the second call said nothing");
    let again = Frame::Opened { stream: 1 };
    let result = pair.client.session.handle_frame(pair.now, again, &mut Vec::new());
    assert_eq!(result, Err(Violation::OpenedTwice));
}

#[test]
fn the_earliest_end_that_was_announced_counts() {
    let mut pair = gateway();
    for (seconds, wait) in [(30, 10), (60, 5), (2, 0)] {
        let deadline = Duration::from_secs(seconds);
        pair.gateway.say(|session, out| session.go_away(ResetCode::GoingAway, deadline, "", out));
        pair.settle();
        pair.now += Duration::from_secs(wait);
    }
    let told: Vec<u64> = pair.client.gone_away.iter().map(|(_, left)| left.as_secs()).collect();
    assert_eq!(told, [30, 20, 2]);
}
