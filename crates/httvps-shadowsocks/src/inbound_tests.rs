//! Tests of the receiving direction without a wire.

use super::*;
use crate::Cipher;
use crate::node_half::{About, answer, key};
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000;

fn about(cipher: Cipher) -> About {
    About { kind: ANSWER, time: NOW, request: vec![5; cipher.key_len()] }
}

/// What comes out when the node's bytes come in pieces of these lengths, and the caller's buffers have these.
fn received(
    key: &AccessKey,
    bytes: &[u8],
    pieces: &[usize],
    buffers: &[usize],
) -> (Vec<u8>, Result<(), Error>) {
    let salt = vec![5; key.cipher().key_len()];
    let (mut inbound, mut got) = (Inbound::default(), Vec::new());
    let mut buffers = buffers.iter().cycle();
    let mut pieces = pieces.iter().cycle();
    let mut rest = bytes;
    loop {
        let mut space = vec![0; *buffers.next().unwrap_or(&1)];
        let mut out = ReadBuf::new(&mut space);
        let opened = inbound.open(key, &salt, || NOW, &mut out);
        got.extend_from_slice(out.filled());
        if out.filled().is_empty() {
            if let Err(error) = opened {
                let again = inbound.open(key, &salt, || NOW, &mut out);
                let is_same = again.is_err_and(|again| again.to_string() == error.to_string());
                assert!(is_same && out.filled().is_empty(), "an error stays");
                return (got, Err(error));
            }
            let room = inbound.room(key);
            assert!(!room.is_empty());
            let count = room.len().min(*pieces.next().unwrap_or(&1)).min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            if count == 0 {
                return (got, inbound.finish());
            }
            inbound.fill(count);
            inbound.park();
        }
    }
}

fn whole(cipher: Cipher, about: &About) -> Result<(), Error> {
    let key = key(cipher);
    let bytes = answer(&key, about, &[b"payload".to_vec()]);
    let (got, end) = received(&key, &bytes, &[1000], &[1000]);
    assert_eq!(got.is_empty(), end.is_err());
    end
}

#[test]
fn a_header_of_2022_must_be_timely_and_ours() {
    for cipher in Cipher::ALL.into_iter().filter(|cipher| cipher.is_2022()) {
        for (apart, is_good) in [(0, true), (30, true), (31, false), (1_000_000, false)] {
            for time in [NOW - apart, NOW + apart] {
                match whole(cipher, &About { time, ..about(cipher) }) {
                    Ok(()) => assert!(is_good, "{apart}"),
                    Err(Error::Clock(seconds)) => assert!(!is_good && seconds == apart),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let request = vec![6; cipher.key_len()];
        let replayed = whole(cipher, &About { request, ..about(cipher) });
        assert!(matches!(replayed, Err(Error::Replay)));
        let echoed = whole(cipher, &About { kind: 0, ..about(cipher) });
        assert!(matches!(echoed, Err(Error::Protocol)), "a request sent back");
    }
}

#[test]
fn a_chunk_that_is_too_long_is_an_error_and_an_empty_one_is_not() {
    for cipher in Cipher::ALL {
        let key = key(cipher);
        let chunks = [vec![], vec![1; 10], vec![], vec![2; cipher.chunk_max()]];
        let bytes = answer(&key, &about(cipher), &chunks);
        let (got, end) = received(&key, &bytes, &[100_000], &[100_000]);
        assert!(end.is_ok() && got == chunks.concat(), "{cipher}");
        if !cipher.is_2022() {
            let bytes = answer(&key, &about(cipher), &[vec![1], vec![0; 0x4000]]);
            let (got, end) = received(&key, &bytes, &[100_000], &[100_000]);
            assert_eq!(got, [1]);
            assert!(matches!(end, Err(Error::Protocol)));
        }
    }
}

#[test]
fn another_key_is_told_from_bytes_that_were_altered() {
    for cipher in Cipher::ALL {
        let good = key(cipher);
        let bytes = answer(&good, &about(cipher), &[b"one".to_vec(), b"two".to_vec()]);
        let password = base64_turbo::STANDARD.encode(vec![8; cipher.key_len()]);
        let other = AccessKey::from_parts("a", 1, cipher.name(), &password).unwrap();
        let (got, end) = received(&other, &bytes, &[1000], &[1000]);
        assert!(got.is_empty() && matches!(end, Err(Error::WrongKey)), "{cipher}");
        let mut altered = bytes.clone();
        *altered.last_mut().unwrap() ^= 1;
        let (got, end) = received(&good, &altered, &[1000], &[1000]);
        assert_eq!(got, b"one");
        assert!(matches!(end, Err(Error::Integrity)), "{cipher}");
    }
}

fn lengths(most: usize) -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![1..40_usize, 1..most], 1..8)
}

proptest! {
    #[test]
    fn however_the_bytes_are_split_they_arrive_whole_and_in_order(
        cipher in proptest::sample::select(&Cipher::ALL[..]), chunks in lengths(0x3fff),
        pieces in lengths(70_000), buffers in lengths(70_000)
    ) {
        let chunks: Vec<Vec<u8>> = chunks.iter().enumerate().map(|(i, len)| vec![i as u8; *len]).collect();
        let key = key(cipher);
        let bytes = answer(&key, &about(cipher), &chunks);
        let (got, end) = received(&key, &bytes, &pieces, &buffers);
        prop_assert!(end.is_ok() && got == chunks.concat());
    }

    #[test]
    fn nothing_behind_a_flipped_bit_gets_out(
        cipher in proptest::sample::select(&Cipher::ALL[..]), chunks in lengths(300),
        pieces in lengths(1000), buffers in lengths(1000), at in any::<prop::sample::Index>(), bit in 0..8
    ) {
        let chunks: Vec<Vec<u8>> = chunks.iter().enumerate().map(|(i, len)| vec![i as u8; *len]).collect();
        let key = key(cipher);
        let mut bytes = answer(&key, &about(cipher), &chunks);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let (got, end) = received(&key, &bytes, &pieces, &buffers);
        prop_assert!(end.is_err());
        let good = chunks.concat();
        prop_assert!(got.len() < good.len() && got == good[..got.len()]);
        prop_assert!(got.len() <= at, "authentic bytes only");
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(
        cipher in proptest::sample::select(&Cipher::ALL[..]), bytes in any::<Vec<u8>>(), pieces in lengths(100)
    ) {
        let (got, end) = received(&key(cipher), &bytes, &pieces, &[10]);
        prop_assert!(got.is_empty() && (end.is_err() || bytes.is_empty()));
    }
}
