//! How fast clients of a listener are admitted: so many a second are put to whoever decides, to password hashing and to the
//! broker, and the others wait, address by address. Decided from times alone; whoever waits and for how long is `serve`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::pace::{Debt, Pace};
use crate::share::Neighbours;
use crate::share::crowd::{Crowd, Evict, Member};
use crate::share::rotation::{Rotation, RotationKey};

/// How fast, and how many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdmissionLimits {
    /// Absent: nobody waits.
    pub(crate) per_second: Option<usize>,
    pub(crate) waiting: usize,
}

/// The admissions of one listener.
pub(crate) struct Admissions {
    started: Instant,
    state: Mutex<AdmissionState>,
    /// Those who wait, for when there is no room for more.
    crowd: Arc<Crowd>,
}

struct AdmissionState {
    limits: AdmissionLimits,
    owed: Debt,
    waiting: Rotation<Arc<AdmissionWaiter>>,
}

/// What somebody who asked to be admitted was told.
pub(crate) enum AdmissionAnswer {
    /// Yes.
    Admitted,
    /// That there is no room to wait.
    Full,
    /// To wait.
    Waits(WaitingPlace),
}

/// What has become of somebody who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum WaitState {
    /// Nothing yet.
    Waits,
    /// It is its turn.
    Admitted,
    /// It has to make room for somebody of another address.
    Evicted,
    /// It was its turn, and it has begun.
    Taken,
}

#[derive(Default)]
struct AdmissionWaiter {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl AdmissionWaiter {
    /// Tells somebody who still waits. Whether it did.
    fn tell(&self, state: WaitState) -> bool {
        let waits = WaitState::Waits as u8;
        let told = self.state.compare_exchange(waits, state as u8, Ordering::AcqRel, Ordering::Acquire);
        self.waker.wake();
        told.is_ok()
    }

    fn state(&self) -> WaitState {
        match self.state.load(Ordering::Acquire) {
            state if state == WaitState::Admitted as u8 => WaitState::Admitted,
            state if state == WaitState::Evicted as u8 => WaitState::Evicted,
            state if state == WaitState::Taken as u8 => WaitState::Taken,
            _ => WaitState::Waits,
        }
    }
}

impl Evict for AdmissionWaiter {
    fn evict(&self) {
        // One that is admitted already is.
        let _ = self.tell(WaitState::Evicted);
    }
}

/// Somebody who waits to be admitted. Dropped, it waits no longer.
pub(crate) struct WaitingPlace {
    admissions: Arc<Admissions>,
    key: RotationKey,
    waiter: Arc<AdmissionWaiter>,
    _member: Member,
}

/// How much more an address has to have waiting than who comes, to give up a place for it.
const SPARE: usize = 2;

impl Admissions {
    pub(crate) fn new(limits: AdmissionLimits, now: Instant) -> Arc<Self> {
        let state = AdmissionState { limits, owed: Debt::default(), waiting: Rotation::default() };
        Arc::new(Self { started: now, state: Mutex::new(state), crowd: Arc::default() })
    }

    /// From now on these hold, also for those who wait.
    pub(crate) fn set_limits(&self, limits: AdmissionLimits) {
        self.state.lock().limits = limits;
    }

    pub(crate) fn limits(&self) -> AdmissionLimits {
        self.state.lock().limits
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Somebody from there wants to be admitted.
    pub(crate) fn ask(self: &Arc<Self>, whose: Neighbours, now: Instant) -> AdmissionAnswer {
        let now = now.saturating_duration_since(self.started);
        let mut state = self.state.lock();
        let Some(per_second) = state.limits.per_second else { return AdmissionAnswer::Admitted };
        let pace = Pace::even(per_second);
        // Nobody who waits is overtaken.
        if state.waiting.is_empty() && !state.owed.is_over(pace, now) {
            state.owed = state.owed.charged(pace, now);
            return AdmissionAnswer::Admitted;
        }
        let is_full = state.waiting.len() >= state.limits.waiting;
        // Who is evicted takes the lock to leave, and not before it is woken.
        if is_full && !self.crowd.make_room(whose, SPARE) {
            return AdmissionAnswer::Full;
        }
        let waiter = Arc::<AdmissionWaiter>::default();
        let member = self.crowd.enter(whose, Arc::clone(&waiter) as _);
        let key = state.waiting.enter(whose, Arc::clone(&waiter));
        AdmissionAnswer::Waits(WaitingPlace { admissions: Arc::clone(self), key, waiter, _member: member })
    }

    /// Admits those whose turn it is by now. When to look again: `None` where nobody waits.
    pub(crate) fn admit(&self, now: Instant) -> Option<Instant> {
        let at = now.saturating_duration_since(self.started);
        loop {
            let mut state = self.state.lock();
            if state.waiting.is_empty() {
                return None;
            }
            let pace = state.limits.per_second.map(Pace::even);
            if let Some(pace) = pace
                && state.owed.is_over(pace, at)
            {
                // Later than now in any case, or a clock that is not there yet would be looked at without a pause.
                let next = state.owed.allows_at(pace).max(at + Duration::from_micros(1));
                return Some(self.started + next);
            }
            // Within the lock: who gives up then either is not found here or sees that it was admitted.
            let admitted = state.waiting.take().is_some_and(|waiter| waiter.tell(WaitState::Admitted));
            if let Some(pace) = pace
                && admitted
            {
                state.owed = state.owed.charged(pace, at);
            }
        }
    }
}

impl WaitingPlace {
    /// What has become of it; the task is woken when it is something else.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> WaitState {
        // First: a word between the look and this would wake nobody.
        self.waiter.waker.register(cx.waker());
        self.waiter.state()
    }

    /// Whether it is its turn; then that is used up.
    pub(crate) fn take(self) -> bool {
        let admitted = self.waiter.state() == WaitState::Admitted;
        if admitted {
            self.waiter.state.store(WaitState::Taken as u8, Ordering::Release);
        }
        admitted
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        let mut state = self.admissions.state.lock();
        state.waiting.leave(self.key);
        // Its turn, and it has left: that is somebody else's.
        if self.waiter.state() == WaitState::Admitted
            && let Some(per_second) = state.limits.per_second
        {
            state.owed = state.owed.repaid(Pace::even(per_second));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::task::Waker;

    use super::*;

    fn of(text: &str) -> Neighbours {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn waits(asked: AdmissionAnswer) -> WaitingPlace {
        match asked {
            AdmissionAnswer::Waits(place) => place,
            AdmissionAnswer::Admitted | AdmissionAnswer::Full => panic!("it has to wait"),
        }
    }

    fn is_admitted(place: &WaitingPlace) -> bool {
        place.poll(&Context::from_waker(Waker::noop())) == WaitState::Admitted
    }

    fn limits(per_second: usize, waiting: usize) -> AdmissionLimits {
        AdmissionLimits { per_second: Some(per_second), waiting }
    }

    #[test]
    fn a_fleet_that_returns_at_once_is_admitted_at_the_rate() {
        let now = Instant::now();
        let admissions = Admissions::new(limits(1000, 100_000), now);
        let mut waiting = Vec::new();
        let at_once = (0..9500)
            .filter(|_| match admissions.ask(of("192.0.2.1"), now) {
                AdmissionAnswer::Admitted => true,
                asked => {
                    waiting.push(waits(asked));
                    false
                }
            })
            .count();
        assert_eq!(at_once, 100, "a tenth of a second's");
        for millis in 1..=9400 {
            let at = now + Duration::from_millis(millis);
            admissions.admit(at);
            let admitted = waiting.iter().filter(|place| is_admitted(place)).count();
            assert!(admitted as u64 <= millis, "{admitted} in {millis} ms");
        }
        assert!(waiting.iter().all(is_admitted), "the last one after 9.4 s");
        assert_eq!(admissions.admit(now + Duration::from_secs(20)), None);
    }

    #[test]
    fn addresses_take_turns_and_nobody_is_overtaken() {
        let now = Instant::now();
        let admissions = Admissions::new(limits(10, 1000), now);
        assert!(matches!(admissions.ask(of("192.0.2.1"), now), AdmissionAnswer::Admitted));
        let crowd: Vec<_> = (0..100).map(|_| waits(admissions.ask(of("192.0.2.1"), now))).collect();
        let lone = waits(admissions.ask(of("192.0.2.2"), now));
        assert_eq!(admissions.admit(now), Some(now + Duration::from_millis(100)));
        let later = now + Duration::from_millis(200);
        admissions.admit(now + Duration::from_millis(100));
        admissions.admit(later);
        assert!(is_admitted(&lone), "the second, behind one of a hundred");
        assert_eq!(crowd.iter().filter(|place| is_admitted(place)).count(), 1);
        let much_later = now + Duration::from_secs(1);
        assert!(
            matches!(admissions.ask(of("192.0.2.3"), much_later), AdmissionAnswer::Waits(_)),
            "behind those who wait"
        );
    }

    #[test]
    fn whoever_leaves_frees_its_place_and_its_turn() {
        let now = Instant::now();
        let admissions = Admissions::new(limits(10, 2), now);
        assert!(matches!(admissions.ask(of("192.0.2.1"), now), AdmissionAnswer::Admitted));
        let first = waits(admissions.ask(of("192.0.2.1"), now));
        let second = waits(admissions.ask(of("192.0.2.1"), now));
        assert!(matches!(admissions.ask(of("192.0.2.1"), now), AdmissionAnswer::Full));
        let at = now + Duration::from_millis(100);
        admissions.admit(at);
        assert!(is_admitted(&first) && !is_admitted(&second));
        drop(first);
        admissions.admit(at);
        assert!(is_admitted(&second), "it has the turn that was not used");
        assert!(second.take());
        assert_eq!((admissions.waiting(), admissions.crowd.len()), (0, 0));
        assert!(
            matches!(admissions.ask(of("192.0.2.1"), at), AdmissionAnswer::Waits(_)),
            "a turn that was used is"
        );
    }

    #[test]
    fn one_address_does_not_fill_the_queue() {
        let now = Instant::now();
        let admissions = Admissions::new(limits(1, 3), now);
        assert!(matches!(admissions.ask(of("192.0.2.1"), now), AdmissionAnswer::Admitted));
        let crowd: Vec<_> = (0..3).map(|_| waits(admissions.ask(of("192.0.2.1"), now))).collect();
        assert!(matches!(admissions.ask(of("192.0.2.1"), now), AdmissionAnswer::Full));
        let lone = waits(admissions.ask(of("192.0.2.2"), now));
        let state = crowd[0].poll(&Context::from_waker(Waker::noop()));
        assert_eq!(state, WaitState::Evicted);
        drop(crowd);
        assert_eq!(admissions.waiting(), 1);
        drop(lone);
    }

    #[test]
    fn without_a_limit_nobody_waits_and_a_new_limit_holds_for_those_who_do() {
        let now = Instant::now();
        let admissions = Admissions::new(limits(1, 100), now);
        let _first = admissions.ask(of("192.0.2.1"), now);
        let waiting: Vec<_> = (0..50).map(|_| waits(admissions.ask(of("192.0.2.1"), now))).collect();
        admissions.set_limits(AdmissionLimits { per_second: None, waiting: 1 });
        assert!(matches!(admissions.ask(of("192.0.2.1"), now), AdmissionAnswer::Admitted));
        assert_eq!(admissions.admit(now), None);
        assert!(waiting.iter().all(is_admitted));
    }
}
