//! What a relay asks of its two streams.

use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
#[cfg(test)]
use tokio::net::TcpStream;

use crate::door;

/// A stream to a client or a broker.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Whether a read would bring anything; if not, the task is woken when it would. Spares a buffer for a read in vain.
    /// A stream that cannot tell says yes.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
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

    fn says_goodbye(&self) -> bool {
        // close_notify, or a Close frame.
        !matches!(self, Self::Tcp(_))
    }

    fn has_last_word(&self) -> bool {
        // An alert, or a Close frame.
        !matches!(self, Self::Tcp(_))
    }
}

#[cfg(test)]
impl Stream for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        // What failed says so when it is read.
        self.poll_read_ready(cx).map(drop)
    }
}

#[cfg(test)]
impl Stream for tokio::io::DuplexStream {}
