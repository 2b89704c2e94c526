//! One type for whatever a door makes of a connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use mproxy_core::peer::Transport;
use mproxy_tcp::tls::TlsStream;
use mproxy_ws::WsStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A byte stream over any transport. Plain TCP stays inline and costs one branch; the others are boxed, so that it is
/// not larger for them.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// WebSocket.
    Ws(Box<WsStream<TcpStream>>),
    /// WebSocket over TLS.
    Wss(Box<WsStream<TlsStream<TcpStream>>>),
}

impl Stream {
    /// The socket below, for its options.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref(),
            Self::Ws(stream) => stream.get_ref(),
            Self::Wss(stream) => stream.get_ref().get_ref(),
        }
    }

    /// Which it is.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self {
            Self::Tcp(_) => Transport::Tcp,
            Self::Tls(_) => Transport::Tls,
            Self::Ws(_) => Transport::Ws,
            Self::Wss(_) => Transport::Wss,
        }
    }

    /// Whether a read would bring anything; if not, the task is woken when it would. Spares a buffer for a read in
    /// vain.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let has_work = match self {
            Self::Tcp(_) => false,
            Self::Tls(stream) => stream.has_work(),
            Self::Ws(stream) => stream.has_work(),
            Self::Wss(stream) => stream.has_work() || stream.get_ref().has_work(),
        };
        if has_work {
            return Poll::Ready(());
        }
        // What failed says so when it is read.
        self.socket().poll_read_ready(cx).map(drop)
    }
}

/// The same for whichever it is.
macro_rules! each {
    ($self:ident, $stream:ident => $act:expr) => {
        match $self.get_mut() {
            Self::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $act
            }
            Self::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $act
            }
            Self::Ws(stream) => {
                let $stream = Pin::new(&mut **stream);
                $act
            }
            Self::Wss(stream) => {
                let $stream = Pin::new(&mut **stream);
                $act
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    /// All of them are.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_transport_makes_plain_tcp_larger() {
        assert!(size_of::<Stream>() <= size_of::<TcpStream>() + 8);
    }
}
