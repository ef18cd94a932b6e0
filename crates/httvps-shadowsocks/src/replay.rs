//! The replay window of a session.

/// Size of the window: packets older than the newest one that are still accepted.
const WINDOW: u64 = 1024;

/// A sliding window over packet ids (like RFC 6479).
#[derive(Default)]
pub(crate) struct Window {
    /// The highest id seen, plus 1.
    next: u64,
    /// One bit for each of the last [`WINDOW`] ids, by the id's remainder.
    seen: [u64; WINDOW as usize / 64],
}

impl Window {
    /// Whether a packet with this id is inside the window and was not seen yet.
    pub(crate) fn is_fresh(&self, id: u64) -> bool {
        if id >= self.next {
            // The last id has no successor.
            return id < u64::MAX;
        }
        self.next - id <= WINDOW && self.seen[word(id)] & bit(id) == 0
    }

    /// Records an authentic packet; false when it is not fresh.
    pub(crate) fn insert(&mut self, id: u64) -> bool {
        if !self.is_fresh(id) {
            return false;
        }
        if id >= self.next {
            if id - self.next >= WINDOW {
                self.seen.fill(0);
            } else {
                for skipped in self.next..id {
                    self.seen[word(skipped)] &= !bit(skipped);
                }
            }
            self.next = id + 1;
        }
        self.seen[word(id)] |= bit(id);
        true
    }
}

fn word(id: u64) -> usize {
    (id % WINDOW / 64) as usize
}

fn bit(id: u64) -> u64 {
    1 << (id % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_edges_of_the_window_are_where_they_should_be() {
        let mut window = Window::default();
        assert!(window.insert(0) && !window.insert(0));
        assert!(window.insert(WINDOW) && !window.is_fresh(0), "just too old");
        assert!(window.insert(1), "just young enough");
        assert!(!window.is_fresh(u64::MAX) && window.insert(u64::MAX - 1));
        assert!(!window.is_fresh(5));
    }

    proptest! {
        #[test]
        fn an_id_counts_once_and_only_within_the_window(
            steps in proptest::collection::vec(-1100_i64..1100, 1..300)
        ) {
            let (mut window, mut seen, mut id) = (Window::default(), BTreeSet::new(), 0_u64);
            for step in steps {
                id = id.saturating_add_signed(step);
                let is_young = seen.last().is_none_or(|last| id + WINDOW > *last);
                prop_assert_eq!(window.insert(id), is_young && !seen.contains(&id), "{}", id);
                if is_young {
                    seen.insert(id);
                }
            }
        }
    }
}
