//! Bytes that clients make mproxy hold, counted by connection, by listener and in all.
//!
//! A bound in packets or in bytes on the wire says little about memory: a packet is held as the packet, as the question
//! about it, as the event of it. What is counted here is what is held, as near as it can be known without asking the
//! allocator; the constants below say what is put down for what.
//!
//! When a budget is spent, the client that wants more is not read until there is room ([`Room::Wait`]); a packet that can
//! never have room in its connection's own budget is refused ([`Room::Never`]).
//!
//! A session counts for itself, in plain numbers; the counts that are shared are touched in steps of [`STEP`] only.
//! Less than a step is not put down, so an idle session costs nothing here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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
pub const FILTER: usize = 72;

/// The bytes that one scope (a listener, or all of mproxy) may hold.
#[derive(Debug)]
pub struct Scope {
    most: usize,
    held: AtomicUsize,
    spent: AtomicU64,
}

impl Scope {
    /// A scope of at most so many bytes.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { most, held: AtomicUsize::new(0), spent: AtomicU64::new(0) }
    }

    /// Bytes held now, but for less than a [`STEP`] of each connection.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that may be held.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.most
    }

    /// How often somebody found no room here.
    #[must_use]
    pub fn times_spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.held().saturating_add(bytes) <= self.most
    }

    fn found_full(&self) {
        self.spent.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the connections of one listener may hold.
#[derive(Debug)]
pub struct Budget {
    connection: usize,
    connections_spent: AtomicU64,
    listener: Scope,
    total: Arc<Scope>,
}

impl Budget {
    /// So much for each connection, so much for the listener, and what is left of the total.
    #[must_use]
    pub const fn new(connection: usize, listener: usize, total: Arc<Scope>) -> Self {
        Self { connection, connections_spent: AtomicU64::new(0), listener: Scope::new(listener), total }
    }

    /// Bytes that one connection may hold.
    #[must_use]
    pub const fn connection(&self) -> usize {
        self.connection
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
}

impl Purse {
    /// An empty one.
    #[must_use]
    pub fn new(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { budget: Arc::clone(budget), held: AtomicUsize::new(0), events: AtomicUsize::new(0) })
    }

    /// Bytes held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether so many bytes more may be held.
    #[must_use]
    pub fn room_for(&self, bytes: usize) -> Room {
        room(&self.budget, self.held(), bytes)
    }

    /// Puts down an event that waits to be told. `None`: there is no room for it. Events have half of their connection's
    /// budget, so that an observer that is slow keeps nobody from being read; the first has all of it.
    #[must_use]
    pub fn event(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let queued = self.events.load(Ordering::Relaxed);
        let own = queued == 0 || queued.saturating_add(bytes) <= self.budget.connection / 2;
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
    }

    pub(crate) fn sub(&self, bytes: usize) {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        let steps = before / STEP - (before - bytes) / STEP;
        if steps > 0 {
            self.budget.listener.held.fetch_sub(steps * STEP, Ordering::Relaxed);
            self.budget.total.held.fetch_sub(steps * STEP, Ordering::Relaxed);
        }
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        self.sub(self.held());
    }
}

/// Whether a connection that holds `held` may hold `bytes` more.
pub(crate) fn room(budget: &Budget, held: usize, bytes: usize) -> Room {
    let after = held.saturating_add(bytes);
    if bytes > budget.connection {
        Room::Never
    } else if after > budget.connection {
        Room::Wait
    } else if after <= RESERVE || (budget.listener.has_room(bytes) && budget.total.has_room(bytes)) {
        Room::Yes
    } else {
        Room::Wait
    }
}

/// Counts that there was no room, by the scope that had none.
pub(crate) fn count_spent(budget: &Budget, held: usize, bytes: usize) {
    if held.saturating_add(bytes) > budget.connection {
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
        self.purse.events.fetch_sub(self.bytes, Ordering::Relaxed);
        self.purse.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(connection: usize, listener: usize, total: usize) -> Arc<Budget> {
        Arc::new(Budget::new(connection, listener, Arc::new(Scope::new(total))))
    }

    #[test]
    fn shared_counts_move_in_steps_and_come_back_to_nothing() {
        let budget = budget(1 << 20, 1 << 20, 1 << 20);
        let purse = Purse::new(&budget);
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
        let (greedy, modest) = (Purse::new(&budget), Purse::new(&budget));
        assert_eq!(greedy.room_for((100 << 10) + 1), Room::Never);
        greedy.add(64 << 10);
        assert_eq!(greedy.room_for(STEP), Room::Wait);
        assert_eq!(modest.room_for(RESERVE), Room::Yes);
        assert_eq!(modest.room_for(RESERVE + 1), Room::Wait);
        drop(greedy);
        assert_eq!(modest.room_for(RESERVE + 1), Room::Yes);
    }

    #[test]
    fn events_leave_half_of_the_budget_to_packets() {
        let budget = budget(100 << 10, 1 << 20, 1 << 20);
        let purse = Purse::new(&budget);
        let first = purse.event(90 << 10).expect("one alone may have it all");
        assert!(purse.event(1).is_none());
        drop(first);
        let queued: Vec<_> = std::iter::from_fn(|| purse.event(10 << 10)).collect();
        assert_eq!(queued.len(), 5);
        assert_eq!(purse.room_for(50 << 10), Room::Yes);
    }
}
