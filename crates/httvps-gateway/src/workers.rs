//! The threads over which connections are spread.
//!
//! Each has a runtime of its own, and a connection stays with the one that it was given at first: its sockets wake
//! nobody but that thread, and only while that thread has nothing to do. Where idle threads look for the work of
//! others instead, every packet of a busy session wakes one of them in vain; a new stream cost a seventh more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Worker threads, of which the one that made this is the first.
///
/// When dropped, the others end, with all that still runs on them.
#[derive(Debug)]
pub struct Workers {
    all: Vec<Worker>,
    threads: Vec<JoinHandle<()>>,
    end: CancellationToken,
    /// Where the search for the least busy one begins.
    next: AtomicUsize,
}

/// A worker thread to spawn on.
#[derive(Debug)]
struct Worker {
    /// None: the runtime in which the workers were made.
    runtime: Option<Handle>,
    /// Its clones are the connections that it has.
    load: Arc<()>,
}

/// One connection of a worker; dropping it says that the connection is over.
#[derive(Debug)]
pub(crate) struct Occupied(#[expect(dead_code, reason = "it is counted")] Arc<()>);

impl Worker {
    fn new(runtime: Option<Handle>) -> Self {
        Self { runtime, load: Arc::default() }
    }

    fn connections(&self) -> usize {
        Arc::strong_count(&self.load) - 1
    }
}

impl Workers {
    /// The runtime alone in which the gateway runs.
    pub fn current() -> Self {
        Self {
            all: vec![Worker::new(None)],
            threads: Vec::new(),
            end: CancellationToken::new(),
            next: AtomicUsize::new(0),
        }
    }

    /// The current runtime and so many threads more that there are `count` (at least 1), or as many as the process
    /// may use processors if that is 0.
    pub fn start(count: usize) -> io::Result<Self> {
        let count = match count {
            0 => thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let mut workers = Self::current();
        for _ in 1..count {
            workers.add()?;
        }
        Ok(workers)
    }

    fn add(&mut self) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        self.all.push(Worker::new(Some(runtime.handle().clone())));
        let end = self.end.clone();
        let run = move || {
            runtime.block_on(end.cancelled());
            // Tasks are dropped; a blocking call, which nobody needs any more, is not waited for.
            runtime.shutdown_background();
        };
        self.threads.push(thread::Builder::new().name("worker".to_owned()).spawn(run)?);
        Ok(())
    }

    /// The worker with the fewest connections (None: the one that made this), and a place on it.
    pub(crate) fn least_busy(&self) -> (Option<&Handle>, Occupied) {
        let count = self.all.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed) % count;
        let worker = (0..count)
            .map(|i| &self.all[(first + i) % count])
            .min_by_key(|worker| worker.connections())
            .expect("there is at least one");
        (worker.runtime.as_ref(), Occupied(worker.load.clone()))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end.cancel();
        for thread in self.threads.drain(..) {
            // It ended, or it panicked and has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_spread_evenly_and_those_that_end_make_room() {
        let workers = Workers::start(3).unwrap();
        let loads = || workers.all.iter().map(Worker::connections).collect::<Vec<_>>();
        let mut places: Vec<_> = (0..6).map(|_| workers.least_busy().1).collect();
        assert_eq!(loads(), [2, 2, 2]);
        places.truncate(2);
        let mut left = loads();
        left.sort_unstable();
        assert_eq!(left, [0, 1, 1]);
        places.push(workers.least_busy().1);
        assert_eq!(loads(), [1, 1, 1]);
    }

    #[tokio::test]
    async fn what_runs_on_a_thread_ends_with_it() {
        let workers = Workers::start(2).unwrap();
        assert_eq!(workers.threads.len(), 1);
        let held = Arc::new(());
        let tasks: Vec<_> = workers
            .all
            .iter()
            .skip(1)
            .map(|worker| {
                let held = held.clone();
                worker.runtime.as_ref().unwrap().spawn(async move {
                    std::future::pending::<()>().await;
                    drop(held);
                })
            })
            .collect();
        drop(workers);
        assert_eq!(Arc::strong_count(&held), 1);
        for task in tasks {
            assert!(task.await.unwrap_err().is_cancelled());
        }
    }
}
