//! The process's signals as the gateway's.

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
