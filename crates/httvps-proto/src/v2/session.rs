//! Either side's state of a session.

mod windows;

use super::event::{Event, GoneAway, Limits, OpenError, Violation};
use super::pings::Pings;
use super::stream::Stream;
use super::window::{SendCredit, Window};
use super::{
    Budget, Frame, INITIAL_SESSION_CREDIT, INITIAL_STREAM_CREDIT, Kind, MAX_DATA, MAX_DATAGRAM,
    MAX_TARGET, ResetCode, Scarce, Side,
};
use crate::Bucket;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// One session of the second wire format, on either side, after its `auth_result`.
///
/// Inputs are [`Self::handle_frame`] for every frame of [`super::Frames`]; commands append frames
/// to `out`, the payload of the next binary message. After a [`Violation`] call
/// [`Self::break_off`] and close the connection with 1002. Time is an argument.
///
/// **Credit.** What a peer may send is bounded by each stream's window and by the session's. The
/// session's window is [`INITIAL_SESSION_CREDIT`], what the streams' windows have grown by, and what
/// stuck next hops hold: so they cannot take the credit of other streams, as long as all of it fits
/// [`Limits::max_session_window`] and what the process's [`Budget`] has left. Windows grow as the
/// private `stream` module says; a stream that ends gives its share back. Idle streams cost nothing.
///
/// Memory: about 120 bytes a stream; what the next hops have not taken is the owner's to keep, at
/// most [`Self::held`] bytes, which never exceeds [`Self::window`].
#[derive(Debug)]
pub struct Session {
    side: Side,
    limits: Limits,
    budget: Budget,
    streams: HashMap<u32, Stream>,
    last_id: u32,
    opens: Bucket,
    send: SendCredit,
    window: Window,
    /// Sum of the streams' windows.
    promised: u64,
    /// The part of it above the initial credit.
    grown: u64,
    /// What of the window's growth the budget has again although it is still promised: see [`Self::rest`].
    returned: u32,
    /// When next hops last took bytes.
    consumed_at: Option<Instant>,
    /// Windows could not grow as they wanted when they last tried.
    is_lacking: bool,
    lacked: Option<Scarce>,
    pings: Pings,
    /// When the peer last sent small messages, which should not wait behind bulk, and on which stream.
    small: Option<(Instant, u32)>,
    is_going_away: bool,
    /// When the session ends, as far as the gateway has said.
    ends_at: Option<Instant>,
}

impl Session {
    /// A session without streams.
    pub fn new(side: Side, limits: Limits, budget: Budget, now: Instant) -> Self {
        Self {
            side,
            opens: Bucket::new(limits.max_opens_per_second, limits.max_open_burst, now),
            limits,
            budget,
            streams: HashMap::new(),
            last_id: 0,
            send: SendCredit::new(INITIAL_SESSION_CREDIT),
            window: Window::new(INITIAL_SESSION_CREDIT),
            promised: 0,
            grown: 0,
            returned: 0,
            consumed_at: None,
            is_lacking: false,
            lacked: None,
            pings: Pings::default(),
            small: None,
            is_going_away: false,
            ends_at: None,
        }
    }

    /// Handles one frame of the peer.
    pub fn handle_frame<'m>(
        &mut self,
        now: Instant,
        frame: Frame<'m>,
        out: &mut Vec<u8>,
    ) -> Result<Event<'m>, Violation> {
        match frame {
            Frame::Open { stream, kind, target } => {
                self.handle_open(now, stream, kind, target, out)
            }
            Frame::Opened { stream } => match self.known(stream)? {
                Some(known) if known.is_opened => Err(Violation::OpenedTwice),
                Some(known) => {
                    known.is_opened = true;
                    Ok(Event::Opened(stream))
                }
                None => Ok(Event::Nothing),
            },
            Frame::Data { stream, data } => self.handle_data(stream, data, out),
            Frame::Finish { stream } => self.handle_finish(stream, out),
            Frame::Reset { stream, code, words } => {
                if self.known(stream)?.is_none() {
                    return Ok(Event::Nothing);
                }
                self.remove(stream, out);
                Ok(Event::Reset { stream, code, words })
            }
            Frame::Credit { stream, increment } => self.handle_credit(stream, increment),
            Frame::Datagram { stream, data } => match self.known(stream)? {
                Some(known) if known.kind == Kind::Datagrams => {
                    self.small = Some((now, stream));
                    Ok(Event::Datagram { stream, data })
                }
                Some(_) => Err(Violation::WrongKind),
                None => Ok(Event::Nothing),
            },
            Frame::Ping { opaque } => {
                Frame::Pong { opaque }.encode(out);
                Ok(Event::Nothing)
            }
            Frame::Pong { opaque } => {
                Ok(self.pings.answered(now, opaque).map_or(Event::Nothing, Event::RoundTrip))
            }
            Frame::GoAway { code, deadline_ms, words } => {
                self.is_going_away = true;
                let deadline = self.shorten(now, Duration::from_millis(deadline_ms.into()));
                Ok(Event::GoAway(GoneAway { code, deadline, words }))
            }
            Frame::Skipped => Ok(Event::Nothing),
        }
    }

    fn handle_open<'m>(
        &mut self,
        now: Instant,
        stream: u32,
        kind: Kind,
        target: &'m str,
        out: &mut Vec<u8>,
    ) -> Result<Event<'m>, Violation> {
        if stream <= self.last_id {
            return Err(Violation::ReusedStream);
        }
        self.last_id = stream;
        let code = if self.is_going_away {
            ResetCode::GoingAway
        } else if self.streams.len() >= self.limits.max_streams || !self.opens.try_take(now) {
            ResetCode::Limit
        } else {
            self.insert(stream, kind, now);
            return Ok(Event::Open { stream, kind, target });
        };
        Frame::Reset { stream, code, words: "" }.encode(out);
        Ok(Event::Refused(code))
    }

    fn handle_data<'m>(
        &mut self,
        stream: u32,
        data: &'m [u8],
        out: &mut Vec<u8>,
    ) -> Result<Event<'m>, Violation> {
        match self.known(stream)? {
            Some(known) if known.kind != Kind::Bytes => return Err(Violation::WrongKind),
            Some(known) if known.has_received_finish => return Err(Violation::AfterFinish),
            known => {
                let is_known = known.is_some();
                let has_credit = known.is_none_or(|known| known.window.receive(data.len()));
                if !has_credit || !self.window.receive(data.len()) {
                    return Err(Violation::CreditExceeded);
                }
                if is_known && !data.is_empty() {
                    if self.returned > 0 {
                        self.resume();
                    }
                    if self.window.outstanding() < 2 * INITIAL_STREAM_CREDIT {
                        // What is held now must not be missing to the other streams.
                        self.fit();
                        self.grant_session(out);
                    }
                    return Ok(Event::Data { stream, data });
                }
            }
        }
        // It crossed with the end of its stream: taken at once.
        self.release(data.len(), out);
        Ok(Event::Nothing)
    }

    fn handle_finish(
        &mut self,
        stream: u32,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>, Violation> {
        let Some(known) = self.known(stream)? else {
            return Ok(Event::Nothing);
        };
        if known.kind != Kind::Bytes {
            return Err(Violation::WrongKind);
        }
        if std::mem::replace(&mut known.has_received_finish, true) {
            return Err(Violation::AfterFinish);
        }
        self.remove_if_over(stream, out);
        Ok(Event::Finish(stream))
    }

    fn handle_credit(&mut self, stream: u32, increment: u32) -> Result<Event<'static>, Violation> {
        let credit = if stream == 0 {
            &mut self.send
        } else {
            match self.known(stream)? {
                Some(known) if known.kind == Kind::Bytes => &mut known.send,
                Some(_) => return Err(Violation::WrongKind),
                None => return Ok(Event::Nothing),
            }
        };
        if credit.add(increment) {
            Ok(Event::Credit(stream))
        } else {
            Err(Violation::CreditOverflow)
        }
    }

    /// Client: opens a stream. DATA may follow at once.
    pub fn open(
        &mut self,
        now: Instant,
        kind: Kind,
        target: &str,
        out: &mut Vec<u8>,
    ) -> Result<u32, OpenError> {
        if target.len() > MAX_TARGET {
            return Err(OpenError::TargetTooLong);
        }
        if self.is_going_away {
            return Err(OpenError::GoingAway);
        }
        if self.streams.len() >= self.limits.max_streams {
            return Err(OpenError::NoPlace);
        }
        let stream = self.last_id.checked_add(1).ok_or(OpenError::NoMoreIds)?;
        self.last_id = stream;
        Frame::Open { stream, kind, target }.encode(out);
        self.insert(stream, kind, now);
        Ok(stream)
    }

    /// Gateway: sends OPENED. Only the first call for a stream has an effect.
    pub fn opened(&mut self, stream: u32, out: &mut Vec<u8>) {
        let unopened = self.streams.get_mut(&stream).filter(|known| !known.is_opened);
        if let Some(known) = unopened {
            known.is_opened = true;
            Frame::Opened { stream }.encode(out);
        }
    }

    /// Bytes that may be sent on a stream now; 0 when it has finished or is over.
    pub fn sendable(&self, stream: u32) -> usize {
        match self.streams.get(&stream) {
            Some(stream) if stream.kind == Kind::Bytes && !stream.has_sent_finish => {
                stream.send.left().min(self.send.left())
            }
            _ => 0,
        }
    }

    /// Bytes that the credit of just this stream allows.
    pub fn stream_sendable(&self, stream: u32) -> usize {
        self.streams.get(&stream).map_or(0, |stream| stream.send.left())
    }

    /// Bytes that may be sent on all streams together.
    pub fn session_sendable(&self) -> usize {
        self.send.left()
    }

    /// Sends as many bytes as one frame and the credit allow; returns how many.
    pub fn write(&mut self, stream: u32, data: &[u8], out: &mut Vec<u8>) -> usize {
        let count = data.len().min(MAX_DATA).min(self.sendable(stream));
        if let Some(known) = self.streams.get_mut(&stream).filter(|_| count > 0) {
            known.send.spend(count);
            self.send.spend(count);
            Frame::Data { stream, data: &data[..count] }.encode(out);
        }
        count
    }

    /// As [`Self::write`] for a caller that reads its payload straight into the message: `read`
    /// appends at most as many bytes as it is told. Returns how many that were; a frame is sent
    /// only when there are some.
    pub fn write_with<R>(
        &mut self,
        stream: u32,
        max: usize,
        out: &mut Vec<u8>,
        read: impl FnOnce(&mut Vec<u8>, usize) -> R,
    ) -> (usize, R) {
        let max = max.min(MAX_DATA).min(self.sendable(stream));
        let at = out.len();
        Frame::Data { stream, data: &[] }.encode(out);
        let start = out.len();
        let result = read(out, max);
        // No more than the credit may go out, even if the caller appended more.
        out.truncate(start + max);
        let count = out.len().saturating_sub(start);
        if count == 0 {
            out.truncate(at);
            return (0, result);
        }
        super::frame::set_length(&mut out[at..start], count);
        if let Some(known) = self.streams.get_mut(&stream) {
            known.send.spend(count);
            self.send.spend(count);
        }
        (count, result)
    }

    /// Sends a datagram; false when the stream is over, of the other kind, or the datagram longer
    /// than [`MAX_DATAGRAM`].
    pub fn write_datagram(&mut self, stream: u32, data: &[u8], out: &mut Vec<u8>) -> bool {
        let known = self.streams.get(&stream).map(|stream| stream.kind);
        let may_send = known == Some(Kind::Datagrams) && data.len() <= MAX_DATAGRAM;
        if may_send {
            Frame::Datagram { stream, data }.encode(out);
        }
        may_send
    }

    /// Sends no more on a stream of bytes; what the peer sends still arrives.
    pub fn finish(&mut self, stream: u32, out: &mut Vec<u8>) {
        match self.streams.get_mut(&stream) {
            Some(known) if known.kind == Kind::Bytes && !known.has_sent_finish => {
                known.has_sent_finish = true;
                Frame::Finish { stream }.encode(out);
                self.remove_if_over(stream, out);
            }
            _ => {}
        }
    }

    /// Ends a stream in both directions. Bytes that still wait for its next hop are to be dropped.
    pub fn reset(&mut self, stream: u32, code: ResetCode, words: &str, out: &mut Vec<u8>) {
        if self.is_open(stream) {
            Frame::Reset { stream, code, words }.encode(out);
            self.remove(stream, out);
        }
    }

    /// Records that the next hop of a stream took bytes of [`Event::Data`], and grants new credit when
    /// enough of it has come together. No effect on a stream that is over.
    pub fn consumed(&mut self, stream: u32, bytes: usize, now: Instant, out: &mut Vec<u8>) {
        let Some(known) = self.streams.get_mut(&stream) else {
            return;
        };
        self.consumed_at = Some(now);
        let bytes = known.consume(bytes) as usize;
        if !known.has_received_finish {
            self.fit_stream(stream, now);
            let granted = self.streams.get_mut(&stream).and_then(|known| known.window.grant(0));
            if let Some(increment) = granted {
                Frame::Credit { stream, increment }.encode(out);
            }
        }
        self.release(bytes, out);
        self.remove_if_over(stream, out);
    }

    /// Measures the round trip; false when [`MAX_PINGS`](super::MAX_PINGS) are unanswered.
    pub fn ping(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        self.pings.send(now, out)
    }

    /// Measures the round trip, which the windows are to fit, when it is time: at the first call, 0.1 s
    /// later, and then after pauses that double up to 10 s. Call it whenever something has happened;
    /// an idle session need not be measured.
    pub fn ping_when_due(&mut self, now: Instant, out: &mut Vec<u8>) {
        if self.pings.take_due(now) {
            self.pings.send(now, out);
        }
    }

    /// Gateway: announces the end of the session. New streams are refused from now on.
    pub fn go_away(&mut self, code: ResetCode, deadline: Duration, words: &str, out: &mut Vec<u8>) {
        self.is_going_away = true;
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        Frame::GoAway { code, deadline_ms, words }.encode(out);
    }

    /// Ends the session after a violation: all streams are over, and a gateway says why. Close the
    /// connection with 1002 behind it and hand in nothing more.
    pub fn break_off(&mut self, violation: Violation, out: &mut Vec<u8>) {
        self.streams.clear();
        if self.side == Side::Gateway {
            self.go_away(ResetCode::ProtocolError, Duration::ZERO, violation.words(), out);
        }
    }

    /// Whether the stream is there: opened, and not over.
    pub fn is_open(&self, stream: u32) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Whether the stream is there and OPENED has said so.
    pub fn is_opened(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|known| known.is_opened)
    }

    /// Streams that are not over.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Bytes that arrived and were not consumed.
    pub fn held(&self) -> usize {
        self.window.held() as usize
    }

    /// Bytes that are promised to the peer in all: the most that [`Self::held`] can come to.
    pub fn window(&self) -> usize {
        self.window.size() as usize
    }

    /// The shortest round trip that was measured.
    pub fn round_trip(&self) -> Option<Duration> {
        self.pings.shortest()
    }

    /// The time until the end: the earliest that was announced counts.
    fn shorten(&mut self, now: Instant, deadline: Duration) -> Duration {
        let ends_at = self.ends_at.map_or(now + deadline, |known| known.min(now + deadline));
        self.ends_at = Some(ends_at);
        ends_at.saturating_duration_since(now)
    }

    /// The stream of a frame; None when it is over; an error when it never was.
    fn known(&mut self, stream: u32) -> Result<Option<&mut Stream>, Violation> {
        if stream > self.last_id {
            return Err(Violation::UnopenedStream);
        }
        Ok(self.streams.get_mut(&stream))
    }

    fn insert(&mut self, stream: u32, kind: Kind, now: Instant) {
        self.streams.insert(stream, Stream::new(kind, now));
        if kind == Kind::Bytes {
            self.promised += u64::from(INITIAL_STREAM_CREDIT);
        }
    }

    fn remove(&mut self, stream: u32, out: &mut Vec<u8>) {
        let Some(known) = self.streams.remove(&stream) else {
            return;
        };
        if known.kind == Kind::Bytes {
            self.promised -= u64::from(known.window.size());
            self.grown -= u64::from(known.window.size() - INITIAL_STREAM_CREDIT);
        }
        if self.streams.is_empty() {
            // A peak of streams is no reason to hold its table for ever.
            self.streams = HashMap::new();
        }
        debug_assert!(self.is_balanced(), "the sums are those of the windows");
        self.release(known.window.held() as usize, out);
    }

    fn remove_if_over(&mut self, stream: u32, out: &mut Vec<u8>) {
        if self.streams.get(&stream).is_some_and(Stream::is_over) {
            self.remove(stream, out);
        }
    }
}
