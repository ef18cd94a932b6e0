//! Dialling several addresses of one target, one after the other but not in vain (RFC 8305, "happy eyeballs").

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::sleep;

use crate::ConnectError;

/// How long an attempt runs alone before the next address is tried beside it (RFC 8305 section 5).
pub(crate) const STAGGER: Duration = Duration::from_millis(250);

/// Most addresses of one target that are dialled, and so the most sockets that one stream holds while it opens.
pub(crate) const MAX_ADDRESSES: usize = 6;

/// Puts the addresses into the order in which they are dialled: IPv6 and IPv4 by turns, IPv6 first, within a family
/// as they came; each once, at most [`MAX_ADDRESSES`].
pub(crate) fn dial_order(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut sixes = addresses.iter().filter(|address| address.is_ipv6());
    let mut fours = addresses.iter().filter(|address| address.is_ipv4());
    let mut order = Vec::with_capacity(MAX_ADDRESSES);
    loop {
        let (six, four) = (sixes.next(), fours.next());
        if six.is_none() && four.is_none() {
            return order;
        }
        for address in six.into_iter().chain(four) {
            if order.len() < MAX_ADDRESSES && !order.contains(address) {
                order.push(*address);
            }
        }
    }
}

/// Dials the addresses in their order and gives the first connection that stands.
///
/// The next address is tried when an attempt fails, and at the latest [`STAGGER`] after the last one began. If none
/// succeeds, the error that tells most is given. All attempts live in the returned future: when it is dropped or has
/// a winner, the others are gone.
pub(crate) async fn race<T, A, F>(
    addresses: Vec<A>,
    connect: impl Fn(A) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let mut running = Vec::with_capacity(addresses.len());
    let mut waiting = addresses.into_iter();
    let mut telling = ConnectError::Unreachable;
    loop {
        if let Some(address) = waiting.next() {
            running.push(Box::pin(connect(address)));
        } else if running.is_empty() {
            return Err(telling);
        }
        let outcome = tokio::select! {
            biased;
            outcome = first_done(&mut running) => outcome,
            () = sleep(STAGGER), if waiting.len() > 0 => continue,
        };
        match outcome {
            Ok(connection) => return Ok(connection),
            Err(error) if error.weight() > telling.weight() => telling = error,
            Err(_) => {}
        }
    }
}

/// Waits for any attempt to end and takes it out. Cancellation safe: the attempts stay where they are.
async fn first_done<T, F: Future<Output = T>>(running: &mut Vec<Pin<Box<F>>>) -> T {
    poll_fn(|cx| {
        for i in 0..running.len() {
            if let Poll::Ready(outcome) = running[i].as_mut().poll(cx) {
                drop(running.swap_remove(i));
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::Instant;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_no_address_comes_twice() {
        for (answers, order) in [
            (&["1.0.0.1", "1.0.0.2", "2a00::1"][..], &["2a00::1", "1.0.0.1", "1.0.0.2"][..]),
            (
                &["2a00::1", "2a00::2", "2a00::3", "1.0.0.1"],
                &["2a00::1", "1.0.0.1", "2a00::2", "2a00::3"],
            ),
            (&["1.0.0.1", "1.0.0.1", "1.0.0.2"], &["1.0.0.1", "1.0.0.2"]),
            (&[], &[]),
        ] {
            assert_eq!(dial_order(&addresses(answers)), addresses(order));
        }
        let many: Vec<IpAddr> = (0..100_u8).map(|i| [1, 1, 1, i].into()).collect();
        assert_eq!(dial_order(&many), many[..MAX_ADDRESSES]);
    }

    /// Dials scripted addresses in virtual time: `(takes, outcome)`. Gives the outcome and the time it took.
    async fn dialled(
        script: Vec<(u64, Result<&'static str, ConnectError>)>,
    ) -> (Result<&'static str, ConnectError>, u128) {
        let start = Instant::now();
        let outcome = race(script, |(takes, outcome)| async move {
            sleep(Duration::from_millis(takes)).await;
            outcome
        });
        (outcome.await, start.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_address_is_overtaken_after_the_stagger() {
        let script = vec![(10_000, Ok("slow")), (10, Ok("fast"))];
        assert_eq!(dialled(script).await, (Ok("fast"), 260));
        let script = vec![(200, Ok("first")), (0, Ok("second"))];
        assert_eq!(dialled(script).await, (Ok("first"), 200));
        let script = vec![(300, Ok("first")), (10_000, Ok("second"))];
        assert_eq!(dialled(script).await, (Ok("first"), 300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_address_at_once() {
        let script = vec![(5, Err(ConnectError::Unreachable)), (5, Ok("second"))];
        assert_eq!(dialled(script).await, (Ok("second"), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_waits_for_the_attempts_still_running() {
        let script = vec![(1_000, Ok("slow")), (0, Err(ConnectError::Refused))];
        assert_eq!(dialled(script).await, (Ok("slow"), 1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_failures_the_most_telling_is_reported() {
        use ConnectError::{Overload, Refused, Reset, TimedOut, Unreachable};
        for (errors, told) in [
            ([Unreachable, Refused, Unreachable], Refused),
            ([Refused, TimedOut, Unreachable], Refused),
            ([Reset, TimedOut, Unreachable], Reset),
            ([Refused, Overload, TimedOut], Overload),
            ([Unreachable, Unreachable, Unreachable], Unreachable),
        ] {
            let script = errors.into_iter().map(|error| (1, Err(error))).collect();
            assert_eq!(dialled(script).await, (Err(told), 3));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_losers_are_gone_with_the_winner_and_all_with_the_future() {
        struct Held<'a>(&'a AtomicUsize);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let held = AtomicUsize::new(0);
        let dial = |takes: u64| {
            held.fetch_add(1, Ordering::Relaxed);
            let held = Held(&held);
            async move {
                sleep(Duration::from_secs(takes)).await;
                drop(held);
                Ok(takes)
            }
        };
        assert_eq!(race(vec![60, 70, 1], dial).await, Ok(1));
        assert_eq!(held.load(Ordering::Relaxed), 0);

        let unfinished = tokio::time::timeout(Duration::from_secs(5), race(vec![60, 70], dial));
        assert!(unfinished.await.is_err());
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }
}
