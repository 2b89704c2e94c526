//! Records in memory, which never hold more bytes than was said. Where room is needed, the oldest record goes of the client that
//! holds most: who is refused all the time drives nobody else's records out. What was allowed has a part of its own, so that
//! a sample of it never drives a refusal out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::entry::{DecisionEntry, OutcomeFilter};
use super::shares::Shares;

/// The part of the memory that is for what was allowed, where some of that is recorded: one in so many bytes.
const ALLOWED_PART: usize = 4;

/// Bytes that a record takes in the map of records and among its client's, beside its own.
const PLACE: usize = 48;

/// A record and its number.
pub(super) type Numbered = (u64, Arc<DecisionEntry>);

/// Records, numbered in the order in which they came.
#[derive(Debug)]
pub(super) struct Ring {
    refused: RingPart,
    allowed: RingPart,
    /// Number of the next record.
    next: u64,
}

/// The records of one kind.
#[derive(Debug)]
struct RingPart {
    entries: BTreeMap<u64, Arc<DecisionEntry>>,
    shares: Shares,
    /// Of the records; the shares have bytes of their own.
    bytes: usize,
    most: usize,
    /// Everything is here that came after this.
    begins: SystemTime,
}

impl Ring {
    /// Of so many bytes; `samples`: some of them are for what was allowed.
    pub(super) fn new(most: usize, samples: bool, now: SystemTime) -> Self {
        let allowed = if samples { most / ALLOWED_PART } else { 0 };
        Self { refused: RingPart::new(most - allowed, now), allowed: RingPart::new(allowed, now), next: 1 }
    }

    /// Takes one. How many had to make room.
    pub(super) fn push(&mut self, entry: Arc<DecisionEntry>) -> u64 {
        let part = if entry.is_allowed() { &mut self.allowed } else { &mut self.refused };
        let number = self.next;
        self.next += 1;
        part.push(number, entry)
    }

    /// Since when it has all there was of these.
    pub(super) fn begins(&self, outcome: OutcomeFilter) -> SystemTime {
        match outcome {
            OutcomeFilter::Refused => self.refused.begins,
            OutcomeFilter::Allowed => self.allowed.begins,
            OutcomeFilter::Any => self.refused.begins.max(self.allowed.begins),
        }
    }

    /// Up to `count` records of these with numbers below `before`, the newest first.
    pub(super) fn before(&self, before: u64, count: usize, outcome: OutcomeFilter) -> Vec<Numbered> {
        match outcome {
            OutcomeFilter::Refused => self.refused.before(before).take(count).collect(),
            OutcomeFilter::Allowed => self.allowed.before(before).take(count).collect(),
            OutcomeFilter::Any => {
                let (mut refused, mut allowed) =
                    (self.refused.before(before).peekable(), self.allowed.before(before).peekable());
                let newest = || match (refused.peek(), allowed.peek()) {
                    (Some(one), Some(other)) if one.0 > other.0 => refused.next(),
                    (Some(_), None) => refused.next(),
                    _ => allowed.next(),
                };
                std::iter::from_fn(newest).take(count).collect()
            }
        }
    }
}

impl RingPart {
    fn new(most: usize, now: SystemTime) -> Self {
        Self { entries: BTreeMap::new(), shares: Shares::default(), bytes: 0, most, begins: now }
    }

    fn held(&self) -> usize {
        self.bytes + self.shares.held()
    }

    fn push(&mut self, number: u64, entry: Arc<DecisionEntry>) -> u64 {
        let weight = entry.weight() + PLACE;
        self.bytes += weight;
        self.shares.add(&entry, number, weight);
        self.entries.insert(number, entry);
        let mut gone = 0;
        while self.held() > self.most {
            let Some(oldest) = self.shares.oldest_of_largest() else { break };
            let Some(entry) = self.entries.remove(&oldest) else { break };
            let weight = entry.weight() + PLACE;
            self.bytes -= weight;
            self.shares.remove(&entry, weight);
            // What came at the same moment may be gone, too.
            self.begins = self.begins.max(entry.time);
            gone += 1;
        }
        debug_assert!(self.held() <= self.most, "more is kept than may be");
        gone
    }

    /// Those with numbers below this, the newest first.
    fn before(&self, before: u64) -> impl Iterator<Item = Numbered> + '_ {
        self.entries.range(..before).rev().map(|(number, entry)| (*number, Arc::clone(entry)))
    }
}

#[cfg(test)]
mod tests;
