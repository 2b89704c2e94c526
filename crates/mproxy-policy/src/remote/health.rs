//! How each endpoint stands, which one is asked next, and what the service wants. Written by the keepers, read by
//! every question.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::contract::{Rpc, Service, Wants};
use crate::watch::Watch;

/// After so many failed calls in a row a connection is given up: a service that hangs accepts for ever.
const STRIKES: u32 = 5;

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
}

/// A connection to an endpoint that has answered Hello.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) service: Service,
    /// What the service wants, less what it turned out not to implement.
    pub(super) wants: ArcSwap<Wants>,
    /// Cancelled when the connection is over, or is to be given up.
    pub(super) gone: CancellationToken,
    url: Arc<str>,
    strikes: AtomicU32,
    /// Calls that it was found not to implement, one bit each.
    unimplemented: AtomicU32,
}

impl Line {
    pub(super) fn new(url: &str, service: Service, wants: Wants, gone: CancellationToken) -> Self {
        let (url, wants) = (url.into(), ArcSwap::from_pointee(wants));
        Self { service, wants, gone, url, strikes: AtomicU32::new(0), unimplemented: AtomicU32::new(0) }
    }

    /// A call was answered.
    pub(super) fn answered(&self) {
        // Most often it is zero already: a read does not take the cache line from the other cores.
        if self.strikes.load(Ordering::Relaxed) != 0 {
            self.strikes.store(0, Ordering::Relaxed);
        }
    }

    /// A call was not answered in time, or answered "unavailable".
    pub(super) fn strike(&self) {
        if self.strikes.fetch_add(1, Ordering::Relaxed) + 1 >= STRIKES {
            self.gone.cancel();
        }
    }
}

#[derive(Clone, Debug)]
enum Standing {
    Connecting,
    Healthy(Arc<Line>),
    Unhealthy,
}

impl Standing {
    const fn state(&self) -> HealthState {
        match self {
            Self::Connecting => HealthState::Connecting,
            Self::Healthy(_) => HealthState::Healthy,
            Self::Unhealthy => HealthState::Unhealthy,
        }
    }
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct Place {
    url: Arc<str>,
    standing: Standing,
    last_error: Option<String>,
    since: SystemTime,
}

/// Whom to ask next.
pub(super) enum Pick {
    /// This one.
    Line(Arc<Line>),
    /// Somebody who is being connected: wait for a change.
    Wait,
    /// Nobody; the last error of each.
    Nobody(String),
}

/// All endpoints, in the order in which they are preferred.
pub(super) struct Board {
    places: watch::Sender<Vec<Place>>,
    /// Of the endpoint that is asked first. While none is healthy, the last known.
    wants: ArcSwap<Wants>,
    /// What a Hello said last, of whichever endpoint: they are one service.
    told: ArcSwapOption<Wants>,
    watch: Arc<dyn Watch>,
}

impl Board {
    pub(super) fn new(urls: impl Iterator<Item = String>, watch: Arc<dyn Watch>) -> Self {
        let place = |url: String| Place {
            url: url.into(),
            standing: Standing::Connecting,
            last_error: None,
            since: SystemTime::now(),
        };
        Self {
            places: watch::Sender::new(urls.map(place).collect()),
            wants: ArcSwap::from_pointee(Wants::everything()),
            told: ArcSwapOption::empty(),
            watch,
        }
    }

    pub(super) fn wants(&self) -> arc_swap::Guard<Arc<Wants>> {
        self.wants.load()
    }

    pub(super) fn changes(&self) -> watch::Receiver<Vec<Place>> {
        self.places.subscribe()
    }

    /// The first healthy endpoint whose connection was not `tried` yet.
    pub(super) fn pick(&self, tried: &[Arc<Line>]) -> Pick {
        let places = self.places.borrow();
        let mut wait = false;
        for place in places.iter() {
            match &place.standing {
                Standing::Healthy(line) if line.gone.is_cancelled() => wait = true,
                Standing::Healthy(line) if !tried.iter().any(|other| Arc::ptr_eq(other, line)) => {
                    return Pick::Line(Arc::clone(line));
                }
                Standing::Healthy(_) | Standing::Unhealthy => {}
                Standing::Connecting => wait = true,
            }
        }
        if wait {
            return Pick::Wait;
        }
        let error = |place: &Place| place.last_error.as_ref().map(|error| format!("{}: {error}", place.url));
        Pick::Nobody(places.iter().filter_map(error).collect::<Vec<_>>().join("; "))
    }

    pub(super) fn set_healthy(&self, at: usize, line: Line) -> Arc<Line> {
        let line = Arc::new(line);
        self.set(at, Standing::Healthy(Arc::clone(&line)), None);
        info!(endpoint = &*line.url, "policy endpoint healthy");
        self.watch.endpoint(&line.url, true);
        line
    }

    /// The connection is over, and the next one is tried at once.
    pub(super) fn set_lost(&self, at: usize, why: &str) {
        self.set_down(at, Standing::Connecting, why);
    }

    pub(super) fn set_unhealthy(&self, at: usize, why: &str) {
        self.set_down(at, Standing::Unhealthy, why);
    }

    fn set_down(&self, at: usize, standing: Standing, why: &str) {
        let state = standing.state();
        let is_unhealthy = state == HealthState::Unhealthy;
        let Some((url, before)) = self.set(at, standing, Some(why.to_owned())) else { return };
        if before != HealthState::Unhealthy && is_unhealthy {
            warn!(endpoint = &*url, error = why, "policy endpoint unhealthy");
        } else if before != state {
            info!(endpoint = &*url, error = why, "policy endpoint connection lost, reconnecting");
        }
        if before == HealthState::Healthy || before == HealthState::Connecting && is_unhealthy {
            self.watch.endpoint(&url, false);
        }
    }

    /// Sets a standing and gives the one before.
    fn set(&self, at: usize, standing: Standing, error: Option<String>) -> Option<(Arc<str>, HealthState)> {
        let mut before = None;
        self.places.send_modify(|places| {
            let Some(place) = places.get_mut(at) else { return };
            let was = place.standing.state();
            if was != standing.state() {
                place.since = SystemTime::now();
            }
            before = Some((Arc::clone(&place.url), was));
            place.standing = standing;
            place.last_error = error.or_else(|| place.last_error.take());
            // Within the lock, so that two keepers cannot overtake each other.
            self.learn(places);
        });
        before
    }

    /// mproxy ends: all connections are let go.
    pub(super) fn close(&self) {
        self.places.send_modify(|places| {
            for place in places {
                place.standing = Standing::Unhealthy;
            }
        });
    }

    /// The service does not implement a call that tells: it is not made again on this connection.
    pub(super) fn unwanted(&self, line: &Line, rpc: Rpc) {
        self.places.send_modify(|places| {
            let wants = line.wants.load();
            if wants.of(rpc).is_some() {
                line.wants.store(Arc::new(wants.without(rpc)));
                debug!(endpoint = &*line.url, rpc = rpc.name(), "event unimplemented, not sent any more");
                self.learn(places);
            }
        });
    }

    /// The service does not implement a call that decides: a failed answer. Said once for each connection and call.
    pub(super) fn unimplemented(&self, line: &Line, rpc: Rpc) {
        let bit = 1 << rpc as u32;
        if line.unimplemented.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            warn!(
                endpoint = &*line.url,
                rpc = rpc.name(),
                "hook unimplemented, its answers count as failed: implement it, or remove it from HelloResponse.wants if \
                 the service has no objection to anything there"
            );
        }
    }

    /// A service answered Hello with what it wants.
    pub(super) fn heard(&self, wants: &Wants) {
        self.told.store(Some(Arc::new(wants.clone())));
    }

    /// What a service wants that has no Hello: all that one before it said, else everything.
    pub(super) fn unsaid(&self) -> Wants {
        self.told.load().as_deref().map_or_else(Wants::everything, Wants::clone)
    }

    fn learn(&self, places: &[Place]) {
        let first = places.iter().find_map(|place| match &place.standing {
            Standing::Healthy(line) => Some(line.wants.load_full()),
            Standing::Connecting | Standing::Unhealthy => None,
        });
        if let Some(wants) = first {
            self.wants.store(wants);
        }
    }

    pub(super) fn health(&self) -> Vec<EndpointHealth> {
        let health = |place: &Place| EndpointHealth {
            url: place.url.to_string(),
            state: place.standing.state(),
            last_error: place.last_error.clone(),
            since: place.since,
        };
        self.places.borrow().iter().map(health).collect()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.places.borrow().iter().any(|place| matches!(place.standing, Standing::Healthy(_)))
    }
}
