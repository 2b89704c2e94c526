//! What a relay asks of its two streams.

use std::io;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use mproxy_core::fault::Closed;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;

use super::closed_by;
use crate::door;

/// A stream to a client or a broker.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Whether a read would bring anything; if not, the task is woken when it would. Spares a buffer for a read in vain.
    /// A stream that cannot tell says yes.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }

    /// How the peer has ended, as far as that is known, though there may be bytes to be read before it. A stream that
    /// cannot tell says that it has not.
    fn ended(&self) -> Option<Closed> {
        None
    }

    /// Whether ending our half says more than the end of the connection says by itself.
    fn says_goodbye(&self) -> bool {
        true
    }

    /// Whether the peer was told something when reading failed, which a reset must not overtake.
    fn has_last_word(&self) -> bool {
        false
    }
}

impl Stream for door::Stream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_readable(self, cx)
    }

    fn ended(&self) -> Option<Closed> {
        ended(self.socket())
    }

    fn says_goodbye(&self) -> bool {
        // close_notify, or a Close frame.
        !matches!(self, Self::Tcp(_))
    }

    fn has_last_word(&self) -> bool {
        // An alert, or a Close frame.
        !matches!(self, Self::Tcp(_))
    }
}

/// How the peer of a socket has ended, as far as the kernel has said so: no system call but where it has.
fn ended(socket: &TcpStream) -> Option<Closed> {
    let ready = socket.ready(Interest::READABLE | Interest::WRITABLE).now_or_never()?.ok()?;
    if ready.is_write_closed() {
        let why = socket.take_error().ok().flatten();
        // Without one, both halves have ended.
        Some(closed_by(&why.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())))
    } else {
        ready.is_read_closed().then_some(Closed::Eof)
    }
}

#[cfg(test)]
impl Stream for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        // What failed says so when it is read.
        self.poll_read_ready(cx).map(drop)
    }

    fn ended(&self) -> Option<Closed> {
        ended(self)
    }
}

#[cfg(test)]
impl Stream for tokio::io::DuplexStream {}
