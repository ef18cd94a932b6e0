//! The operations of a stream's owner.

use crate::connection::OpenError;
use crate::link::CHUNK;
use crate::state::State;
use crate::stream::StreamFailure;
use crate::table::Progress;
use httvps_proto::v2::ResetCode;
use std::io;
use std::task::{Context, Poll};
use tokio::io::ReadBuf;

impl State {
    /// Ready when the gateway has accepted or refused the stream.
    pub(crate) fn poll_open(
        &mut self,
        id: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), OpenError>> {
        let end = self.end();
        let is_silent = self.silence.is_silent();
        let slot = self.table.slot(id);
        Poll::Ready(match &slot.progress {
            Progress::Opening if is_silent => Err(OpenError::Silent),
            Progress::Opening => {
                slot.await_arrival(cx.waker());
                return Poll::Pending;
            }
            Progress::Open | Progress::Eof => Ok(()),
            Progress::NoPlace => Err(OpenError::NoPlace),
            Progress::Failed(failure) => match end {
                Some(end) => Err(OpenError::Closed(end)),
                None => Err(OpenError::Failed(failure.clone())),
            },
        })
    }

    pub(crate) fn poll_read(
        &mut self,
        id: usize,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let had_room = self.table.has_room();
        let taken = self.table.read(id, buf);
        if buf.remaining() == 0 || taken > 0 {
            self.effects.has_work |= !had_room && self.table.has_room();
            self.credit_back(id, taken);
            return Poll::Ready(Ok(()));
        }
        let slot = self.table.slot(id);
        match &slot.progress {
            Progress::Opening | Progress::Open => {
                slot.await_arrival(cx.waker());
                Poll::Pending
            }
            Progress::Eof => Poll::Ready(Ok(())),
            ended => Poll::Ready(Err(error_of(ended))),
        }
    }

    pub(crate) fn poll_write(
        &mut self,
        id: usize,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let slot = self.table.slot(id);
        if slot.is_write_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let (Some(key), Some(carrier)) = (slot.key, self.carrier.as_mut()) else {
            return Poll::Ready(Err(error_of(&slot.progress)));
        };
        if carrier.queued() > self.settings.max_queued {
            self.table.await_room(id, cx.waker());
            return Poll::Pending;
        }
        let credit = self.wire.credit(key);
        if credit == 0 && !data.is_empty() {
            self.table.await_credit(id, cx.waker());
            return Poll::Pending;
        }
        let data = &data[..data.len().min(CHUNK).min(credit)];
        if !data.is_empty() {
            self.wire.write(key, data, &mut carrier.outbox());
            self.silence.used();
            self.effects.has_work = true;
        }
        Poll::Ready(Ok(data.len()))
    }

    /// Says that a reader took bytes, so that the gateway may send as many again.
    fn credit_back(&mut self, id: usize, taken: usize) {
        if let (Some(key), Some(carrier)) = (self.table.slot(id).key, self.carrier.as_mut())
            && taken > 0
        {
            let queued = carrier.queued();
            let now = tokio::time::Instant::now().into_std();
            self.wire.consumed(key, taken, now, &mut carrier.outbox());
            self.effects.has_work |= carrier.queued() > queued;
        }
    }

    pub(crate) fn shut_write(&mut self, id: usize) {
        let slot = self.table.slot(id);
        slot.is_write_shut = true;
        if let (Some(key), Some(carrier)) = (slot.key, self.carrier.as_mut()) {
            self.wire.finish(key, &mut carrier.outbox());
            self.effects.has_work = true;
        }
    }

    pub(crate) fn drop_stream(&mut self, id: usize) {
        let is_broken = self.table.unread(id) > 0 || self.table.slot(id).is_broken_off;
        if let Some(key) = self.table.remove(id) {
            if let Some(carrier) = &mut self.carrier {
                let mut out = carrier.outbox();
                if is_broken {
                    self.wire.reset(key, ResetCode::Cancelled, &mut out);
                } else {
                    self.wire.close(key, &mut out);
                }
            }
            self.effects.has_changed = true;
        }
        self.effects.has_work = true;
    }
}

fn error_of(progress: &Progress) -> io::Error {
    match progress {
        Progress::Failed(failure) => failure.to_error(),
        Progress::NoPlace => {
            StreamFailure::new(None, "the gateway has no place for another stream").to_error()
        }
        Progress::Eof | Progress::Opening | Progress::Open => io::ErrorKind::BrokenPipe.into(),
    }
}
