//! Which filters a client has subscribed to under their own names. A few bytes each: only whether one is among them is
//! asked, and a wrong yes does no harm.

use std::hash::{DefaultHasher, Hash, Hasher};

/// More subscriptions than this are not remembered: what is left behind of them when they are rewritten stays.
const MOST: usize = 4096;

/// Hashes of filters, in order.
#[derive(Debug, Default)]
pub(super) struct KnownFilters(Vec<u64>);

impl KnownFilters {
    pub(super) fn insert(&mut self, filter: &str) {
        if let Err(at) = self.0.binary_search(&hash(filter))
            && self.0.len() < MOST
        {
            self.0.insert(at, hash(filter));
        }
    }

    /// Whether it was among them.
    pub(super) fn remove(&mut self, filter: &str) -> bool {
        let found = self.0.binary_search(&hash(filter));
        found.is_ok_and(|at| {
            self.0.remove(at);
            true
        })
    }
}

fn hash(filter: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    filter.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_once() {
        let mut known = KnownFilters::default();
        for filter in ["b", "a", "b", "c"] {
            known.insert(filter);
        }
        assert!(known.remove("b") && !known.remove("b") && !known.remove("d"));
        assert_eq!(known.0.len(), 2);
        (0..2 * MOST).for_each(|n| known.insert(&n.to_string()));
        assert_eq!(known.0.len(), MOST);
    }
}
