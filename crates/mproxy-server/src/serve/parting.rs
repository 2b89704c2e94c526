//! Streams whose sessions are over, and whose peers have not ended their side. Each holds a descriptor for a moment longer,
//! stands in the account of them ([`crate::descriptors`]), and is closed at once when its place is wanted.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::House;
use crate::door::{Carrier, Stream};
use crate::relay::Parting;
use crate::share::Neighbours;
use crate::share::crowd::Evict;

/// How long a peer that was told the last word has to end its side.
const PARTING: Duration = Duration::from_secs(2);

/// Streams that wait for that at a time, at most: when there are as many, and when connections want their descriptors, the
/// oldest of the address with the most is closed at once.
const PARTING_AT_A_TIME: usize = 1024;

/// Bytes of a stream that could not be read that are thrown away meanwhile, at most.
const PARTING_BYTES: usize = 64 << 10;

/// A stream that waits, until somebody closes it.
struct PartingStream {
    stream: Mutex<Option<Stream>>,
    closed: CancellationToken,
}

impl Evict for PartingStream {
    /// Here and now: when this returns the descriptor is free.
    fn evict(&self) {
        let stream = self.stream.lock().take();
        drop(stream);
        self.closed.cancel();
    }
}

impl PartingStream {
    /// Keeps the stream until its peer has ended its side, so that our last word is read before the connection is reset.
    async fn last(&self, shut: bool) {
        let ended = async {
            if shut {
                while matches!(poll_fn(|cx| self.poll(cx, poll_read)).await, Ok(1..)) {}
                return;
            }
            // If it cannot be ended, the client is gone.
            let _ = poll_fn(|cx| self.poll(cx, |stream, cx| stream.poll_shutdown(cx).map_ok(|()| 0))).await;
            let mut thrown = 0;
            while thrown < PARTING_BYTES {
                match poll_fn(|cx| self.poll(cx, |stream, cx| stream.poll_throw_away(cx))).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => thrown += count,
                }
            }
        };
        // Whichever comes first.
        let _ = self.closed.run_until_cancelled(timeout(PARTING, ended)).await;
    }

    /// What has been closed has ended.
    fn poll(
        &self,
        cx: &mut Context<'_>,
        work: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &mut *self.stream.lock() {
            Some(stream) => work(Pin::new(stream), cx),
            None => Poll::Ready(Ok(0)),
        }
    }
}

fn poll_read(stream: Pin<&mut Stream>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut bytes = [0; 1024];
    let mut buffer = ReadBuf::new(&mut bytes);
    ready!(stream.poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

impl House {
    /// Keeps a stream for a moment, apart from its session, if there is a place for it. `whose`: of its client.
    pub(super) fn part(&self, parting: Parting<Stream>, whose: Neighbours) {
        let is_full =
            self.parting.len() >= PARTING_AT_A_TIME || !self.has_descriptors_for(self.parting.len() + 1);
        // Who was told longest ago had most time to read it.
        if is_full && !self.parting.make_room(whose, 0) {
            return;
        }
        let Parting { stream, shut } = parting;
        let stream =
            Arc::new(PartingStream { stream: Mutex::new(Some(stream)), closed: CancellationToken::new() });
        let member = self.parting.enter(whose, Arc::clone(&stream) as Arc<dyn Evict>);
        self.tasks.spawn(async move {
            stream.last(shut).await;
            // In this order: what is not counted any more is closed.
            stream.evict();
            drop(member);
        });
    }

    /// Whether so many streams may wait beside the connections that are open.
    fn has_descriptors_for(&self, parting: usize) -> bool {
        self.open.load(Ordering::Acquire) + parting.div_ceil(2) <= self.places_of_all()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mproxy_testkit::PATIENCE;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn stream(listener: &TcpListener) -> (Parting<Stream>, TcpStream) {
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.shutdown().await.unwrap();
        (Parting { stream: Stream::Tcp(stream), shut: true }, peer)
    }

    fn of(text: &str) -> Neighbours {
        text.parse::<std::net::IpAddr>().unwrap().into()
    }

    #[tokio::test]
    async fn streams_that_linger_hold_no_more_descriptors_than_connections_leave() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let house = House::empty();
        house.max_connections.store(1, Ordering::Relaxed);
        let mut peers = Vec::new();
        for _ in 0..3 {
            let (parting, peer) = stream(&listener).await;
            house.part(parting, of("192.0.2.1"));
            peers.push(peer);
        }
        assert_eq!(house.parting.len(), 2, "a connection takes two");
        // Cut while its peer has not ended its side.
        peers[0].write_all(b"x").await.unwrap();
        assert!(timeout(PATIENCE, peers[0].read(&mut [0])).await.is_ok());
        let begun = Instant::now();
        house.tasks.close();
        timeout(PARTING * 5, house.tasks.wait()).await.expect("it has a deadline");
        assert!(begun.elapsed() >= PARTING / 2, "{:?}", begun.elapsed());
        assert_eq!(house.parting.len(), 0);
    }

    #[tokio::test]
    async fn no_stream_lingers_where_connections_take_all_there_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let house = House::empty();
        house.max_connections.store(1, Ordering::Relaxed);
        house.open.store(1, Ordering::Relaxed);
        let (parting, _peer) = stream(&listener).await;
        house.part(parting, of("192.0.2.1"));
        assert_eq!((house.parting.len(), house.tasks.len()), (0, 0));
    }

    #[tokio::test]
    async fn who_wants_a_place_has_a_stream_closed_that_lingers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let house = House::empty();
        house.max_connections.store(2, Ordering::Relaxed);
        let mut peers = Vec::new();
        for whose in ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"] {
            let (parting, peer) = stream(&listener).await;
            house.part(parting, of(whose));
            peers.push(peer);
        }
        assert!(house.take_place(2, of("192.0.2.3")));
        assert_eq!(house.parting.len(), 2, "of the address with the most");
        assert!(house.take_place(2, of("192.0.2.3")));
        assert_eq!(house.parting.len(), 0);
        assert!(!house.take_place(2, of("192.0.2.3")));
    }
}
