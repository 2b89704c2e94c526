//! Clients that connect over and over, by client identifier and address: each of their connections costs a decision, a dial and
//! what the broker does for it. One that connects too often is put aside for a time.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::pace::Pace;
use super::rate_sketch::RateSketch;
use crate::config::EventRate;
use crate::share::Neighbours;

/// How often is too often, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlappingLimits {
    /// How often a client may connect.
    pub(crate) rate: EventRate,
    /// How long one that connects more often is put aside.
    pub(crate) pause: Duration,
}

/// Connections of one address, within the period of the rate, that are put down to their clients. Further ones are not, or one
/// address with ever new client identifiers could fill the sketch for all.
const OF_AN_ADDRESS: u32 = 10_000;

/// How often clients have connected lately.
pub(crate) struct Flapping {
    started: Instant,
    /// Looked at before anything else.
    is_on: AtomicBool,
    hasher: RandomState,
    state: Mutex<Option<FlappingState>>,
}

struct FlappingState {
    limits: FlappingLimits,
    clients: RateSketch,
    addresses: RateSketch,
}

impl Flapping {
    pub(crate) fn new(limits: Option<FlappingLimits>, now: Instant) -> Self {
        let this = Self {
            started: now,
            is_on: AtomicBool::new(false),
            hasher: RandomState::new(),
            state: Mutex::default(),
        };
        this.set(limits);
        this
    }

    /// From now on these hold. Who is put aside stays so for the time that was said.
    pub(crate) fn set(&self, limits: Option<FlappingLimits>) {
        let mut state = self.state.lock();
        *state = limits.map(|limits| match state.take() {
            Some(old) => FlappingState { limits, ..old },
            None => FlappingState { limits, clients: RateSketch::new(), addresses: RateSketch::new() },
        });
        self.is_on.store(limits.is_some(), Ordering::Release);
    }

    fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// By what a client is known again.
    pub(crate) fn tag(&self, client_id: &str) -> u64 {
        if self.is_on() { self.hasher.hash_one(client_id) } else { 0 }
    }

    /// Whether a client is put aside.
    pub(crate) fn is_aside(&self, from: Neighbours, client: u64, now: Instant) -> bool {
        if !self.is_on() {
            return false;
        }
        let guard = self.state.lock();
        let Some(state) = &*guard else { return false };
        let cells = state.clients.cells(&(from, client));
        state.clients.owed(cells).is_beyond(state.limits.rate.into(), self.passed(now))
    }

    /// A client has been admitted. For how long it is put aside from now on, if it is: this time it gets in.
    pub(crate) fn connected(&self, from: Neighbours, client: u64, now: Instant) -> Option<Duration> {
        if !self.is_on() {
            return None;
        }
        let passed = self.passed(now);
        let mut guard = self.state.lock();
        let FlappingState { limits, clients, addresses } = guard.as_mut()?;
        let FlappingLimits { rate, pause } = *limits;
        let (pace, of_address) = (Pace::from(rate), EventRate::new(OF_AN_ADDRESS, rate.period()).into());
        let address = addresses.cells(&from);
        if addresses.is_over(address, of_address, passed) {
            return None;
        }
        addresses.charge(address, of_address, passed);
        let cells = clients.cells(&(from, client));
        if !clients.is_over(cells, pace, passed) {
            clients.charge(cells, pace, passed);
            return None;
        }
        clients.put_aside(cells, pace, passed, pause);
        Some(pause)
    }

    fn passed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const LIMITS: FlappingLimits = FlappingLimits { rate: EventRate::new(5, MINUTE), pause: MINUTE };

    fn of(text: &str) -> Neighbours {
        text.parse::<IpAddr>().expect("an address").into()
    }

    /// Connects, if it may.
    fn connects(flapping: &Flapping, from: &str, client_id: &str, now: Instant) -> bool {
        let (from, client) = (of(from), flapping.tag(client_id));
        let may = !flapping.is_aside(from, client, now);
        if may {
            flapping.connected(from, client, now);
        }
        may
    }

    #[test]
    fn who_connects_too_often_is_put_aside_for_the_time() {
        let mut now = Instant::now();
        let flapping = Flapping::new(Some(LIMITS), now);
        let here = "192.0.2.1";
        assert_eq!((0..100).filter(|_| connects(&flapping, here, "a", now)).count(), 6);
        assert!(connects(&flapping, here, "b", now), "another client of its address");
        assert!(connects(&flapping, "192.0.2.2", "a", now), "the same name from elsewhere");
        now += MINUTE - Duration::from_millis(1);
        assert!(!connects(&flapping, here, "a", now));
        // Who comes back and stays, stays. Who comes again at once is aside again.
        now += Duration::from_millis(1);
        assert!(connects(&flapping, here, "a", now));
        assert!(!connects(&flapping, here, "a", now));
        // Who has kept quiet may connect as often as others.
        now += 2 * MINUTE;
        assert_eq!((0..100).filter(|_| connects(&flapping, here, "a", now)).count(), 6);
    }

    #[test]
    fn a_slow_client_is_never_put_aside() {
        let mut now = Instant::now();
        let flapping = Flapping::new(Some(LIMITS), now);
        for _ in 0..100 {
            assert!(connects(&flapping, "192.0.2.1", "a", now));
            now += MINUTE / 5;
        }
    }

    #[test]
    fn a_fleet_behind_one_address_returns_at_once_and_nobody_is_put_aside() {
        let now = Instant::now();
        let flapping = Flapping::new(Some(LIMITS), now);
        for _ in 0..3 {
            let all = (0..3000).all(|n| connects(&flapping, "192.0.2.1", &format!("device{n}"), now));
            assert!(all);
        }
    }

    #[test]
    fn an_address_with_ever_new_client_ids_puts_nobody_else_aside() {
        let now = Instant::now();
        let flapping = Flapping::new(Some(LIMITS), now);
        while connects(&flapping, "192.0.2.9", "culprit", now) {}
        for n in 0..200_000 {
            connects(&flapping, "192.0.2.1", &format!("{n}"), now);
        }
        for n in 0..1000 {
            assert!(connects(&flapping, "192.0.2.2", &format!("device{n}"), now));
        }
        assert!(!connects(&flapping, "192.0.2.9", "culprit", now), "and nobody is forgotten");
    }

    #[test]
    fn off_it_costs_nothing_and_a_reload_keeps_who_is_aside() {
        let now = Instant::now();
        let flapping = Flapping::new(None, now);
        assert!((0..100).all(|_| connects(&flapping, "192.0.2.1", "a", now)));
        assert!(flapping.tag("a") == 0 && flapping.state.lock().is_none());
        flapping.set(Some(LIMITS));
        while connects(&flapping, "192.0.2.1", "a", now) {}
        flapping.set(Some(FlappingLimits { rate: EventRate::new(6, MINUTE), ..LIMITS }));
        assert!(!connects(&flapping, "192.0.2.1", "a", now + MINUTE / 2));
    }
}
