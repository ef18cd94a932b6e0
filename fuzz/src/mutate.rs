//! Changes to inputs.

use crate::random::Random;

/// Bytes at the borders of ranges and types.
const BORDERS: [u8; 14] = [0, 1, 2, 3, 0x0a, 0x20, 0x7f, 0x80, 0x81, 0xbf, 0xc2, 0xf0, 0xfe, 0xff];

/// Changes `input` in one to eight places; `other` lends parts, `words` are put in whole.
pub(crate) fn mutate(
    input: &mut Vec<u8>,
    random: &mut Random,
    other: &[u8],
    words: &[&[u8]],
    longest: usize,
) {
    let times = 1 + random.below(3) * random.below(4);
    for _ in 0..times {
        once(input, random, other, words);
    }
    input.truncate(longest);
}

fn once(input: &mut Vec<u8>, random: &mut Random, other: &[u8], words: &[&[u8]]) {
    let at = random.below(input.len() + 1);
    let byte = BORDERS[random.below(BORDERS.len())];
    match random.below(12) {
        0 | 1 => change(input, at, |old| old ^ (1 << (byte % 8))),
        2 => change(input, at, |_| byte),
        3 => change(input, at, |old| old.wrapping_add(1)),
        4 => change(input, at, |old| old.wrapping_sub(1)),
        5 => {
            let value = random.next() as u8;
            change(input, at, |_| value);
        }
        6 => input.insert(at, byte),
        7 => {
            let end = at + random.below(1 + (input.len() - at).min(16));
            input.drain(at..end);
        }
        8 => {
            // Again what is there, elsewhere.
            let end = at + random.below(1 + (input.len() - at).min(64));
            let part = input[at..end].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, part);
        }
        9 => {
            let from = random.below(other.len() + 1);
            let part = &other[from..];
            let part = &part[..random.below(1 + part.len().min(128))];
            let end = if random.one_in(2) { at } else { input.len() };
            input.splice(at..end, part.iter().copied());
        }
        10 => {
            let word = random.pick(words).copied().unwrap_or_default();
            let end = at + if random.one_in(2) { word.len().min(input.len() - at) } else { 0 };
            input.splice(at..end, word.iter().copied());
        }
        _ => input.truncate(at),
    }
}

fn change(input: &mut [u8], at: usize, new: impl Fn(u8) -> u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte = new(*byte);
    }
}
