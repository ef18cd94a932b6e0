//! Dialling several addresses of one name with staggered starts (RFC 8305, "happy eyeballs").

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{Addresses, BoxFuture};

/// How long an attempt runs alone before the next address is tried in parallel (RFC 8305 section 5).
pub const HEAD_START: Duration = Duration::from_millis(250);

/// Most addresses of the operator's own names (gateway, backend, key server) that are dialled.
const MAX_OWN_ADDRESSES: usize = 16;

/// Puts the addresses into the order in which they are dialled: IPv6 and IPv4 by turns, IPv6 first, within a family
/// as they came; each once, at most `most`.
pub fn dial_order(addresses: &[IpAddr], most: usize) -> Vec<IpAddr> {
    let mut sixes = addresses.iter().filter(|address| address.is_ipv6());
    let mut fours = addresses.iter().filter(|address| address.is_ipv4());
    let mut order = Vec::with_capacity(addresses.len().min(most));
    loop {
        let (six, four) = (sixes.next(), fours.next());
        if six.is_none() && four.is_none() {
            return order;
        }
        for address in six.into_iter().chain(four) {
            if order.len() < most && !order.contains(address) {
                order.push(*address);
            }
        }
    }
}

/// Dials the addresses of an operator's name, as [`race`] does, at most 16 at first and 16 of the late ones. Has no
/// time-out of its own; dropping the future closes what is being opened.
pub async fn connect<T, F>(
    addresses: Addresses,
    port: u16,
    dial: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let in_order = move |addresses: &[IpAddr]| -> Vec<SocketAddr> {
        let order = dial_order(addresses, MAX_OWN_ADDRESSES).into_iter();
        order.map(|address| SocketAddr::new(address, port)).collect()
    };
    let first = in_order(&addresses.first);
    let late = addresses.late.map(|late| -> BoxFuture<'_, _> {
        Box::pin(async move { in_order(&late.addresses().await) })
    });
    // A host without IPv6 fails at once for every IPv6 address; that hides nothing better.
    let weight = |error: &io::Error| match error.kind() {
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => 0,
        _ => 1,
    };
    let nothing = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    race(first, late, HEAD_START, dial, weight).await.map_err(|error| error.unwrap_or_else(nothing))
}

/// Dials the addresses in their order and returns the first connection that succeeds.
///
/// The next address is tried when an attempt fails, and at the latest `head_start` after the last one began. Late
/// addresses are queued after the others; when no other is left, the call waits for them. If none succeeds, it returns the first error of the
/// greatest weight, or none if there was no address. All attempts live in the returned
/// future: dropping it, or a success, cancels the others.
pub async fn race<T, E, A, F>(
    first: Vec<A>,
    mut late: Option<BoxFuture<'_, Vec<A>>>,
    head_start: Duration,
    connect: impl Fn(A) -> F,
    weight: impl Fn(&E) -> u8,
) -> Result<T, Option<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut running = Vec::with_capacity(first.len());
    let mut waiting = first.into_iter();
    let mut telling: Option<E> = None;
    let mut next_start = Instant::now();
    loop {
        if running.is_empty() || Instant::now() >= next_start {
            if let Some(address) = waiting.next() {
                running.push(Box::pin(connect(address)));
                next_start = Instant::now() + head_start;
            } else if running.is_empty() && late.is_none() {
                return Err(telling);
            }
        }
        let outcome = tokio::select! {
            biased;
            outcome = first_done(&mut running), if !running.is_empty() => outcome,
            more = poll_fn(|cx| poll_late(&mut late, cx)), if late.is_some() => {
                late = None;
                waiting = waiting.chain(more).collect::<Vec<_>>().into_iter();
                continue;
            }
            () = sleep_until(next_start), if waiting.len() > 0 => continue,
        };
        match outcome {
            Ok(connection) => return Ok(connection),
            Err(error) => {
                next_start = Instant::now();
                if telling.as_ref().is_none_or(|told| weight(&error) > weight(told)) {
                    telling = Some(error);
                }
            }
        }
    }
}

fn poll_late<A>(
    late: &mut Option<BoxFuture<'_, Vec<A>>>,
    cx: &mut std::task::Context<'_>,
) -> Poll<Vec<A>> {
    late.as_mut().map_or(Poll::Pending, |late| late.as_mut().poll(cx))
}

/// Waits for any attempt to end and takes it out. Cancellation-safe: the attempts are kept.
async fn first_done<O, F: Future<Output = O>>(running: &mut Vec<Pin<Box<F>>>) -> O {
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
    use tokio::time::sleep;

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
            assert_eq!(dial_order(&addresses(answers), 4), addresses(order));
        }
        let many: Vec<IpAddr> = (0..100_u8).map(|i| [1, 1, 1, i].into()).collect();
        assert_eq!(dial_order(&many, 7), many[..7]);
    }

    /// An address as a script: how long the attempt takes, and what comes of it.
    type Script = (u64, Result<&'static str, u8>);

    /// Dials scripted addresses in virtual time, the late ones after so many milliseconds. An error is its own weight.
    /// Gives the outcome and the time it took.
    async fn dialled_with(
        first: Vec<Script>,
        late: Option<(u64, Vec<Script>)>,
    ) -> (Result<&'static str, Option<u8>>, u128) {
        let start = Instant::now();
        let late = late.map(|(after, script)| -> BoxFuture<'_, _> {
            Box::pin(async move {
                sleep(Duration::from_millis(after)).await;
                script
            })
        });
        let connect = |(takes, outcome)| async move {
            sleep(Duration::from_millis(takes)).await;
            outcome
        };
        let outcome = race(first, late, HEAD_START, connect, |error: &u8| *error);
        (outcome.await, start.elapsed().as_millis())
    }

    async fn dialled(script: Vec<Script>) -> (Result<&'static str, Option<u8>>, u128) {
        dialled_with(script, None).await
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
        let script = vec![(5, Err(1)), (5, Ok("second"))];
        assert_eq!(dialled(script).await, (Ok("second"), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_waits_for_the_attempts_still_running() {
        let script = vec![(1_000, Ok("slow")), (0, Err(2))];
        assert_eq!(dialled(script).await, (Ok("slow"), 1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_failures_the_weightiest_is_reported() {
        for (errors, told) in [([1, 5, 1], 5), ([5, 3, 1], 5), ([1, 3, 4], 4), ([0, 0, 0], 0)] {
            let script = errors.into_iter().map(|error| (1, Err(error))).collect();
            assert_eq!(dialled(script).await, (Err(Some(told)), 3));
        }
        assert_eq!(dialled(vec![]).await, (Err(None), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_come_late_are_dialled_too() {
        // Nothing else is left: they are waited for.
        let late = Some((3_000, vec![(5, Ok("late"))]));
        assert_eq!(dialled_with(vec![(5, Err(1))], late).await, (Ok("late"), 3_005));
        // An attempt hangs: they overtake it, after its head start.
        let late = Some((60, vec![(5, Ok("late"))]));
        assert_eq!(dialled_with(vec![(10_000, Ok("slow"))], late).await, (Ok("late"), 255));
        // One that is under way has its head start before them, and a winner does not wait for them.
        let late = Some((60, vec![(0, Ok("late"))]));
        assert_eq!(dialled_with(vec![(200, Ok("first"))], late).await, (Ok("first"), 200));
        let late = Some((60_000, vec![]));
        assert_eq!(dialled_with(vec![(10, Ok("first"))], late).await, (Ok("first"), 10));
        // None came.
        let late = Some((3_000, vec![]));
        assert_eq!(dialled_with(vec![(5, Err(2))], late).await, (Err(Some(2)), 3_000));
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_living_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = addresses(&["127.0.0.1", "127.0.0.2"]);
        let stream = connect(found.into(), port, tokio::net::TcpStream::connect).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        drop(listener);
        let found = addresses(&["127.0.0.2"]);
        let error = connect(found.into(), port, tokio::net::TcpStream::connect).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = connect(vec![].into(), port, tokio::net::TcpStream::connect).await.unwrap_err();
        assert_eq!(error.to_string(), "the name has no address");
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
                Ok::<_, u8>(takes)
            }
        };
        assert_eq!(race(vec![60, 70, 1], None, HEAD_START, dial, |error| *error).await, Ok(1));
        assert_eq!(held.load(Ordering::Relaxed), 0);

        let racing = race(vec![60, 70], None, HEAD_START, dial, |error| *error);
        assert!(tokio::time::timeout(Duration::from_secs(5), racing).await.is_err());
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }
}
