//! The honest ones: a session that echoes 64 bytes every 20 ms, and newcomers.

use crate::samples::Samples;
use crate::session::{Endpoint, Session};
use crate::tunnel::Tunnel;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

const PAYLOAD: usize = 64;
const EVERY: Duration = Duration::from_millis(20);
const NEWCOMER_EVERY: Duration = Duration::from_millis(50);
/// After so long a newcomer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the honest ones saw in a while.
#[derive(Default)]
pub(super) struct Seen {
    echoes: Vec<f64>,
    newcomers: Vec<f64>,
    failed: usize,
}

impl Seen {
    /// Adds its figures, in milliseconds.
    pub(super) fn note(mut self, name: &str, samples: &mut Samples) {
        for (what, values) in [("echo", &mut self.echoes), ("newcomer", &mut self.newcomers)] {
            values.sort_by(f64::total_cmp);
            for (point, share) in [("p50", 0.5), ("p99", 0.99)] {
                let at =
                    ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
                samples.add(
                    format!("{name}.{what}.{point}"),
                    values.get(at).copied().unwrap_or(f64::NAN),
                );
            }
        }
        samples.add(format!("{name}.failed"), self.failed as f64);
    }
}

/// They run on a thread of their own: what the attackers cost this program is not theirs to wait for.
pub(super) struct Neighbour {
    seen: Arc<Mutex<Seen>>,
    _stop: DropGuard,
    _thread: JoinHandle<()>,
}

impl Neighbour {
    pub(super) fn start(endpoint: Endpoint, echo: SocketAddr) -> io::Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn({
            let (seen, stop) = (seen.clone(), stop.clone());
            move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = echo_for_ever(&endpoint, echo, &seen) => {}
                        () = arrive_for_ever(&endpoint, &seen) => {}
                    }
                });
            }
        });
        Ok(Self { seen, _stop: stop.drop_guard(), _thread: thread })
    }

    /// What they see from now on, for as long as that.
    pub(super) async fn watch(&self, time: Duration) -> Seen {
        let take =
            || std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        take();
        sleep(time).await;
        // One that waits for longer than that must be waited for, or it would not show.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut seen = take();
            if !seen.echoes.is_empty() && !seen.newcomers.is_empty() || Instant::now() > deadline {
                return seen;
            }
            sleep(EVERY).await;
            let later = take();
            seen.echoes.extend(later.echoes);
            seen.newcomers.extend(later.newcomers);
            seen.failed += later.failed;
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        }
    }
}

fn with(seen: &Mutex<Seen>, act: impl FnOnce(&mut Seen)) {
    act(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

async fn echo_for_ever(endpoint: &Endpoint, echo: SocketAddr, seen: &Mutex<Seen>) {
    loop {
        let broken = async {
            let mut tunnel = Tunnel::open(endpoint, "honest").await?;
            let stream = tunnel.echo(echo, PAYLOAD).await?;
            loop {
                let begin = Instant::now();
                tunnel.again(stream, PAYLOAD).await?;
                with(seen, |seen| seen.echoes.push(millis(begin)));
                sleep(EVERY).await;
            }
        };
        let ended: io::Result<()> = broken.await;
        if ended.is_err() {
            with(seen, |seen| seen.failed += 1);
            sleep(EVERY).await;
        }
    }
}

async fn arrive_for_ever(endpoint: &Endpoint, seen: &Mutex<Seen>) {
    for number in 0_u64.. {
        let begin = Instant::now();
        let device = format!("newcomer-{number}");
        let opened = timeout(PATIENCE, Session::open(endpoint, &device)).await;
        with(seen, |seen| match opened {
            Ok(Ok(_)) => seen.newcomers.push(millis(begin)),
            _ => seen.failed += 1,
        });
        sleep(NEWCOMER_EVERY).await;
    }
}
