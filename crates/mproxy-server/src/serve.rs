//! From a listener to running connections: accepts, sees to the handshakes, gives each connection its task. Who may come in is
//! said in `arrival`, the limits of how many are in `slot`, what a connection's task does and tells at its end in `ending`, how
//! one of another process is taken over in `taking`.

mod arrival;
mod broker_watch;
pub(crate) mod dials;
mod ending;
pub(crate) mod gate;
mod outage;
pub(crate) mod pacer;
mod parting;
mod scarcity;
mod slot;
mod taking;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use mproxy_core::command::Dismissal;
use mproxy_core::event::Sink;
use mproxy_core::fault::{Party, Unreachable};
use mproxy_core::peer::{Address, ConnectionId, Origin};
use mproxy_core::policy::Pending;
use mproxy_core::rule::{WallClock, WallTime};
use mproxy_core::session::{Answered, OpenQuestion};
use mproxy_core::{Event, Peer, Session, Setting, Side};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, trace, warn};
use uuid::Uuid;

use self::arrival::Arrival;
use self::broker_watch::BrokerWatch;
use self::dials::{ANSWER_WITHIN, turn_to_dial};
use self::ending::Connection;
use self::outage::{Outage, Recovery};
use self::pacer::Pacer;
use self::slot::{ConnectionSlot, PendingEntry};
pub(crate) use self::taking::TakenConnection;
use crate::config::EventRate;
use crate::descriptors;
use crate::door::{
    AcceptOutcome, Arrived, Causes, Entered, Entering, HandshakeLimits, Known, OpenListener, Outward,
    Refused, Shake, Stream,
};
use crate::protect::Protection;
use crate::protect::arrivals::{ArrivalRefusal, ListenerArrivals};
use crate::protect::client_rates::ListenerRates;
use crate::registry::{ConnectionCommand, Handle, Registry};
use crate::relay::{Dialed, Dialing, PauseReason, Relay, RelayHost, Unanswered};
use crate::share::crowd::{Crowd, Evict};
use crate::share::turns::Turns;
use crate::telemetry::connections::ListenerMetrics;
use crate::telemetry::traces::Traces;

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
    /// What is done every so often, until the house closes.
    pub(crate) routines: TaskTracker,
    /// Every connection's task.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when nobody is to be let in any more.
    pub(crate) closing: CancellationToken,
    /// Cancelled when nobody else is accepted: with `closing`, or before it.
    pub(crate) accepts_none: CancellationToken,
    max_connections: AtomicUsize,
    /// Those of them that have not been admitted, at most.
    max_pending: AtomicUsize,
    open: AtomicUsize,
    epochs: AtomicU64,
    /// Connections that have not been admitted.
    pending: Arc<Crowd>,
    /// For the work of TLS handshakes.
    pub(crate) handshakes: Arc<Turns>,
    /// For CONNECTs that somebody has to decide on.
    decisions: Arc<Turns>,
    /// Streams whose sessions are over.
    parting: Arc<Crowd>,
    /// Connections that have been admitted, of those that are open.
    admitted: AtomicUsize,
    /// Somebody else is banned.
    pub(crate) bans_changed: Notify,
    /// Limits for whoever comes, whatever the listener.
    pub(crate) protection: Arc<Protection>,
    /// `None`: no traces are asked for.
    pub(crate) traces: Option<Arc<Traces>>,
    /// What time it is, for rules that look at it.
    pub(crate) clock: WallClock,
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
        protection: Arc<Protection>,
        sink: Arc<dyn Sink>,
        traces: Option<Arc<Traces>>,
    ) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (closing, clock) = (CancellationToken::new(), WallClock::default());
        clock.set(wall_time());
        Self {
            instance: instance.into(),
            registry: Registry::default(),
            sink,
            listeners: TaskTracker::new(),
            routines: TaskTracker::new(),
            tasks: TaskTracker::new(),
            accepts_none: closing.child_token(),
            closing,
            max_connections: AtomicUsize::new(that_fit(max_connections)),
            max_pending: AtomicUsize::new(most_of(max_pending)),
            open: AtomicUsize::new(0),
            epochs: AtomicU64::new(first_epoch(SystemTime::now())),
            pending: Arc::default(),
            // One thread is left to those who are in: handshakes are the only work that strangers can make long.
            // On a single core that is 0, of which `Turns` makes 1.
            handshakes: Turns::new(threads - 1),
            decisions: Turns::new(DECIDED_AT_A_TIME),
            parting: Arc::default(),
            bans_changed: Notify::new(),
            admitted: AtomicUsize::new(0),
            protection,
            traces,
            clock,
        }
    }

    /// Says what time it is, once a second and for as long as it is polled: no packet has to wait for a clock to be read.
    ///
    /// It also keeps a timer running that ends before any of a connection's. The runtime wakes itself up, at the cost of two
    /// system calls, whenever a timer is set that ends before all others; on a quiet machine that was each connection's,
    /// twice.
    pub(crate) async fn keep_time(&self) -> Infallible {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            self.clock.set(wall_time());
        }
    }
}

fn wall_time() -> WallTime {
    WallTime::since_1970(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
impl House {
    /// Without listeners and limits.
    pub(crate) fn empty() -> Self {
        use crate::config::ProtectionSettings;
        use crate::protect::bans::Bans;
        use crate::protect::watermarks::Watermarks;
        use crate::telemetry::put_aside::PutAsideMetrics;

        let (bans, watermarks) = (Bans::default(), Watermarks::default());
        let (settings, metrics) = (ProtectionSettings::default(), PutAsideMetrics::default());
        let protection = Protection::new(&settings, bans, watermarks, metrics, Instant::now());
        Self::new("here", 1, None, Arc::new(protection), Arc::new(mproxy_core::event::Nobody), None)
    }
}

impl House {
    /// Whether somebody is here whom nobody has decided on, or whose broker has not said yes.
    pub(crate) fn is_anybody_coming_in(&self) -> bool {
        self.pending.len() > 0 || self.is_anybody_opening()
    }

    /// The same of those whose CONNECT has come.
    pub(crate) fn is_anybody_opening(&self) -> bool {
        self.registry.is_anybody_opening()
    }

    /// Has those end who are banned, and were connected when they were not.
    pub(crate) fn dismiss_banned(&self) {
        for handle in self.registry.all() {
            if let Some(ban) = handle.peer().and_then(|peer| self.protection.ban_of(&peer)) {
                handle.kick(&ban.dismissal());
            }
        }
    }

    /// From now on so many may be connected. Those that are, are.
    pub(crate) fn set_most(&self, max_connections: usize, max_pending: Option<usize>) {
        self.max_connections.store(that_fit(max_connections), Ordering::Relaxed);
        self.max_pending.store(most_of(max_pending), Ordering::Relaxed);
    }
}

/// So many connections, or as many as there are file descriptors for.
fn that_fit(max_connections: usize) -> usize {
    max_connections.min(descriptors::room(descriptors::limit()))
}

/// A limit that is left out is one that is never reached.
const fn most_of(limit: Option<usize>) -> usize {
    match limit {
        Some(limit) => limit,
        None => usize::MAX,
    }
}

/// How often [`House::keep_time`] looks.
const TICK: Duration = Duration::from_secs(1);

/// One listener and what belongs to it.
pub(crate) struct Serving {
    pub(crate) house: Arc<House>,
    pub(crate) name: Arc<str>,
    /// What holds for connections from now on.
    pub(crate) terms: ArcSwap<ListenerTerms>,
    /// Within what their handshakes have to stay.
    pub(crate) room: HandshakeLimits,
    /// Whether they get there.
    pub(crate) outage: Mutex<Outage>,
    /// How it was the last time.
    pub(crate) broker: Mutex<BrokerWatch>,
    pub(crate) metrics: Arc<ListenerMetrics>,
    pub(crate) open: AtomicUsize,
    /// Those of them that have not been admitted, where it has a limit of its own.
    pub(crate) pending: Arc<Crowd>,
    /// Admits them.
    pub(crate) pacer: Arc<Pacer>,
    /// How fast they may send.
    pub(crate) rates: Arc<ListenerRates>,
    /// How often clients have come to it lately.
    pub(crate) arrivals: ListenerArrivals,
}

/// What a listener's connections are made with. A reload makes other ones, for connections to come.
pub(crate) struct ListenerTerms {
    pub(crate) setting: Arc<Setting>,
    /// Where they go.
    pub(crate) outward: Outward,
    /// So many dial it at a time.
    pub(crate) dials: Arc<Turns>,
    /// Connections of this listener at most, beside the limit of all.
    pub(crate) max_connections: Option<usize>,
    /// How often clients may come to it.
    pub(crate) connection_rate: Option<EventRate>,
    /// A PROXY header says who its clients are.
    pub(crate) is_proxied: bool,
}

impl RelayHost<Stream> for Serving {
    fn report(&self, event: Event) {
        self.house.sink.report(event);
    }

    fn dial(self: Arc<Self>, origin: &Arc<Origin>, until: Instant) -> Dialing<Stream> {
        let terms = self.terms.load_full();
        let reaching = terms.outward.reach(origin, until.into());
        let taking = terms.dials.take((&origin.remote).into());
        Box::pin(async move {
            let turn = turn_to_dial(taking, until, terms.outward.target(), &self.metrics).await?;
            let begun = Instant::now();
            let reached = reaching.await;
            let outcome = reached.as_ref().map_or_else(|failed| failed.outcome, |_| "connected");
            self.metrics.dial_ended(outcome, begun.elapsed());
            let stream = reached.map_err(|failed| failed.why)?;
            Ok(Dialed { stream, unanswered: Some(Unanswered::new(turn, ANSWER_WITHIN)) })
        })
    }

    fn dialed(&self, failed: Option<&Unreachable>, now: Instant) {
        let terms = self.terms.load();
        let (listener, broker) = (&*self.name, terms.outward.target());
        self.broker.lock().note(failed);
        let Some(Unreachable { why: error, by }) = failed else {
            // A statement of its own, so that the lock is not held while the line is written.
            let recovery = self.outage.lock().dial_succeeded(now);
            if let Some(Recovery { failed_dials, lasted }) = recovery {
                let outage_seconds = lasted.as_secs_f64();
                info!(listener, broker, failed_dials, outage_seconds, "broker reachable again");
            }
            return;
        };
        if self.outage.lock().dial_failed(now) {
            let timeout_seconds = terms.setting.limits.admission_timeout.as_secs_f64();
            warn!(
                listener,
                broker,
                by = by.name(),
                error = &**error,
                timeout_seconds,
                "broker unreachable, retrying for each client"
            );
        }
    }

    fn read_paused(&self, side: Side, why: PauseReason) {
        self.metrics.count_pause(side, why.name());
    }

    fn forwarded(&self, took: Duration) {
        self.metrics.forwarded(took);
    }

    fn ban_of(&self, peer: &Peer) -> Option<Dismissal> {
        Some(self.house.protection.ban_of(peer)?.dismissal())
    }

    fn ask(&self, origin: &Origin, question: OpenQuestion, until: Option<Instant>) -> Pending<Answered> {
        let whose = (&origin.remote).into();
        let turn = self.house.decisions.take(whose);
        let admitted = (question.is_admission() && self.pacer.is_on())
            .then(|| Box::pin(Arc::clone(&self.pacer).wait(whose, until)));
        Box::pin(async move {
            // First: who waits to be admitted needs none of their time yet.
            if let Some(admitted) = admitted
                && let Err(overload) = admitted.await
            {
                return question.overloaded(overload);
            }
            // Kept until the answer is there: what is shared is the time of whoever decides.
            let _turn = turn.await;
            question.await
        })
    }
}

/// A connection in the middle of its handshakes.
struct ComingIn {
    remote: Address,
    arrival: Arc<Arrival>,
    slot: ConnectionSlot,
    /// Cancelled when it has to make room.
    evicted: CancellationToken,
    waiting: Box<PendingEntry>,
    since: Instant,
}

impl Serving {
    /// Accepts until the house closes.
    pub(crate) async fn run(self: Arc<Self>, mut listener: OpenListener) {
        let accepts_none = self.house.accepts_none.clone();
        loop {
            // `accept` is cancel safe: a dropped one took nobody out of the queue.
            let incoming = tokio::select! {
                // When the house closes nobody else is let in, however many wait.
                biased;
                () = accepts_none.cancelled() => return,
                incoming = listener.accept() => incoming,
            };
            match incoming {
                AcceptOutcome::Connection(arrived) => self.let_in(arrived),
                AcceptOutcome::Lost(error) => {
                    trace!(listener = &*self.name, %error, "connection lost before accept")
                }
                AcceptOutcome::Exhausted { error, pause } => {
                    let pause_seconds = pause.as_secs_f64();
                    warn!(listener = &*self.name, %error, pause_seconds, "accept failed, pausing");
                }
            }
        }
    }

    fn let_in(self: &Arc<Self>, arrived: Arrived) {
        let Arrived { remote, entering } = arrived;
        let since = Instant::now();
        // Before any handshake: who is over a limit must cost neither memory nor work. Dropped at once, the client sees
        // its connection closed.
        if let Err(why) = self.arrive(&remote, since) {
            return self.refuse(&remote, why, since);
        }
        let slot = match ConnectionSlot::take(self, (&remote).into()) {
            Ok(slot) => slot,
            Err(why) => {
                drop(Arrival::new(self, &remote));
                return self.refuse(&remote, why, since);
            }
        };
        match entering {
            Entering::Done(entered) => {
                self.house.tasks.spawn(self.connection(entered, slot, None, since));
            }
            Entering::Shaking(shake) => {
                // Boxed: handshakes are large, and over soon. Dropping one drops the connection.
                let arrival = Arrival::new(self, &remote);
                let shake = shake(self.room.asking(Arc::clone(&arrival) as _));
                // Counted before its task begins: from here on somebody is coming in.
                let evicted = CancellationToken::new();
                let waiting = PendingEntry::enter(self, &remote, Arc::new(evicted.clone()));
                let coming = ComingIn { remote, arrival, slot, evicted, waiting, since };
                self.house.tasks.spawn(Arc::clone(self).enter(shake, coming));
            }
        }
    }

    /// Sees a connection through what its listener has in front of MQTT, and then through its life.
    async fn enter(self: Arc<Self>, shake: Shake, coming: ComingIn) {
        let ComingIn { remote, arrival, slot, evicted, waiting, since } = coming;
        let deadline = since + self.terms.load().setting.limits.connect_timeout;
        let entering = timeout_at(deadline.into(), shake);
        let entering = evicted.run_until_cancelled(entering);
        let entering = async {
            tokio::select! {
                biased;
                entered = entering => entered,
                () = arrival.banned() => Some(Ok(Err(ArrivalRefusal::Banned.into()))),
            }
        };
        let refused = match self.house.closing.run_until_cancelled(entering).await {
            Some(Some(Ok(Ok(entered)))) => {
                arrival.hand_on();
                drop(arrival);
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
        // That has had its line, which names the client and not its proxy.
        if matches!(refused, Refused::Limit { .. }) {
            return;
        }
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
        if let Some(traces) = &self.house.traces {
            traces.begin_session(&origin);
        }
        let handle = Arc::new(Handle::new(&origin));
        self.house.registry.enter(&handle);
        let who = Arc::clone(&handle) as Arc<dyn Evict>;
        let waiting = match waiting {
            None => PendingEntry::enter(self, remote, who),
            // A PROXY header may have told another address.
            Some(mut waiting) => {
                if !waiting.regard(remote, &who) {
                    handle.evict();
                }
                waiting
            }
        };
        let session = Session::new(origin, Arc::clone(&self.terms.load().setting), since);
        let host = Arc::clone(self) as Arc<dyn RelayHost<Stream>>;
        let relay = Relay::new(stream, session, handle, host);
        Connection { relay, slot, waiting: Some(waiting) }
    }
}

impl Evict for Handle {
    fn evict(&self) {
        self.send(ConnectionCommand::Evict);
    }
}
