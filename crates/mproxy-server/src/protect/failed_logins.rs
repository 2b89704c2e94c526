//! Logins that failed, by address and user name: whoever fails too often has to wait, twice as long with each further failure,
//! and is not looked at meanwhile. The user name alone would lock out its owner, who comes from elsewhere; the address alone
//! would lock out all who share it.
//!
//! An address that fails with thousands of names, which no name alone would show, waits as a whole. That also bounds what one
//! address may put into the [sketch](FailureSketch).

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::failure_sketch::{FailureCount, FailureMemory, FailureSketch};
use super::rate_sketch::RateSketch;
use crate::config::EventRate;
use crate::share::Neighbours;

/// How many may fail, and how long the waits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoginLimits {
    /// With this one the waits begin.
    pub(crate) failures: u16,
    /// The first wait.
    pub(crate) first: Duration,
    /// The longest. So long after a wait, failures are forgotten.
    pub(crate) longest: Duration,
}

impl LoginLimits {
    /// How long to wait after so many failures. Milliseconds.
    fn wait(&self, count: u16) -> u64 {
        let Some(doubled) = count.checked_sub(self.failures) else { return 0 };
        let first = millis(self.first).max(1);
        // From there on it is the longest in any case.
        let wait = if doubled < 40 { first.saturating_mul(1 << doubled) } else { u64::MAX };
        wait.min(millis(self.longest))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How many failures of one address are put down to the names with which it fails. Further ones of names that have not failed
/// are put down to the address itself.
const OF_AN_ADDRESS: EventRate = EventRate::new(2000, Duration::from_secs(600));

/// Logins that failed.
pub(crate) struct FailedLogins {
    started: Instant,
    /// Looked at before anything else.
    is_on: AtomicBool,
    hasher: RandomState,
    state: Mutex<Option<FailedLoginsState>>,
}

struct FailedLoginsState {
    limits: LoginLimits,
    failures: FailureSketch,
    addresses: RateSketch,
}

impl FailedLogins {
    pub(crate) fn new(limits: Option<LoginLimits>, now: Instant) -> Self {
        let this = Self {
            started: now,
            is_on: AtomicBool::new(false),
            hasher: RandomState::new(),
            state: Mutex::default(),
        };
        this.set(limits);
        this
    }

    /// From now on these hold. What has failed so far is remembered.
    pub(crate) fn set(&self, limits: Option<LoginLimits>) {
        let mut state = self.state.lock();
        *state = limits.map(|limits| match state.take() {
            Some(old) => FailedLoginsState { limits, ..old },
            None => {
                FailedLoginsState { limits, failures: FailureSketch::new(), addresses: RateSketch::new() }
            }
        });
        self.is_on.store(limits.is_some(), Ordering::Release);
    }

    fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// By what a login is known again: its user name, or where there is none its client identifier.
    pub(crate) fn tag(&self, username: Option<&str>, client_id: &str) -> u64 {
        if self.is_on() {
            self.hasher.hash_one((username.is_some(), username.unwrap_or(client_id)))
        } else {
            0
        }
    }

    /// Whether a login may be looked at: else after how long. Of a name that has failed too often one is looked at at a time, or
    /// many that come at once would all be tried.
    pub(crate) fn look(&self, from: Neighbours, login: u64, now: Instant) -> Result<(), Duration> {
        if !self.is_on() {
            return Ok(());
        }
        let mut guard = self.state.lock();
        let Some(state) = &mut *guard else { return Ok(()) };
        let memory = state.memory(self.passed(now));
        let cells = state.failures.cells(&(from, Some(login)));
        let known = state.failures.of(cells, memory);
        let whole = state.failures.of(state.failures.cells(&(from, None::<u64>)), memory);
        let until = known.until().max(whole.until());
        if until > memory.now {
            return Err(Duration::from_millis(until - memory.now));
        }
        let wait = state.limits.wait(known.count());
        if wait > 0 {
            state.failures.raise(cells, FailureCount::new(known.count(), memory.now + wait), memory);
        }
        Ok(())
    }

    /// A login has failed. How long the next one has to wait, if it has to.
    pub(crate) fn failed(&self, from: Neighbours, login: u64, now: Instant) -> Option<Duration> {
        if !self.is_on() {
            return None;
        }
        let passed = self.passed(now);
        let mut guard = self.state.lock();
        let state = guard.as_mut()?;
        let memory = state.memory(passed);
        let address = state.addresses.cells(&from);
        let is_crowded = state.addresses.is_over(address, OF_AN_ADDRESS.into(), passed);
        let mut cells = state.failures.cells(&(from, Some(login)));
        let mut known = state.failures.of(cells, memory);
        if !is_crowded {
            state.addresses.charge(address, OF_AN_ADDRESS.into(), passed);
        } else if known.count() == 0 {
            cells = state.failures.cells(&(from, None::<u64>));
            known = state.failures.of(cells, memory);
        }
        let count = known.count().saturating_add(1);
        let wait = state.limits.wait(count);
        state.failures.raise(cells, FailureCount::new(count, memory.now + wait), memory);
        (wait > 0).then(|| Duration::from_millis(wait))
    }

    /// A login has succeeded: what failed of its name is forgotten.
    pub(crate) fn succeeded(&self, from: Neighbours, login: u64, now: Instant) {
        if !self.is_on() {
            return;
        }
        let mut guard = self.state.lock();
        let Some(state) = &mut *guard else { return };
        let memory = state.memory(self.passed(now));
        let cells = state.failures.cells(&(from, Some(login)));
        if state.failures.of(cells, memory).count() > 0 {
            state.failures.forget(cells, memory);
        }
    }

    fn passed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}

impl FailedLoginsState {
    fn memory(&self, passed: Duration) -> FailureMemory {
        FailureMemory { now: millis(passed), lasts: millis(self.limits.longest) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: LoginLimits = LoginLimits { failures: 3, first: SECOND, longest: Duration::from_secs(60) };

    fn of(text: &str) -> Neighbours {
        text.parse::<IpAddr>().expect("an address").into()
    }

    struct Doors {
        failed: FailedLogins,
        now: Instant,
    }

    impl Doors {
        fn new(limits: Option<LoginLimits>) -> Self {
            let now = Instant::now();
            Self { failed: FailedLogins::new(limits, now), now }
        }

        fn tag(&self, name: &str) -> u64 {
            self.failed.tag(Some(name), "c")
        }

        /// Fails, if it may try.
        fn guess(&self, from: &str, name: &str) -> Result<(), Duration> {
            self.failed.look(of(from), self.tag(name), self.now)?;
            self.failed.failed(of(from), self.tag(name), self.now);
            Ok(())
        }

        fn log_in(&self, from: &str, name: &str) -> Result<(), Duration> {
            self.failed.look(of(from), self.tag(name), self.now)?;
            self.failed.succeeded(of(from), self.tag(name), self.now);
            Ok(())
        }
    }

    const HERE: &str = "192.0.2.1";

    #[test]
    fn each_failure_doubles_the_wait_up_to_the_longest() {
        let mut doors = Doors::new(Some(LIMITS));
        for _ in 0..3 {
            assert_eq!(doors.guess(HERE, "ann"), Ok(()));
        }
        for wait in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let wait = SECOND * wait;
            assert_eq!(doors.guess(HERE, "ann"), Err(wait));
            doors.now += wait - SECOND / 10;
            assert_eq!(
                doors.log_in(HERE, "ann"),
                Err(SECOND / 10),
                "the right password is not looked at either"
            );
            doors.now += SECOND / 10;
            assert_eq!(doors.guess(HERE, "ann"), Ok(()));
        }
    }

    #[test]
    fn another_address_and_another_name_are_not_held_up() {
        let doors = Doors::new(Some(LIMITS));
        let by_six = "2001:db8:0:1::1";
        for from in [HERE, by_six] {
            while doors.guess(from, "ann").is_ok() {}
        }
        assert_eq!(doors.log_in("192.0.2.2", "ann"), Ok(()), "her user name alone locks nobody out");
        assert_eq!(doors.log_in(HERE, "bob"), Ok(()), "nor does the address that they share");
        assert!(doors.log_in("2001:db8:0:1:ffff::2", "ann").is_err(), "a host picks its address in a /64");
        assert_eq!(doors.log_in("2001:db8:0:2::1", "ann"), Ok(()));
        let as_client = doors.failed.tag(None, "ann");
        assert_eq!(doors.failed.look(of(HERE), as_client, doors.now), Ok(()), "a client id is no user name");
    }

    #[test]
    fn success_forgets_and_so_does_time() {
        let mut doors = Doors::new(Some(LIMITS));
        for _ in 0..2 {
            doors.guess(HERE, "ann").expect("below the limit");
        }
        doors.log_in(HERE, "ann").expect("below the limit");
        for _ in 0..3 {
            doors.guess(HERE, "ann").expect("counted anew");
        }
        doors.now += SECOND;
        assert_eq!(doors.log_in(HERE, "ann"), Ok(()));
        for _ in 0..3 {
            doors.guess(HERE, "ann").expect("counted anew");
        }
        doors.now += SECOND + LIMITS.longest + SECOND / 1000;
        for _ in 0..3 {
            doors.guess(HERE, "ann").expect("forgotten");
        }
    }

    #[test]
    fn many_at_once_are_one_try() {
        let mut doors = Doors::new(Some(LIMITS));
        for _ in 0..3 {
            doors.guess(HERE, "ann").expect("below the limit");
        }
        doors.now += SECOND;
        let looked = (0..100).filter(|_| doors.failed.look(of(HERE), doors.tag("ann"), doors.now).is_ok());
        assert_eq!(looked.count(), 1);
    }

    #[test]
    fn an_address_that_tries_thousands_of_names_waits_as_a_whole() {
        let mut doors = Doors::new(Some(LIMITS));
        let sprayed = (0..10_000).take_while(|n| doors.guess(HERE, &format!("user{n}")).is_ok()).count();
        assert_eq!(sprayed, 2003);
        assert!(doors.log_in(HERE, "somebody").is_err());
        assert_eq!(doors.log_in("192.0.2.2", "somebody"), Ok(()));
        doors.now += SECOND;
        for _ in 0..100 {
            assert_eq!(doors.log_in(HERE, "somebody"), Ok(()), "who succeeds is not put down to it");
        }
    }

    #[test]
    fn nobody_is_forgotten_and_nobody_innocent_waits_while_a_crowd_fails() {
        let mut doors = Doors::new(Some(LoginLimits { failures: 5, ..LIMITS }));
        while doors.guess(HERE, "ann").is_ok() {}
        let mut innocent = 0;
        for round in 0..200_u32 {
            for n in 0..500_u32 {
                let from = format!("10.{}.{}.{}", round, n / 256, n % 256);
                let _ = doors.guess(&from, &format!("user{n}"));
            }
            doors.now += SECOND / 1000;
            innocent += u32::from(doors.log_in("198.51.100.1", &format!("fine{round}")).is_ok());
        }
        assert_eq!(innocent, 200, "100,000 failures within a minute");
        assert!(doors.log_in(HERE, "ann").is_err());
    }

    #[test]
    fn off_it_costs_nothing_and_a_reload_remembers() {
        let doors = Doors::new(None);
        assert_eq!(doors.tag("ann"), 0);
        (0..100).for_each(|_| doors.guess(HERE, "ann").expect("off"));
        assert!(doors.failed.state.lock().is_none());
        doors.failed.set(Some(LIMITS));
        while doors.guess(HERE, "ann").is_ok() {}
        doors.failed.set(Some(LoginLimits { failures: 4, ..LIMITS }));
        assert!(doors.guess(HERE, "ann").is_err());
        doors.failed.set(None);
        assert_eq!(doors.guess(HERE, "ann"), Ok(()));
    }
}
