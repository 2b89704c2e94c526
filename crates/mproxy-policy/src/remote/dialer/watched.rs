//! A connection as it is seen from outside HTTP: whether it is over, whether the service has announced its end, and
//! whether anything comes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::EndpointStream;

/// Who is told what of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct SignsOfLife {
    /// Cancelled when it is over.
    pub(super) gone: CancellationToken,
    /// Cancelled when the service announces that it will end it.
    pub(super) goaway: Option<CancellationToken>,
    pub(super) reads: Option<Arc<Reads>>,
}

/// When something came over a connection last, and whether something should have.
#[derive(Debug)]
pub(crate) struct Reads {
    began: Instant,
    /// Nanoseconds from then to the last read.
    last: AtomicU64,
    silent: AtomicBool,
}

impl Reads {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0), silent: AtomicBool::new(false) }
    }

    /// When something came last.
    pub(in crate::remote) fn last(&self) -> Instant {
        self.began + Duration::from_nanos(self.last.load(Ordering::SeqCst))
    }

    /// Whether a question waited for long, and nothing has come since.
    pub(in crate::remote) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// A question waited for long, and nothing came after this.
    pub(in crate::remote) fn set_silent(&self, last: Instant) {
        self.silent.store(true, Ordering::SeqCst);
        // What came in between found nothing to take back.
        if self.last() != last {
            self.silent.store(false, Ordering::SeqCst);
        }
    }

    fn note(&self, now: Instant) {
        let nanos = now.saturating_duration_since(self.began).as_nanos();
        self.last.store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::SeqCst);
        if self.silent.load(Ordering::SeqCst) {
            self.silent.store(false, Ordering::SeqCst);
        }
    }
}

/// A stream that tells when it is dropped, which HTTP does when the connection is over, and what comes before.
pub(super) struct WatchedStream {
    stream: EndpointStream,
    /// Looks for a GOAWAY in what comes, and tells of it.
    frames: Option<(FrameHeads, CancellationToken)>,
    reads: Option<Arc<Reads>>,
    _gone: DropGuard,
}

impl WatchedStream {
    pub(super) fn new(stream: EndpointStream, listening: SignsOfLife) -> Self {
        let SignsOfLife { gone, goaway, reads } = listening;
        let frames = goaway.map(|goaway| (FrameHeads::default(), goaway));
        Self { stream, frames, reads, _gone: gone.drop_guard() }
    }
}

/// Reads the types of HTTP/2 frames (RFC 9113, 4.1) in bytes that go by.
#[derive(Debug, Default)]
struct FrameHeads {
    /// Bytes until the next head.
    rest: usize,
    head: [u8; Self::HEAD],
    read: usize,
}

impl FrameHeads {
    const HEAD: usize = 9;
    const GOAWAY: u8 = 7;

    /// Whether a GOAWAY begins in these bytes.
    fn has_goaway(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !bytes.is_empty() {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            let (_, after) = bytes.split_at(skipped);
            let (head, after) = after.split_at(after.len().min(Self::HEAD - self.read));
            if let Some(place) = self.head.get_mut(self.read..self.read + head.len()) {
                place.copy_from_slice(head);
            }
            self.read += head.len();
            bytes = after;
            if self.read == Self::HEAD {
                let [a, b, c, kind, ..] = self.head;
                self.rest = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.read = 0;
                found |= kind == Self::GOAWAY;
            }
        }
        found
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(reads) = &self.reads
            && buf.filled().len() > before
        {
            reads.note(Instant::now());
        }
        if let Some((frames, goaway)) = &mut self.frames
            && frames.has_goaway(buf.filled().get(before..).unwrap_or_default())
        {
            goaway.cancel();
        }
        read
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_ends_a_silence() {
        let reads = Reads::new();
        let at = |seconds| reads.began + Duration::from_secs(seconds);
        reads.note(at(1));
        assert_eq!(reads.last(), at(1));
        reads.set_silent(reads.last());
        assert!(reads.is_silent());
        reads.note(at(2));
        assert!(!reads.is_silent());
        reads.set_silent(at(1));
        assert!(!reads.is_silent(), "something came since it was looked");
    }

    #[test]
    fn a_goaway_is_found_however_the_bytes_are_cut() {
        let frame = |kind: u8, length: u8| {
            let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 0];
            // A payload that looks like a GOAWAY is none.
            frame.resize(9 + usize::from(length), FrameHeads::GOAWAY);
            frame
        };
        let sound = [frame(4, 6), frame(4, 0), frame(0, 200), frame(6, 8)].concat();
        let ends = [sound.clone(), frame(FrameHeads::GOAWAY, 8), frame(0, 3)].concat();
        for step in [1, 2, 8, 9, 10, 100, 1000] {
            let found = |bytes: &[u8]| {
                let mut heads = FrameHeads::default();
                bytes.chunks(step).filter(|chunk| heads.has_goaway(chunk)).count() > 0
            };
            assert!(!found(&sound), "{step}");
            assert!(found(&ends), "{step}");
        }
    }
}
