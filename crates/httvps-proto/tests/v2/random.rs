//! Random lives of a pair of sessions, and random bytes for one.

use crate::operations;
use crate::pair::Pair;
use httvps_proto::v2::{Kind, Limits, Side};
use proptest::prelude::*;

fn side(is_client: bool) -> Side {
    if is_client { Side::Client } else { Side::Gateway }
}

proptest! {
    #[test]
    fn no_byte_is_lost_and_nothing_is_left(input in proptest::collection::vec(any::<u8>(), 0..400)) {
        operations::run(&input);
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
