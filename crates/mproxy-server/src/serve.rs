//! From a listener to running connections: accepts, counts against the limits, gives each connection its task.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mproxy_core::event::Sink;
use mproxy_core::fault::{Fault, Whose};
use mproxy_core::peer::{ConnectionId, Origin};
use mproxy_core::{Event, Session, Setting};
use mproxy_tcp::{Accepted, Incoming, Listener};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, trace, warn};
use uuid::Uuid;

use crate::door::{Causes, Entered, Inward, Outward, Refused, Stream};
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
    /// What its connections have to do before the first packet.
    pub(crate) inward: Inward,
    /// Where they go.
    pub(crate) outward: Outward,
    pub(crate) door: Arc<Door>,
    /// Connections of this listener at most, beside the limit of all.
    pub(crate) max_connections: Option<usize>,
    pub(crate) open: AtomicUsize,
}

impl Doors<Stream> for Serving {
    fn report(&self, event: Event) {
        self.house.sink.report(event);
    }

    fn dial(self: Arc<Self>, origin: &Arc<Origin>) -> Dialing<Stream> {
        let deadline = tokio::time::Instant::now() + self.setting.limits.dial_timeout;
        let origin = Arc::clone(origin);
        Box::pin(async move { self.outward.reach(&origin, deadline).await })
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
        let arrival = Arrival { place, count: self.door.accepted(), since: Instant::now() };
        if self.inward.is_plain() {
            let entered = Entered { stream: Stream::Tcp(stream), remote, local, tls: None, ws: None };
            self.house.tasks.spawn(self.connection(entered, arrival));
        } else {
            self.house.tasks.spawn(Arc::clone(self).enter(stream, remote, local, arrival));
        }
    }

    /// Sees a connection through what its listener has in front of MQTT, and then through its life.
    async fn enter(
        self: Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
        local: SocketAddr,
        arrival: Arrival,
    ) {
        let deadline = arrival.since + self.setting.limits.connect_timeout;
        // Boxed: handshakes are large, and over soon. Dropping one drops the connection.
        let entering = Box::pin(timeout_at(deadline.into(), self.inward.enter(stream, remote, local)));
        let refused = match self.house.closing.run_until_cancelled(entering).await {
            Some(Ok(Ok(entered))) => return self.connection(entered, arrival).await,
            Some(Ok(Err(refused))) => refused,
            Some(Err(_)) => Refused::TooLate,
            None => return,
        };
        let (whose, cause) = (Whose::Client.name(), refused.label());
        arrival.count.turned_away(cause);
        debug!(listener = %self.name, %remote, whose, cause, "turned away: {}", Causes(&refused));
    }

    fn connection(self: &Arc<Self>, entered: Entered, arrival: Arrival) -> Connection {
        let Entered { stream, remote, local, tls, ws } = entered;
        let origin = Arc::new(Origin {
            connection_id: ConnectionId(Uuid::new_v4().as_u128()),
            epoch: self.house.epochs.fetch_add(1, Ordering::Relaxed),
            instance: Arc::clone(&self.house.instance),
            listener: Arc::clone(&self.name),
            transport: stream.transport(),
            remote,
            local,
            tls,
            ws,
        });
        debug!(connection = %origin.connection_id, listener = %self.name, %remote, "connected");
        let handle = Arc::new(Handle::new(&origin));
        self.house.registry.enter(&handle);
        let session = Session::new(origin, Arc::clone(&self.setting), arrival.since);
        let doors = Arc::clone(self) as Arc<dyn Doors<Stream>>;
        let relay = Relay::new(stream, session, handle, doors);
        Connection { relay, place: Some(arrival.place), count: Some(arrival.count) }
    }
}

/// A connection that has been let in, and is counted.
struct Arrival {
    place: Place,
    count: Open,
    since: Instant,
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
    relay: Relay<Stream>,
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
        if let (Some(stream), Some(Place(serving))) = (this.relay.parting(), &this.place) {
            serving.house.tasks.spawn(part(stream));
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

/// How long a client that was told what it did wrong has to end its side.
const PARTING: Duration = Duration::from_secs(1);

/// Bytes of it that are thrown away meanwhile, at most.
const PARTING_BYTES: usize = 64 << 10;

/// Ends our side of a stream, and keeps it until its client has ended the other, so that our last word is read before the
/// connection is reset.
async fn part(mut stream: Box<Stream>) {
    let ended = async {
        // If it cannot be ended, the client is gone.
        let _ = stream.shutdown().await;
        let socket = stream.socket();
        let (mut buffer, mut thrown) = ([0; 1024], 0);
        while thrown < PARTING_BYTES && socket.readable().await.is_ok() {
            match socket.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => thrown += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    // Whichever comes first.
    let _ = timeout(PARTING, ended).await;
}

/// The line of a connection's end: as loud as whose doing it was asks for.
fn tell(relay: &Relay<Stream>, fault: &Fault) {
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
        // A client that goes, comes badly or vanishes is everyday life. What was not decided has had its own line.
        (Whose::Client, _)
        | (_, Fault::PolicyFailed { .. } | Fault::PolicyUnusable { .. } | Fault::Overloaded { .. }) => {
            line!(debug);
        }
        (Whose::Broker, _) => line!(warn),
        (Whose::Policy | Whose::Us, _) => line!(info),
    }
}
