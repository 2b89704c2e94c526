//! Records in memory. The oldest make room for new ones, so that they never hold more bytes than was said. What was allowed
//! has a part of its own, so that a sample of it never drives a refusal out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use super::entry::{DecisionEntry, OutcomeFilter};

/// The part of the memory that is for what was allowed, where some of that is recorded: one in so many bytes.
const ALLOWED_PART: usize = 4;

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
    entries: VecDeque<Numbered>,
    bytes: usize,
    most: usize,
    /// Everything is here that came after this.
    begins: SystemTime,
}

impl Ring {
    /// Of so many bytes; `samples`: some of them are for what was allowed.
    pub(super) const fn new(most: usize, samples: bool, now: SystemTime) -> Self {
        let allowed = if samples { most / ALLOWED_PART } else { 0 };
        Self { refused: RingPart::new(most - allowed, now), allowed: RingPart::new(allowed, now), next: 1 }
    }

    pub(super) fn push(&mut self, entry: Arc<DecisionEntry>) {
        let part = if entry.is_allowed() { &mut self.allowed } else { &mut self.refused };
        part.push((self.next, entry));
        self.next += 1;
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
            OutcomeFilter::Refused => self.refused.before(before).take(count).cloned().collect(),
            OutcomeFilter::Allowed => self.allowed.before(before).take(count).cloned().collect(),
            OutcomeFilter::Any => {
                let (mut refused, mut allowed) =
                    (self.refused.before(before).peekable(), self.allowed.before(before).peekable());
                let newest = || match (refused.peek(), allowed.peek()) {
                    (Some(one), Some(other)) if one.0 > other.0 => refused.next(),
                    (Some(_), None) => refused.next(),
                    _ => allowed.next(),
                };
                std::iter::from_fn(newest).take(count).cloned().collect()
            }
        }
    }
}

impl RingPart {
    const fn new(most: usize, now: SystemTime) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, most, begins: now }
    }

    fn push(&mut self, record: Numbered) {
        self.bytes += record.1.weight();
        self.entries.push_back(record);
        while self.bytes > self.most {
            let Some((_, oldest)) = self.entries.pop_front() else { break };
            self.bytes -= oldest.weight();
            // What came at the same moment may be gone, too.
            self.begins = self.begins.max(oldest.time);
        }
        debug_assert!(self.bytes <= self.most, "more is kept than may be");
    }

    /// Those with numbers below this, the newest first.
    fn before(&self, before: u64) -> impl Iterator<Item = &Numbered> {
        let end = self.entries.partition_point(|(number, _)| *number < before);
        self.entries.range(..end).rev()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::entry::ALLOWED;
    use super::*;

    fn entry(second: u64, topic: &str) -> Arc<DecisionEntry> {
        let time = UNIX_EPOCH + Duration::from_secs(second);
        Arc::new(DecisionEntry { time, topic: Some(topic.into()), ..DecisionEntry::default() })
    }

    fn allowed(second: u64) -> Arc<DecisionEntry> {
        Arc::new(DecisionEntry { outcome: ALLOWED, ..(*entry(second, "a")).clone() })
    }

    fn numbers(ring: &Ring, before: u64, outcome: OutcomeFilter) -> Vec<u64> {
        ring.before(before, 99, outcome).iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn the_oldest_make_room_and_it_says_since_when_it_has_all() {
        let refused = OutcomeFilter::Refused;
        let one = entry(0, "a").weight();
        let mut ring = Ring::new(3 * one, false, UNIX_EPOCH);
        for second in 1..=3 {
            ring.push(entry(second, "a"));
        }
        assert_eq!((ring.begins(refused), numbers(&ring, u64::MAX, refused).len()), (UNIX_EPOCH, 3));
        ring.push(entry(4, "a"));
        assert_eq!(numbers(&ring, u64::MAX, refused), [4, 3, 2]);
        assert_eq!(ring.begins(refused), UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(ring.before(3, 1, refused)[0].0, 2);
        assert!(numbers(&ring, 2, refused).is_empty(), "it has been forgotten");
        // One that is larger than all that is kept is not kept.
        ring.push(entry(5, &"x".repeat(4 * one)));
        assert!(numbers(&ring, u64::MAX, refused).is_empty() && ring.refused.bytes == 0);
    }

    #[test]
    fn what_was_allowed_drives_no_refusal_out_and_both_are_told_in_their_order() {
        let one = entry(0, "a").weight();
        let most = 8 * one;
        let mut ring = Ring::new(most, true, UNIX_EPOCH);
        ring.push(entry(1, "a"));
        for second in 2..1000 {
            ring.push(allowed(second));
            assert!(ring.refused.bytes + ring.allowed.bytes <= most);
        }
        ring.push(entry(1000, "a"));
        assert_eq!(numbers(&ring, u64::MAX, OutcomeFilter::Refused), [1000, 1]);
        assert_eq!(numbers(&ring, u64::MAX, OutcomeFilter::Allowed), [999, 998]);
        assert_eq!(numbers(&ring, u64::MAX, OutcomeFilter::Any), [1000, 999, 998, 1]);
        assert_eq!(numbers(&ring, 999, OutcomeFilter::Any), [998, 1]);
        assert_eq!(ring.begins(OutcomeFilter::Refused), UNIX_EPOCH);
        assert_eq!(ring.begins(OutcomeFilter::Allowed), UNIX_EPOCH + Duration::from_secs(997));
        assert_eq!(ring.begins(OutcomeFilter::Any), ring.begins(OutcomeFilter::Allowed));
    }

    #[test]
    fn refusals_have_all_the_memory_where_nothing_is_sampled() {
        let one = entry(0, "a").weight();
        let mut ring = Ring::new(4 * one, false, UNIX_EPOCH);
        (1..=4).for_each(|second| ring.push(entry(second, "a")));
        assert_eq!(numbers(&ring, u64::MAX, OutcomeFilter::Refused), [4, 3, 2, 1]);
    }
}
