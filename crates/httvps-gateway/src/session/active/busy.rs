//! How many sessions have more to do than a turn, and how long their turns are therefore.

use httvps_mux::TURN;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Turns that one turn is worth as long as each busy session has a worker to itself.
///
/// A session that gives way on a worker without other tasks wakes another worker, which then looks at the sockets beside
/// it: a third of the cost of a bulk transfer, for turns of 512 KiB, when no task waits.
const LONG: usize = 8;

/// What a turn is at least, however many are busy: one read of a socket, about.
const TURN_MIN: usize = TURN / 4;

/// The sessions that are busy, and the workers there are.
#[derive(Clone)]
pub(crate) struct Crowd {
    busy: Arc<AtomicUsize>,
    workers: usize,
}

impl Crowd {
    pub(crate) fn new(workers: usize) -> Self {
        Self { busy: Arc::default(), workers }
    }
}

/// One session of them.
pub(super) struct Busy {
    crowd: Crowd,
    is_busy: bool,
}

impl Busy {
    pub(super) fn new(crowd: &Crowd) -> Self {
        Self { crowd: crowd.clone(), is_busy: false }
    }

    /// Bytes of the turn that begins, and whether it is a long one.
    pub(super) fn turn(&self) -> (usize, bool) {
        let others = self.crowd.busy.load(Ordering::Relaxed) - usize::from(self.is_busy);
        let (busy, workers) = (others + 1, self.crowd.workers);
        if busy < workers {
            return (LONG * TURN, true);
        }
        ((TURN * workers / busy).max(TURN_MIN), false)
    }

    /// Notes whether the turn ended before what there was to do.
    pub(super) fn note(&mut self, is_busy: bool) {
        match (self.is_busy, is_busy) {
            (false, true) => drop(self.crowd.busy.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.crowd.busy.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        self.is_busy = is_busy;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.note(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_long_while_busy_sessions_are_fewer_than_workers() {
        let crowd = Crowd::new(2);
        let busy = |count: usize| -> Vec<Busy> {
            let mut all: Vec<Busy> = (0..count).map(|_| Busy::new(&crowd)).collect();
            for session in &mut all {
                session.note(true);
            }
            all
        };
        let (mut one, mut two) = (Busy::new(&crowd), Busy::new(&crowd));
        assert_eq!((one.turn(), two.turn()), ((LONG * TURN, true), (LONG * TURN, true)));
        one.note(true);
        one.note(true);
        assert_eq!((one.turn(), two.turn()), ((LONG * TURN, true), (TURN, false)));
        two.note(true);
        assert_eq!((one.turn(), two.turn()), ((TURN, false), (TURN, false)));
        let others = busy(2);
        assert_eq!(two.turn(), (TURN / 2, false), "four share two workers");
        let crowded = busy(99);
        assert_eq!(two.turn(), (TURN_MIN, false));
        drop((one, others, crowded));
        assert_eq!(two.turn(), (LONG * TURN, true));
        two.note(false);
        assert_eq!(crowd.busy.load(Ordering::Relaxed), 0);
        assert_eq!(Busy::new(&Crowd::new(1)).turn(), (TURN, false));
    }
}
