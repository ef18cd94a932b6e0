//! A flow of datagrams to a target, through a connection.

use crate::driver::Shared;
use crate::state::State;
use crate::table::Progress;
use crate::wire::Wire;
use crate::{DatagramQueue, StreamFailure};
use httvps_proto::StreamKey;
use httvps_proto::v2::{HEADER, MAX_DATAGRAM, ResetCode};
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Payload bytes that wait in one direction of a flow, at most.
const MAX_BYTES: usize = 256 * 1024;

/// What waits for a flow's owner, and for the gateway.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    arrived: DatagramQueue,
    leaving: DatagramQueue,
    dropped: u64,
}

/// Datagrams to and from one target, opened by
/// [`Connection::begin_datagrams`](crate::Connection::begin_datagrams); second wire format only.
///
/// Datagrams keep their boundaries and may be lost: at most 64 datagrams and 256 KiB wait in either
/// direction (for the owner, or while more than 256 KiB are queued for the gateway), and a new one
/// evicts the oldest. It never delays other streams. Dropping the value closes the flow.
pub struct Datagrams {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: usize,
}

impl Datagrams {
    /// Sends one datagram of at most 65,507 bytes; a longer one is dropped, as is any once the flow
    /// is over.
    pub fn send(&self, datagram: &[u8]) {
        self.shared.with(|state| state.send_datagram(self.id, datagram));
    }

    /// Waits for the next datagram; an error says why there will be none, or that the gateway does
    /// not answer ([`StreamEnd::SessionEnded`](httvps_proto::StreamEnd::SessionEnded) in both cases: another connection may do). Cancel safe.
    pub async fn recv(&mut self) -> Result<Box<[u8]>, StreamFailure> {
        poll_fn(|cx| self.shared.with(|state| state.poll_datagram(self.id, cx))).await
    }

    /// What ends the flow on behalf of its owner.
    pub fn displacer(&self) -> Displacer {
        let key = self.shared.with(|state| state.table.slot(self.id).key);
        Displacer { shared: self.shared.clone(), key }
    }

    /// Datagrams that were dropped here, in both directions.
    pub fn dropped(&self) -> u64 {
        self.shared.with(|state| state.table.slot(self.id).mailbox().dropped)
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.shared.with(|state| state.drop_stream(self.id));
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").finish_non_exhaustive()
    }
}

/// Ends a flow of datagrams whose place is needed; see [`Datagrams::displacer`].
pub struct Displacer {
    shared: Arc<Shared>,
    /// Of the second wire format, which uses no id twice.
    key: Option<StreamKey>,
}

impl Displacer {
    /// Gives the place back at once; the owner's next [`Datagrams::recv`] fails with this message.
    pub fn displace(&self, words: &str) {
        if let Some(key) = self.key {
            self.shared.with(|state| state.displace(key, words));
        }
    }
}

impl fmt::Debug for Displacer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Displacer").finish_non_exhaustive()
    }
}

impl Mailbox {
    /// Keeps a datagram of the gateway for the owner.
    pub(crate) fn arrived(&mut self, datagram: &[u8]) {
        self.dropped += self.arrived.push(datagram, MAX_BYTES);
    }
}

impl State {
    fn send_datagram(&mut self, id: usize, datagram: &[u8]) {
        let slot = self.table.slot(id);
        let key = slot.key;
        let mailbox = slot.mailbox();
        let (Some(key), Some(carrier), Wire::V2(v2)) = (key, self.carrier.as_mut(), &mut self.wire)
        else {
            return;
        };
        if datagram.len() > MAX_DATAGRAM {
            mailbox.dropped += 1;
        } else if carrier.queued() > self.settings.max_queued || !mailbox.leaving.is_empty() {
            mailbox.dropped += mailbox.leaving.push(datagram, MAX_BYTES);
            self.table.has_leaving = true;
        } else {
            v2.write_datagram(key, datagram, &mut carrier.outbox());
            self.silence.used();
            self.effects.has_work = true;
        }
    }

    fn displace(&mut self, key: StreamKey, words: &str) {
        if !self.table.holds(key) {
            return;
        }
        let failure = StreamFailure::new(None, words);
        self.table.end(key, Progress::Failed(failure), &mut self.effects.wakes);
        if let Some(carrier) = &mut self.carrier {
            self.wire.reset(key, ResetCode::Cancelled, &mut carrier.outbox());
        }
        self.effects.has_changed = true;
        self.effects.has_work = true;
    }

    /// Sends the datagrams that waited for room, now that there is some.
    pub(crate) fn send_leaving(&mut self) {
        if !std::mem::take(&mut self.table.has_leaving) {
            return;
        }
        let (Some(carrier), Wire::V2(v2)) = (&mut self.carrier, &mut self.wire) else { return };
        let mut has_more = false;
        for slot in self.table.slots_mut() {
            let (Some(key), Some(mailbox)) = (slot.key, &mut slot.mailbox) else { continue };
            while carrier.queued() <= self.settings.max_queued
                && let Some(datagram) = mailbox.leaving.pop()
            {
                v2.write_datagram(key, &datagram, &mut carrier.outbox());
                self.effects.has_work = true;
            }
            has_more |= !mailbox.leaving.is_empty();
        }
        self.table.has_leaving = has_more;
    }

    fn poll_datagram(
        &mut self,
        id: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Box<[u8]>, StreamFailure>> {
        let is_silent = self.silence.is_silent();
        let slot = self.table.slot(id);
        if let Some(datagram) = slot.mailbox().arrived.pop() {
            return Poll::Ready(Ok(datagram));
        }
        match &slot.progress {
            Progress::Opening | Progress::Open if is_silent => {
                Poll::Ready(Err(StreamFailure::of_silence()))
            }
            Progress::Opening | Progress::Open => {
                slot.await_arrival(cx.waker());
                Poll::Pending
            }
            Progress::Failed(failure) => Poll::Ready(Err(failure.clone())),
            Progress::Eof | Progress::NoPlace => {
                let words = "the gateway has no place for another stream";
                Poll::Ready(Err(StreamFailure::new(None, words)))
            }
        }
    }
}

impl crate::wire::V2 {
    fn write_datagram(
        &mut self,
        stream: StreamKey,
        datagram: &[u8],
        out: &mut crate::LinkOutbox<'_>,
    ) {
        if self.session.is_open(stream.0) {
            out.binary(HEADER + datagram.len(), |frames| {
                self.session.write_datagram(stream.0, datagram, frames);
            });
        }
    }
}
