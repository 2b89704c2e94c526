//! Answers on their way to the session.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt};
use mproxy_core::policy::{Pending, Ruling};
use mproxy_core::session::AskId;

/// Bounded by the session's lanes; no memory while there are none.
#[derive(Default)]
pub(super) struct Asks(Option<Box<FuturesUnordered<Ask>>>);

struct Ask {
    id: AskId,
    pending: Pending,
}

impl Future for Ask {
    type Output = (AskId, Ruling);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let id = self.id;
        self.pending.as_mut().poll(cx).map(|ruling| (id, ruling))
    }
}

impl Asks {
    pub(super) fn push(&mut self, id: AskId, pending: Pending) {
        self.0.get_or_insert_default().push(Ask { id, pending });
    }

    /// The next answer that is there; `None` inside when nobody was asked.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(AskId, Ruling)>> {
        let Some(asks) = &mut self.0 else { return Poll::Ready(None) };
        let answer = asks.poll_next_unpin(cx);
        if matches!(answer, Poll::Ready(None)) {
            self.0 = None;
        }
        answer
    }
}
