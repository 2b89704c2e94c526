//! The transports that can be configured, a row each, and one type for whatever they make of a connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use mproxy_core::fault::Closed;
use mproxy_core::peer;
use mproxy_tcp::tls::{MaterialError, TlsStream};
use mproxy_ws::WsStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tcp::Tcp;
use super::tls::Tls;
use super::transport::{Carrier, SharedStream, SocketKind, StreamFacts};
use super::unix::Unix;
use super::ws::Ws;
use super::{Inward, Outward};
use crate::config::{ListenerSettings, Scheme, Target};

/// Makes everything of the rows that has to know all of them. The same for whichever it is: a branch, and no more.
macro_rules! transports {
    ($($(#[$about:meta])* $name:ident($stream:ty) = $transport:ty, $scheme:ident;)+) => {
        /// A byte stream over any transport. Plain TCP stays inline and costs one branch; the others are boxed, so that
        /// it is not larger for them.
        #[derive(Debug)]
        pub enum Stream { $($(#[$about])* $name($stream)),+ }

        impl Stream {
            /// Which it is.
            #[must_use]
            pub const fn transport(&self) -> peer::Transport {
                match self { $(Self::$name(_) => peer::Transport::$name),+ }
            }
        }

        impl Inward {
            /// As the listener is configured. Reads the certificates, which blocks.
            ///
            /// # Errors
            /// Which file is wrong, and why.
            pub fn of(listener: &ListenerSettings) -> Result<Self, MaterialError> {
                match listener.transport { $(Scheme::$scheme => Self::over::<$transport>(listener)),+ }
            }
        }

        impl Outward {
            /// As the target is configured. Reads the certificates, which blocks.
            ///
            /// # Errors
            /// Which file is wrong, and why.
            pub fn of(target: &Target) -> Result<Self, MaterialError> {
                match target.scheme { $(Scheme::$scheme => Self::over::<$transport>(target)),+ }
            }
        }

        /// Whichever it is, behind a reference.
        macro_rules! each {
            ($self:expr, $each:ident => $act:expr) => {
                match $self { $(Stream::$name($each) => $act),+ }
            };
        }
    };
}

transports! {
    /// Plain TCP.
    Tcp(TcpStream) = Tcp, Mqtt;
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>) = Tls<Tcp>, Mqtts;
    /// WebSocket.
    Ws(Box<WsStream<TcpStream>>) = Ws<Tcp>, Ws;
    /// WebSocket over TLS.
    Wss(Box<WsStream<TlsStream<TcpStream>>>) = Ws<Tls<Tcp>>, Wss;
    /// A Unix socket.
    Unix(Box<UnixStream>) = Unix, Unix;
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(stream))
    }
}

impl From<WsStream<TcpStream>> for Stream {
    fn from(stream: WsStream<TcpStream>) -> Self {
        Self::Ws(Box::new(stream))
    }
}

impl From<WsStream<TlsStream<TcpStream>>> for Stream {
    fn from(stream: WsStream<TlsStream<TcpStream>>) -> Self {
        Self::Wss(Box::new(stream))
    }
}

impl From<Box<UnixStream>> for Stream {
    fn from(stream: Box<UnixStream>) -> Self {
        Self::Unix(stream)
    }
}

impl TryFrom<SharedStream> for Stream {
    type Error = io::Error;

    /// Of a socket that another process had. Call it inside a tokio runtime.
    fn try_from(SharedStream { kind, descriptor }: SharedStream) -> io::Result<Self> {
        Ok(match kind {
            // It does not block: that is a property of the socket, and not of the descriptor.
            SocketKind::Tcp => Self::Tcp(TcpStream::from_std(descriptor.into())?),
            SocketKind::Unix => Self::Unix(Box::new(UnixStream::from_std(descriptor.into())?)),
        })
    }
}

impl Carrier for Stream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        each!(self, stream => stream.poll_readable(cx))
    }

    fn ended(&self) -> Option<Closed> {
        each!(self, stream => stream.ended())
    }

    fn says_goodbye(&self) -> bool {
        each!(self, stream => stream.says_goodbye())
    }

    fn has_last_word(&self) -> bool {
        each!(self, stream => stream.has_last_word())
    }

    fn facts(&self) -> StreamFacts {
        each!(self, stream => stream.facts())
    }

    fn share(&self) -> io::Result<Option<SharedStream>> {
        each!(self, stream => stream.share())
    }

    fn poll_throw_away(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_throw_away(cx))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    /// All of them are.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_transport_makes_plain_tcp_larger() {
        assert_eq!(size_of::<Stream>(), size_of::<TcpStream>());
    }
}
