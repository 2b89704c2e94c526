//! The body of a stream's request: what waits is put together into a message when HTTP/2 can write one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::Instant;

use super::{BATCH, DecideStream, Phase, SWEEP};
use crate::contract::{DecideMessage, EncodedClient, StreamQuestion};
use crate::remote::decide::clients::ClientTable;

/// A message is closed when it has so many bytes. Services take 4 MiB if they are not told otherwise, and one question may
/// nearly be as large.
const MESSAGE: usize = 128 << 10;

/// A question that is to be written.
pub(super) struct OutgoingQuestion {
    pub(super) id: u64,
    pub(super) deadline: Instant,
    pub(super) question: StreamQuestion,
}

/// The body of the request: message after message, made when HTTP/2 can write one.
pub(super) struct DecideBody {
    stream: Arc<DecideStream>,
    clients: ClientTable,
    batch: VecDeque<OutgoingQuestion>,
    /// Other tasks had their turn since there was something to write.
    yielded: bool,
}

impl DecideBody {
    pub(super) fn new(stream: Arc<DecideStream>) -> Self {
        Self { stream, clients: ClientTable::new(), batch: VecDeque::new(), yielded: false }
    }

    /// A message of what is in the batch, until it is full.
    fn message(&mut self) -> Option<Bytes> {
        let now = Instant::now();
        let room = self.batch.iter().map(|asked| asked.question.size()).sum::<usize>().min(MESSAGE);
        let mut message = DecideMessage::new(room);
        while let Some(asked) = self.batch.front() {
            if message.len() > 0 && message.len() + asked.question.size() > MESSAGE {
                break;
            }
            let peer = asked.question.peer();
            let (client_ref, new) = self.clients.client_ref(peer);
            if new {
                let client = EncodedClient::of(peer);
                message.introduce(client_ref, &client);
            }
            let within = asked.deadline.saturating_duration_since(now);
            message.ask(asked.id, client_ref, within, &asked.question);
            self.batch.pop_front();
        }
        let forgotten = self.clients.take_forgotten();
        if !forgotten.is_empty() {
            message.forget(&forgotten);
        }
        self.stream.clients.store(self.clients.len(), Ordering::Relaxed);
        message.finish()
    }
}

impl Body for DecideBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        loop {
            if this.batch.is_empty() {
                let mut inner = this.stream.lock();
                let ended = match inner.phase {
                    Phase::Open => false,
                    Phase::Draining => inner.slots.open() == 0,
                    Phase::Ended(_) => true,
                };
                if ended {
                    return Poll::Ready(None);
                }
                if inner.queue.is_empty() {
                    this.yielded = false;
                } else if !this.yielded && inner.queue.len() < BATCH {
                    // The session that asked first woke this task, which would run before the other sessions that have just
                    // had an answer as well. One turn of them all, and what they ask is in the same batch.
                    this.yielded = true;
                    drop(inner);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                inner.take_batch(&mut this.batch);
                let sweep = std::mem::take(&mut inner.sweep);
                if this.batch.is_empty() && !sweep {
                    // Behind the lock, so that no question comes between the look and the waker.
                    if !inner.writer.as_ref().is_some_and(|own| own.will_wake(cx.waker())) {
                        inner.writer = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
                drop(inner);
                this.yielded = false;
                if sweep {
                    this.clients.sweep(SWEEP);
                }
            }
            if let Some(message) = this.message() {
                this.stream.watch.stream_message();
                return Poll::Ready(Some(Ok(Frame::data(message))));
            }
        }
    }
}
