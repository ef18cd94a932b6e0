//! Tests of packets against a node's half that is written here.

use super::*;
use crate::node_half;
use crate::node_packets::{Answer, sealed};
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000;

fn packets(cipher: Cipher, target: &str) -> Packets {
    Packets::new(Arc::new(node_half::key(cipher)), Some(&target.parse().unwrap())).unwrap()
}

impl Packets {
    /// A good answer to what this client would ask.
    fn answer(&self) -> Answer<'static> {
        let client = self.session_id().unwrap_or_default();
        let (session, packet, source, payload) = (1, 0, "192.0.2.7:53", &b"an answer"[..]);
        Answer { kind: ANSWER, time: NOW, session, packet, client, padding: 0, source, payload }
    }

    fn opens(&mut self, answer: Answer<'_>) -> Option<Vec<u8>> {
        let mut packet = sealed(&self.key, answer);
        self.open(&mut packet, NOW).map(|payload| packet[payload].to_vec())
    }
}

#[test]
fn good_answers_are_opened_and_strangers_are_not_heard() {
    for cipher in Cipher::ALL {
        let mut ours = packets(cipher, "192.0.2.7:53");
        let good = ours.answer();
        assert_eq!(ours.opens(good).as_deref(), Some(&b"an answer"[..]), "{cipher}");
        let mapped = Answer { packet: 1, source: "[::ffff:192.0.2.7]:53", ..good };
        assert!(ours.opens(mapped).is_some());
        let empty = Answer { packet: 2, payload: b"", padding: 900, ..good };
        assert_eq!(ours.opens(empty).as_deref(), Some(&b""[..]));
        for source in ["192.0.2.8:53", "192.0.2.7:54", "[2001:db8::7]:53", "a.example:53"] {
            assert_eq!(ours.opens(Answer { packet: 3, source, ..good }), None, "{source}");
        }
        let mut named = packets(cipher, "a.example:53");
        let good = named.answer();
        assert!(named.opens(good).is_some(), "a name is compared by its port");
        let other = Answer { packet: 1, source: "192.0.2.7:54", ..good };
        assert_eq!(named.opens(other), None);
    }
}

#[test]
fn datagram_sent_back_on_any_association_is_dropped() {
    for cipher in Cipher::ALL {
        let mut area = vec![0; AREA_LEN];
        let mut sender = packets(cipher, "192.0.2.7:53");
        let len = sender.seal(b"a question", NOW, &mut area).unwrap();
        for mut receiver in [packets(cipher, "192.0.2.7:53"), sender] {
            let mut packet = area[..len].to_vec();
            assert_eq!(receiver.open(&mut packet, NOW), None, "{cipher}");
        }
    }
}

#[test]
fn without_a_target_each_payload_has_its_address_header() {
    for cipher in Cipher::ALL {
        let mut ours = Packets::new(Arc::new(node_half::key(cipher)), None).unwrap();
        let mut header = Vec::new();
        address::encode(&"192.0.2.7:53".parse().unwrap(), &mut header);
        for source in ["192.0.2.7:53", "[2001:db8::7]:53"] {
            let payload =
                ours.opens(Answer { source, packet: source.len() as u64, ..ours.answer() });
            let payload = payload.unwrap();
            let (from, rest) = address::split(&payload).unwrap();
            assert!(from.fits(&source.parse().unwrap()));
            assert_eq!(rest, b"an answer");
        }
        let mut area = vec![0; AREA_LEN];
        let mut with_target = packets(cipher, "192.0.2.7:53");
        let whole = ours.seal(&[&header[..], b"hi"].concat(), NOW, &mut area).unwrap();
        assert_eq!(whole, with_target.seal(b"hi", NOW, &mut area).unwrap(), "passed through");
        let error = ours.seal(b"GET /", NOW, &mut area).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::DESTADDRREQ));
    }
}

#[test]
fn old_repeated_and_foreign_packets_are_dropped() {
    for cipher in Cipher::ALL.into_iter().filter(|cipher| cipher.is_2022()) {
        let mut ours = packets(cipher, "192.0.2.7:53");
        let good = ours.answer();
        for bad in [
            Answer { kind: REQUEST, ..good },
            Answer { time: NOW - CLOCK_TOLERANCE - 1, ..good },
            Answer { time: NOW + CLOCK_TOLERANCE + 1, ..good },
            Answer { client: [0; 8], ..good },
        ] {
            assert_eq!(ours.opens(bad), None, "{cipher}");
        }
        for packet in [5, 4, 2000] {
            let answer = Answer { packet, ..good };
            assert!(ours.opens(answer).is_some(), "{cipher} {packet}");
            assert_eq!(ours.opens(answer), None, "{cipher} {packet} again");
        }
        assert_eq!(ours.opens(Answer { packet: 6, ..good }), None, "too far behind");
    }
}

#[test]
fn a_node_may_start_anew_but_not_all_the_time() {
    for cipher in Cipher::ALL.into_iter().filter(|cipher| cipher.is_2022()) {
        let mut ours = packets(cipher, "192.0.2.7:53");
        let good = ours.answer();
        assert!(ours.opens(Answer { session: 1, packet: 0, ..good }).is_some());
        assert!(ours.opens(Answer { session: 2, packet: 0, ..good }).is_some());
        assert!(ours.opens(Answer { session: 1, packet: 1, ..good }).is_some(), "still under way");
        assert_eq!(ours.opens(Answer { session: 1, packet: 0, ..good }), None, "a replay");
        assert_eq!(ours.opens(Answer { session: 3, packet: 0, ..good }), None, "too soon");
        let later = NOW + 2 * CLOCK_TOLERANCE;
        let mut third = sealed(&ours.key, Answer { session: 3, time: later, ..good });
        assert!(ours.open(&mut third, later).is_some());
    }
}

#[test]
fn each_packet_has_its_number_and_its_own_looks() {
    for cipher in Cipher::ALL {
        let mut ours = packets(cipher, "192.0.2.7:53");
        let mut area = vec![0; AREA_LEN];
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let len = ours.seal(b"the same", NOW, &mut area).unwrap();
            assert!(seen.insert(area[..16].to_vec()), "{cipher}");
            assert!(len >= 16 + 7 + 8 + TAG_LEN);
        }
        if let Some(session) = &ours.session {
            assert_eq!(session.next_packet, 100);
        }
        let longest = vec![0; PAYLOAD_MAX];
        assert!(ours.seal(&longest, NOW, &mut area).unwrap() <= AREA_LEN);
        assert!(ours.seal(&vec![0; PAYLOAD_MAX + 1], NOW, &mut area).is_err());
    }
}

proptest! {
    #[test]
    fn any_packet_is_judged_without_a_panic(
        packet in any::<Vec<u8>>(), cipher in proptest::sample::select(&Cipher::ALL[..])
    ) {
        let mut ours = packets(cipher, "192.0.2.7:53");
        prop_assert_eq!(ours.open(&mut packet.clone(), NOW), None);
    }

    #[test]
    fn one_flipped_bit_or_a_cut_and_nothing_gets_through(
        cipher in proptest::sample::select(&Cipher::ALL[..]), at in any::<prop::sample::Index>(),
        bit in 0..8, cut in any::<prop::sample::Index>()
    ) {
        let mut ours = packets(cipher, "192.0.2.7:53");
        let good = sealed(&ours.key, ours.answer());
        let mut flipped = good.clone();
        flipped[at.index(good.len())] ^= 1_u8 << bit;
        prop_assert_eq!(ours.open(&mut flipped, NOW), None);
        prop_assert_eq!(ours.open(&mut good[..cut.index(good.len())].to_vec(), NOW), None);
        prop_assert!(ours.open(&mut good.clone(), NOW).is_some());
    }
}
