//! Streams whose sessions are over, and whose peers have not ended their side.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::House;
use crate::door::{Carrier, Stream};
use crate::relay::Parting;

/// How long a peer that was told the last word has to end its side.
const PARTING: Duration = Duration::from_secs(2);

/// Streams that wait for that at a time; further ones are dropped at once, so that peers that do not close take no more
/// sockets than these.
pub(super) const PARTING_AT_A_TIME: usize = 1024;

/// Bytes of a stream that could not be read that are thrown away meanwhile, at most.
const PARTING_BYTES: usize = 64 << 10;

/// Keeps the stream of a session that is over until its peer has ended its side, so that our last word is read before the
/// connection is reset.
async fn part(parting: Parting<Stream>) {
    let Parting { mut stream, shut } = parting;
    let ended = async {
        let mut buffer = [0; 1024];
        if shut {
            while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
            return;
        }
        // If it cannot be ended, the client is gone.
        let _ = stream.shutdown().await;
        let mut thrown = 0;
        while thrown < PARTING_BYTES {
            match poll_fn(|cx| stream.poll_throw_away(cx)).await {
                Ok(0) | Err(_) => return,
                Ok(count) => thrown += count,
            }
        }
    };
    // Whichever comes first.
    let _ = timeout(PARTING, ended).await;
}

impl House {
    /// Keeps a stream for a moment, apart from its session, if there is a place for it.
    pub(super) fn part(&self, parting: Parting<Stream>) {
        if let Ok(slot) = Arc::clone(&self.parting).try_acquire_owned() {
            self.tasks.spawn(async move {
                part(parting).await;
                drop(slot);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::TcpStream;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn streams_that_linger_are_few_and_go_in_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let house = House { parting: Arc::new(Semaphore::new(1)), ..House::empty() };
        let mut peers = Vec::new();
        for _ in 0..2 {
            peers.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.shutdown().await.unwrap();
            house.part(Parting { stream: Stream::Tcp(stream), shut: true });
        }
        assert_eq!(house.tasks.len(), 1, "there was no place for the second");
        let begun = Instant::now();
        house.tasks.close();
        timeout(PARTING * 5, house.tasks.wait()).await.expect("it has a deadline");
        assert!(begun.elapsed() >= PARTING / 2, "{:?}", begun.elapsed());
        assert_eq!(house.parting.available_permits(), 1);
        drop(peers);
    }
}
