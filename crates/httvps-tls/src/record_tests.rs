//! Round trips and malformed records, for every suite and version.

use proptest::prelude::*;

use super::*;

fn half(version: Version, suite: usize, seq: u64) -> Half {
    let (algorithm, key_len) =
        [(&aead::AES_128_GCM, 16), (&aead::AES_256_GCM, 32), (&aead::CHACHA20_POLY1305, 32)][suite];
    let iv = b"salt\x01\x23\x45\x67\x89\xab\xcd\xef";
    Half::from_parts(version, algorithm, &[0x42; 32][..key_len], iv, seq).unwrap()
}

fn pair(version: Version, suite: usize, seq: u64) -> (Sealer, Opener) {
    let sealer = Sealer { half: half(version, suite, seq), limit: RECORDS_MAX };
    (sealer, Opener { half: half(version, suite, seq) })
}

/// All combinations of version and suite.
fn every() -> impl Iterator<Item = (Version, usize)> {
    [Version::Tls12, Version::Tls13].into_iter().flat_map(|v| (0..3).map(move |suite| (v, suite)))
}

fn seal(sealer: &mut Sealer, typ: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![0; content.len() + OVERHEAD_MAX];
    let length = sealer.seal(typ, content, &mut record).unwrap();
    record.truncate(length);
    assert_eq!(length, sealer.sealed_len(content.len()));
    record
}

fn open(opener: &mut Opener, record: &[u8]) -> Result<(u8, Vec<u8>), Error> {
    let len = opener.record_len(record)?;
    assert_eq!(len, Some(record.len()));
    let mut out = vec![0; opener.opened_len(record.len())];
    let Opened { typ, len } = opener.open_into(record, &mut out)?;
    out.truncate(len);
    Ok((typ, out))
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(
        contents in prop::collection::vec(
            (prop::sample::select(vec![ALERT, HANDSHAKE, APPLICATION_DATA]), 0..=FRAGMENT_MAX),
            1..4,
        ),
        seq in prop_oneof![Just(0), Just((1 << 24) - 4), 0..u64::from(u32::MAX)],
        fill in any::<u8>(),
    ) {
        for (version, suite) in every() {
            let (mut sealer, mut direct) = pair(version, suite, seq);
            let (_, mut in_place) = pair(version, suite, seq);
            for &(typ, len) in &contents {
                let content = vec![fill; len];
                let mut record = seal(&mut sealer, typ, &content);
                prop_assert!(direct.content_max(record.len()) == len);
                prop_assert!(open(&mut direct, &record) == Ok((typ, content.clone())));
                let (found, start) = in_place.open_in_place(&mut record).unwrap();
                prop_assert_eq!(found, Opened { typ, len });
                prop_assert!(record[start..start + len] == content);
            }
        }
    }

    #[test]
    fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), change in 1..=u8::MAX) {
        for (version, suite) in every() {
            let (mut sealer, mut opener) = pair(version, suite, 5);
            let mut record = seal(&mut sealer, APPLICATION_DATA, b"content");
            let at = at.index(record.len());
            record[at] ^= change;
            let result = match opener.record_len(&record) {
                Ok(Some(len)) if len == record.len() => open(&mut opener, &record).map(drop),
                Ok(_) => Err(Error::DecryptError),
                Err(error) => Err(error),
            };
            prop_assert!(result.is_err(), "{version:?} {suite} {at}");
        }
    }

    #[test]
    fn no_header_causes_a_panic(input in prop::collection::vec(any::<u8>(), 0..80)) {
        for (version, suite) in every() {
            let (_, mut opener) = pair(version, suite, 0);
            if let Ok(Some(len)) = opener.record_len(&input)
                && len <= input.len()
            {
                prop_assert!(open(&mut opener, &input[..len]).is_err());
            }
        }
    }
}

#[test]
fn a_record_opens_once_and_in_its_place_only() {
    for (version, suite) in every() {
        let (mut sealer, mut opener) = pair(version, suite, 0);
        let records = [0; 3].map(|_| seal(&mut sealer, APPLICATION_DATA, b"one"));
        assert!(records[0] != records[1], "a nonce was used twice");
        assert!(open(&mut opener, &records[0]).is_ok());
        assert_eq!(open(&mut opener, &records[2]), Err(Error::DecryptError));
        assert_eq!(open(&mut opener, &records[0]), Err(Error::DecryptError));
    }
}

#[test]
fn headers_are_judged_before_the_rest_arrives() {
    let overflow = Err(Error::PeerSentOversizedRecord);
    for (version, suite) in every() {
        let (_, opener) = pair(version, suite, 0);
        assert_eq!(opener.record_len(&[]), Ok(None));
        assert_eq!(opener.record_len(&[23, 3, 3, 0]), Ok(None));
        let most = (opener.record_max() - HEADER_LEN) as u16;
        let header = |typ, len: u16| [typ, 3, 3, len.to_be_bytes()[0], len.to_be_bytes()[1]];
        assert_eq!(opener.record_len(&header(23, most)), Ok(Some(opener.record_max())));
        assert_eq!(opener.record_len(&header(23, most + 1)), overflow);
        assert_eq!(opener.record_len(&header(23, 15)), Err(Error::DecryptError));
        assert!(opener.record_len(&header(20, 1)).is_err());
        assert!(opener.record_len(&header(24, 40)).is_err());
        assert_eq!(opener.record_len(&header(21, 40)).is_ok(), version == Version::Tls12);
        assert!(opener.record_len(&[23, 2, 3, 0, 40]).is_err());
    }
}

#[test]
fn padding_is_taken_off_and_nothing_but_padding_is_refused() {
    for suite in 0..3 {
        let (mut sealer, mut opener) = pair(Version::Tls13, suite, 0);
        // The inner type of the sealer becomes padding behind a type of our own.
        let record = seal(&mut sealer, 0, b"content\x17\0\0\0");
        assert_eq!(open(&mut opener, &record), Ok((APPLICATION_DATA, b"content".to_vec())));
        let record = seal(&mut sealer, 0, &[0; 9]);
        let expected = PeerMisbehaved::IllegalTlsInnerPlaintext.into();
        assert_eq!(open(&mut opener, &record), Err(expected));
    }
}

#[test]
fn a_key_at_its_limit_seals_no_more() {
    let (mut sealer, _) = pair(Version::Tls13, 0, 0);
    sealer.limit = 2;
    assert_eq!(sealer.remaining(), 2);
    seal(&mut sealer, APPLICATION_DATA, b"1");
    seal(&mut sealer, APPLICATION_DATA, b"2");
    assert_eq!(sealer.remaining(), 0);
    assert_eq!(sealer.seal(APPLICATION_DATA, b"3", &mut [0; 99]), Err(Error::EncryptError));
}
