//! Answers on their way to the session.

use std::task::{Context, Poll};

use futures_util::future::Either;
use futures_util::stream::{FuturesUnordered, StreamExt};
use mproxy_core::policy::Pending;
use mproxy_core::session::{Answered, OpenQuestion};

/// Bounded by the session's lanes; no memory while there are none.
#[derive(Default)]
pub(super) struct Asks(Option<Box<FuturesUnordered<PendingAnswer>>>);

/// A question, or one that waits for its turn first.
type PendingAnswer = Either<OpenQuestion, Pending<Answered>>;

impl Asks {
    pub(super) fn push(&mut self, question: OpenQuestion) {
        self.0.get_or_insert_default().push(Either::Left(question));
    }

    /// The same for a question that waits for its turn first.
    pub(super) fn push_in_turn(&mut self, pending: Pending<Answered>) {
        self.0.get_or_insert_default().push(Either::Right(pending));
    }

    /// The next answer that is there; `None` inside when nobody was asked.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answered>> {
        let Some(asks) = &mut self.0 else { return Poll::Ready(None) };
        let answer = asks.poll_next_unpin(cx);
        if matches!(answer, Poll::Ready(None)) {
            self.0 = None;
        }
        answer
    }
}
