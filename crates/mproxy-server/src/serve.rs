//! From a listener to running connections: accepts, counts against the limits, gives each connection its task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mproxy_core::event::Sink;
use mproxy_core::fault::{Fault, Unreachable, Whose};
use mproxy_core::peer::{ConnectionId, Origin, Transport};
use mproxy_core::{Event, Session, Setting};
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
    /// Every listener's task.
    pub(crate) doors: TaskTracker,
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
            doors: TaskTracker::new(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            max_connections,
            open: AtomicUsize::new(0),
            epochs: AtomicU64::new(1),
        }
    }
}

/// How often [`tick`] does.
const TICK: Duration = Duration::from_secs(1);

/// Keeps a timer running that ends before any of a connection's. The runtime wakes itself up, at the cost of two system
/// calls, whenever a timer is set that ends before all others; on a quiet machine that was each connection's, twice.
pub(crate) async fn tick(closing: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    while closing.run_until_cancelled(tick.tick()).await.is_some() {}
}

/// One listener and what belongs to it.
pub(crate) struct Serving {
    pub(crate) house: Arc<House>,
    pub(crate) name: Arc<str>,
    pub(crate) setting: Arc<Setting>,
    /// Where its connections go.
    pub(crate) target: Target,
    pub(crate) door: Arc<Door>,
    /// Connections of this listener at most, beside the limit of all.
    pub(crate) max_connections: Option<usize>,
    pub(crate) open: AtomicUsize,
}

impl Doors<TcpStream> for Serving {
    fn report(&self, event: Event) {
        self.house.sink.report(event);
    }

    fn dial(&self) -> Dialing<TcpStream> {
        let within = self.setting.limits.dial_timeout;
        let (host, port) = (self.target.host.clone(), self.target.port);
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
    pub(crate) async fn run(self: Arc<Self>, mut listener: Listener) {
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

    fn let_in(self: &Arc<Self>, accepted: Accepted) {
        let Accepted { stream, remote, local } = accepted;
        let Some(place) = Place::take(self) else {
            // Dropped at once: the client sees its connection closed.
            self.door.refused();
            debug!(listener = %self.name, %remote, "refused: too many connections");
            return;
        };
        let origin = Arc::new(Origin {
            connection_id: ConnectionId(Uuid::new_v4().as_u128()),
            epoch: self.house.epochs.fetch_add(1, Ordering::Relaxed),
            instance: Arc::clone(&self.house.instance),
            listener: Arc::clone(&self.name),
            transport: Transport::Tcp,
            remote,
            local,
            tls: None,
            ws: None,
        });
        debug!(connection = %origin.connection_id, listener = %self.name, %remote, "connected");
        let handle = Arc::new(Handle::new(&origin));
        self.house.registry.enter(&handle);
        let session = Session::new(origin, Arc::clone(&self.setting), Instant::now());
        let doors = Arc::clone(self) as Arc<dyn Doors<TcpStream>>;
        let relay = Relay::new(stream, session, handle, doors);
        self.house.tasks.spawn(Connection { relay, place: Some(place), count: Some(self.door.accepted()) });
    }
}

/// A place among those that may be connected at a time; given back when dropped.
struct Place(Arc<Serving>);

impl Place {
    fn take(serving: &Arc<Serving>) -> Option<Self> {
        let under = |count: &AtomicUsize, most: usize| {
            count
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < most).then_some(open + 1))
                .is_ok()
        };
        if !under(&serving.house.open, serving.house.max_connections) {
            return None;
        }
        if !under(&serving.open, serving.max_connections.unwrap_or(usize::MAX)) {
            serving.house.open.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self(Arc::clone(serving)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.house.open.fetch_sub(1, Ordering::AcqRel);
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A relay, and what is to be done when it ends, however it ends.
struct Connection {
    relay: Relay<TcpStream>,
    /// Until it has left.
    place: Option<Place>,
    count: Option<Open>,
}

impl Connection {
    /// It is not found any more, and its place is free.
    fn leave(&mut self) {
        if let Some(Place(serving)) = &self.place {
            serving.house.registry.leave(self.relay.handle());
        }
        self.place = None;
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        let this = &mut *self;
        let fault = std::task::ready!(Pin::new(&mut this.relay).poll(cx));
        if let Some(count) = this.count.take() {
            count.ended(&fault);
        }
        // Before its line: who has read that finds it gone.
        this.leave();
        tell(&this.relay, &fault);
        std::task::Poll::Ready(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The line of a connection's end: as loud as whose doing it was asks for.
fn tell(relay: &Relay<TcpStream>, fault: &Fault) {
    let session = relay.session();
    let client = session.peer().map(|peer| &*peer.client_id);
    let user = session.peer().and_then(|peer| peer.username.as_deref());
    let origin = relay.handle().origin();
    let (connection, remote, whose) = (origin.connection_id, origin.remote, fault.whose().name());
    macro_rules! line {
        ($level:ident) => {
            $level!(%connection, %remote, ?client, ?user, whose, cause = fault.label(), "ended: {fault}")
        };
    }
    match (fault.whose(), fault) {
        // A client that goes, comes badly or vanishes is everyday life. An answer that failed has had its own line.
        (Whose::Client, _) | (Whose::Policy, Fault::PolicyFailed { .. }) => line!(debug),
        (Whose::Broker, _) => line!(warn),
        (Whose::Policy | Whose::Us, _) => line!(info),
    }
}
