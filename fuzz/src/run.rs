//! The loop: mutate, run, keep what behaved in a new way; a panic is the finding.

use crate::mutate::mutate;
use crate::random::Random;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One decoder, or one pair of sessions, under test.
pub(crate) trait Decoder {
    /// What mutation starts from.
    fn seeds(&self) -> Vec<Vec<u8>>;

    /// What mutation puts in whole.
    fn words(&self) -> &'static [&'static [u8]] {
        &[]
    }

    /// Longest input, in bytes.
    fn longest(&self) -> usize {
        512
    }

    /// Runs one input; panics when something is wrong. Inputs that lead to the same number behaved
    /// alike, so that one of them is enough to start from.
    fn run(&mut self, input: &[u8]) -> u64;

    /// Operations of all runs, where one run is many.
    fn operations(&self) -> Option<u64> {
        None
    }
}

/// Inputs to start from, beyond the seeds.
const MAX_KEPT: usize = 4096;

/// Attempts to make a finding smaller.
const MAX_ATTEMPTS: usize = 20_000;

pub(crate) struct Outcome {
    pub(crate) executions: u64,
    pub(crate) operations: Option<u64>,
    /// Different ways to behave that were seen.
    pub(crate) behaviours: usize,
    pub(crate) time: Duration,
    pub(crate) finding: Option<Finding>,
}

pub(crate) struct Finding {
    pub(crate) execution: u64,
    pub(crate) input: Vec<u8>,
    pub(crate) message: String,
}

/// The words of the last panic.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Keeps panics off the screen: most are those of an input that is being made smaller.
pub(crate) fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut last) = PANIC.lock() {
            *last = info.to_string();
        }
    }));
}

pub(crate) fn run(decoder: &mut dyn Decoder, executions: u64, seed: u64) -> Outcome {
    let start = Instant::now();
    let mut random = Random::new(seed);
    let mut kept = decoder.seeds();
    if kept.is_empty() {
        kept.push(Vec::new());
    }
    let seeds = kept.len();
    let (words, longest) = (decoder.words(), decoder.longest());
    let mut behaviours = HashSet::new();
    let mut input = Vec::new();
    let mut finding = None;
    let mut done = 0;
    while done < executions {
        input.clear();
        if let Some(seed) = usize::try_from(done).ok().filter(|at| *at < seeds) {
            input.extend_from_slice(&kept[seed]);
        } else {
            let (base, other) = (random.below(kept.len()), random.below(kept.len()));
            input.extend_from_slice(&kept[base]);
            mutate(&mut input, &mut random, &kept[other], words, longest);
        }
        done += 1;
        let Ok(behaviour) = attempt(decoder, &input) else {
            let (input, message) = smallest(decoder, input);
            finding = Some(Finding { execution: done, input, message });
            break;
        };
        if behaviours.len() < 1 << 20 && behaviours.insert(behaviour) {
            if kept.len() < seeds + MAX_KEPT {
                kept.push(input.clone());
            } else {
                let place = seeds + random.below(MAX_KEPT);
                kept[place].clone_from(&input);
            }
        }
    }
    Outcome {
        executions: done,
        operations: decoder.operations(),
        behaviours: behaviours.len(),
        time: start.elapsed(),
        finding,
    }
}

fn attempt(decoder: &mut dyn Decoder, input: &[u8]) -> Result<u64, String> {
    catch_unwind(AssertUnwindSafe(|| decoder.run(input)))
        .map_err(|_| PANIC.lock().map(|last| last.clone()).unwrap_or_default())
}

/// Makes an input that panics smaller, by parts and then by bytes, as long as it still does.
fn smallest(decoder: &mut dyn Decoder, mut input: Vec<u8>) -> (Vec<u8>, String) {
    let mut message = attempt(decoder, &input).err().unwrap_or_default();
    let mut size = input.len().max(1);
    let mut attempts = 0;
    while size > 0 && attempts < MAX_ATTEMPTS {
        let mut at = 0;
        while at < input.len() {
            attempts += 1;
            let mut less = input.clone();
            less.drain(at..(at + size).min(input.len()));
            match attempt(decoder, &less) {
                Err(words) => (input, message) = (less, words),
                Ok(_) => at += size,
            }
        }
        size /= 2;
    }
    (input, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails on inputs that hold two bytes, so far apart that no seed has them.
    struct Fails;

    impl Decoder for Fails {
        fn seeds(&self) -> Vec<Vec<u8>> {
            vec![b"the seed".to_vec()]
        }

        fn run(&mut self, input: &[u8]) -> u64 {
            let has = |byte| input.contains(&byte);
            assert!(!(has(0x80) && has(0x7f)), "found");
            u64::from(has(0x80)) + 2 * u64::from(has(0x7f))
        }
    }

    #[test]
    fn a_finding_is_told_small_and_again_by_the_same_seed() {
        let [first, second] =
            [(); 2].map(|()| run(&mut Fails, 1_000_000, 7).finding.expect("it is easy to find"));
        assert_eq!(first.execution, second.execution);
        assert_eq!((first.input.len(), first.input), (2, second.input));
    }
}
