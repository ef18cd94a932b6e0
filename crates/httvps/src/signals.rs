//! The signals of the process.

use httvps_gateway::Signals;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for SIGTERM and SIGINT (drain; a second one ends at once) and SIGHUP (read the
/// certificate again).
pub(crate) fn listen() -> std::io::Result<Signals> {
    let signals = Signals::default();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ending = signals.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        ending.drain.cancel();
        either(&mut terminate, &mut interrupt).await;
        ending.stop.cancel();
    });
    let mut hangup = signal(SignalKind::hangup())?;
    let reload = signals.reload.clone();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload.notify_one();
        }
    });
    Ok(signals)
}

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}

/// SIGINT and SIGTERM, one after the other.
pub(crate) struct Ending {
    interrupt: Signal,
    terminate: Signal,
}

impl Ending {
    /// Begins to listen for them.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        either(&mut self.interrupt, &mut self.terminate).await;
    }
}
