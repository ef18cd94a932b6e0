//! How much a task does before the others of its worker have the processor.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// Ends a task's turn: it is polled again once the tasks that are ready have run and the sockets have been looked at.
///
/// The caller returns `Pending`. Waking the task at once instead would let a few busy ones pass the processor to each
/// other for dozens of turns before the runtime looks at its sockets, and so at everyone else's.
pub fn give_way(cx: &mut Context<'_>) {
    // Its first poll puts the waker among those that wait for just that; nothing is lost when it is dropped.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
