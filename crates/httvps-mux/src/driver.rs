//! The task that drives a connection.

use crate::connection::ConnectionEnd;
use crate::state::{Effects, State, Step};
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep_until};

/// Places of a list of wakers that is kept for the next time.
const MAX_SPARE: usize = 64;

thread_local! {
    /// An empty list of wakers, so that a wake-up does not cost an allocation.
    static SPARE: Cell<Vec<Waker>> = const { Cell::new(Vec::new()) };
}

/// What the driver, the connection's owner and the streams share.
pub(crate) struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<()>,
}

impl Shared {
    pub(crate) fn new(state: State, changes: watch::Sender<()>) -> Self {
        Self { state: Mutex::new(state), changes }
    }

    /// Runs `act` on the state, then wakes the tasks concerned, after the lock is released.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut state);
        let Effects { has_work, wakes, has_changed } = &mut state.effects;
        let (has_work, has_changed) = (std::mem::take(has_work), std::mem::take(has_changed));
        let mut wakes = if wakes.is_empty() {
            Vec::new()
        } else {
            std::mem::replace(wakes, SPARE.try_with(Cell::take).unwrap_or_default())
        };
        let driver = if has_work { state.driver.take() } else { None };
        drop(state);
        wakes.drain(..).for_each(Waker::wake);
        if (1..=MAX_SPARE).contains(&wakes.capacity()) {
            // A thread that is ending needs no spare list.
            let _ = SPARE.try_with(|spare| spare.set(wakes));
        }
        if let Some(driver) = driver {
            driver.wake();
        }
        if has_changed {
            self.changes.send_replace(());
        }
        result
    }

    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// Drives the connection to its end. One task; it holds no buffer of its own.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    sleep: Pin<Box<Sleep>>,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let now = tokio::time::Instant::now();
        Self { shared, sleep: Box::pin(sleep_until(now)) }
    }

    /// Arms the timer. It is left alone when it fires before `due` anyway: deadlines move with
    /// every message, and a wake-up too many costs less than a re-arming each time.
    fn poll_sleep(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let due = tokio::time::Instant::from_std(due);
        if self.sleep.is_elapsed() || self.sleep.deadline() > due {
            self.sleep.as_mut().reset(due);
        }
        self.sleep.as_mut().poll(cx)
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let now = tokio::time::Instant::now().into_std();
            let step = this.shared.with(|state| {
                let step = state.step(cx, now);
                // What it could do for itself, it has done.
                state.effects.has_work = false;
                step
            });
            match step {
                Step::Over => return Poll::Ready(()),
                Step::Again => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Wait(None) => return Poll::Pending,
                Step::Wait(Some(due)) => ready!(this.poll_sleep(cx, due)),
            }
        }
    }
}

/// The runtime went down, or the driver panicked: every waiting task is woken with an error.
impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.with(|state| {
            if !state.is_over() {
                state.finish(ConnectionEnd::Lost("the runtime is gone".into()));
                state.over();
            }
        });
    }
}
