//! Datagrams of the direct connector against real sockets on loopback, with names answered by the test.
#![expect(
    clippy::unwrap_used,
    reason = "clippy allows it inside test functions, not in what they share"
)]

use std::future::poll_fn;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use httvps_egress::{
    Addresses, BoxFuture, ConnectError, Connector, DEFAULT_DIAL_DEADLINE, DatagramSocket,
    DatagramUpstream, Direct, EgressPolicy, LookupShare, NoDatagrams, OpenRequest, Resolve,
    ResolveError, Upstream,
};
use httvps_proto::Target;
use tokio::io::ReadBuf;

/// A resolver with one answer, which counts how often it was asked; without one it never answers.
struct Scripted {
    answer: Option<Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Resolve for Scripted {
    fn resolve(
        &self,
        _: &str,
        _: &LookupShare,
    ) -> BoxFuture<'static, Result<Addresses, ResolveError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer.clone();
        Box::pin(async move {
            match answer {
                Some(addresses) => Ok(addresses.into()),
                None => std::future::pending().await,
            }
        })
    }
}

fn answering(addresses: &[&str]) -> Arc<Scripted> {
    let answer = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Arc::new(Scripted { answer: Some(answer), asked: AtomicUsize::new(0) })
}

fn direct(allow: &[&str], resolver: Arc<dyn Resolve>) -> Direct {
    let allow = allow.iter().map(|net| net.parse().unwrap()).collect();
    Direct::new(EgressPolicy::new(allow), resolver)
}

async fn opened(direct: &Direct, target: &str) -> Result<Box<dyn DatagramSocket>, ConnectError> {
    let target = target.parse::<Target>().unwrap();
    let request = OpenRequest {
        target: Some(target),
        deadline: DEFAULT_DIAL_DEADLINE,
        lookups: LookupShare::default(),
    };
    match direct.connect_datagrams(request).unwrap().await? {
        DatagramUpstream::Socket(socket) => Ok(socket),
        other => panic!("a socket was expected, not {other:?}"),
    }
}

async fn failed(direct: &Direct, target: &str) -> ConnectError {
    opened(direct, target).await.err().unwrap_or_else(|| panic!("{target} opened"))
}

/// Sends a datagram to the listener and has it answered.
async fn question_and_answer(mut ours: Box<dyn DatagramSocket>, listener: &UdpSocket) {
    poll_fn(|cx| ours.poll_send(cx, b"question")).await.unwrap();
    let mut space = [0; 20];
    let (count, source) = listener.recv_from(&mut space).unwrap();
    assert_eq!(space[..count], *b"question");
    listener.send_to(b"answer", source).unwrap();
    let mut buffer = ReadBuf::new(&mut space);
    poll_fn(|cx| ours.poll_recv(cx, &mut buffer)).await.unwrap();
    assert_eq!(buffer.filled(), b"answer");
}

fn listener(address: &str) -> (UdpSocket, u16) {
    let listener = UdpSocket::bind((address, 0)).unwrap();
    listener.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn both_families_of_addresses_are_reached() {
    let direct = direct(&["127.0.0.0/8", "::1/128"], answering(&[]));
    for (address, host) in
        [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("127.0.0.1", "[::ffff:127.0.0.1]")]
    {
        let (listener, port) = listener(address);
        let ours = opened(&direct, &format!("{host}:{port}")).await.unwrap();
        question_and_answer(ours, &listener).await;
    }
}

#[tokio::test]
async fn a_name_is_asked_for_once_and_its_first_address_is_used() {
    let (first, port) = listener("127.0.0.2");
    let resolver = answering(&["127.0.0.2", "127.0.0.1"]);
    let direct = direct(&["127.0.0.0/8"], resolver.clone());
    let ours = opened(&direct, &format!("name.example:{port}")).await.unwrap();
    question_and_answer(ours, &first).await;
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn one_address_that_is_denied_denies_the_name() {
    let resolver = answering(&["127.0.0.1", "192.168.0.1"]);
    let direct = direct(&["127.0.0.0/8"], resolver);
    for target in ["name.example:9", "192.168.0.1:9", "[::1]:9", "[fe80::1]:9", "224.0.0.1:9"] {
        let error = failed(&direct, target).await;
        assert!(matches!(error, ConnectError::Denied(_)), "{target}: {error:?}");
    }
}

#[tokio::test]
async fn an_address_without_a_way_is_passed_over() {
    // A socket of this host cannot reach a broadcast address without asking for it.
    let (listener, port) = listener("127.0.0.1");
    let resolver = answering(&["255.255.255.255", "127.0.0.1"]);
    let direct = direct(&["127.0.0.0/8", "255.255.255.255/32"], resolver);
    let ours = opened(&direct, &format!("name.example:{port}")).await.unwrap();
    question_and_answer(ours, &listener).await;
    assert_eq!(failed(&direct, "255.255.255.255:9").await, ConnectError::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn every_other_failure_is_that_of_a_stream() {
    let silent = Arc::new(Scripted { answer: None, asked: AtomicUsize::new(0) });
    assert_eq!(failed(&direct(&[], silent), "name.example:9").await, ConnectError::TimedOut);
    let nothing = direct(&[], answering(&[]));
    let error = failed(&nothing, "name.example:9").await;
    assert_eq!(error, ConnectError::ResolveFailed(ResolveError::NoAddress));
    let request = OpenRequest {
        target: None,
        deadline: DEFAULT_DIAL_DEADLINE,
        lookups: LookupShare::default(),
    };
    let error = nothing.connect_datagrams(request).unwrap().await.unwrap_err();
    assert_eq!(error, ConnectError::NoTarget);
}

#[test]
fn a_connector_offers_datagrams_only_if_it_says_so() {
    struct Bytes;
    impl Connector for Bytes {
        fn connect(&self, _: OpenRequest) -> BoxFuture<'static, Result<Upstream, ConnectError>> {
            Box::pin(std::future::ready(Ok(Upstream::Echo)))
        }
        fn name(&self) -> &'static str {
            "bytes"
        }
    }
    let request = OpenRequest {
        target: None,
        deadline: DEFAULT_DIAL_DEADLINE,
        lookups: LookupShare::default(),
    };
    assert!(matches!(Bytes.connect_datagrams(request), Err(NoDatagrams)));
}
