//! Records in memory. The oldest make room for new ones, so that they never hold more bytes than was said.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use super::entry::DecisionEntry;

/// Records, numbered without gaps in the order in which they came.
#[derive(Debug)]
pub(super) struct Ring {
    entries: VecDeque<Arc<DecisionEntry>>,
    /// Number of the oldest, or of the next one where there is none.
    first: u64,
    bytes: usize,
    most: usize,
    /// Everything is here that came after this.
    begins: SystemTime,
}

impl Ring {
    pub(super) const fn new(most: usize, now: SystemTime) -> Self {
        Self { entries: VecDeque::new(), first: 1, bytes: 0, most, begins: now }
    }

    pub(super) fn push(&mut self, entry: Arc<DecisionEntry>) {
        self.bytes += entry.weight();
        self.entries.push_back(entry);
        while self.bytes > self.most {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.weight();
            self.first += 1;
            // What came at the same moment may be gone, too.
            self.begins = self.begins.max(oldest.time);
        }
        debug_assert!(self.bytes <= self.most, "more is kept than may be");
    }

    /// Since when it has all there was.
    pub(super) const fn begins(&self) -> SystemTime {
        self.begins
    }

    /// Up to `count` records with numbers below `before`, the newest first, each with its number.
    pub(super) fn before(&self, before: u64, count: usize) -> Vec<(u64, Arc<DecisionEntry>)> {
        let below = usize::try_from(before.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let end = below.min(self.entries.len());
        let from = end.saturating_sub(count);
        let numbered = (from..end).zip(self.entries.range(from..end)).rev();
        numbered.map(|(at, entry)| (self.first + at as u64, Arc::clone(entry))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn entry(second: u64, topic: &str) -> Arc<DecisionEntry> {
        let time = UNIX_EPOCH + Duration::from_secs(second);
        Arc::new(DecisionEntry { time, topic: Some(topic.into()), ..DecisionEntry::default() })
    }

    #[test]
    fn the_oldest_make_room_and_it_says_since_when_it_has_all() {
        let one = entry(0, "a").weight();
        let mut ring = Ring::new(3 * one, UNIX_EPOCH);
        for second in 1..=3 {
            ring.push(entry(second, "a"));
        }
        assert_eq!((ring.begins(), ring.before(u64::MAX, 9).len()), (UNIX_EPOCH, 3));
        ring.push(entry(4, "a"));
        let numbers: Vec<u64> = ring.before(u64::MAX, 9).iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [4, 3, 2]);
        assert_eq!(ring.begins(), UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(ring.before(3, 1)[0].0, 2);
        assert!(ring.before(2, 9).is_empty(), "it has been forgotten");
        // One that is larger than all that is kept is not kept.
        ring.push(entry(5, &"x".repeat(4 * one)));
        assert!(ring.before(u64::MAX, 9).is_empty() && ring.bytes == 0);
    }
}
