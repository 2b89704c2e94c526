//! From a listener to running connections: accepts, counts against the limits, gives each connection its task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use mproxy_core::event::Sink;
use mproxy_core::fault::{Fault, Unreachable, Whose};
use mproxy_core::peer::{ConnectionId, Origin, Transport};
use mproxy_core::{Session, Setting};
use mproxy_tcp::{Accepted, Incoming, Listener, SocketOptions};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, trace, warn};
use uuid::Uuid;

use crate::config::Target;
use crate::registry::{Handle, Registry};
use crate::relay::{Dialing, Doors, Relay};
use crate::telemetry::metrics::{Door, Open};

/// What all listeners share.
pub(crate) struct House {
    pub(crate) instance: Arc<str>,
    pub(crate) registry: Registry,
    pub(crate) sink: Arc<dyn Sink>,
    /// Every connection's task.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when nobody is to be let in any more.
    pub(crate) closing: CancellationToken,
    pub(crate) max_connections: usize,
    open: AtomicUsize,
    epochs: AtomicU64,
}

impl House {
    pub(crate) fn new(instance: &str, max_connections: usize, sink: Arc<dyn Sink>) -> Self {
        Self {
            instance: instance.into(),
            registry: Registry::default(),
            sink,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            max_connections,
            open: AtomicUsize::new(0),
            epochs: AtomicU64::new(1),
        }
    }
}

/// One listener and what belongs to it.
pub(crate) struct Serving {
    pub(crate) house: Arc<House>,
    pub(crate) name: Arc<str>,
    pub(crate) setting: Arc<Setting>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) door: Door,
    /// Connections of this listener at most, beside the limit of all.
    pub(crate) max_connections: Option<usize>,
    pub(crate) open: Arc<AtomicUsize>,
}

/// Where a listener's connections go.
pub(crate) struct Broker {
    pub(crate) target: Target,
    pub(crate) within: std::time::Duration,
}

impl Doors<TcpStream> for Broker {
    fn dial(&self) -> Dialing<TcpStream> {
        let (host, port, within) = (self.target.host.clone(), self.target.port, self.within);
        Box::pin(async move {
            let deadline = tokio::time::Instant::now() + within;
            mproxy_tcp::dial(&host, port, &SocketOptions::default(), deadline).await.map_err(|error| {
                let mut text = error.to_string();
                if let Some(cause) = std::error::Error::source(&error) {
                    text = format!("{text}: {cause}");
                }
                Unreachable(text.into())
            })
        })
    }
}

impl Serving {
    /// Accepts until the house closes.
    pub(crate) async fn run(self, mut listener: Listener) {
        let closing = self.house.closing.clone();
        loop {
            // `accept` is cancel safe: a dropped one took nobody out of the queue.
            let incoming = tokio::select! {
                biased;
                () = closing.cancelled() => return,
                incoming = listener.accept() => incoming,
            };
            match incoming {
                Incoming::Connection(accepted) => self.let_in(accepted),
                Incoming::Lost(error) => {
                    trace!(listener = %self.name, %error, "a connection was gone before it was accepted")
                }
                Incoming::Exhausted { error, pause } => {
                    warn!(listener = %self.name, %error, ?pause, "no more connections can be accepted for now");
                }
            }
        }
    }

    fn let_in(&self, accepted: Accepted) {
        let Accepted { stream, remote, local } = accepted;
        let Some(place) = Place::take(&self.house, self) else {
            // Dropped at once: the client sees its connection closed.
            self.door.refused();
            debug!(listener = %self.name, %remote, "refused: too many connections");
            return;
        };
        let origin = Origin {
            connection_id: ConnectionId(Uuid::new_v4().as_u128()),
            epoch: self.house.epochs.fetch_add(1, Ordering::Relaxed),
            instance: Arc::clone(&self.house.instance),
            listener: Arc::clone(&self.name),
            transport: Transport::Tcp,
            remote,
            local,
            tls: None,
            ws: None,
        };
        debug!(connection = %origin.connection_id, listener = %self.name, %remote, "connected");
        let handle = Arc::new(Handle::new(&origin));
        self.house.registry.enter(&handle);
        let session = Session::new(origin, Arc::clone(&self.setting), Instant::now());
        let doors = Arc::clone(&self.broker) as Arc<dyn Doors<TcpStream>>;
        let relay = Relay::new(stream, session, Arc::clone(&handle), Arc::clone(&self.house.sink), doors);
        let count = self.door.accepted();
        self.house.tasks.spawn(Connection { relay, place: Some((place, handle, count)) });
    }
}

/// A place among those that may be connected at a time; given back when dropped.
struct Place {
    house: Arc<House>,
    listener: Arc<AtomicUsize>,
}

impl Place {
    fn take(house: &Arc<House>, serving: &Serving) -> Option<Self> {
        let under = |count: &AtomicUsize, most: usize| {
            count
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < most).then_some(open + 1))
                .is_ok()
        };
        if !under(&house.open, house.max_connections) {
            return None;
        }
        if !under(&serving.open, serving.max_connections.unwrap_or(usize::MAX)) {
            house.open.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self { house: Arc::clone(house), listener: Arc::clone(&serving.open) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.house.open.fetch_sub(1, Ordering::AcqRel);
        self.listener.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A relay, and what is to be done when it ends, however it ends.
struct Connection {
    relay: Relay<TcpStream>,
    place: Option<(Place, Arc<Handle>, Open)>,
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        let this = &mut *self;
        let fault = std::task::ready!(Pin::new(&mut this.relay).poll(cx));
        if let Some((place, handle, count)) = this.place.take() {
            place.house.registry.leave(&handle);
            count.ended(&fault);
            tell(&this.relay, &handle, &fault);
        }
        std::task::Poll::Ready(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some((place, handle, _)) = self.place.take() {
            place.house.registry.leave(&handle);
        }
    }
}

/// The line of a connection's end: as loud as whose doing it was asks for.
fn tell(relay: &Relay<TcpStream>, handle: &Handle, fault: &Fault) {
    let session = relay.session();
    let client = session.peer().map(|peer| &*peer.client_id);
    let user = session.peer().and_then(|peer| peer.username.as_deref());
    let (connection, remote, whose) = (handle.id(), handle.remote(), fault.whose().name());
    macro_rules! line {
        ($level:ident) => {
            $level!(%connection, %remote, ?client, ?user, whose, cause = fault.label(), "ended: {fault}")
        };
    }
    match (fault.whose(), fault) {
        // A client that goes, comes badly or vanishes is everyday life.
        (Whose::Client, _) => line!(debug),
        (Whose::Policy, Fault::PolicyFailed { .. }) | (Whose::Broker, _) => line!(warn),
        (Whose::Policy | Whose::Us, _) => line!(info),
    }
}
