//! Probes: a real exchange through a node, and the task that repeats it.

use super::error::NodeError;
use super::fetch::AGENT;
use super::node::{Node, Permit};
use super::pool::NodePool;
use super::protocol::{Dialer, NodeProtocol};
use crate::{ConnectError, DatagramSocket};
use httvps_proto::Target;
use httvps_telemetry::metrics::NodeProbe;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

/// The times of a successful probe.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// To connect to the node, name resolution included.
    pub dial: Duration,
    /// From the request to the first byte of the answer.
    pub answer: Duration,
}

/// The beginning of an HTTP response (RFC 9112 section 4).
const ANSWER: &[u8] = b"HTTP/";

/// Asks `target`, a web server, for `HEAD /` through the node, and waits for the beginning of an HTTP
/// answer, which proves the key and the egress of the node. Cancelling it closes the connection.
pub(super) async fn exchange(
    dialer: &Dialer,
    protocol: &NodeProtocol,
    target: &Target,
    dial_timeout: Duration,
    answer_timeout: Duration,
) -> Result<Exchange, NodeError> {
    let start = Instant::now();
    let reached = tokio::time::timeout(dial_timeout, protocol.dial(dialer)).await;
    let link = reached.unwrap_or(Err(NodeError::Unreachable(ConnectError::TimedOut)))?;
    let dial = start.elapsed();
    let sent = Instant::now();
    let asking = async {
        let mut stream = protocol.start(link, Some(target)).await?;
        let request = format!(
            "HEAD / HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {AGENT}\r\nConnection: close\r\n\r\n"
        );
        let exchanging = async {
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await?;
            read_start(&mut stream).await
        };
        exchanging.await.map_err(|error| NodeError::of_io(&error))
    };
    match tokio::time::timeout(answer_timeout, asking).await {
        Err(_) => Err(NodeError::Silent),
        Ok(Ok(start)) if start.is_empty() => Err(NodeError::Closed),
        Ok(Ok(start)) if start == ANSWER => Ok(Exchange { dial, answer: sent.elapsed() }),
        Ok(Ok(_)) => Err(NodeError::NoHttp),
        Ok(Err(error)) => Err(error),
    }
}

/// The first bytes of an answer, as many as [`ANSWER`] has; fewer when it ends before.
async fn read_start(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(ANSWER.len());
    stream.take(ANSWER.len() as u64).read_to_end(&mut start).await?;
    Ok(start)
}

/// Asks `server`, a name server, for the address of `example.com` through the node, at most three
/// times, since datagrams get lost; the time to the answer.
pub(super) async fn exchange_datagrams(
    dialer: &Dialer,
    protocol: &NodeProtocol,
    server: &Target,
    timeout: Duration,
) -> Result<Duration, NodeError> {
    /// RFC 1035 section 4.1: id, recursion desired, one question: example.com, A, IN.
    const QUERY: &[u8] = b"\x68\x74\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
    const TRIES: u32 = 3;
    let opening = async {
        let link = match protocol.dials_for_datagrams() {
            None => return Err(NodeError::Unsupported),
            Some(false) => None,
            Some(true) => Some(protocol.dial(dialer).await?),
        };
        protocol.start_datagrams(dialer, link, Some(server)).await
    };
    let opened = tokio::time::timeout(timeout, opening).await;
    let mut datagrams = opened.unwrap_or(Err(NodeError::Silent))?;
    for _ in 0..TRIES {
        let sent = Instant::now();
        let asking = async {
            poll_fn(|cx| datagrams.poll_send(cx, QUERY)).await?;
            loop {
                let mut room = [0; 1500];
                let mut buffer = ReadBuf::new(&mut room);
                poll_fn(|cx| datagrams.poll_recv(cx, &mut buffer)).await?;
                if buffer.filled().starts_with(&QUERY[..2]) {
                    return Ok::<_, std::io::Error>(());
                }
            }
        };
        match tokio::time::timeout(timeout / TRIES, asking).await {
            Ok(Ok(())) => return Ok(sent.elapsed()),
            Ok(Err(error)) => return Err(NodeError::Unreachable(ConnectError::from(&error))),
            Err(_) => {}
        }
    }
    Err(NodeError::Silent)
}

/// Probes a node for as long as it is in use: at once, then every interval, sooner when a stream or
/// a failure asks for it, and at the end of each cool-down while it is down.
pub(super) async fn run(outline: Weak<NodePool>, node: Weak<Node>) {
    let mut failed = false;
    loop {
        let (wait, spacing, wake) = {
            let (Some(outline), Some(node)) = (outline.upgrade(), node.upgrade()) else { return };
            let interval = outline.config().outline_probe_interval;
            let result = probe(&outline, &node).await;
            failed = result.map_or(failed, |result| result.is_err());
            if matches!(
                result,
                Some(Err(NodeError::WrongKey | NodeError::Closed | NodeError::Silent))
            ) {
                outline.doubt_key(&node);
            }
            let spacing = interval / 5;
            let trial_at = node.health(super::health::Health::trial_at);
            let until_trial = trial_at.map(|at| at.saturating_duration_since(Instant::now()));
            let wait = match until_trial {
                // It is due and was not to be had: a stream makes it, or the key is missing.
                Some(Duration::ZERO) if result.is_none() => spacing,
                Some(until_trial) => until_trial.max(Duration::from_millis(1)),
                None if failed => spacing,
                None => interval,
            };
            (wait, spacing.min(wait), node.probe_now.clone())
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // Not before a while after the last one, however many ask.
            () = async { wake.notified().await; tokio::time::sleep(spacing).await } => {}
        }
    }
}

/// One probe; none when the node has no key or its trial is not due.
async fn probe(outline: &NodePool, node: &Arc<Node>) -> Option<Result<Exchange, NodeError>> {
    let protocol = node.protocol()?;
    let permit = node.try_probe(Instant::now())?;
    let config = outline.config();
    let result = exchange(
        outline.dialer(),
        &protocol,
        &config.outline_probe_target,
        config.outline_dial_timeout,
        config.outline_probe_timeout,
    )
    .await;
    judge(node, permit, &result);
    Some(result)
}

/// Records the result of a probe.
fn judge(node: &Node, permit: Permit, result: &Result<Exchange, NodeError>) {
    match result {
        Ok(exchange) => {
            permit.settle();
            node.dialed(Ok(exchange.dial));
            node.probe_answered_after(exchange.answer);
            node.probed(NodeProbe::Ok);
        }
        Err(error) => {
            if error.is_of_node_alone() {
                permit.dial_failed(error.of_dial());
            } else {
                permit.settle();
            }
            node.probed(error.result());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::assignment::Assignment;
    use crate::nodes::health::{Health, State, Thresholds};
    use crate::nodes::session;
    use httvps_telemetry::metrics::Metrics;
    use httvps_tls::CertificateFault;

    const COOLDOWN: Duration = Duration::from_secs(5);
    const FAST: Duration = Duration::from_millis(20);

    /// Everything that may come of a node.
    fn errors() -> Vec<NodeError> {
        let reached = [
            NodeError::Certificate(CertificateFault::Expired),
            NodeError::OtherProtocol,
            NodeError::WrongKey,
            NodeError::Credentials,
            NodeError::NoCredentials,
            NodeError::Clock(60),
            NodeError::Unsupported,
            NodeError::Relay,
            NodeError::Closed,
            NodeError::Silent,
            NodeError::NoHttp,
        ];
        let dials = [
            ConnectError::Refused,
            ConnectError::Unreachable,
            ConnectError::TimedOut,
            ConnectError::Overload,
            ConnectError::Io,
        ];
        let dials = dials.map(|error| [NodeError::Unreachable(error), NodeError::Target(error)]);
        reached.into_iter().chain(dials.into_iter().flatten()).collect()
    }

    fn up(has_probes: bool) -> Arc<Node> {
        let thresholds = Thresholds {
            down_failures: 1,
            recover_successes: 1,
            cooldown: COOLDOWN,
            slow: Duration::ZERO,
            has_probes,
        };
        Arc::new(Node::new("node", Metrics::new().node("node"), thresholds))
    }

    fn down(has_probes: bool) -> Arc<Node> {
        let node = up(has_probes);
        node.dialed(Err(ConnectError::Refused));
        assert_eq!(node.health(Health::state), State::Down);
        node
    }

    /// The node was down, and whatever its trial showed another one may come, not at once.
    fn is_no_longer_on_trial(node: &Arc<Node>, error: NodeError) {
        let now = Instant::now();
        if node.health(Health::state) == State::Down {
            assert!(node.try_probe(now).is_none(), "{error:?}: too soon");
        }
        let next = node.try_probe(now + COOLDOWN * Thresholds::MAX_BACKOFF);
        assert!(next.is_some(), "{error:?}: down for ever");
    }

    #[test]
    fn a_trial_ends_whatever_the_probe_shows() {
        for error in errors() {
            let node = down(true);
            let permit = node.try_probe(Instant::now() + COOLDOWN).unwrap();
            judge(&node, permit, &Err(error));
            is_no_longer_on_trial(&node, error);
        }
        let node = down(true);
        let permit = node.try_probe(Instant::now() + COOLDOWN).unwrap();
        judge(&node, permit, &Ok(Exchange { dial: FAST, answer: FAST }));
        assert_ne!(node.health(Health::state), State::Down);
    }

    #[test]
    fn a_trial_ends_whatever_a_stream_shows() {
        for error in errors() {
            let node = down(false);
            node.try_pass(Instant::now() + COOLDOWN).unwrap().dial_failed(error.of_dial());
            is_no_longer_on_trial(&node, error);

            let node = down(false);
            let permit = node.try_pass(Instant::now() + COOLDOWN).unwrap();
            let assignment = Assignment::of_pool(node.clone());
            let _ = session::judge::<()>(&assignment, permit, FAST, Err(error));
            is_no_longer_on_trial(&node, error);
        }
    }

    #[test]
    fn what_comes_of_a_stream_after_the_dial_is_no_failed_dial() {
        for error in errors() {
            let node = up(true);
            for _ in 0..5 {
                let permit = node.try_pass(Instant::now()).unwrap();
                let assignment = Assignment::of_pool(node.clone());
                let _ = session::judge::<()>(&assignment, permit, FAST, Err(error));
                assert!(node.health(Health::is_reachable), "{error:?}");
                assert_ne!(node.health(Health::state), State::Down, "{error:?}");
            }
        }
    }
}
