//! Who is in a place that has room for so many. When there is no room, whoever comes from an address with fewer of them
//! takes the place of the oldest of the address with the most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Neighbours;

/// Somebody who can be asked to leave.
pub(crate) trait Evict: Send + Sync {
    /// Asks. It leaves soon, and by itself.
    fn evict(&self);
}

impl Evict for CancellationToken {
    fn evict(&self) {
        self.cancel();
    }
}

/// Those who are there. Takes memory for each of them, and none for who has left.
#[derive(Default)]
pub(crate) struct Crowd(Mutex<CrowdState>);

#[derive(Default)]
struct CrowdState {
    /// Grows: the smaller of two came first.
    next: u64,
    members: BTreeMap<(Neighbours, u64), Arc<dyn Evict>>,
    counts: BTreeMap<Neighbours, usize>,
    /// The same, by count.
    by_count: BTreeSet<(usize, Neighbours)>,
}

impl CrowdState {
    fn count(&self, whose: Neighbours) -> usize {
        self.counts.get(&whose).copied().unwrap_or(0)
    }

    /// The three are changed together, under one lock: they are views of one set.
    fn set(&mut self, whose: Neighbours, count: usize) {
        self.by_count.remove(&(self.count(whose), whose));
        if count == 0 {
            self.counts.remove(&whose);
        } else {
            self.counts.insert(whose, count);
            self.by_count.insert((count, whose));
        }
        debug_assert_eq!(self.counts.len(), self.by_count.len(), "both count the same addresses");
    }

    fn enter(&mut self, whose: Neighbours, who: Arc<dyn Evict>) -> (Neighbours, u64) {
        self.next += 1;
        self.members.insert((whose, self.next), who);
        self.set(whose, self.count(whose) + 1);
        (whose, self.next)
    }

    fn leave(&mut self, key: (Neighbours, u64)) -> Option<Arc<dyn Evict>> {
        let who = self.members.remove(&key)?;
        self.set(key.0, self.count(key.0) - 1);
        Some(who)
    }
}

impl Crowd {
    /// Somebody came. There until what is returned is dropped, or it was evicted.
    pub(crate) fn enter(self: &Arc<Self>, whose: Neighbours, who: Arc<dyn Evict>) -> Member {
        let key = self.0.lock().enter(whose, who);
        Member { crowd: Arc::clone(self), key }
    }

    /// How many are there.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().members.len()
    }

    /// Asks everybody to leave. How many.
    pub(crate) fn evict_all(&self) -> usize {
        let members = {
            let mut inner = self.0.lock();
            let next = inner.next;
            std::mem::replace(&mut *inner, CrowdState { next, ..CrowdState::default() }).members
        };
        members.values().for_each(|who| who.evict());
        members.len()
    }

    /// Asks the oldest of the address with the most to leave, if that is `spare` more than this address has. Who was asked
    /// is no longer there.
    ///
    /// A spare of 2 makes shares equal and never trades one for one, so that those who come do not undo each other's work:
    /// a crowd from one address waits for itself. With 0 whoever comes always finds room.
    pub(crate) fn make_room(&self, newcomer: Neighbours, spare: usize) -> bool {
        let mut inner = self.0.lock();
        let Some(&(most, whose)) = inner.by_count.last() else { return false };
        if most < inner.count(newcomer) + spare {
            return false;
        }
        let oldest = inner.members.range((whose, 0)..).next().map(|(key, _)| *key);
        debug_assert!(oldest.is_some(), "an address that is counted has somebody there");
        let oldest = oldest.and_then(|key| inner.leave(key));
        // Not while others wait for the lock.
        drop(inner);
        oldest.map(|who| who.evict()).is_some()
    }
}

/// One who is there.
pub(crate) struct Member {
    crowd: Arc<Crowd>,
    key: (Neighbours, u64),
}

impl Member {
    /// It turns out to come from elsewhere, or is to be asked in another way. It keeps its age. `false` where it has been
    /// asked to leave meanwhile.
    pub(crate) fn regard(&mut self, whose: Neighbours, who: Arc<dyn Evict>) -> bool {
        let mut inner = self.crowd.0.lock();
        if inner.leave(self.key).is_none() {
            return false;
        }
        self.key.0 = whose;
        inner.members.insert(self.key, who);
        let count = inner.count(whose) + 1;
        inner.set(whose, count);
        true
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // In two steps: what is dropped may take a lock of its own, and must not do so under this one.
        let left = self.crowd.0.lock().leave(self.key);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn of(text: &str) -> Neighbours {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn enter(crowd: &Arc<Crowd>, whose: &str) -> (Member, CancellationToken) {
        let token = CancellationToken::new();
        (crowd.enter(of(whose), Arc::new(token.clone())), token)
    }

    #[test]
    fn the_oldest_of_the_address_with_the_most_makes_room() {
        let crowd = Arc::<Crowd>::default();
        let (_one, lone) = enter(&crowd, "192.0.2.1");
        let many: Vec<_> = (0..10).map(|_| enter(&crowd, "192.0.2.2")).collect();
        assert!(crowd.make_room(of("192.0.2.3"), 2));
        assert!(many[0].1.is_cancelled() && !many[1].1.is_cancelled() && !lone.is_cancelled());
        assert_eq!(crowd.len(), 10);
        // Until shares are equal, and not one further.
        while crowd.make_room(of("192.0.2.3"), 2) {}
        assert_eq!(many.iter().filter(|(_, token)| token.is_cancelled()).count(), 9);
        assert!(!lone.is_cancelled());
    }

    #[test]
    fn a_crowd_of_one_address_does_not_undo_its_own_work() {
        let crowd = Arc::<Crowd>::default();
        let many: Vec<_> = (0..10).map(|_| enter(&crowd, "192.0.2.2")).collect();
        assert!(!crowd.make_room(of("192.0.2.2"), 2));
        assert!(many.iter().all(|(_, token)| !token.is_cancelled()));
        assert!(crowd.make_room(of("192.0.2.2"), 0), "where it is asked to");
    }

    #[test]
    fn nothing_is_kept_of_who_has_left() {
        let crowd = Arc::<Crowd>::default();
        let (mut moved, token) = enter(&crowd, "192.0.2.1");
        assert!(moved.regard(of("192.0.2.9"), Arc::new(token)));
        let gone = enter(&crowd, "192.0.2.2");
        crowd.make_room(of("192.0.2.3"), 0);
        drop((moved, gone));
        let inner = crowd.0.lock();
        assert!(inner.members.is_empty() && inner.counts.is_empty() && inner.by_count.is_empty());
    }
}
