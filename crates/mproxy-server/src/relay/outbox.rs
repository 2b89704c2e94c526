//! What is to go out to one side and was not written yet.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use mproxy_core::fault::Closed;
use tokio::io::AsyncWrite;

use super::{chunk, closed_by};

/// Slices of one vectored write.
const SLICES: usize = 32;

/// What waits longer than a moment is copied out of its chunk if it is smaller than this, so that what is kept alive is
/// no more than twice of what waits.
const COPY_BELOW: usize = chunk::SIZE / 2;

/// Bytes of the pieces into which small ones are copied together: the bytes of a small packet of its own would be held
/// at many times their number.
const PIECE: usize = 16 << 10;

/// Bytes in the order in which they go out. Its owner reads nothing more while it is over its mark; a session adds at
/// most what one read made of it.
///
/// Invariant: `first` is empty only if `more` holds nothing.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    first: Bytes,
    /// Behind `first`; only there while it holds something.
    more: Option<Box<Backlog>>,
    /// In bytes. Its owner's marks keep it far below what fits.
    len: u32,
    /// `first` has been copied out of its chunk.
    copied: bool,
    /// The stream took everything, and still holds some of it.
    unflushed: bool,
    /// Set once a write has failed. Nothing is kept from then on.
    broken: Option<Box<Closed>>,
}

#[derive(Debug, Default)]
struct Backlog {
    pieces: VecDeque<Bytes>,
    /// Behind them, copied together; only where the peer does not read.
    tail: BytesMut,
    /// The stream has not taken all of it: what comes now waits, too.
    waits: bool,
}

impl Backlog {
    fn push(&mut self, bytes: Bytes) {
        if !self.waits {
            self.pieces.push_back(bytes);
            return;
        }
        let small = bytes.len() < COPY_BELOW;
        if !small || self.tail.len() + bytes.len() > PIECE {
            self.close_tail();
        }
        match small {
            // What would fill a piece by itself is one.
            true if bytes.len() < PIECE => self.tail.extend_from_slice(&bytes),
            true => self.pieces.push_back(Bytes::copy_from_slice(&bytes)),
            false => self.pieces.push_back(bytes),
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            // Copied once more, as a buffer that grew is larger than what it holds.
            self.pieces.push_back(Bytes::copy_from_slice(&self.tail));
            self.tail = BytesMut::new();
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.pieces.pop_front().or_else(|| {
            let tail = std::mem::take(&mut self.tail);
            (!tail.is_empty()).then(|| tail.freeze())
        })
    }
}

impl Outbox {
    /// What is to be written, copied.
    pub(super) fn unwritten(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        bytes.extend_from_slice(&self.first);
        if let Some(more) = &self.more {
            more.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
            bytes.extend_from_slice(&more.tail);
        }
        bytes
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Bytes that it makes us hold: large pieces keep the chunk alive that they are a part of.
    pub(super) fn weight(&self) -> usize {
        if self.len() < COPY_BELOW { self.len() } else { self.len() + chunk::SIZE }
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
            (self.first, self.copied) = (bytes, false);
        } else {
            self.more.get_or_insert_default().push(bytes);
        }
    }

    /// In debug builds.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let behind = |more: &Backlog| more.pieces.iter().map(Bytes::len).sum::<usize>() + more.tail.len();
        let more = self.more.as_deref().map_or(0, behind);
        debug_assert!(!self.first.is_empty() || more == 0, "something waits behind nothing");
        debug_assert_eq!(self.len(), self.first.len() + more, "what waits is not what was counted");
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
        let waiting = std::iter::once(&self.first).chain(&more.pieces).map(|bytes| &**bytes);
        let tail = Some(&*more.tail).filter(|tail| !tail.is_empty());
        // More than there are slices go in the next round: `write` goes on until the stream takes nothing.
        for (slice, bytes) in slices.iter_mut().zip(waiting.chain(tail)) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        stream.poll_write_vectored(cx, &slices[..count])
    }

    fn advance(&mut self, mut n: usize) {
        self.len -= n as u32;
        while n >= self.first.len() {
            n -= self.first.len();
            let next = self.more.as_mut().and_then(|more| Some((more.pop()?, more.waits)));
            let Some((next, waits)) = next else {
                self.first = Bytes::new();
                self.more = None;
                return;
            };
            self.copied = waits && next.len() < COPY_BELOW;
            self.first = next;
        }
        self.first.advance(n);
    }

    /// What is left has to wait for the peer: it should not keep chunks alive that others could use.
    fn settle_down(&mut self) {
        if !self.copied && self.first.len() < COPY_BELOW {
            self.first = Bytes::copy_from_slice(&self.first);
            self.copied = true;
        }
        let Some(more) = self.more.as_mut().filter(|more| !more.waits) else { return };
        more.waits = true;
        for bytes in std::mem::take(&mut more.pieces) {
            more.push(bytes);
        }
        // Here and nowhere else: it has just walked over everything anyway.
        self.check_invariants();
    }

    fn fail(&mut self, error: &io::Error) {
        *self = Self { broken: Some(Box::new(closed_by(error))), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that takes so many bytes of each write, until it has taken `left`.
    struct Peer {
        at_once: usize,
        left: usize,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Peer {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let n = bytes.len().min(self.at_once).min(self.left);
            if n == 0 {
                return Poll::Pending;
            }
            self.left -= n;
            self.taken.extend_from_slice(&bytes[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn peer(at_once: usize) -> Peer {
        Peer { at_once, left: 0, taken: Vec::new() }
    }

    /// So many bytes of a chunk that was read into.
    fn read(len: usize) -> Bytes {
        let mut chunk = BytesMut::with_capacity(chunk::SIZE);
        chunk.resize(len, 7);
        chunk.split().freeze()
    }

    fn writes(outbox: &mut Outbox, peer: &mut Peer, take: usize) {
        peer.left = take;
        outbox.write(peer, &mut Context::from_waker(std::task::Waker::noop()));
    }

    #[test]
    fn what_waits_holds_no_more_than_is_put_down_for_it() {
        for (piece, count) in [(4, 20_000), (100, 1_000), (5_000, 25), (20_000, 7), (64 << 10, 2)] {
            let mut held = None;
            let measured = allocation_counter::measure(|| {
                let (mut outbox, mut peer) = (Outbox::default(), peer(usize::MAX));
                for _ in 0..count {
                    outbox.push(read(piece));
                    writes(&mut outbox, &mut peer, 0);
                }
                held = Some(outbox);
            });
            let (now, weight) = (measured.bytes_current as usize, held.as_ref().unwrap().weight());
            assert!(now <= weight + weight / 4, "{count} of {piece}: {now} bytes held, {weight} put down");
        }
    }

    #[test]
    fn a_large_piece_of_which_little_is_left_lets_go_of_its_chunk() {
        let mut held = None;
        let measured = allocation_counter::measure(|| {
            let (mut outbox, mut peer) = (Outbox::default(), peer(usize::MAX));
            outbox.push(read(60_000));
            writes(&mut outbox, &mut peer, 59_000);
            held = Some(outbox);
        });
        assert!(measured.bytes_current < 2_000, "{}", measured.bytes_current);
    }

    #[test]
    fn all_arrives_in_its_order_however_it_waited() {
        let mut random = 7_u32;
        let mut next = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        for at_once in [1, 3, 1_000, usize::MAX] {
            let (mut outbox, mut peer, mut pushed) = (Outbox::default(), peer(at_once), Vec::new());
            for n in 0..200_u8 {
                let len = [0, 1, 5, 900, 17_000, 33_000, 60_000][next(7) as usize];
                pushed.extend(std::iter::repeat_n(n, len));
                outbox.push(vec![n; len].into());
                if next(3) > 0 {
                    let take = [0, 1, 2_000, 50_000][next(4) as usize];
                    writes(&mut outbox, &mut peer, take);
                }
                assert_eq!(outbox.len(), pushed.len() - peer.taken.len());
            }
            writes(&mut outbox, &mut peer, usize::MAX);
            assert!(peer.taken == pushed && outbox.is_empty());
        }
    }
}
