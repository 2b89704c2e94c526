//! Bytes that clients make mproxy hold, counted by connection, by listener and in all.
//!
//! A bound in packets or in bytes on the wire says little about memory: a packet is held as the packet, as the question
//! about it, as the event of it. What is counted here is what is held, as near as it can be known without asking the
//! allocator; the constants below say what is put down for what.
//!
//! When a budget is spent, the client that wants more is not read until there is room ([`Room::Wait`]); a packet that can
//! never have room in its connection's own budget is refused ([`Room::Never`]).
//!
//! Strangers, on whom nobody has decided yet, share a part of it by address, so that one address cannot spend what all
//! others need to come in.
//!
//! A session counts for itself, in plain numbers; the counts that are shared are touched in steps of [`STEP`] only.
//! Less than a step is not put down, so an idle session costs nothing here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::neighbours::Neighbours;

/// Bytes by which shared counts change.
pub const STEP: usize = 4 << 10;

/// Bytes that each connection may hold whatever the others do, so that clients with small packets are served on when
/// greedy ones have spent the budget of their listener.
pub const RESERVE: usize = 16 << 10;

/// What is put down for an open question, beside its bytes: the future, and the state of its call.
pub const QUESTION: usize = 8 << 10;

/// What is put down for a packet that waits, beside its bytes.
pub const WAITING: usize = 128;

/// What is put down for a filter of a SUBSCRIBE or UNSUBSCRIBE, beside its bytes: its verdict and its own string.
pub const FILTER: usize = 88;

/// The part of a listener's budget, or of the total where that is less, that strangers may hold together, beyond the
/// [`RESERVE`] of each: one in so many.
const STRANGERS: usize = 2;

/// The same for the strangers of one address.
const NEIGHBOURS: usize = 8;

/// The bytes that one scope (a listener, or all of mproxy) may hold.
#[derive(Debug)]
pub struct Scope {
    most: AtomicUsize,
    held: AtomicUsize,
    spent: AtomicU64,
}

impl Scope {
    /// A scope of at most so many bytes.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { most: AtomicUsize::new(most), held: AtomicUsize::new(0), spent: AtomicU64::new(0) }
    }

    /// Bytes held now, but for less than a [`STEP`] of each connection.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that may be held.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// From now on so many may be. What is held beyond that stays; nothing more is until there is room.
    pub fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How often somebody found no room here.
    #[must_use]
    pub fn times_spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }

    fn has_room(&self, bytes: usize) -> bool {
        // Looked at here and added to later: two at the same moment may both find the last room. Each of them is
        // bounded by its connection's budget, and a packet that passes takes no lock.
        self.held().saturating_add(bytes) <= self.most()
    }

    fn found_full(&self) {
        self.spent.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the connections of one listener may hold.
#[derive(Debug)]
pub struct Budget {
    connection: AtomicUsize,
    connections_spent: AtomicU64,
    listener: Scope,
    total: Arc<Scope>,
    strangers: Mutex<Strangers>,
}

/// What connections hold beyond their [`RESERVE`] while nobody has decided on them.
#[derive(Debug, Default)]
struct Strangers {
    all: usize,
    /// None of them is 0.
    by_address: BTreeMap<Neighbours, usize>,
}

impl Strangers {
    const NOBODY: Self = Self { all: 0, by_address: BTreeMap::new() };

    fn change(&mut self, whose: Neighbours, change: impl Fn(usize) -> usize) {
        self.all = change(self.all);
        let one = self.by_address.entry(whose).or_default();
        *one = change(*one);
        if *one == 0 {
            self.by_address.remove(&whose);
        }
    }

    /// Whether one who holds `mine` of it may hold `wanted`. One at a time always may, however small the shares.
    fn has_room(&self, whose: Neighbours, mine: usize, wanted: usize, of: usize) -> bool {
        // `wanted` is all that it would hold then, so what it holds already is taken out of the sum.
        let fits = |held: usize, most: usize| match held.saturating_sub(mine) {
            0 => true,
            others => others.saturating_add(wanted) <= most,
        };
        let neighbours = self.by_address.get(&whose).copied().unwrap_or(0);
        fits(neighbours, of / NEIGHBOURS) && fits(self.all, of / STRANGERS)
    }
}

/// What counts among strangers of so many bytes.
const fn beyond_reserve(held: usize) -> usize {
    held.saturating_sub(RESERVE)
}

impl Budget {
    /// So much for each connection, so much for the listener, and what is left of the total.
    #[must_use]
    pub const fn new(connection: usize, listener: usize, total: Arc<Scope>) -> Self {
        Self {
            connection: AtomicUsize::new(connection),
            connections_spent: AtomicU64::new(0),
            listener: Scope::new(listener),
            total,
            strangers: Mutex::new(Strangers::NOBODY),
        }
    }

    /// Bytes that one connection may hold.
    #[must_use]
    pub fn connection(&self) -> usize {
        self.connection.load(Ordering::Relaxed)
    }

    /// From now on a connection may hold so many, those that there are included, and the listener so many. What is held
    /// beyond that stays.
    pub fn set_most(&self, connection: usize, listener: usize) {
        self.connection.store(connection, Ordering::Relaxed);
        self.listener.set_most(listener);
    }

    /// How often a connection of this listener had spent its own.
    #[must_use]
    pub fn connections_spent(&self) -> u64 {
        self.connections_spent.load(Ordering::Relaxed)
    }

    /// The listener's scope.
    #[must_use]
    pub const fn listener(&self) -> &Scope {
        &self.listener
    }

    fn strangers(&self, act: impl FnOnce(&mut Strangers)) {
        act(&mut self.strangers.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The scope of everything.
    #[must_use]
    pub const fn total(&self) -> &Arc<Scope> {
        &self.total
    }
}

impl Default for Budget {
    /// The defaults of `docs/configuration.md`.
    fn default() -> Self {
        Self::new(3 << 20, 256 << 20, Arc::new(Scope::new(512 << 20)))
    }
}

/// Whether something more may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It may.
    Yes,
    /// Not now.
    Wait,
    /// It is more than this connection may ever hold.
    Never,
}

/// What one connection holds. Shared by its session and by what outlives that: events that have not been told yet.
#[derive(Debug)]
pub struct Purse {
    budget: Arc<Budget>,
    held: AtomicUsize,
    events: AtomicUsize,
    whose: Neighbours,
    /// Nobody has decided on its client. Until somebody has, it has no events, so that only its connection changes it.
    stranger: AtomicBool,
}

/// A stranger who wants to hold more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stranger {
    whose: Neighbours,
    /// What it holds already.
    held: usize,
}

impl Stranger {
    pub(crate) const fn new(whose: Neighbours, held: usize) -> Self {
        Self { whose, held }
    }
}

impl Purse {
    /// An empty one, of a client from there.
    #[must_use]
    pub fn new(budget: &Arc<Budget>, whose: Neighbours) -> Arc<Self> {
        Arc::new(Self {
            budget: Arc::clone(budget),
            held: AtomicUsize::new(0),
            events: AtomicUsize::new(0),
            whose,
            stranger: AtomicBool::new(false),
        })
    }

    /// An empty one of a client on whom nobody has decided.
    #[must_use]
    pub fn of_stranger(budget: &Arc<Budget>, whose: Neighbours) -> Arc<Self> {
        let purse = Self::new(budget, whose);
        purse.stranger.store(true, Ordering::Relaxed);
        purse
    }

    /// Somebody has decided on its client: what it holds is not counted among strangers any more.
    pub fn admit(&self) {
        // Swapped: whoever comes second takes nothing off again.
        if self.stranger.swap(false, Ordering::Relaxed) {
            self.among_strangers(self.held(), 0);
        }
    }

    /// Puts down that so many bytes are held now, if there is room for them.
    #[must_use]
    pub fn hold(&self, bytes: usize) -> bool {
        let held = self.held();
        match bytes.checked_sub(held) {
            Some(0) => {}
            Some(more) if self.room_for(more) == Room::Yes => self.add(more),
            Some(more) => {
                count_spent(&self.budget, held, more);
                return false;
            }
            None => self.sub(held - bytes),
        }
        true
    }

    fn among_strangers(&self, before: usize, after: usize) {
        let (before, after) = (beyond_reserve(before), beyond_reserve(after));
        if before != after {
            // Added before it is taken off: these numbers cannot go below zero in between.
            let change = |held: usize| {
                debug_assert!(held + after >= before, "a stranger gives back more than all of them hold");
                (held + after).saturating_sub(before)
            };
            self.budget.strangers(|strangers| strangers.change(self.whose, change));
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether so many bytes more may be held.
    #[must_use]
    pub fn room_for(&self, bytes: usize) -> Room {
        let held = self.held();
        let stranger = self.stranger.load(Ordering::Relaxed).then(|| Stranger::new(self.whose, held));
        room(&self.budget, held, bytes, stranger)
    }

    /// Puts down an event that waits to be told. `None`: there is no room for it. Events have half of their connection's
    /// budget, so that an observer that is slow keeps nobody from being read; the first has all of it.
    #[must_use]
    pub fn event(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let queued = self.events.load(Ordering::Relaxed);
        let own = queued == 0 || queued.saturating_add(bytes) <= self.budget.connection() / 2;
        if !own || self.room_for(bytes) != Room::Yes {
            count_spent(&self.budget, self.held(), bytes);
            return None;
        }
        self.events.fetch_add(bytes, Ordering::Relaxed);
        self.add(bytes);
        Some(Held { purse: Arc::clone(self), bytes })
    }

    pub(crate) fn add(&self, bytes: usize) {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        // Each change sees the sum of those before it, so what is put down in steps adds up to what is held in steps.
        let steps = (before + bytes) / STEP - before / STEP;
        if steps > 0 {
            self.budget.listener.held.fetch_add(steps * STEP, Ordering::Relaxed);
            self.budget.total.held.fetch_add(steps * STEP, Ordering::Relaxed);
        }
        if self.stranger.load(Ordering::Relaxed) {
            self.among_strangers(before, before + bytes);
        }
    }

    pub(crate) fn sub(&self, bytes: usize) {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "more is given back than is held");
        let steps = before / STEP - (before - bytes) / STEP;
        if steps > 0 {
            self.budget.listener.held.fetch_sub(steps * STEP, Ordering::Relaxed);
            self.budget.total.held.fetch_sub(steps * STEP, Ordering::Relaxed);
        }
        if self.stranger.load(Ordering::Relaxed) {
            self.among_strangers(before, before - bytes);
        }
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        self.sub(self.held());
    }
}

/// Whether a connection that holds `held` may hold `bytes` more.
pub(crate) fn room(budget: &Budget, held: usize, bytes: usize, stranger: Option<Stranger>) -> Room {
    let after = held.saturating_add(bytes);
    let has_its_share = |Stranger { whose, held }: Stranger| {
        let mut room = false;
        let (mine, wanted) = (beyond_reserve(held), beyond_reserve(after));
        // The total may be set lower than a listener's budget. Half of that would then be more than there is.
        let most = budget.listener.most().min(budget.total.most());
        budget.strangers(|all| room = all.has_room(whose, mine, wanted, most));
        room
    };
    if bytes > budget.connection() {
        // Tried again it would come to the same.
        Room::Never
    } else if after > budget.connection() {
        Room::Wait
    } else if is_reserved(budget, after) || (shared_room(budget, bytes) && stranger.is_none_or(has_its_share))
    {
        Room::Yes
    } else {
        Room::Wait
    }
}

/// Whether a connection may hold so little whatever the others do.
#[inline]
pub(crate) fn is_reserved(budget: &Budget, bytes: usize) -> bool {
    bytes <= RESERVE && bytes <= budget.connection()
}

/// Whether the listener and all of mproxy have room for `bytes` more.
pub(crate) fn shared_room(budget: &Budget, bytes: usize) -> bool {
    budget.listener.has_room(bytes) && budget.total.has_room(bytes)
}

/// Counts that there was no room, by the scope that had none.
pub(crate) fn count_spent(budget: &Budget, held: usize, bytes: usize) {
    if held.saturating_add(bytes) > budget.connection() {
        budget.connections_spent.fetch_add(1, Ordering::Relaxed);
    } else if !budget.listener.has_room(bytes) {
        budget.listener.found_full();
    } else {
        budget.total.found_full();
    }
}

/// Bytes that are put down as held, until this is dropped.
#[derive(Debug)]
pub struct Held {
    purse: Arc<Purse>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.purse.events.fetch_sub(self.bytes, Ordering::Relaxed);
        debug_assert!(before >= self.bytes, "an event gives back more than all that wait");
        self.purse.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Neighbours {
        text.parse::<std::net::IpAddr>().expect("an address").into()
    }

    fn purse(budget: &Arc<Budget>) -> Arc<Purse> {
        Purse::new(budget, of("192.0.2.1"))
    }

    fn budget(connection: usize, listener: usize, total: usize) -> Arc<Budget> {
        Arc::new(Budget::new(connection, listener, Arc::new(Scope::new(total))))
    }

    #[test]
    fn shared_counts_move_in_steps_and_come_back_to_nothing() {
        let budget = budget(1 << 20, 1 << 20, 1 << 20);
        let purse = purse(&budget);
        for _ in 0..10 {
            purse.add(1000);
        }
        assert_eq!((budget.listener().held(), budget.total().held()), (2 * STEP, 2 * STEP));
        let event = purse.event(5000).unwrap();
        purse.sub(9_999);
        assert_eq!(budget.total().held(), STEP);
        drop((purse, event));
        assert_eq!((budget.listener().held(), budget.total().held()), (0, 0));
    }

    #[test]
    fn a_connection_has_its_own_bound_and_a_reserve_that_others_cannot_spend() {
        let budget = budget(100 << 10, 64 << 10, 64 << 10);
        let (greedy, modest) = (purse(&budget), purse(&budget));
        assert_eq!(greedy.room_for((100 << 10) + 1), Room::Never);
        greedy.add(64 << 10);
        assert_eq!(greedy.room_for(STEP), Room::Wait);
        assert_eq!(modest.room_for(RESERVE), Room::Yes);
        assert_eq!(modest.room_for(RESERVE + 1), Room::Wait);
        drop(greedy);
        assert_eq!(modest.room_for(RESERVE + 1), Room::Yes);
    }

    #[test]
    fn a_budget_that_was_made_smaller_takes_nothing_away_and_gives_no_more() {
        let budget = budget(100 << 10, 200 << 10, 200 << 10);
        let (one, other) = (purse(&budget), purse(&budget));
        one.add(90 << 10);
        budget.set_most(50 << 10, 64 << 10);
        assert_eq!((one.held(), one.room_for(1)), (90 << 10, Room::Wait));
        assert_eq!(other.room_for(RESERVE), Room::Yes, "which each still has");
        assert_eq!(other.room_for(40 << 10), Room::Wait);
        budget.set_most(100 << 10, 200 << 10);
        budget.total().set_most(120 << 10);
        assert_eq!((one.room_for(10 << 10), other.room_for(40 << 10)), (Room::Yes, Room::Wait));
    }

    #[test]
    fn events_leave_half_of_the_budget_to_packets() {
        let budget = budget(100 << 10, 1 << 20, 1 << 20);
        let purse = purse(&budget);
        let first = purse.event(90 << 10).expect("one alone may have it all");
        assert!(purse.event(1).is_none());
        drop(first);
        let queued: Vec<_> = std::iter::from_fn(|| purse.event(10 << 10)).collect();
        assert_eq!(queued.len(), 5);
        assert_eq!(purse.room_for(50 << 10), Room::Yes);
    }

    #[test]
    fn strangers_of_one_address_leave_room_for_those_of_others() {
        for (listener, total) in [(8 << 20, 64 << 20), (64 << 20, 8 << 20)] {
            strangers_leave_room(&budget(1 << 20, listener, total));
        }
    }

    fn strangers_leave_room(budget: &Arc<Budget>) {
        let stranger = |address: &str| Purse::of_stranger(budget, of(address));
        let greedy: Vec<_> = (0..8).map(|_| stranger("192.0.2.1")).collect();
        let held = greedy.iter().filter(|purse| purse.hold(300 << 10)).count();
        assert_eq!(held, 3, "an eighth, beyond what each has of its own");
        assert!(greedy[7].hold(RESERVE), "which they still have");
        let others: Vec<_> = (2..20).map(|n| stranger(&format!("192.0.2.{n}"))).collect();
        let held = others.iter().filter(|purse| purse.hold(300 << 10)).count();
        assert_eq!(held, 11, "half of it is for whoever was let in");
        assert!(purse(budget).hold(300 << 10));
        greedy[0].admit();
        assert!(greedy[7].hold(300 << 10), "who was let in is no stranger any more");
        drop((greedy, others));
        let strangers = budget.strangers.lock().unwrap();
        assert!(strangers.all == 0 && strangers.by_address.is_empty());
    }

    #[test]
    fn one_stranger_at_a_time_has_room_however_small_the_shares() {
        let budget = budget(1 << 20, 1 << 20, 1 << 20);
        let [one, other] = [0, 1].map(|_| Purse::of_stranger(&budget, of("192.0.2.1")));
        assert!(one.hold(900 << 10) && !other.hold(RESERVE + 1));
        assert!(one.hold(0) && other.hold(900 << 10));
    }
}
