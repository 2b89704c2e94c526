//! Binary messages as one byte stream, in either role, over any stream.
//!
//! Nothing is buffered: a read goes into the caller's own buffer and is unframed there, a write puts a head before the
//! caller's own bytes. An idle connection holds some numbers. Frames may cut what they carry anywhere; a frame of any
//! length passes through without ever being whole in memory.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::frame::{Role, Violation};
use crate::inbound::{Inbound, InboundEnd};
use crate::outbound::Outbound;

/// A WebSocket whose handshake is done, as a byte stream.
///
/// *Reading.* The end of the stream is the peer's close frame, or the end of the connection between two messages; in
/// the middle of one it is [`io::ErrorKind::UnexpectedEof`]. What RFC 6455 forbids is answered with a close frame, and
/// after the bytes before it read as [`io::ErrorKind::InvalidData`] around a [`Violation`]. Pings are answered while
/// reading; of many that wait at once only the last one.
///
/// *Writing.* Each write becomes one frame. A frame that the connection took in part is finished by the writes that
/// follow, so what was offered has to be offered again, as always with [`AsyncWrite`]. Shutting down says goodbye with
/// code 1000 (unless a frame is unfinished) and ends our half of the connection; the peer's half can be read on.
///
/// Both halves have to be polled by one task: reading may write a pong. Dropping it drops the connection.
#[derive(Debug)]
pub struct WsStream<S> {
    inner: S,
    inbound: Inbound,
    outbound: Outbound,
    /// What came along with the handshake.
    early: Option<Box<Bytes>>,
    hollow: Hollow,
    end: Option<InboundEnd>,
}

impl<S> WsStream<S> {
    /// Goes on where the handshake ended. `early` are the bytes that were read beyond it.
    pub fn new(inner: S, role: Role, early: Bytes) -> Self {
        Self {
            inner,
            inbound: Inbound::new(role),
            outbound: Outbound::new(role),
            early: (!early.is_empty()).then(|| Box::new(early)),
            hollow: Hollow { since: Instant::now(), count: 0 },
            end: None,
        }
    }

    /// The connection below.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Whether polling a read would do something even if the connection below has nothing to read: bytes that came with
    /// the handshake, an answer to be sent, the end. For whoever asks the connection before lending a buffer.
    pub fn has_work(&self) -> bool {
        self.early.is_some() || self.end.is_some() || self.outbound.has_work()
    }

    /// The code of the peer's close frame, once it came and if it had one.
    pub fn close_code(&self) -> Option<u16> {
        match self.end {
            Some(InboundEnd::Closed(code)) => code,
            Some(InboundEnd::Broken(_)) | None => None,
        }
    }
}

/// Counts frames that carry nothing.
#[derive(Debug)]
struct Hollow {
    since: Instant,
    count: u32,
}

/// Frames without content that a peer may send in one [`WINDOW`]. Keepalives need one in some seconds; this many may
/// have piled up while we did not read for an hour.
const MOST_HOLLOW: u32 = 1000;

const WINDOW: Duration = Duration::from_secs(10);

impl Hollow {
    /// Whether that is a flood.
    fn add(&mut self, frames: u32) -> bool {
        // Frames with content read no clock.
        if frames == 0 {
            return false;
        }
        let now = Instant::now();
        if now.duration_since(self.since) > WINDOW {
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(frames);
        self.count > MOST_HOLLOW
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsStream<S> {
    /// Reads raw bytes to where the caller wants payload.
    fn poll_raw(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(early) = &mut self.early else {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        };
        let n = early.len().min(buf.remaining());
        buf.put_slice(&early.split_to(n));
        if early.is_empty() {
            self.early = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what the protocol owes the peer, as far as it goes at once. A stream that cannot be written to will tell
    /// so to whoever writes.
    fn answer(&mut self, cx: &mut Context<'_>) {
        let _ = self.outbound.poll_control(Pin::new(&mut self.inner), cx);
    }

    /// Unframes what stands in `buf` from `start`.
    fn unframe(&mut self, buf: &mut ReadBuf<'_>, start: usize) {
        let decoded = self.inbound.decode(buf.filled_mut().get_mut(start..).unwrap_or_default());
        buf.set_filled(start + decoded.payload);
        self.end = decoded.end;
        // An end that came in the same bytes keeps its own reason.
        if self.end.is_none() && self.hollow.add(decoded.hollow) {
            self.end = Some(InboundEnd::Broken(Violation::Flood));
        }
        if let Some(ping) = &decoded.ping {
            self.outbound.pong(ping);
        }
        match self.end {
            // The peer's own code goes back to it (RFC 6455, 5.5.1).
            Some(InboundEnd::Closed(code)) => self.outbound.close(code.unwrap_or(1000)),
            Some(InboundEnd::Broken(violation)) => self.outbound.close(violation.close_code()),
            None => {}
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while buf.remaining() > 0 {
            if let Some(end) = this.end {
                this.answer(cx);
                return Poll::Ready(match end {
                    InboundEnd::Closed(_) => Ok(()),
                    InboundEnd::Broken(violation) => {
                        Err(io::Error::new(io::ErrorKind::InvalidData, violation))
                    }
                });
            }
            let start = buf.filled().len();
            let came = this.poll_raw(cx, buf);
            // A pong may be left from before. On a quiet connection no write would come to take it along.
            if came.is_pending() {
                this.answer(cx);
            }
            ready!(came)?;
            if buf.filled().len() == start {
                // No close frame came. Between two messages nothing is cut off, and devices that are switched off
                // do not say goodbye.
                let whole = this.inbound.is_between_messages();
                return Poll::Ready(if whole { Ok(()) } else { Err(cut()) });
            }
            this.unframe(buf, start);
            this.answer(cx);
            // Heads and control frames alone are no bytes for the reader, and none at all would read as the end.
            if buf.filled().len() > start {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended inside a WebSocket message")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.outbound.poll_write(Pin::new(&mut this.inner), cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        // Whatever the stream below does: many slices become one frame, in place of a frame for each.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.outbound.poll_control(Pin::new(&mut this.inner), cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.outbound.close(1000);
        ready!(this.outbound.poll_control(Pin::new(&mut this.inner), cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}
