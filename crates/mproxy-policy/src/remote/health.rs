//! How each endpoint stands, which one is asked next, and what the service wants. Written by the connectors, read by
//! every question.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tracing::{debug, info, warn};

use super::decide::DecideStreams;
use super::dialer::{GrpcDialer, Reads};
use super::role::ServiceRole;
use super::strikes::Strikes;
use crate::causes::with_causes;
use crate::contract::{Rpc, ServiceClient, Wants, Way};
use crate::watch::Watch;

/// How an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthState {
    /// For the first time, or just after its connection was lost: questions wait for it.
    Connecting,
    /// Asked.
    Healthy,
    /// Could not be reached. It is tried again and again, and nobody waits for it.
    Unhealthy,
}

impl HealthState {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// How one endpoint stands, for the admin API.
#[derive(Clone, Debug)]
pub struct EndpointHealth {
    /// As configured.
    pub url: String,
    /// How it stands.
    pub state: HealthState,
    /// The last thing that went wrong with the connection; kept when it is healthy again.
    pub last_error: Option<String>,
    /// Since when it has stood so.
    pub since: SystemTime,
    /// What it said of itself; `None` while it is not connected.
    pub service: Option<ServiceFacts>,
}

/// What a service said of itself in Hello, and what became of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its name; empty where it said none.
    pub name: Box<str>,
    /// The calls that are made, and for which topics; none: for every topic. Without a Hello, what is made in any case.
    pub wants: Vec<(&'static str, Vec<Box<str>>)>,
    /// Whether it is asked over streams, too.
    pub streams: bool,
}

/// A connection to an endpoint that has answered Hello.
#[derive(Debug)]
pub(super) struct ServiceConnection {
    pub(super) service: ServiceClient,
    /// As it called itself; empty where it did not.
    pub(super) name: Box<str>,
    /// What the service wants, less what it turned out not to implement.
    pub(super) wants: ArcSwap<Wants>,
    /// Cancelled when the connection is over, or is to be given up.
    pub(super) gone: CancellationToken,
    pub(super) reads: Arc<Reads>,
    /// Makes further connections to the same endpoint, for streams: the service said in Hello that it serves them.
    pub(super) streams: Option<GrpcDialer>,
    /// Whether events go to it over a stream: the service said in Hello that it serves streams, and has not turned out not
    /// to implement this one.
    pub(super) observe: AtomicBool,
    /// The streams over which it is asked.
    pub(super) decide: Arc<DecideStreams>,
    pub(super) strikes: Arc<Strikes>,
    pub(super) url: Arc<str>,
    /// Calls that it was found not to implement, one bit each.
    pub(super) unimplemented: AtomicU32,
}

impl ServiceConnection {
    /// Opens a further HTTP/2 connection to the same endpoint, for a stream, without a Hello of its own. `gone` is
    /// cancelled when it ends; make it a child of [`gone`](Self::gone) to learn of the end of either. The connection
    /// ends when the channel and all calls on it have been dropped.
    ///
    /// # Errors
    /// There is none, for this reason.
    pub(super) async fn dial_another(&self, gone: &CancellationToken) -> Result<Channel, String> {
        let dialer = self.streams.as_ref().ok_or("the service serves no streams")?;
        dialer.dial(gone).await.map_err(|error| with_causes(&error))
    }

    /// Whether events go to it over a stream.
    pub(super) fn serves_observe(&self) -> bool {
        self.observe.load(Ordering::Relaxed)
    }

    fn facts(&self) -> ServiceFacts {
        let wants = self.wants.load();
        let call = |rpc: Rpc| {
            let call = wants.of(rpc)?;
            Some((rpc.name(), call.topics().map(Into::into).collect()))
        };
        ServiceFacts {
            name: self.name.clone(),
            wants: Rpc::ALL.into_iter().filter_map(call).collect(),
            streams: self.streams.is_some(),
        }
    }

    /// The endpoint's address.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

#[derive(Clone, Debug)]
enum EndpointState {
    Connecting,
    Healthy(Arc<ServiceConnection>),
    Unhealthy,
}

impl EndpointState {
    const fn health(&self) -> HealthState {
        match self {
            Self::Connecting => HealthState::Connecting,
            Self::Healthy(_) => HealthState::Healthy,
            Self::Unhealthy => HealthState::Unhealthy,
        }
    }
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct EndpointEntry {
    url: Arc<str>,
    state: EndpointState,
    last_error: Option<String>,
    since: SystemTime,
}

/// Whom to ask next.
pub(super) enum Pick {
    /// This one.
    Connection(Arc<ServiceConnection>),
    /// Somebody who is being connected: wait for a change.
    Wait,
    /// Nobody; the last error of each.
    Nobody(String),
}

/// How events reach the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventWay {
    /// No endpoint has answered Hello yet.
    Unknown,
    /// Each by a call of its own.
    Calls,
    /// Over a stream.
    Stream,
}

impl EventWay {
    const fn of(number: u8) -> Self {
        match number {
            1 => Self::Calls,
            2 => Self::Stream,
            _ => Self::Unknown,
        }
    }
}

/// All endpoints, in the order in which they are preferred.
pub(super) struct Endpoints {
    entries: watch::Sender<Vec<EndpointEntry>>,
    /// Of the endpoint that is asked first. While none is healthy, the last known.
    wants: ArcSwap<Wants>,
    /// What the last answer to Hello asked for, of whichever endpoint: they are one service.
    last_wants: ArcSwapOption<Wants>,
    /// An [`EventWay`]: of the endpoint that is asked first. While none is healthy, the last known.
    event_way: AtomicU8,
    /// The streams of the endpoint that is asked first.
    decide: ArcSwapOption<DecideStreams>,
    /// Calls that were answered elsewhere and are still open, until `over`.
    overtaken: TaskTracker,
    over: CancellationToken,
    role: ServiceRole,
    watch: Arc<dyn Watch>,
}

impl Endpoints {
    pub(super) fn new(role: ServiceRole, urls: impl Iterator<Item = String>, watch: Arc<dyn Watch>) -> Self {
        let entry = |url: String| EndpointEntry {
            url: url.into(),
            // Not unhealthy: questions of the first clients after a start wait for it instead of failing.
            state: EndpointState::Connecting,
            last_error: None,
            since: SystemTime::now(),
        };
        Self {
            entries: watch::Sender::new(urls.map(entry).collect()),
            wants: ArcSwap::from_pointee(Wants::everything()),
            last_wants: ArcSwapOption::empty(),
            event_way: AtomicU8::new(EventWay::Unknown as u8),
            decide: ArcSwapOption::empty(),
            overtaken: TaskTracker::new(),
            over: CancellationToken::new(),
            role,
            watch,
        }
    }

    /// Whose endpoints they are, for the log.
    pub(super) const fn role(&self) -> &'static str {
        self.role.name()
    }

    /// Whether what they answer holds.
    pub(super) const fn is_in_force(&self) -> bool {
        matches!(self.role, ServiceRole::InForce)
    }

    pub(super) fn wants(&self) -> arc_swap::Guard<Arc<Wants>> {
        self.wants.load()
    }

    /// How events reach the service.
    pub(super) fn event_way(&self) -> EventWay {
        EventWay::of(self.event_way.load(Ordering::Relaxed))
    }

    pub(super) fn changes(&self) -> watch::Receiver<Vec<EndpointEntry>> {
        self.entries.subscribe()
    }

    /// The first healthy endpoint whose connection was not `tried` yet. One that has fallen silent, or whose streams
    /// have ended or fallen silent, comes behind the others.
    pub(super) fn pick(&self, tried: &[Arc<ServiceConnection>]) -> Pick {
        let entries = self.entries.borrow();
        let mut wait = false;
        let mut in_doubt = None;
        for entry in entries.iter() {
            match &entry.state {
                // Over, though nobody has put it down yet: it is connected anew at once.
                EndpointState::Healthy(connection) if connection.gone.is_cancelled() => wait = true,
                EndpointState::Healthy(connection)
                    if !tried.iter().any(|other| Arc::ptr_eq(other, connection)) =>
                {
                    if !connection.decide.are_in_doubt() && !connection.reads.is_silent() {
                        return Pick::Connection(Arc::clone(connection));
                    }
                    in_doubt = in_doubt.or(Some(connection));
                }
                EndpointState::Healthy(_) | EndpointState::Unhealthy => {}
                EndpointState::Connecting => wait = true,
            }
        }
        if let Some(connection) = in_doubt {
            return Pick::Connection(Arc::clone(connection));
        }
        if wait {
            return Pick::Wait;
        }
        let error =
            |entry: &EndpointEntry| entry.last_error.as_ref().map(|error| format!("{}: {error}", entry.url));
        Pick::Nobody(entries.iter().filter_map(error).collect::<Vec<_>>().join("; "))
    }

    /// The first healthy endpoint that serves streams, and is none of these.
    pub(super) fn pick_streaming(&self, but: &[Arc<ServiceConnection>]) -> Option<Arc<ServiceConnection>> {
        let is_meant = |one: &Arc<ServiceConnection>| !but.iter().any(|other| Arc::ptr_eq(one, other));
        self.entries.borrow().iter().find_map(|entry| match &entry.state {
            EndpointState::Healthy(one)
                if one.streams.is_some() && !one.gone.is_cancelled() && is_meant(one) =>
            {
                Some(Arc::clone(one))
            }
            EndpointState::Healthy(_) | EndpointState::Connecting | EndpointState::Unhealthy => None,
        })
    }

    /// Whether there is one endpoint, healthy or not.
    pub(super) fn is_single(&self) -> bool {
        self.entries.borrow().len() <= 1
    }

    /// Whether there is a healthy endpoint that is neither this one nor one of those `tried`.
    pub(super) fn has_another(
        &self,
        tried: &[Arc<ServiceConnection>],
        this: &Arc<ServiceConnection>,
    ) -> bool {
        self.entries.borrow().iter().any(|entry| match &entry.state {
            EndpointState::Healthy(other) => {
                let known = || tried.iter().chain([this]).any(|known| Arc::ptr_eq(known, other));
                !other.gone.is_cancelled() && !known()
            }
            EndpointState::Connecting | EndpointState::Unhealthy => false,
        })
    }

    /// How the next question will most likely be asked.
    pub(super) fn way(&self) -> Way {
        let served = self.decide.load().as_ref().is_some_and(|decide| decide.are_served());
        if served { Way::Stream } else { Way::Call }
    }

    pub(super) fn set_healthy(&self, at: usize, connection: ServiceConnection) -> Arc<ServiceConnection> {
        let connection = Arc::new(connection);
        self.set(at, EndpointState::Healthy(Arc::clone(&connection)), None);
        info!(endpoint = &*connection.url, role = self.role(), "policy endpoint healthy");
        self.watch.endpoint(&connection.url, true);
        connection
    }

    /// The connection is over, and the next one is tried at once.
    pub(super) fn set_lost(&self, at: usize, why: &str) {
        self.set_down(at, EndpointState::Connecting, why);
    }

    pub(super) fn set_unhealthy(&self, at: usize, why: &str) {
        self.set_down(at, EndpointState::Unhealthy, why);
    }

    fn set_down(&self, at: usize, state: EndpointState, why: &str) {
        let health = state.health();
        let is_unhealthy = health == HealthState::Unhealthy;
        let Some((url, before)) = self.set(at, state, Some(why.to_owned())) else { return };
        if before != HealthState::Unhealthy && is_unhealthy {
            warn!(endpoint = &*url, role = self.role(), error = why, "policy endpoint unhealthy");
        } else if before != health {
            let role = self.role();
            info!(endpoint = &*url, role, error = why, "policy endpoint connection lost, reconnecting");
        }
        if before == HealthState::Healthy || before == HealthState::Connecting && is_unhealthy {
            self.watch.endpoint(&url, false);
        }
    }

    /// Sets a state and gives the one before.
    fn set(&self, at: usize, state: EndpointState, error: Option<String>) -> Option<(Arc<str>, HealthState)> {
        let mut before = None;
        self.entries.send_modify(|entries| {
            let Some(entry) = entries.get_mut(at) else {
                debug_assert!(false, "a connector of an endpoint that is not there");
                return;
            };
            let was = entry.state.health();
            debug_assert!(
                was != HealthState::Healthy || state.health() != HealthState::Healthy,
                "a second connection before the first was put down"
            );
            if was != state.health() {
                entry.since = SystemTime::now();
            }
            before = Some((Arc::clone(&entry.url), was));
            entry.state = state;
            // The reason of the last outage stays readable in the admin API after it is over.
            entry.last_error = error.or_else(|| entry.last_error.take());
            // Within the lock, so that two connectors cannot overtake each other.
            self.update_wants(entries);
        });
        before
    }

    /// Waits for a call that was answered elsewhere, as what becomes of it tells of its connection.
    pub(super) fn keep_overtaken(&self, call: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.overtaken.spawn(async move {
            over.run_until_cancelled(call).await;
        });
    }

    /// mproxy ends: all connections are let go.
    pub(super) async fn close(&self) {
        self.over.cancel();
        self.overtaken.close();
        self.overtaken.wait().await;
        self.entries.send_modify(|entries| {
            for entry in entries {
                entry.state = EndpointState::Unhealthy;
            }
        });
    }

    /// The service does not implement a call that tells: it is not made again on this connection.
    pub(super) fn remove_event(&self, connection: &ServiceConnection, rpc: Rpc) {
        self.entries.send_modify(|entries| {
            // Under the lock, so that two calls that find out at once do not put back what the other took away.
            let wants = connection.wants.load();
            if wants.of(rpc).is_some() {
                connection.wants.store(Arc::new(wants.without(rpc)));
                debug!(
                    endpoint = &*connection.url,
                    rpc = rpc.name(),
                    "event unimplemented, not sent any more"
                );
                self.update_wants(entries);
            }
        });
    }

    /// The service does not implement the stream of events after all: they go to it by calls.
    pub(super) fn remove_observe(&self, connection: &ServiceConnection) {
        self.entries.send_modify(|entries| {
            connection.observe.store(false, Ordering::Relaxed);
            self.update_wants(entries);
        });
    }

    /// The service does not implement a call that decides: a failed answer. Said once for each connection and call.
    pub(super) fn warn_unimplemented(&self, connection: &ServiceConnection, rpc: Rpc) {
        let bit = 1 << rpc as u32;
        if connection.unimplemented.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            warn!(
                endpoint = &*connection.url,
                rpc = rpc.name(),
                "hook unimplemented, its answers count as failed: implement it, or remove it from HelloResponse.wants if \
                 the service has no objection to anything there"
            );
        }
    }

    /// A service answered Hello with what it wants.
    pub(super) fn remember_wants(&self, wants: &Wants) {
        self.last_wants.store(Some(Arc::new(wants.clone())));
    }

    /// What a service wants that has no Hello: all that one before it said, else everything.
    pub(super) fn last_or_default_wants(&self) -> Wants {
        self.last_wants.load().as_deref().map_or_else(Wants::everything, Wants::clone)
    }

    fn update_wants(&self, entries: &[EndpointEntry]) {
        let first = entries.iter().find_map(|entry| match &entry.state {
            EndpointState::Healthy(connection) => Some(connection),
            EndpointState::Connecting | EndpointState::Unhealthy => None,
        });
        // Nobody healthy: what is wanted stays as it was. To fall back to "nothing wanted" would let all pass unasked.
        if let Some(connection) = first {
            self.wants.store(connection.wants.load_full());
            let way = if connection.serves_observe() { EventWay::Stream } else { EventWay::Calls };
            self.event_way.store(way as u8, Ordering::Relaxed);
            self.decide.store(Some(Arc::clone(&connection.decide)));
        }
    }

    pub(super) fn health(&self) -> Vec<EndpointHealth> {
        let health = |entry: &EndpointEntry| EndpointHealth {
            url: entry.url.to_string(),
            state: entry.state.health(),
            last_error: entry.last_error.clone(),
            since: entry.since,
            service: match &entry.state {
                EndpointState::Healthy(connection) => Some(connection.facts()),
                EndpointState::Connecting | EndpointState::Unhealthy => None,
            },
        };
        self.entries.borrow().iter().map(health).collect()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.entries.borrow().iter().any(|entry| matches!(entry.state, EndpointState::Healthy(_)))
    }
}
