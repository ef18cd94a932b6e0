//! One stream of datagrams: a socket that is connected to one target, and a queue in each direction.

use super::relay::{Turn, end_of_dial};
use httvps_egress::{DatagramDial, DatagramSocket, DatagramUpstream, end_of_datagram_error};
use httvps_mux::{DatagramQueue, Ready, StreamWaker};
use httvps_proto::v2::MAX_DATAGRAM;
use httvps_proto::{StreamEnd, StreamKey, Target};
use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::io::ReadBuf;

use httvps_telemetry::metrics::Direction;

/// Payload bytes that one queue of a stream may hold, if its session holds little else.
const MAX_QUEUE_BYTES: usize = 256 * 1024;
/// Datagrams and bytes towards the client in one turn of a stream: as much as a stream of bytes moves.
const TURN_DATAGRAMS: usize = 16;
const TURN_BYTES: usize = 16 * 1024;
/// Idle time-out for streams to a name server, which carry one query and its answer.
const DNS_PORT: u16 = 53;
const DNS_IDLE: Duration = Duration::from_secs(17);

thread_local! {
    /// Where sockets are read into; used within one poll only, so one per worker is enough. One byte more than a frame
    /// takes, so that a datagram that is too long shows.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_DATAGRAM + 1].into_boxed_slice());
}

/// One stream of datagrams of a session.
///
/// Datagrams towards the target wait only while the socket is being opened or takes no more, those towards the client
/// only while its link is full. Each queue holds at most 64 datagrams and 256 KiB, and less while the session's other
/// queues are full, but always one datagram; the oldest are dropped first. A socket is read whether or not there is room for the client, so that what waits is
/// the latest.
pub(super) struct Datagrams {
    outlet: Outlet,
    to_target: DatagramQueue,
    to_client: DatagramQueue,
    stream_waker: Arc<StreamWaker>,
    waker: Waker,
    /// The socket failed when a datagram was handed on ahead of the stream's turn.
    failure: Option<StreamEnd>,
    last_active: Instant,
    idle: Duration,
    /// It is in the session's list of those that wait for room.
    pub(super) is_listed: bool,
}

enum Outlet {
    Dialing(DatagramDial),
    Echo,
    Blackhole,
    Socket(Box<dyn DatagramSocket>),
}

/// What a stream of datagrams needs of its session.
pub(super) trait Way {
    /// Whether a datagram may be sent to the client now.
    fn has_room(&self) -> bool;
    /// Sends one datagram to the client.
    fn send(&mut self, datagram: &[u8]);
    /// The socket is ready.
    fn opened(&mut self);
    /// Payload bytes that both queues of this stream may hold, in view of what the session's other streams hold.
    fn max_waiting_bytes(&self) -> usize;
    /// Datagrams were dropped.
    fn dropped(&mut self, direction: Direction, count: u64);
}

/// How long a stream may be idle.
pub(super) fn idle_timeout(setting: Duration, target: Option<&Target>) -> Duration {
    match target {
        Some(target) if target.port == DNS_PORT => setting.min(DNS_IDLE),
        _ => setting,
    }
}

/// What is left of a turn.
struct Allowance {
    datagrams: usize,
    bytes: usize,
}

impl Allowance {
    fn is_spent(&self) -> bool {
        self.datagrams == 0 || self.bytes == 0
    }

    fn spend(&mut self, bytes: usize) {
        self.datagrams -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Datagrams {
    pub(super) fn new(
        dial: DatagramDial,
        idle: Duration,
        ready: &Arc<Ready>,
        stream: StreamKey,
        now: Instant,
    ) -> Self {
        let stream_waker = StreamWaker::new(ready, stream);
        Self {
            outlet: Outlet::Dialing(dial),
            to_target: DatagramQueue::default(),
            to_client: DatagramQueue::default(),
            waker: stream_waker.clone().into(),
            stream_waker,
            failure: None,
            last_active: now,
            idle,
            is_listed: false,
        }
    }

    /// Takes a datagram of the client. What cannot be handed on at once is kept, or pushes out what was kept.
    pub(super) fn handle_datagram(&mut self, datagram: &[u8], now: Instant, way: &mut impl Way) {
        self.last_active = now;
        match &mut self.outlet {
            Outlet::Blackhole => {}
            Outlet::Echo => {
                self.hand_to_client(datagram, way);
                if !self.to_client.is_empty() {
                    self.stream_waker.schedule();
                }
            }
            Outlet::Dialing(_) => self.keep_for_target(datagram, way),
            Outlet::Socket(_) if !self.to_target.is_empty() => self.keep_for_target(datagram, way),
            Outlet::Socket(socket) => {
                match poll_send(&mut **socket, &self.waker, datagram) {
                    Poll::Pending => self.keep_for_target(datagram, way),
                    Poll::Ready(Ok(lost)) => way.dropped(Direction::In, lost),
                    Poll::Ready(Err(end)) => {
                        // Only a turn can end the stream.
                        self.failure = Some(end);
                        self.stream_waker.schedule();
                    }
                }
            }
        }
    }

    /// Its place among the streams that wait for a turn.
    pub(super) fn waker(&self) -> &StreamWaker {
        &self.stream_waker
    }

    /// Moves what can be moved in one turn. Never blocks; whatever it waits for schedules the stream again.
    pub(super) fn poll(&mut self, now: Instant, way: &mut impl Way) -> Turn {
        self.stream_waker.clear();
        if let Outlet::Dialing(dial) = &mut self.outlet {
            match dial.as_mut().poll(&mut Context::from_waker(&self.waker)) {
                Poll::Pending => return Turn::Waiting,
                Poll::Ready(Err(error)) => return Turn::Ended(end_of_dial(error)),
                Poll::Ready(Ok(upstream)) => {
                    self.outlet = upstream.into();
                    self.last_active = now;
                    way.opened();
                }
            }
        }
        if let Some(end) = self.failure.or_else(|| self.poll_target(way).err()) {
            return Turn::Ended(end);
        }
        let mut allowance = Allowance { datagrams: TURN_DATAGRAMS, bytes: TURN_BYTES };
        self.flush_to_client(&mut allowance, way);
        match self.poll_socket(now, &mut allowance, way) {
            Err(end) => Turn::Ended(end),
            Ok(()) if allowance.is_spent() => Turn::More,
            Ok(()) if !self.to_client.is_empty() => Turn::NoRoom,
            Ok(()) => Turn::Waiting,
        }
    }

    /// Hands on what waits for the target: at most a queue full.
    fn poll_target(&mut self, way: &mut impl Way) -> Result<(), StreamEnd> {
        while let Some(datagram) = self.to_target.front() {
            match &mut self.outlet {
                Outlet::Dialing(_) => return Ok(()),
                Outlet::Blackhole => {}
                Outlet::Echo => {
                    let datagram = self.to_target.pop().unwrap_or_default();
                    self.hand_to_client(&datagram, way);
                    continue;
                }
                Outlet::Socket(socket) => match poll_send(&mut **socket, &self.waker, datagram) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(lost) => way.dropped(Direction::In, lost?),
                },
            }
            self.to_target.pop();
        }
        Ok(())
    }

    /// Sends what waits for the client, as far as there is room and the turn goes.
    fn flush_to_client(&mut self, allowance: &mut Allowance, way: &mut impl Way) {
        while !allowance.is_spent() && way.has_room() {
            let Some(datagram) = self.to_client.pop() else { return };
            allowance.spend(datagram.len());
            way.send(&datagram);
        }
    }

    /// Reads the socket, as far as the turn goes.
    fn poll_socket(
        &mut self,
        now: Instant,
        allowance: &mut Allowance,
        way: &mut impl Way,
    ) -> Result<(), StreamEnd> {
        READ.with_borrow_mut(|space| {
            while !allowance.is_spent() {
                let Outlet::Socket(socket) = &mut self.outlet else { return Ok(()) };
                let mut buffer = ReadBuf::new(space);
                match socket.poll_recv(&mut Context::from_waker(&self.waker), &mut buffer) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(error)) => survive(&error)?,
                    Poll::Ready(Ok(())) => {
                        self.last_active = now;
                        self.hand_to_client(buffer.filled(), way);
                    }
                }
                allowance.spend(buffer.filled().len());
            }
            Ok(())
        })
    }

    /// Sends a datagram to the client, or keeps it until there is room.
    fn hand_to_client(&mut self, datagram: &[u8], way: &mut impl Way) {
        if datagram.len() > MAX_DATAGRAM {
            // IPv6 carries up to 20 bytes more than a frame does.
            way.dropped(Direction::Out, 1);
        } else if self.to_client.is_empty() && way.has_room() {
            way.send(datagram);
        } else {
            let most = queue_bound(way.max_waiting_bytes(), &self.to_target);
            let dropped = self.to_client.push(datagram, most);
            way.dropped(Direction::Out, dropped);
        }
    }

    fn keep_for_target(&mut self, datagram: &[u8], way: &mut impl Way) {
        let most = queue_bound(way.max_waiting_bytes(), &self.to_client);
        let dropped = self.to_target.push(datagram, most);
        way.dropped(Direction::In, dropped);
    }

    /// Payload bytes that wait in both directions.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.to_target.bytes() + self.to_client.bytes()
    }

    /// When the stream is ended for moving nothing.
    pub(super) fn idle_at(&self) -> Instant {
        self.last_active + self.idle
    }
}

impl From<DatagramUpstream> for Outlet {
    fn from(upstream: DatagramUpstream) -> Self {
        match upstream {
            DatagramUpstream::Echo => Self::Echo,
            DatagramUpstream::Blackhole => Self::Blackhole,
            DatagramUpstream::Socket(socket) => Self::Socket(socket),
        }
    }
}

/// Payload bytes that a queue may hold while the other direction's holds what it does.
fn queue_bound(of_both: usize, other: &DatagramQueue) -> usize {
    of_both.saturating_sub(other.bytes()).clamp(MAX_DATAGRAM, MAX_QUEUE_BYTES)
}

/// Hands a datagram to the system; returns how many were lost at that, none or this one.
fn poll_send(
    socket: &mut dyn DatagramSocket,
    waker: &Waker,
    datagram: &[u8],
) -> Poll<Result<u64, StreamEnd>> {
    socket.poll_send(&mut Context::from_waker(waker), datagram).map(|sent| match sent {
        Ok(()) => Ok(0),
        Err(error) => survive(&error).map(|()| 1),
    })
}

/// Ok for an error that cost one datagram only; otherwise the end of the stream.
fn survive(error: &std::io::Error) -> Result<(), StreamEnd> {
    match end_of_datagram_error(error) {
        None => Ok(()),
        Some(reason) => Err(StreamEnd::from_token(reason).unwrap_or(StreamEnd::Io)),
    }
}

#[cfg(test)]
mod tests;
