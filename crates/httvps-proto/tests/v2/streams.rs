//! The life of a stream.

use crate::pair::{Pair, byte_at};
use httvps_proto::v2::{Event, Frame, Kind, Limits, MAX_PINGS, ResetCode, Side};
use std::time::Duration;

#[test]
fn data_may_follow_open_at_once() {
    let mut pair = Pair::new(Limits::default());
    let stream = pair.open(Kind::Bytes);
    assert_eq!(pair.client.write(stream, 100_000), 65_536);
    pair.settle();
    assert_eq!(pair.gateway.stories[&stream].received, 65_536);
    pair.gateway.say(|session, out| session.opened(stream, out));
    pair.settle();
    assert_eq!(pair.client.stories[&stream].opened, 1);
}

#[test]
fn payload_can_be_read_straight_into_a_frame() {
    let mut pair = Pair::new(Limits::default());
    let stream = pair.open(Kind::Bytes);
    let mut offered = 0;
    for wanted in [0, 10, 65_526, 5, 0] {
        let (written, room) = pair.client.say(|session, out| {
            session.write_with(stream, 65_530, out, |message, room| {
                message
                    .extend((0..wanted as u64).map(|i| byte_at(Side::Client, stream, offered + i)));
                room
            })
        });
        assert_eq!(room, (65_536 - offered as usize).min(65_530));
        assert_eq!(written, wanted.min(room));
        offered += written as u64;
    }
    assert_eq!(pair.client.wire.len(), 3, "the open, and one message for each that had bytes");
    pair.settle();
    assert_eq!(pair.gateway.stories[&stream].received, 65_536);
}

#[test]
fn a_half_closed_stream_still_brings_the_answer() {
    let mut pair = Pair::new(Limits::default());
    let stream = pair.open(Kind::Bytes);
    pair.client.write(stream, 10);
    pair.client.finish(stream);
    pair.settle();
    assert!(pair.gateway.stories[&stream].saw_finish);
    assert_eq!(pair.client.write(stream, 1), 0, "it has finished");
    assert_eq!(pair.gateway.write(stream, 20), 20);
    pair.gateway.finish(stream);
    pair.settle();
    assert_eq!(pair.client.stories[&stream].received, 20);
    // Bytes that a next hop has not taken keep the stream: they count against its session.
    assert!(pair.gateway.session.is_open(stream) && pair.client.session.is_open(stream));
    pair.gateway.consume(pair.now, stream, 10);
    pair.client.consume(pair.now, stream, 20);
    assert_eq!(pair.client.session.stream_count() + pair.gateway.session.stream_count(), 0);
}

#[test]
fn a_reset_drops_both_directions_and_gives_the_credit_back() {
    let mut pair = Pair::new(Limits::default());
    let stream = pair.open(Kind::Bytes);
    pair.client.write(stream, 50_000);
    pair.settle();
    assert_eq!(pair.gateway.session.held(), 50_000);
    pair.client.reset(stream, ResetCode::Cancelled);
    pair.settle();
    assert_eq!(pair.gateway.session.held(), 0);
    assert_eq!(pair.gateway.stories[&stream].resets, [ResetCode::Cancelled]);
    assert!(!pair.gateway.session.is_open(stream));
}

#[test]
fn datagrams_keep_their_boundaries_and_need_no_credit() {
    let mut pair = Pair::new(Limits::default());
    let stream = pair.open(Kind::Datagrams);
    for datagram in [&b"one"[..], b"", &vec![9; 65_507]] {
        assert!(pair.client.say(|session, out| session.write_datagram(stream, datagram, out)));
    }
    let too_long = vec![0; 65_508];
    assert!(!pair.client.say(|session, out| session.write_datagram(stream, &too_long, out)));
    pair.settle();
    let lengths: Vec<_> = pair.gateway.stories[&stream].datagrams.iter().map(Vec::len).collect();
    assert_eq!(lengths, [3, 0, 65_507]);
    assert_eq!(pair.client.write(stream, 1), 0, "it has no bytes");
    let bytes = pair.open(Kind::Bytes);
    assert!(!pair.client.say(|session, out| session.write_datagram(bytes, b"x", out)));
    pair.client.reset(bytes, ResetCode::Cancelled);
    pair.gateway.reset(stream, ResetCode::Idle);
    pair.settle();
    assert_eq!(pair.client.session.stream_count(), 0);
}

#[test]
fn the_shortest_round_trip_is_kept_and_pings_are_bounded() {
    let mut pair = Pair::new(Limits::default());
    for millis in [80, 20, 50] {
        let now = pair.now;
        assert!(pair.client.say(|session, out| session.ping(now, out)));
        pair.now += Duration::from_millis(millis);
        pair.settle();
    }
    assert_eq!(pair.client.session.round_trip(), Some(Duration::from_millis(20)));
    let now = pair.now;
    let sent = (0..100).filter(|_| pair.client.say(|session, out| session.ping(now, out))).count();
    assert_eq!(sent, MAX_PINGS);
    let foreign = Frame::Pong { opaque: [0xff; 8] };
    let event = pair.client.session.handle_frame(now, foreign, &mut Vec::new());
    assert_eq!(event, Ok(Event::Nothing), "an answer to none of ours");
    assert!(
        !pair.client.say(|session, out| session.ping(now, out)),
        "none of them is answered by it"
    );
    pair.now += Duration::from_millis(5);
    pair.settle();
    assert_eq!(pair.client.session.round_trip(), Some(Duration::from_millis(5)));
    // An answer that has come already is to none of those that were sent since.
    let sent = pair.now;
    assert!(pair.client.say(|session, out| session.ping(sent, out)));
    for (opaque, event) in [
        (0, Event::Nothing),
        (MAX_PINGS as u64 + 2, Event::Nothing),
        (MAX_PINGS as u64 + 3, Event::RoundTrip(Duration::from_millis(1))),
    ] {
        let pong = Frame::Pong { opaque: u64::to_be_bytes(opaque) };
        let now = sent + Duration::from_millis(1);
        let answered = pair.client.session.handle_frame(now, pong, &mut Vec::new());
        assert_eq!(answered, Ok(event), "{opaque}");
    }
}
