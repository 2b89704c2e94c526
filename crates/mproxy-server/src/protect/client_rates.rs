//! How fast clients may send: each of them, those of a user name together, and those of a listener together.
//!
//! Sessions of one user name share what counts for it, whatever their listeners and threads. It exists as long as one of them
//! does: memory follows connections, and not the number of names.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use mproxy_core::Peer;
use mproxy_core::grant::{PerSecond, RateAction};
use mproxy_core::policy::LimitKind;
use mproxy_core::rate::{ClientRates, LimitedRate, RateLimit, RateUnit, SharedRate};
use parking_lot::Mutex;

/// How many messages and bytes a second. What is absent is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct UnitRates {
    pub(crate) messages: Option<PerSecond>,
    pub(crate) bytes: Option<PerSecond>,
}

impl UnitRates {
    /// Of settings, which are larger than 0.
    pub(crate) fn new(messages: Option<usize>, bytes: Option<usize>) -> Self {
        let rate = |number: Option<usize>| PerSecond::new(number? as f64);
        Self { messages: rate(messages), bytes: rate(bytes) }
    }

    const fn each(self) -> [(RateUnit, Option<PerSecond>); 2] {
        [(RateUnit::Messages, self.messages), (RateUnit::Bytes, self.bytes)]
    }

    fn are_none(self) -> bool {
        self == Self::default()
    }
}

/// What several share.
type SharedRates<R> = [Option<R>; 2];

/// The rates of user names.
#[derive(Default)]
pub(crate) struct UserRates(Mutex<UserRatesState>);

#[derive(Default)]
struct UserRatesState {
    limits: UnitRates,
    users: HashMap<Box<str>, SharedRates<Weak<SharedRate>>>,
    /// When there are so many, those go of which there is no session any more.
    clear_at: usize,
}

/// Below that nothing is cleared away.
const FEW: usize = 64;

impl UserRates {
    pub(crate) fn new(limits: UnitRates) -> Self {
        let this = Self::default();
        this.set(limits);
        this
    }

    /// From now on these hold, also for sessions that have some.
    pub(crate) fn set(&self, limits: UnitRates) {
        let mut state = self.0.lock();
        state.limits = limits;
        for shared in state.users.values() {
            for ((_, rate), shared) in limits.each().into_iter().zip(shared) {
                if let (Some(rate), Some(shared)) = (rate, shared.as_ref().and_then(Weak::upgrade)) {
                    shared.set(rate);
                }
            }
        }
    }

    fn are_none(&self) -> bool {
        self.0.lock().limits.are_none()
    }

    /// Those of this user.
    fn of(&self, username: &str, now: Instant) -> SharedRates<Arc<SharedRate>> {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        if state.limits.are_none() {
            return [None, None];
        }
        if state.users.len() >= state.clear_at.max(FEW) && !state.users.contains_key(username) {
            let is_used =
                |one: &Option<Weak<SharedRate>>| one.as_ref().is_some_and(|shared| shared.strong_count() > 0);
            state.users.retain(|_, shared| shared.iter().any(is_used));
            // Looked through as often as it doubles, at most.
            state.clear_at = 2 * state.users.len();
        }
        let limits = state.limits.each();
        let known = state.users.entry(username.into()).or_default();
        std::array::from_fn(|at| {
            let rate = limits[at].1?;
            let shared = known[at].as_ref().and_then(Weak::upgrade);
            let shared = shared.unwrap_or_else(|| Arc::new(SharedRate::new(rate, now)));
            known[at] = Some(Arc::downgrade(&shared));
            Some(shared)
        })
    }
}

/// The rates of one listener's clients, but for those of their user names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ListenerRateLimits {
    pub(crate) client: UnitRates,
    pub(crate) listener: UnitRates,
    pub(crate) action: RateAction,
}

/// How fast the clients of one listener may send.
pub(crate) struct ListenerRates {
    users: Arc<UserRates>,
    state: Mutex<ListenerRatesState>,
}

struct ListenerRatesState {
    limits: ListenerRateLimits,
    shared: SharedRates<Arc<SharedRate>>,
}

impl ListenerRates {
    pub(crate) fn new(users: &Arc<UserRates>, limits: ListenerRateLimits, now: Instant) -> Arc<Self> {
        let state = ListenerRatesState { limits, shared: [None, None] };
        let this = Self { users: Arc::clone(users), state: Mutex::new(state) };
        this.set(limits, now);
        Arc::new(this)
    }

    /// From now on these hold: those that are shared also for sessions that have some.
    pub(crate) fn set(&self, limits: ListenerRateLimits, now: Instant) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.limits = limits;
        for ((_, rate), shared) in limits.listener.each().into_iter().zip(&mut state.shared) {
            match (rate, &shared) {
                (Some(rate), Some(shared)) => shared.set(rate),
                (Some(rate), None) => *shared = Some(Arc::new(SharedRate::new(rate, now))),
                (None, _) => *shared = None,
            }
        }
    }

    /// Whether a client that comes now may send as fast as it likes.
    pub(crate) fn are_none(&self) -> bool {
        let limits = self.state.lock().limits;
        limits.client.are_none() && limits.listener.are_none() && self.users.are_none()
    }
}

impl ClientRates for ListenerRates {
    fn of(&self, peer: &Peer) -> Vec<RateLimit> {
        let now = Instant::now();
        let of_user = peer.username.as_deref().map_or([None, None], |name| self.users.of(name, now));
        let state = self.state.lock();
        let action = state.limits.action;
        let limit = |kind, unit, rate| RateLimit { unit, rate, action, kind };
        let own = state
            .limits
            .client
            .each()
            .into_iter()
            .filter_map(|(unit, rate)| Some(limit(LimitKind::ClientRate, unit, LimitedRate::Own(rate?))));
        let units = [RateUnit::Messages, RateUnit::Bytes];
        let shared = [(LimitKind::UserRate, of_user), (LimitKind::ListenerRate, state.shared.clone())];
        let shared = shared.into_iter().flat_map(|(kind, rates)| {
            let each = units.into_iter().zip(rates);
            each.filter_map(move |(unit, rate)| Some((kind, unit, LimitedRate::Shared(rate?))))
        });
        own.chain(shared.map(|(kind, unit, rate)| limit(kind, unit, rate))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example_peer;

    const NONE: ListenerRateLimits = ListenerRateLimits {
        client: UnitRates { messages: None, bytes: None },
        listener: UnitRates { messages: None, bytes: None },
        action: RateAction::Wait,
    };

    fn peer(username: Option<&str>) -> Peer {
        let peer = example_peer::peer(Arc::new(example_peer::origin(1)), "sensor");
        Peer { username: username.map(Into::into), ..peer }
    }

    fn shared(limits: &[RateLimit], kind: LimitKind) -> Arc<SharedRate> {
        let found = limits.iter().find(|one| one.kind == kind).expect("it is limited");
        let LimitedRate::Shared(shared) = &found.rate else { panic!("it is shared") };
        Arc::clone(shared)
    }

    #[test]
    fn sessions_of_a_user_share_a_rate_over_listeners_and_others_have_their_own() {
        let users = Arc::new(UserRates::new(UnitRates::new(Some(5), None)));
        let two = [(); 2].map(|()| ListenerRates::new(&users, NONE, Instant::now()));
        let of = |at: usize, name| two[at].of(&peer(name));
        let (one, other) = (of(0, Some("ann")), of(1, Some("ann")));
        let rate = shared(&one, LimitKind::UserRate);
        assert!(Arc::ptr_eq(&rate, &shared(&other, LimitKind::UserRate)) && one.len() == 1);
        assert!(!Arc::ptr_eq(&rate, &shared(&of(0, Some("bob")), LimitKind::UserRate)));
        assert!(of(0, None).is_empty(), "who has no name has none");
        users.set(UnitRates::default());
        assert!(of(0, Some("ann")).is_empty() && two[0].are_none());
    }

    #[test]
    fn all_clients_of_a_listener_share_its_rate_and_a_reload_keeps_it() {
        let limits = ListenerRateLimits {
            client: UnitRates::new(Some(1), Some(1000)),
            listener: UnitRates::new(None, Some(9000)),
            action: RateAction::Refuse,
        };
        let rates = ListenerRates::new(&Arc::default(), limits, Instant::now());
        let before = rates.of(&peer(Some("ann")));
        assert_eq!(before.len(), 3);
        assert!(before.iter().all(|one| one.action == RateAction::Refuse));
        rates.set(
            ListenerRateLimits { listener: UnitRates::new(Some(7), Some(10)), ..limits },
            Instant::now(),
        );
        let after = rates.of(&peer(None));
        let of_bytes = |limits: &[RateLimit]| {
            let found =
                limits.iter().find(|one| one.kind == LimitKind::ListenerRate && one.unit == RateUnit::Bytes);
            shared(&found.cloned().into_iter().collect::<Vec<_>>(), LimitKind::ListenerRate)
        };
        assert!(Arc::ptr_eq(&of_bytes(&before), &of_bytes(&after)) && after.len() == 4);
        rates.set(NONE, Instant::now());
        assert!(rates.of(&peer(None)).is_empty() && rates.are_none());
    }

    #[test]
    fn names_of_whom_there_is_no_session_are_forgotten() {
        let users = Arc::new(UserRates::new(UnitRates::new(Some(5), Some(500))));
        let now = Instant::now();
        let here: Vec<_> = (0..100).map(|n| users.of(&format!("here{n}"), now)).collect();
        for n in 0..100_000 {
            users.of(&format!("gone{n}"), now);
        }
        let known = users.0.lock().users.len();
        assert!((100..=400).contains(&known), "{known}");
        for (n, rates) in here.iter().enumerate() {
            let again = users.of(&format!("here{n}"), now);
            assert!(
                rates
                    .iter()
                    .zip(&again)
                    .all(|(a, b)| { a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b)) })
            );
        }
    }
}
