//! The encrypted byte stream, of either side. An idle one holds rustls's state and no buffer: ciphertext is read into,
//! and encrypted in, a pad that all connections of a thread take in turns.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::CommonState;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::HandshakeError;
use super::engine::{Engine, TlsRole};
use super::facts::TlsProtection;

/// Bytes of a pad. Room for the largest handshake message (64 KiB, in the records it came in) and a record behind it.
const PAD: usize = 96 << 10;

/// Plaintext that is encrypted at a time: two full records. So much, and not more, waits for a slow reader.
const WRITE: usize = 32 << 10;

/// What records add to what they carry, and to what is read at a time: heads, tags, a key update.
const OVERHEAD: usize = 1 << 10;

thread_local! {
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Lends a pad. What is in it is anybody's.
fn with_pad<T>(act: impl FnOnce(&mut [u8]) -> T) -> T {
    // Taken out while it is used, so whoever comes here meanwhile gets another one, and no two write into the same.
    let mut pad = SPARE.take().unwrap_or_else(|| vec![0; PAD].into_boxed_slice());
    let result = act(&mut pad);
    SPARE.set(Some(pad));
    result
}

/// A TLS connection whose handshake is done.
///
/// The end of the connection reads as an end whether or not the peer said `close_notify`: what MQTT carries knows its
/// own length, and devices that switch off do not say goodbye. Shutting down says it.
///
/// A write may be taken while its records still wait for the socket: they leave with the next write, flush, shutdown
/// or read, so a flush that is pending has to be tried again. Both halves have to be polled by one task. Dropping the
/// stream drops the connection.
#[derive(Debug)]
pub struct TlsStream<S> {
    io: S,
    engine: Engine,
    ended: bool,
}

impl<S> TlsStream<S> {
    /// The connection below.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// Whether polling a read would do something even if the connection below has nothing to read: plaintext that
    /// waits, records to be sent, the end. For whoever asks the connection before lending a buffer.
    pub fn has_work(&self) -> bool {
        self.ended || self.engine.has_work()
    }

    /// What protects it. Read from rustls: nothing is kept for it.
    pub fn protection(&self) -> TlsProtection {
        TlsProtection::of(self.state())
    }

    pub(super) fn state(&self) -> &CommonState {
        self.engine.state()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Does the handshake. `step` is called after each turn of rustls, on the thread on which it was, with the bytes that
    /// are held; where there is no room for them, that was the last one.
    pub(super) async fn handshake(
        io: S,
        side: TlsRole,
        mut step: impl FnMut(usize) -> bool,
    ) -> Result<Self, HandshakeError> {
        let mut stream = Self { io, engine: Engine::new(side), ended: false };
        let mut taken = stream.engine.take_kept(None);
        loop {
            let has_room = step(stream.engine.held_bytes());
            if let Err(error) = taken {
                // The alert, as far as it goes at once: nobody is waited for any more.
                poll_fn(|cx| Poll::Ready(stream.poll_unsent(cx).is_ready())).await;
                return Err(HandshakeError::of(error, stream.engine.first()));
            }
            if !has_room {
                return Err(HandshakeError::NoRoom);
            }
            let done = !stream.engine.state().is_handshaking();
            // Whoever waits for something waits until we have asked for it. A ticket at the end is nobody's hurry.
            let flushed = poll_fn(|cx| match stream.poll_flush_all(cx) {
                Poll::Pending if done => Poll::Ready(Ok(())),
                flushed => flushed,
            });
            flushed.await.map_err(HandshakeError::Io)?;
            if done {
                return Ok(stream);
            }
            taken = poll_fn(|cx| stream.poll_take(cx, None)).await.map_err(HandshakeError::Io)?;
            if stream.ended {
                return Err(HandshakeError::Ended);
            }
        }
    }

    /// Reads ciphertext once and gives it to rustls.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        to: Option<&mut ReadBuf<'_>>,
    ) -> Poll<io::Result<Result<(), rustls::Error>>> {
        with_pad(|pad| {
            let have = self.engine.raw.len();
            // Not more than has room where it goes, so that little has to wait; whole records in any case.
            let room = to.as_ref().map_or(WRITE, |to| to.remaining().min(WRITE * 2)) + OVERHEAD;
            let end = (have + room).min(pad.len());
            pad[..have].copy_from_slice(&self.engine.raw);
            let mut came = ReadBuf::new(&mut pad[have..end]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut came))?;
            let n = came.filled().len();
            if n == 0 {
                self.ended = true;
                return Poll::Ready(Ok(Ok(())));
            }
            Poll::Ready(Ok(self.engine.take(&mut pad[..have + n], to)))
        })
    }

    /// Writes the records that wait.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.engine.unsent().is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, self.engine.unsent()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.engine.mark_written(n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Encrypts `plain` into `records` and writes them; what the socket does not take waits.
    fn encrypt_and_write(
        &mut self,
        cx: &mut Context<'_>,
        plain: &[u8],
        records: &mut [u8],
    ) -> io::Result<()> {
        let Some(n) = self.engine.encrypt(plain, records).map_err(invalid)? else {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "nothing more can be encrypted"));
        };
        let mut rest = &records[..n];
        // Straight from the pad, unless rustls had something to say first.
        while self.engine.unsent().is_empty() && !rest.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => rest = &rest[n..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        if !rest.is_empty() {
            self.engine.queue(rest);
            if let Poll::Ready(result) = self.poll_unsent(cx) {
                return result;
            }
        }
        Ok(())
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 || this.engine.read(buf) {
            return Poll::Ready(Ok(()));
        }
        let start = buf.filled().len();
        // Whole records may have been left when the reader had no room.
        let mut taken = match this.engine.backlog {
            true => this.engine.take_kept(Some(buf)),
            false => this.engine.check(),
        };
        loop {
            // Answers of the protocol, and what a write left; whoever writes is told if it fails.
            let _ = this.poll_unsent(cx);
            taken.map_err(invalid)?;
            if buf.filled().len() > start || this.ended || this.engine.peer_closed {
                return Poll::Ready(Ok(()));
            }
            taken = ready!(this.poll_take(cx, Some(buf)))?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // As long as records wait nothing more is taken, so no more than those of one write ever do.
        ready!(this.poll_unsent(cx))?;
        if this.engine.said_goodbye() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the TLS connection is closing",
            )));
        }
        let mut bufs = bufs.iter().filter(|buf| !buf.is_empty()).peekable();
        let Some(first) = bufs.next() else { return Poll::Ready(Ok(0)) };
        with_pad(|pad| {
            let (gathered, records) = pad.split_at_mut(WRITE);
            let plain = if bufs.peek().is_none() || first.len() >= WRITE {
                &first[..first.len().min(WRITE)]
            } else {
                // Small pieces share a record.
                let mut n = 0;
                for buf in std::iter::once(first).chain(bufs) {
                    let part = buf.len().min(WRITE - n);
                    gathered[n..n + part].copy_from_slice(&buf[..part]);
                    n += part;
                }
                &gathered[..n]
            };
            let records = &mut records[..WRITE + OVERHEAD];
            Poll::Ready(this.encrypt_and_write(cx, plain, records).map(|()| plain.len()))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_flush_all(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.engine.goodbye();
        ready!(this.poll_unsent(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}
