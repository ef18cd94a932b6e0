//! Flows of datagrams on behalf of local programs: one task each.

use crate::{Open, OpenDatagrams, OpenError, StreamEnd, Target};
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Flows at once; a newcomer takes the place of the one that has been quiet for longest.
const MAX_FLOWS: usize = 32;

/// Datagrams of a program that wait while their flow is being opened; more are dropped.
const MAX_WAITING: usize = 16;

/// How long a flow may be quiet before its place is given back. One to a name server is over with
/// its answer, and every place of a session counts.
const QUIET: Duration = Duration::from_mins(1);
const QUIET_DNS: Duration = Duration::from_secs(5);
const DNS: u16 = 53;

thread_local! {
    /// Where datagrams of programs are received; used without waiting, so one per worker is enough.
    static RECEIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; 65_535].into());
}

/// Flows by what tells them apart.
pub(crate) struct Flows<K, O> {
    opener: Arc<O>,
    socket: Arc<UdpSocket>,
    table: HashMap<K, Flow>,
    tasks: JoinSet<Ended<K>>,
    serial: u64,
}

struct Flow {
    datagrams: mpsc::Sender<Box<[u8]>>,
    used: Instant,
    serial: u64,
}

/// A flow that is over; its serial, since another one may have taken its key.
type Ended<K> = (K, u64, Target, Result<(), OpenError>);

/// Where the answers of a flow go.
pub(crate) struct Way {
    pub(crate) program: SocketAddr,
    /// Put in front of every datagram.
    pub(crate) header: Box<[u8]>,
}

impl<K: Clone + Eq + Hash + Send + 'static, O: Open> Flows<K, O> {
    /// Flows of the programs that send to `socket`.
    pub(crate) fn new(opener: Arc<O>, socket: Arc<UdpSocket>) -> Self {
        Self { opener, socket, table: HashMap::new(), tasks: JoinSet::new(), serial: 0 }
    }

    /// Waits for something to do: a datagram of a program is given to `take`, which must not wait;
    /// a flow that could not be opened is returned. Cancel safe.
    pub(crate) async fn next(
        &mut self,
        mut take: impl FnMut(&mut Self, SocketAddr, &[u8]),
    ) -> io::Result<Option<(Target, OpenError)>> {
        tokio::select! {
            ready = self.socket.readable() => {
                ready?;
                let socket = self.socket.clone();
                let received = RECEIVED.with_borrow_mut(|space| {
                    socket.try_recv_from(space).map(|(count, source)| {
                        take(self, source, &space[..count]);
                    })
                });
                match received {
                    // A refusal of an earlier answer says nothing of the next datagram.
                    Err(error) if is_lasting(&error) => Err(error),
                    _ => Ok(None),
                }
            }
            Some(ended) = self.tasks.join_next() => {
                let Ok((key, serial, target, result)) = ended else { return Ok(None) };
                if self.table.get(&key).is_some_and(|flow| flow.serial == serial) {
                    self.table.remove(&key);
                }
                Ok(result.err().map(|error| (target, error)))
            }
        }
    }

    /// Hands a datagram to its flow, which is opened for it if need be.
    pub(crate) fn pass(
        &mut self,
        key: &K,
        target: &Target,
        way: impl FnOnce() -> Way,
        datagram: &[u8],
    ) {
        let now = Instant::now();
        let known = self.table.get_mut(key).filter(|flow| !flow.datagrams.is_closed());
        if let Some(flow) = known {
            flow.used = now;
            // One that does not find room is lost, as datagrams may be.
            let _ = flow.datagrams.try_send(datagram.into());
            return;
        }
        if self.table.len() >= MAX_FLOWS {
            let quietest = self.table.iter().min_by_key(|(_, flow)| flow.used);
            let quietest = quietest.map(|(key, _)| key.clone());
            quietest.map(|key| self.table.remove(&key));
        }
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let _ = sender.try_send(datagram.into());
        self.serial += 1;
        let serial = self.serial;
        self.table.insert(key.clone(), Flow { datagrams: sender, used: now, serial });
        let (opener, socket, way) = (self.opener.clone(), self.socket.clone(), way());
        let (key, target) = (key.clone(), target.clone());
        self.tasks.spawn(async move {
            let result = carry(&*opener, &target, receiver, &socket, &way).await;
            (key, serial, target, result)
        });
    }
}

/// Whether a socket will fail again.
fn is_lasting(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    !matches!(error.kind(), Kind::WouldBlock | Kind::ConnectionRefused | Kind::ConnectionReset)
}

/// Moves the datagrams of one flow both ways until it is over or quiet. When its session ends or
/// falls silent it goes on through another one, with the datagram that has not been answered.
async fn carry<O: Open>(
    opener: &O,
    target: &Target,
    mut from_program: mpsc::Receiver<Box<[u8]>>,
    socket: &UdpSocket,
    way: &Way,
) -> Result<(), OpenError> {
    let mut flow = opener.open_datagrams(target).await?;
    let mut unanswered = None;
    let quiet = if target.port == DNS { QUIET_DNS } else { QUIET };
    let mut answer = way.header.to_vec();
    let mut until = Instant::now() + quiet;
    loop {
        tokio::select! {
            datagram = from_program.recv() => match datagram {
                Some(datagram) => {
                    flow.send(&datagram);
                    unanswered = Some(datagram);
                }
                None => return Ok(()),
            },
            datagram = flow.recv() => match datagram {
                Ok(datagram) => {
                    unanswered = None;
                    answer.truncate(way.header.len());
                    answer.extend_from_slice(&datagram);
                    // A program that does not read in time loses datagrams, as everywhere.
                    let _ = socket.try_send_to(&answer, way.program);
                    answer.shrink_to(4096);
                }
                Err(failure) if failure.end == Some(StreamEnd::SessionEnded) => {
                    // The next datagram of the program opens another flow.
                    let Some(datagram) = unanswered.take() else { return Ok(()) };
                    flow = opener.open_datagrams(target).await?;
                    flow.send(&datagram);
                }
                Err(failure) => return Err(OpenError::Failed(failure)),
            },
            () = sleep_until(until) => return Ok(()),
        }
        until = Instant::now() + quiet;
    }
}
