#![no_main]
//! A WebSocket stream told anything, cut anywhere. It must not panic, the payload must not depend on the cuts, and what
//! it answers stays bounded by what it read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use mproxy_ws::{Role, WsStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [cut, room, frames @ ..] = input else { return };
    // A flood is judged by the piece, so it may end at another byte: fewer frames than that.
    let frames = &frames[..frames.len().min(1800)];
    for role in [Role::Server, Role::Client] {
        let whole = hear(frames, usize::MAX, 1 << 16, role);
        let pieces = hear(frames, usize::from(*cut).max(1), usize::from(*room).max(1), role);
        assert_eq!(whole, pieces);
    }
});

/// What was read, and how it ended.
fn hear(bytes: &[u8], cut: usize, room: usize, role: Role) -> (Vec<u8>, Option<io::ErrorKind>) {
    let mut stream = WsStream::new(Peer { unread: bytes, cut, written: 0 }, role, Default::default());
    let mut cx = Context::from_waker(Waker::noop());
    let mut buffer = vec![0; room];
    let mut payload = Vec::new();
    let end = loop {
        let mut buf = ReadBuf::new(&mut buffer);
        match Pin::new(&mut stream).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => break None,
            Poll::Ready(Ok(())) => payload.extend_from_slice(buf.filled()),
            Poll::Ready(Err(error)) => break Some(error.kind()),
            Poll::Pending => unreachable!("the peer never waits"),
        }
    };
    assert!(payload.len() <= bytes.len());
    // A pong is as long as its ping, a client's has a mask besides; a close is the last word.
    assert!(stream.get_ref().written <= 3 * bytes.len() + 16);
    (payload, end)
}

/// Gives its bytes in pieces, and takes everything.
struct Peer<'a> {
    unread: &'a [u8],
    cut: usize,
    written: usize,
}

impl AsyncRead for Peer<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.unread.len().min(self.cut).min(buf.remaining());
        let (piece, rest) = self.unread.split_at(n);
        buf.put_slice(piece);
        self.unread = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
