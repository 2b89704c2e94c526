//! The encrypted byte stream, of either side.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are encrypted before they could be sent. Beyond it a write waits, so a slow reader stalls only its own
/// connection; one record of full length has room.
const UNSENT: usize = 20 << 10;

/// A TLS connection whose handshake is done.
///
/// The end of the connection reads as an end whether or not the peer said `close_notify`: what MQTT carries knows its
/// own length, and devices that switch off do not say goodbye. Shutting down says it.
#[derive(Debug)]
pub struct TlsStream<S>(Box<tokio_rustls::TlsStream<S>>);

impl<S> TlsStream<S> {
    pub(super) fn new(stream: tokio_rustls::TlsStream<S>) -> Self {
        let mut stream = Box::new(stream);
        match &mut *stream {
            tokio_rustls::TlsStream::Client(stream) => stream.get_mut().1.set_buffer_limit(Some(UNSENT)),
            tokio_rustls::TlsStream::Server(stream) => stream.get_mut().1.set_buffer_limit(Some(UNSENT)),
        }
        Self(stream)
    }

    /// The connection below.
    pub fn get_ref(&self) -> &S {
        self.0.get_ref().0
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut *self.0).poll_read(cx, buf) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
