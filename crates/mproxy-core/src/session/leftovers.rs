//! Subscriptions that were taken back and that the broker still has.

use std::time::{Duration, Instant};

use mproxy_codec::types::PacketId;
use serde::{Deserialize, Serialize};

/// Bytes of filters of one UNSUBSCRIBE after which the next begins.
const ONE_PACKET: usize = 8 << 10;

/// What has to end at the broker.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// Filters, as the broker knows them, in order.
    names: Vec<Box<str>>,
    /// The id of the UNSUBSCRIBE under way.
    pub(super) id: Option<PacketId>,
    /// How long the client may be held for its answer.
    held_until: Option<Instant>,
}

/// How far their end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum CleanupStage {
    /// There are none.
    #[default]
    None,
    /// A packet id is waited for that is surely free.
    WaitsForId,
    /// An UNSUBSCRIBE of ours is under way.
    UnderWay,
    /// It is, and the client's next packet has the same id: the client is not read on.
    HoldsClient,
}

impl Leftovers {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn add(&mut self, names: Vec<Box<str>>) {
        self.names.extend(names);
        // In order, so that one that is wanted again is found at once.
        self.names.sort_unstable();
        self.names.dedup();
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Ok(at) = self.names.binary_search_by(|other| (**other).cmp(name)) {
            self.names.remove(at);
        }
    }

    /// Some for the next UNSUBSCRIBE, which shall be no larger than `most` if there is more than one.
    pub(super) fn take_some(&mut self, most: usize) -> Vec<Box<str>> {
        let (mut some, mut bytes) = (Vec::new(), 0);
        while let Some(name) = self.names.pop_if(|name| {
            // With its length; the rest of the packet is less than 16.
            bytes += 2 + name.len();
            some.is_empty() || bytes <= ONE_PACKET.min(most.saturating_sub(16))
        }) {
            some.push(name);
        }
        some
    }

    /// The client is held: from when it was first, for so long.
    pub(super) fn hold(&mut self, now: Instant, patience: Duration) {
        // What is further away than the clock reaches never comes.
        self.held_until = self.held_until.or_else(|| now.checked_add(patience));
    }

    /// The client is not held any more.
    pub(super) fn let_go(&mut self) {
        self.held_until = None;
    }

    /// When the client has been held for too long.
    pub(super) const fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Bytes that they hold.
    pub(super) fn weight(&self) -> usize {
        self.names.iter().map(|name| size_of::<Box<str>>() + name.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_go_in_packets_that_fit() {
        let mut left = Leftovers::default();
        left.add(["b", "a", "c", "a"].map(Into::into).into());
        left.remove("c");
        left.remove("d");
        assert_eq!(left.take_some(22), [Box::from("b"), "a".into()]);
        assert!(left.is_empty() && left.take_some(22).is_empty());
        left.add(vec!["x".repeat(100).into(), "y".into()]);
        assert_eq!(left.take_some(20), [Box::from("y")]);
        assert_eq!(left.take_some(20).len(), 1, "one alone is for its sender to judge");
    }
}
