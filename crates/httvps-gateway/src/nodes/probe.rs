//! A real exchange by way of a node, and the task that makes one every so often.

use super::datagrams::NodeSocket;
use super::node::Node;
use super::outline::Outline;
use crate::metrics::NodeProbe;
use httvps_proto::Target;
use httvps_shadowsocks::{Client, Error};
use httvps_upstream::{ConnectError, Direct, EgressPolicy, SystemResolver};
use ipnet::IpNet;
use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};

/// How long things took in a probe that went through.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// To connect to the node, name resolution included.
    pub dial: Duration,
    /// From the request to the first byte of the answer.
    pub answer: Duration,
}

/// Why a probe did not go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeError {
    /// The node was not reached.
    Unreachable(ConnectError),
    /// The node's answer does not fit the key, or is no Shadowsocks.
    WrongKey,
    /// The clocks differ by so many seconds, more than the ciphers of 2022 allow.
    Clock(u64),
    /// The node ended the connection without an answer.
    Closed,
    /// No answer in time.
    Silent,
}

impl ProbeError {
    fn result(self) -> NodeProbe {
        match self {
            Self::Unreachable(_) => NodeProbe::Unreachable,
            Self::WrongKey | Self::Clock(_) => NodeProbe::WrongKey,
            Self::Closed | Self::Silent => NodeProbe::Silent,
        }
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(ConnectError::Refused) => {
                f.write_str("the node refused the connection: nothing listens on its port")
            }
            Self::Unreachable(ConnectError::TimedOut) => {
                f.write_str("the node did not take the connection in time")
            }
            Self::Unreachable(ConnectError::ResolveFailed(_)) => {
                f.write_str("the node's name could not be resolved")
            }
            Self::Unreachable(error) => {
                write!(f, "the node cannot be reached ({})", error.reason())
            }
            Self::WrongKey => f.write_str(
                "the node's answer does not fit the key: wrong password or cipher, or no Shadowsocks",
            ),
            Self::Clock(seconds) => write!(f, "the node's clock is off by {seconds} s; set it"),
            Self::Closed => f.write_str(
                "the node took the connection and ended it without an answer: wrong password or cipher, or the target cannot be reached from there",
            ),
            Self::Silent => f.write_str(
                "the node took the connection and did not answer in time: wrong password or cipher, or the target does not answer",
            ),
        }
    }
}

impl std::error::Error for ProbeError {}

/// What connects to nodes. It goes anywhere: the operator and the backend name the nodes, not the
/// clients. Blocks while it reads the system's files.
pub(super) fn dialer() -> Direct {
    let everywhere = [IpAddr::from([0_u8; 4]), IpAddr::from([0_u16; 8])];
    let everywhere = everywhere.map(|address| IpNet::new_assert(address, 0)).to_vec();
    Direct::new(EgressPolicy::new(everywhere), Arc::new(SystemResolver::from_system()))
}

/// Asks `target`, a web server, for `HEAD /` by way of the node, and waits for the first byte, which
/// proves the key and the way out. Cancelling it closes the connection.
pub async fn exchange(
    dialer: &Direct,
    client: &Client,
    target: &Target,
    dial_timeout: Duration,
    answer_timeout: Duration,
) -> Result<Exchange, ProbeError> {
    let start = Instant::now();
    let opened = tokio::time::timeout(dial_timeout, dialer.dial(client.key().node())).await;
    let tcp = opened.unwrap_or(Err(ConnectError::TimedOut)).map_err(ProbeError::Unreachable)?;
    let dial = start.elapsed();
    let sent = Instant::now();
    let asking = async {
        let mut stream = client.start(tcp, Some(target))?;
        let request = format!("HEAD / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        stream.read(&mut [0; 64]).await
    };
    match tokio::time::timeout(answer_timeout, asking).await {
        Err(_) => Err(ProbeError::Silent),
        Ok(Ok(0)) => Err(ProbeError::Closed),
        Ok(Ok(_)) => Ok(Exchange { dial, answer: sent.elapsed() }),
        Ok(Err(error)) => Err(match Error::of(&error) {
            Some(Error::Clock(seconds)) => ProbeError::Clock(*seconds),
            Some(_) => ProbeError::WrongKey,
            None => ProbeError::Closed,
        }),
    }
}

/// Asks `server`, a name server, for the address of `example.com` by way of the node, three times
/// at the most, since datagrams get lost; the time to the answer.
pub async fn exchange_datagrams(
    dialer: &Direct,
    client: &Client,
    server: &Target,
    timeout: Duration,
) -> Result<Duration, ProbeError> {
    /// RFC 1035 section 4.1: id, recursion desired, one question: example.com, A, IN.
    const QUERY: &[u8] = b"\x68\x74\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
    const TRIES: u32 = 3;
    let closed = |_| ProbeError::Closed;
    let socket = dialer.dial_datagrams(client.key().node()).await;
    let socket = NodeSocket(socket.map_err(ProbeError::Unreachable)?);
    let mut datagrams = client.start_datagrams(socket, server).map_err(closed)?;
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
            Ok(Err(error)) => return Err(ProbeError::Unreachable(ConnectError::from(&error))),
            Err(_) => {}
        }
    }
    Err(ProbeError::Silent)
}

/// Probes a node for as long as it is in use: at once, then every interval, sooner when a stream or
/// a failure asks for it, and at the end of each cool-down while it is down.
pub(super) async fn run(outline: Weak<Outline>, node: Weak<Node>) {
    let mut failed = false;
    loop {
        let (wait, spacing, wake) = {
            let (Some(outline), Some(node)) = (outline.upgrade(), node.upgrade()) else { return };
            let interval = outline.config().outline_probe_interval;
            let (wait, result) = match probe(&outline, &node).await {
                Some(result) => (interval, Some(result)),
                None => (interval, None),
            };
            failed = result.map_or(failed, |result| result.is_err());
            if matches!(
                result,
                Some(Err(ProbeError::WrongKey | ProbeError::Closed | ProbeError::Silent))
            ) {
                outline.doubt_key(node.id());
            }
            let now = Instant::now();
            let spacing = interval / 5;
            let until_trial = node
                .health(super::health::Health::trial_at)
                .map(|at| at.saturating_duration_since(now).max(Duration::from_millis(1)));
            let wait = until_trial.unwrap_or(if failed { spacing } else { wait });
            (wait, spacing.min(wait), node.probe_now.clone())
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // Not before a while after the last one, however many ask.
            () = async { wake.notified().await; tokio::time::sleep(spacing).await } => {}
        }
    }
}

/// One probe; none when the node has no key or is not to be tried yet.
async fn probe(outline: &Outline, node: &Arc<Node>) -> Option<Result<Exchange, ProbeError>> {
    let client = node.client()?;
    let permit = node.try_probe(Instant::now())?;
    let config = outline.config();
    let result = exchange(
        outline.dialer(),
        &client,
        &config.outline_probe_target,
        config.outline_dial_timeout,
        config.outline_probe_timeout,
    )
    .await;
    match &result {
        Ok(exchange) => {
            node.dialed(Ok(exchange.dial));
            node.probe_answered_after(exchange.answer);
            node.probed(NodeProbe::Ok);
        }
        Err(error) => {
            if let ProbeError::Unreachable(error) = error {
                node.dialed(Err(*error));
            }
            node.probed(error.result());
        }
    }
    permit.settle();
    Some(result)
}
