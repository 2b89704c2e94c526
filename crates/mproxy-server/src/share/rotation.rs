//! Who waits, in an order that is fair to addresses: they take turns, and within one whoever came first is first. However
//! many wait at one address, another waits for as many others as there are addresses.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::Neighbours;

/// Those who wait. Bounded by whoever puts them there.
pub(crate) struct Rotation<T> {
    /// Grows: the smaller of two came first.
    next: u64,
    /// Who was taken last.
    last: Option<Neighbours>,
    waiting: BTreeMap<(Neighbours, u64), T>,
}

/// Finds one who waits.
pub(crate) type RotationKey = (Neighbours, u64);

impl<T> Default for Rotation<T> {
    fn default() -> Self {
        Self { next: 0, last: None, waiting: BTreeMap::new() }
    }
}

impl<T> Rotation<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Somebody from there waits from now on.
    pub(crate) fn enter(&mut self, whose: Neighbours, who: T) -> RotationKey {
        let key = (whose, self.next);
        self.next += 1;
        self.waiting.insert(key, who);
        key
    }

    /// It waits no longer. `None`: it was taken before.
    pub(crate) fn leave(&mut self, key: RotationKey) -> Option<T> {
        self.waiting.remove(&key)
    }

    /// The first who waits at the address after the last one.
    pub(crate) fn take(&mut self) -> Option<T> {
        // Behind all who wait at that address; from the last address on, the first one again.
        let after = self.last.map_or(Bound::Unbounded, |last| Bound::Excluded((last, u64::MAX)));
        let key = self.waiting.range((after, Bound::Unbounded)).next().or_else(|| self.waiting.iter().next());
        let key = *key?.0;
        self.last = Some(key.0);
        self.waiting.remove(&key)
    }
}
