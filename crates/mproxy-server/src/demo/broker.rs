//! The broker of the demo: everybody may do everything, and nothing is kept over a connection. Its hub knows sessions and
//! messages and no socket; here are the sockets. Nobody reaches it but mproxy, on this machine (ADR 0052).

mod connection;
mod hub;
mod session;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::hub::DemoHub;

/// The broker of the demo. Ends when dropped.
pub struct DemoBroker {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl DemoBroker {
    /// Starts a broker on a free port of this machine that keeps nothing and lets everybody in.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the embedded broker")?;
        let address = listener.local_addr().context("the embedded broker has no address")?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(accept(listener, stop.clone(), tasks.clone()));
        Ok(Self { address, stop, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, and waits until its connections have ended.
    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for DemoBroker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, stop: CancellationToken, tasks: TaskTracker) {
    let hub = Arc::new(Mutex::new(DemoHub::default()));
    while let Some(arrived) = stop.run_until_cancelled(listener.accept()).await {
        match arrived {
            Ok((stream, _)) => {
                let (hub, stop) = (Arc::clone(&hub), stop.clone());
                tasks.spawn(async move {
                    // A broker that stops says nothing: mproxy, which stands before it, has told the clients.
                    stop.run_until_cancelled(connection::serve(stream, hub)).await;
                });
            }
            Err(error) => {
                tracing::error!(%error, "embedded broker stopped");
                return;
            }
        }
    }
}
