//! A question that waits for its answer on a stream.

use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;

use super::{DecideStream, SlotAnswer, wake};
use crate::remote::decide::slots::SlotEvent;

/// A question on a stream. When it is dropped, its slot is free, and its answer is dropped when it comes.
pub(in crate::remote) struct SentQuestion {
    pub(super) stream: Arc<DecideStream>,
    pub(super) id: u64,
}

impl SentQuestion {
    /// What came of it.
    pub(in crate::remote) fn poll(&self, cx: &Context<'_>) -> Poll<SlotEvent<SlotAnswer>> {
        let event = self.stream.lock().slots.poll(self.id, cx.waker());
        event.map_or(Poll::Pending, Poll::Ready)
    }

    /// Why its stream ended, once it has.
    pub(in crate::remote) fn stream_end(&self) -> Option<Arc<Status>> {
        self.stream.end()
    }
}

impl Drop for SentQuestion {
    fn drop(&mut self) {
        let mut inner = self.stream.lock();
        let credit = inner.slots.give_up(self.id);
        inner.written -= credit;
        // Either there is credit for more, or a stream that drains has nothing left to wait for.
        let writer = if credit > 0 || inner.slots.open() == 0 { inner.take_writer() } else { None };
        drop(inner);
        wake(writer);
    }
}
