//! A wire that can swallow everything: while it does, it accepts nobody and forwards no byte, and neither side sees a FIN
//! or a reset. What was sent meanwhile is forwarded when it is over, as TCP would send it again.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A listener that forwards everybody to one address, or swallows what they say. It ends, with all connections, when this is
/// dropped.
#[derive(Debug)]
pub struct BlackHole {
    addr: SocketAddr,
    open: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl BlackHole {
    /// Forwards to `to`.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("cannot listen on 127.0.0.1: {error}"));
        let addr = listener.local_addr().unwrap_or_else(|error| panic!("listens nowhere: {error}"));
        let open = watch::Sender::new(true);
        let accepting = tokio::spawn(accept_all(listener, to, open.subscribe()));
        Self { addr, open, accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same for `MPROXY_POLICY_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on nothing passes.
    pub fn swallow(&self) {
        self.open.send_replace(false);
    }

    /// From now on everything passes, what was swallowed first.
    pub fn release(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for BlackHole {
    fn drop(&mut self) {
        // The set of connections lives in this task and ends with it.
        self.accepting.abort();
    }
}

/// Waits until something may pass. `None`: nothing will any more.
async fn opened(open: &mut watch::Receiver<bool>) -> Option<()> {
    open.wait_for(|open| *open).await.ok().map(|_| ())
}

async fn accept_all(listener: TcpListener, to: SocketAddr, mut open: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    while opened(&mut open).await.is_some() {
        let near = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => near,
                Err(_) => return,
            },
            _ = open.changed() => continue,
        };
        let passes = open.clone();
        tasks.spawn(async move {
            // Nobody there: whoever came sees its connection end.
            let Ok(far) = TcpStream::connect(to).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::join!(pump(near_in, far_out, passes.clone()), pump(far_in, near_out, passes));
        });
        while tasks.try_join_next().is_some() {}
    }
}

/// Forwards until one side ends, and ends the other.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut piece = vec![0; 16 << 10];
    while opened(&mut open).await.is_some() {
        let len = tokio::select! {
            read = from.read(&mut piece) => match read {
                Ok(0) | Err(_) => break,
                Ok(len) => len,
            },
            _ = open.changed() => continue,
        };
        if opened(&mut open).await.is_none() || to.write_all(&piece[..len]).await.is_err() {
            break;
        }
    }
    // That a side ended is swallowed as well.
    let _ = opened(&mut open).await;
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::broker::{BrokerScript, RecordingBroker};
    use crate::wire::{self, Version, WireClient};

    #[tokio::test]
    async fn what_was_swallowed_comes_when_it_is_over_and_nobody_sees_an_end() {
        let broker = RecordingBroker::start(BrokerScript::default()).await;
        let hole = BlackHole::start(broker.addr()).await;
        let mut client = WireClient::login(hole.addr(), Version::V5, "far").await;
        hole.swallow();
        client.send(&wire::pingreq()).await;
        let late = WireClient::login(hole.addr(), Version::V5, "late");
        let nothing =
            timeout(Duration::from_millis(200), async { tokio::join!(client.packet(), late) }).await;
        assert!(nothing.is_err());
        hole.release();
        assert_eq!(client.packet().await, wire::pingresp());
        WireClient::login(hole.addr(), Version::V5, "afterwards").await;
    }
}
