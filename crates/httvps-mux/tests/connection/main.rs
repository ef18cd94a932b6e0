//! Connections against a scripted gateway, over pipes that stall; time is virtual throughout, so
//! a wake-up that got lost shows as a time-out at once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod carry;
mod carry_ends;
mod flow;
mod gateway;
mod gateway_v2;
mod hello;
mod life;
mod local;
mod silence;

use std::future::Future;
use std::time::Duration;

/// Runs something that must end by itself.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_hours(1), future).await.expect("a wake-up was lost")
}
