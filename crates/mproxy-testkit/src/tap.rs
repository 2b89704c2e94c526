//! A wire with an ear: forwards connections, cutting what passes into pieces of all sizes, and remembers every byte
//! of both directions. Two of them, before and behind a proxy, show what it did to the bytes.

use crate::PATIENCE;
use mproxy_sim::rng::Rng;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// A listener that forwards everybody to one address; it ends, with all connections, when this is dropped.
#[derive(Debug)]
pub struct Tap {
    addr: SocketAddr,
    recordings: mpsc::UnboundedReceiver<Recording>,
    accepting: JoinHandle<()>,
}

/// All that passed over one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// From who came to where it was forwarded.
    pub up: Vec<u8>,
    /// The other way.
    pub down: Vec<u8>,
}

impl Tap {
    /// Forwards to `to`, in pieces that depend on `seed`.
    pub async fn start(to: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("cannot listen on 127.0.0.1: {error}"));
        let addr = listener.local_addr().unwrap_or_else(|error| panic!("listens nowhere: {error}"));
        // As many as a scene has connections.
        let (done, recordings) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(accept_all(listener, to, Rng::new(seed), done));
        Self { addr, recordings, accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection that has ended in both directions.
    pub async fn recording(&mut self) -> Recording {
        let recording = timeout(PATIENCE, self.recordings.recv()).await;
        recording.ok().flatten().unwrap_or_else(|| panic!("no connection has come to its end"))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // The set of connections lives in this task and ends with it.
        self.accepting.abort();
    }
}

async fn accept_all(
    listener: TcpListener,
    to: SocketAddr,
    mut rng: Rng,
    done: mpsc::UnboundedSender<Recording>,
) {
    let mut tasks = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let (there, back) = (Rng::new(rng.any()), Rng::new(rng.any()));
        let done = done.clone();
        tasks.spawn(async move {
            let far = TcpStream::connect(to).await.unwrap_or_else(|error| panic!("tap to {to}: {error}"));
            // Pieces are to stay pieces.
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            let (up, down) = tokio::join!(pump(near_in, far_out, there), pump(far_in, near_out, back));
            let _ = done.send(Recording { up, down });
        });
        while tasks.try_join_next().is_some() {}
    }
}

/// Forwards until one side ends, and ends the other.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut rng: Rng) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        // Every order of magnitude is as likely: single bytes, small packets, large chunks.
        let most = 1 << rng.below(17);
        let len = match from.read(&mut piece[..most]).await {
            Ok(0) | Err(_) => break,
            Ok(len) => len,
        };
        heard.extend_from_slice(&piece[..len]);
        if to.write_all(&piece[..len]).await.is_err() {
            break;
        }
        // Whoever reads gets the chance to see the piece alone.
        tokio::task::yield_now().await;
    }
    let _ = to.shutdown().await;
    heard
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{BrokerScript, RecordingBroker};
    use crate::wire::{self, ConnectOptions, Version, WireClient};

    #[tokio::test]
    async fn what_passes_is_remembered_and_not_changed() {
        let mut broker = RecordingBroker::start(BrokerScript::default()).await;
        let mut tap = Tap::start(broker.addr(), 1).await;
        let mut client = WireClient::login(tap.addr(), Version::V5, "heard").await;
        client.expect_nothing_but_pingresp().await;
        client.send(&wire::disconnect()).await;
        client.expect_closed().await;
        drop(client);
        let Recording { up, down } = tap.recording().await;
        let connect = wire::connect(Version::V5, "heard", &ConnectOptions::default());
        assert_eq!(up, [connect, wire::pingreq(), wire::disconnect()].concat());
        assert_eq!(down, [wire::connack(Version::V5, false, 0, &[]), wire::pingresp()].concat());
        assert_eq!(broker.session().await.received(), up);
    }
}
