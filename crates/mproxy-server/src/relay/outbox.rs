//! What is to go out to one side and was not written yet.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use mproxy_core::fault::Closed;
use tokio::io::AsyncWrite;

use super::failed;

/// Slices of one vectored write.
const SLICES: usize = 32;

/// What waits longer than a moment is copied out of its chunk if it is not larger than this.
const COPY_UP_TO: usize = 16 << 10;

/// Bytes in the order in which they go out. Its owner reads nothing more while it is over its mark; a session adds at
/// most what one read made of it.
///
/// Invariant: `first` is empty only if `more` is.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    first: Bytes,
    /// Behind `first`; only there while it holds something.
    #[expect(clippy::box_collection, reason = "a sleeper pays for a pointer, not for a queue")]
    more: Option<Box<VecDeque<Bytes>>>,
    /// In bytes. Its owner's marks keep it far below what fits.
    len: u32,
    /// The stream took everything, and still holds some of it.
    unflushed: bool,
    /// Set once a write has failed. Nothing is kept from then on.
    broken: Option<Box<Closed>>,
}

impl Outbox {
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn broken(&self) -> Option<Closed> {
        self.broken.as_deref().cloned()
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.broken.is_some() || bytes.is_empty() {
            return;
        }
        self.len += bytes.len() as u32;
        if self.first.is_empty() {
            self.first = bytes;
        } else {
            self.more.get_or_insert_default().push_back(bytes);
        }
    }

    /// Writes as much as the stream takes. Whether any of it went.
    pub(super) fn write<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while !self.is_empty() {
            match self.poll_write(Pin::new(stream), cx) {
                Poll::Pending => {
                    self.settle_down();
                    return any;
                }
                Poll::Ready(Ok(0)) => self.fail(&io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => self.advance(n),
                Poll::Ready(Err(error)) => self.fail(&error),
            }
            any = true;
        }
        if any || self.unflushed {
            self.flush(stream, cx);
        }
        any
    }

    /// Streams that keep something back (TLS) are asked to let it go, until they have.
    fn flush<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) {
        match Pin::new(stream).poll_flush(cx) {
            Poll::Pending => self.unflushed = true,
            Poll::Ready(Ok(())) => self.unflushed = false,
            Poll::Ready(Err(error)) => self.fail(&error),
        }
    }

    fn poll_write<S: AsyncWrite>(
        &self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(more) = &self.more else {
            return stream.poll_write(cx, &self.first);
        };
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(std::iter::once(&self.first).chain(more.iter())) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        stream.poll_write_vectored(cx, &slices[..count])
    }

    fn advance(&mut self, mut n: usize) {
        self.len -= n as u32;
        while n >= self.first.len() {
            n -= self.first.len();
            match self.more.as_mut().and_then(|more| more.pop_front()) {
                Some(next) => self.first = next,
                None => {
                    self.first = Bytes::new();
                    self.more = None;
                    return;
                }
            }
        }
        self.first.advance(n);
    }

    /// What is left has to wait for the peer: it should not keep a chunk alive that others could use.
    fn settle_down(&mut self) {
        if self.len() <= COPY_UP_TO {
            for bytes in
                std::iter::once(&mut self.first).chain(self.more.iter_mut().flat_map(|more| more.iter_mut()))
            {
                *bytes = Bytes::copy_from_slice(bytes);
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        *self = Self { broken: Some(Box::new(failed(error))), ..Self::default() };
    }
}
