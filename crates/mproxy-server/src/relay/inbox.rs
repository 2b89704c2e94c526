//! What came in from one side and was not taken by the session yet.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use mproxy_core::fault::Closed;
use mproxy_core::{Session, Side};
use tokio_util::io::poll_read_buf;

use super::chunk::{self, Lent};
use super::closed_by;
use crate::door::Carrier;

/// A rest longer than this is read on to where it lies, instead of being copied before each read.
const COPY_UP_TO: usize = chunk::SIZE / 2;

/// Bytes thrown away in one go while a stream runs out.
const DISCARD: usize = 4 * chunk::SIZE;

/// Empty, and without memory of its own, except for the time in which a packet is incomplete or has to wait.
/// Bounded by the session: it leaves at most one packet that it would hold, and nothing is read while it wants nothing.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    rest: BytesMut,
    /// The session did not want what is in `rest`, or all of it in one turn, rather than not having enough of it.
    blocked: bool,
    ended: Option<Box<Closed>>,
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// Nothing is there.
    Nothing,
    /// Bytes, or the end.
    Something,
    /// Bytes, as many as were asked for.
    AllThatFits,
}

impl Inbox {
    /// What another process has read, and its session not taken.
    pub(super) fn holding(unread: &[u8]) -> Self {
        // Offered before more is read, whether it was too little or not wanted there.
        Self { rest: unread.into(), blocked: !unread.is_empty(), ended: None }
    }

    /// What was read and not taken.
    pub(super) fn unread(&self) -> &[u8] {
        &self.rest
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn blocked(&self) -> bool {
        self.blocked
    }

    pub(super) fn ended(&self) -> Option<Closed> {
        self.ended.as_deref().cloned()
    }

    /// Gives the session what it did not want before.
    pub(super) fn offer(&mut self, session: &mut Session, side: Side, now: Instant) {
        session.read(side, &mut self.rest, now);
        self.blocked = !self.rest.is_empty() && (!session.wants_read(side) || session.cut_short(side));
    }

    /// Reads at most so many bytes once, and gives the session what came if that is wanted; else it is kept.
    pub(super) fn read<S: Carrier>(
        &mut self,
        stream: &mut S,
        lent: &mut Lent,
        cx: &mut Context<'_>,
        most: usize,
        wanted: bool,
        (session, side, now): (&mut Session, Side, Instant),
    ) -> Came {
        debug_assert!(!(self.blocked && wanted), "what waits is offered before more is read");
        // Before a buffer is leased: of ten thousand connections that are woken for writing, none needs one.
        if stream.poll_readable(cx).is_pending() {
            return Came::Nothing;
        }
        let in_place = self.rest.len() > COPY_UP_TO;
        let mut chunk = if in_place {
            self.rest.reserve(most);
            std::mem::take(&mut self.rest)
        } else {
            let mut chunk = chunk::lease();
            chunk.extend_from_slice(&self.rest);
            chunk
        };
        let came = match poll_read_buf(Pin::new(stream), cx, &mut (&mut chunk).limit(most)) {
            Poll::Pending => {
                if in_place {
                    self.rest = chunk;
                } else {
                    // An empty one must not keep memory either.
                    if self.rest.is_empty() {
                        self.rest = BytesMut::new();
                    }
                    chunk::give_back(chunk);
                }
                return Came::Nothing;
            }
            Poll::Ready(Ok(0)) => {
                self.ended = Some(Box::new(Closed::Eof));
                Came::Something
            }
            Poll::Ready(Err(error)) => {
                self.ended = Some(Box::new(closed_by(&error)));
                Came::Something
            }
            Poll::Ready(Ok(n)) => {
                let full = n == most || chunk.len() == chunk.capacity();
                if wanted {
                    session.read(side, &mut chunk, now);
                    self.blocked =
                        !chunk.is_empty() && (!session.wants_read(side) || session.cut_short(side));
                } else {
                    // Counted as the session's all the same, or strangers could hold this much each beside every budget.
                    session.kept(side, chunk.len(), now);
                    self.blocked = true;
                }
                if full { Came::AllThatFits } else { Came::Something }
            }
        };
        if chunk.len() > COPY_UP_TO {
            self.rest = chunk;
        } else {
            // Copied out, so that a few bytes do not keep a whole chunk from the others.
            self.rest.clear();
            self.rest.extend_from_slice(&chunk);
            lent.keep(chunk);
        }
        came
    }

    /// Reads and throws away until the stream ends.
    pub(super) fn discard<S: Carrier>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<Closed> {
        self.rest = BytesMut::new();
        if let Some(how) = self.ended.take() {
            return Poll::Ready(*how);
        }
        let mut chunk = chunk::lease();
        let mut thrown = 0;
        let how = loop {
            chunk.clear();
            match poll_read_buf(Pin::new(&mut *stream), cx, &mut chunk) {
                Poll::Pending => break Poll::Pending,
                Poll::Ready(Ok(0)) => break Poll::Ready(Closed::Eof),
                Poll::Ready(Err(error)) => break Poll::Ready(closed_by(&error)),
                Poll::Ready(Ok(n)) => thrown += n,
            }
            if thrown >= DISCARD {
                // Somebody else's turn.
                cx.waker().wake_by_ref();
                break Poll::Pending;
            }
        };
        chunk::give_back(chunk);
        how
    }
}
