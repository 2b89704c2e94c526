//! From a listener to running connections: accepts, counts against the limits, gives each connection its task.

mod outage;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mproxy_core::event::Sink;
use mproxy_core::fault::{Fault, Party, Severity, Unreachable};
use mproxy_core::peer::{Address, ConnectionId, Origin};
use mproxy_core::policy::Pending;
use mproxy_core::session::{Answered, OpenQuestion};
use mproxy_core::{Event, Session, Setting};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, trace, warn};
use uuid::Uuid;

use self::outage::{Outage, Recovery};
use crate::door::{
    Arrived, Carrier, Causes, Entered, Entering, Incoming, Known, OpenListener, Outward, Refused, Room,
    Shake, Stream,
};
use crate::registry::{Command, Handle, Registry};
use crate::relay::{Dialing, Parting, Relay, RelayHost};
use crate::share::Neighbours;
use crate::share::crowd::{Crowd, Evict, Member};
use crate::share::turns::Turns;
use crate::telemetry::connections::ListenerMetrics;

/// CONNECTs that are decided on at a time. Further ones wait in turns of their addresses, each within its own deadlines.
/// Below what the policy service may be asked at once, so that the questions of those who are in are not kept waiting.
const DECIDED_AT_A_TIME: usize = 1024;

/// What all listeners share.
pub(crate) struct House {
    pub(crate) instance: Arc<str>,
    pub(crate) registry: Registry,
    pub(crate) sink: Arc<dyn Sink>,
    /// Every listener's task.
    pub(crate) listeners: TaskTracker,
    /// Every connection's task.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when nobody is to be let in any more.
    pub(crate) closing: CancellationToken,
    pub(crate) max_connections: usize,
    /// Those of them that have not been admitted, at most.
    max_pending: Option<usize>,
    open: AtomicUsize,
    epochs: AtomicU64,
    /// Connections that have not been admitted.
    pending: Arc<Crowd>,
    /// For the work of TLS handshakes.
    pub(crate) handshakes: Arc<Turns>,
    /// For CONNECTs that somebody has to decide on.
    decisions: Arc<Turns>,
    /// Places for streams whose sessions are over.
    parting: Arc<Semaphore>,
}

/// Microseconds since 1970: larger than all epochs of an mproxy before this one that accepted less than a million
/// connections a second, so that events of both can be put in order. JavaScript can hold it without loss.
fn first_epoch(now: SystemTime) -> u64 {
    let micros = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    u64::try_from(micros).unwrap_or(u64::MAX / 2).max(1)
}

impl House {
    pub(crate) fn new(
        instance: &str,
        max_connections: usize,
        max_pending: Option<usize>,
        sink: Arc<dyn Sink>,
    ) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            instance: instance.into(),
            registry: Registry::default(),
            sink,
            listeners: TaskTracker::new(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            max_connections,
            max_pending,
            open: AtomicUsize::new(0),
            epochs: AtomicU64::new(first_epoch(SystemTime::now())),
            pending: Arc::default(),
            // One thread is left to those who are in: handshakes are the only work that strangers can make long.
            // On a single core that is 0, of which `Turns` makes 1.
            handshakes: Turns::new(threads - 1),
            decisions: Turns::new(DECIDED_AT_A_TIME),
            parting: Arc::new(Semaphore::new(PARTING_AT_A_TIME)),
        }
    }

    /// Keeps a stream for a moment, apart from its session, if there is a place for it.
    fn part(&self, parting: Parting<Stream>) {
        if let Ok(slot) = Arc::clone(&self.parting).try_acquire_owned() {
            self.tasks.spawn(async move {
                part(parting).await;
                drop(slot);
            });
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
    /// Within what their handshakes have to stay.
    pub(crate) room: Room,
    /// Where they go.
    pub(crate) outward: Outward,
    /// Whether they get there.
    pub(crate) outage: Mutex<Outage>,
    pub(crate) metrics: Arc<ListenerMetrics>,
    /// Connections of this listener at most, beside the limit of all.
    pub(crate) max_connections: Option<usize>,
    pub(crate) open: AtomicUsize,
    /// Those of them that have not been admitted, where it has a limit of its own.
    pub(crate) pending: Arc<Crowd>,
}

impl RelayHost<Stream> for Serving {
    fn report(&self, event: Event) {
        self.house.sink.report(event);
    }

    fn dial(self: Arc<Self>, origin: &Arc<Origin>, until: Instant) -> Dialing<Stream> {
        self.outward.reach(origin, until.into())
    }

    fn dialed(&self, failed: Option<&Unreachable>, now: Instant) {
        let (listener, broker, by) = (&*self.name, self.outward.target(), Party::Broker.name());
        let Some(Unreachable(error)) = failed else {
            let recovery = self.outage.lock().dial_succeeded(now);
            if let Some(Recovery { failed_dials, lasted }) = recovery {
                let outage_seconds = lasted.as_secs_f64();
                info!(listener, broker, failed_dials, outage_seconds, "broker reachable again");
            }
            return;
        };
        if self.outage.lock().dial_failed(now) {
            let timeout_seconds = self.setting.limits.admission_timeout.as_secs_f64();
            warn!(
                listener,
                broker,
                by,
                error = &**error,
                timeout_seconds,
                "broker unreachable, retrying for each client"
            );
        }
    }

    fn ask(&self, origin: &Origin, question: OpenQuestion) -> Pending<Answered> {
        let turn = self.house.decisions.take((&origin.remote).into());
        Box::pin(async move {
            let _turn = turn.await;
            question.await
        })
    }
}

impl Serving {
    /// Accepts until the house closes.
    pub(crate) async fn run(self: Arc<Self>, mut listener: OpenListener) {
        let closing = self.house.closing.clone();
        loop {
            // `accept` is cancel safe: a dropped one took nobody out of the queue.
            let incoming = tokio::select! {
                // When the house closes nobody else is let in, however many wait.
                biased;
                () = closing.cancelled() => return,
                incoming = listener.accept() => incoming,
            };
            match incoming {
                Incoming::Connection(arrived) => self.let_in(arrived),
                Incoming::Lost(error) => {
                    trace!(listener = &*self.name, %error, "connection lost before accept")
                }
                Incoming::Exhausted { error, pause } => {
                    let pause_seconds = pause.as_secs_f64();
                    warn!(listener = &*self.name, %error, pause_seconds, "accept failed, pausing");
                }
            }
        }
    }

    fn let_in(self: &Arc<Self>, arrived: Arrived) {
        let Arrived { remote, entering } = arrived;
        // Before any handshake: who is over the limit must cost neither memory nor work.
        let Some(slot) = ConnectionSlot::take(self, (&remote).into()) else {
            // Dropped at once: the client sees its connection closed.
            self.metrics.count_refused();
            debug!(listener = &*self.name, peer_addr = %remote, "connection refused: too many connections");
            return;
        };
        let since = Instant::now();
        match entering {
            Entering::Done(entered) => {
                self.house.tasks.spawn(self.connection(entered, slot, None, since));
            }
            Entering::Shaking(shake) => {
                // Boxed: handshakes are large, and over soon. Dropping one drops the connection.
                let shake = shake(self.room.clone());
                self.house.tasks.spawn(Arc::clone(self).enter(shake, remote, slot, since));
            }
        }
    }

    /// Sees a connection through what its listener has in front of MQTT, and then through its life.
    async fn enter(self: Arc<Self>, shake: Shake, remote: Address, slot: ConnectionSlot, since: Instant) {
        let evicted = CancellationToken::new();
        let waiting = self.wait(&remote, Arc::new(evicted.clone()));
        let deadline = since + self.setting.limits.connect_timeout;
        let entering = timeout_at(deadline.into(), shake);
        let entering = evicted.run_until_cancelled(entering);
        let refused = match self.house.closing.run_until_cancelled(entering).await {
            Some(Some(Ok(Ok(entered)))) => {
                return self.connection(entered, slot, Some(waiting), since).await;
            }
            Some(Some(Ok(Err(refused)))) => refused,
            Some(Some(Err(_))) => Refused::TooLate,
            Some(None) => Refused::Evicted,
            // mproxy ends. Nobody was told of this connection, and its slot counts it.
            None => return,
        };
        let (by, cause, detail) = (Party::Client.name(), refused.label(), Causes(&refused));
        slot.end(|metrics| metrics.count_closed(cause, by));
        debug!(listener = &*self.name, peer_addr = %remote, by, cause, %detail, "rejected before CONNECT");
    }

    fn connection(
        self: &Arc<Self>,
        entered: Entered,
        slot: ConnectionSlot,
        waiting: Option<Box<PendingEntry>>,
        since: Instant,
    ) -> Connection {
        let Entered { stream, known: Known { remote, local, tls, ws } } = entered;
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
        let (connection_id, remote) = (origin.connection_id, &origin.remote);
        debug!(%connection_id, listener = &*self.name, peer_addr = %remote, "connection accepted");
        let handle = Arc::new(Handle::new(&origin));
        self.house.registry.enter(&handle);
        let who = Arc::clone(&handle) as Arc<dyn Evict>;
        let waiting = match waiting {
            None => self.wait(remote, who),
            // A PROXY header may have told another address.
            Some(mut waiting) => {
                if !waiting.regard(remote, &who) {
                    handle.evict();
                }
                waiting
            }
        };
        let session = Session::new(origin, Arc::clone(&self.setting), since);
        let host = Arc::clone(self) as Arc<dyn RelayHost<Stream>>;
        let relay = Relay::new(stream, session, handle, host);
        Connection { relay, slot, waiting: Some(waiting) }
    }

    /// Counts a connection among those that have not been admitted.
    fn wait(&self, remote: &Address, who: Arc<dyn Evict>) -> Box<PendingEntry> {
        let whose = remote.into();
        Box::new(PendingEntry {
            here: self.max_connections.map(|_| self.pending.enter(whose, Arc::clone(&who))),
            anywhere: self.house.pending.enter(whose, who),
        })
    }
}

/// A connection that has not been admitted, among the others of its listener and of all.
struct PendingEntry {
    here: Option<Member>,
    anywhere: Member,
}

impl PendingEntry {
    /// `false` where it has to go.
    fn regard(&mut self, remote: &Address, who: &Arc<dyn Evict>) -> bool {
        let whose = remote.into();
        let stays = self.here.as_mut().is_none_or(|here| here.regard(whose, Arc::clone(who)));
        self.anywhere.regard(whose, Arc::clone(who)) && stays
    }
}

impl Evict for Handle {
    fn evict(&self) {
        self.send(Command::Evict);
    }
}

/// How much more an address has to have than who comes, to give up a place for it.
const SPARE: usize = 2;

/// A place among those that may be connected at a time, counted as open; given back when its end is told, or it is
/// dropped.
struct ConnectionSlot(Option<Arc<Serving>>);

impl ConnectionSlot {
    /// Where there is none left, somebody who has not been admitted may make room; its place is given back a moment later.
    fn take(serving: &Arc<Serving>, whose: Neighbours) -> Option<Self> {
        let house = &serving.house;
        // Seldom wrong by as many as there are listeners.
        if house.max_pending.is_some_and(|most| house.pending.len() >= most)
            && !house.pending.make_room(whose, SPARE)
        {
            return None;
        }
        let under = |count: &AtomicUsize, most: usize, crowd: &Crowd| {
            let more = |open| (open < most).then_some(open + 1);
            if count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok() {
                return true;
            }
            // Where there is, the count is over its limit until who has to go has gone.
            let room = crowd.make_room(whose, SPARE);
            if room {
                count.fetch_add(1, Ordering::AcqRel);
            }
            room
        };
        if !under(&house.open, house.max_connections, &house.pending) {
            return None;
        }
        if !under(&serving.open, serving.max_connections.unwrap_or(usize::MAX), &serving.pending) {
            house.open.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        serving.metrics.count_accepted();
        Some(Self(Some(Arc::clone(serving))))
    }

    /// Its connection ended, as is counted by `count`.
    fn end(mut self, count: impl FnOnce(&ListenerMetrics)) {
        self.give_back(count);
    }

    fn give_back(&mut self, count: impl FnOnce(&ListenerMetrics)) {
        if let Some(serving) = self.0.take() {
            let before = [&serving.house.open, &serving.open].map(|open| open.fetch_sub(1, Ordering::AcqRel));
            debug_assert!(!before.contains(&0), "more slots are given back than were taken");
            count(&serving.metrics);
        }
    }
}

impl Drop for ConnectionSlot {
    /// Its task went away without a word: it was cut at the very end of the process, or it panicked.
    fn drop(&mut self) {
        let cause = if std::thread::panicking() { "panicked" } else { "aborted" };
        self.give_back(|metrics| metrics.count_closed(cause, Party::Mproxy.name()));
    }
}

/// A relay, and what is to be done when it ends, however it ends.
struct Connection {
    relay: Relay<Stream>,
    /// Until it has left.
    slot: ConnectionSlot,
    /// Until it is admitted.
    waiting: Option<Box<PendingEntry>>,
}

impl Connection {
    /// It is not found any more. Gives its slot, the first time.
    fn leave(&mut self) -> ConnectionSlot {
        self.waiting = None;
        if let Some(serving) = &self.slot.0 {
            serving.house.registry.leave(self.relay.handle());
        }
        std::mem::replace(&mut self.slot, ConnectionSlot(None))
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.relay).poll(cx);
        if this.waiting.is_some() && this.relay.handle().is_admitted() {
            this.waiting = None;
        }
        let fault = std::task::ready!(polled);
        if let Some(serving) = &this.slot.0 {
            for parting in this.relay.partings() {
                serving.house.part(parting);
            }
        }
        // Before its line: who has read that finds it gone.
        this.leave().end(|metrics| metrics.count_end(&fault));
        log_end(&this.relay, &fault);
        std::task::Poll::Ready(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

/// How long a peer that was told the last word has to end its side.
const PARTING: Duration = Duration::from_secs(2);

/// Streams that wait for that at a time; further ones are dropped at once, so that peers that do not close take no more
/// sockets than these.
const PARTING_AT_A_TIME: usize = 1024;

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

/// The line of a connection's end: as loud as an operator has to do with it.
fn log_end(relay: &Relay<Stream>, fault: &Fault) {
    let peer = relay.session().peer();
    let client_id = peer.map(|peer| &*peer.client_id);
    let username = peer.and_then(|peer| peer.username.as_deref());
    let origin = relay.handle().origin();
    let (connection_id, listener, peer_addr) = (origin.connection_id, &*origin.listener, &origin.remote);
    let (by, cause, reason_code) = (fault.by().name(), fault.label(), fault.reason().0);
    macro_rules! line {
        ($level:ident) => {
            $level!(
                %connection_id, listener, %peer_addr, client_id, username, by, cause, reason_code,
                detail = %fault,
                "connection closed"
            )
        };
    }
    match fault.severity() {
        Severity::Routine => line!(debug),
        Severity::Notice => line!(info),
        Severity::Trouble => line!(warn),
        Severity::Bug => line!(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    /// What is to be done at the end of an idle session costs it two words.
    #[test]
    fn a_connection_is_little_more_than_its_relay() {
        assert!(size_of::<Connection>() <= size_of::<Relay<Stream>>() + 16);
    }

    #[tokio::test]
    async fn streams_that_linger_are_few_and_go_in_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sink = Arc::new(mproxy_core::event::Nobody);
        let house = House { parting: Arc::new(Semaphore::new(1)), ..House::new("here", 1, None, sink) };
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
