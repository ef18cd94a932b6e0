//! Replays the inputs that fuzzing starts from and those that once found something, and runs others.

use crate::{codec, operations};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/corpus").join(name);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_message_of_the_corpus_is_judged_as_the_slow_decoder_does() {
    let paths = corpus("frame");
    assert!(paths.len() >= 40, "only {} messages found", paths.len());
    for path in paths {
        let message = std::fs::read(&path).unwrap();
        codec::check(&message).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

#[test]
fn every_run_of_the_corpus_keeps_the_invariants() {
    let paths = corpus("session");
    assert!(paths.len() >= 10, "only {} runs found", paths.len());
    for path in paths {
        let input = std::fs::read(&path).unwrap();
        let run = std::panic::catch_unwind(|| operations::run(&input));
        assert!(run.is_ok(), "{} broke an invariant (see above)", path.display());
    }
}

proptest! {
    #![proptest_config(crate::codec::config())]

    #[test]
    fn no_byte_is_lost_and_every_stream_ends_once(input in proptest::collection::vec(any::<u8>(), 0..600)) {
        operations::run(&input);
    }
}
