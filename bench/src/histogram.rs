//! Counts of latencies in buckets that grow with the value, none wider than 1/64 of it.

use serde::{Deserialize, Serialize};

/// Buckets for each power of two.
const PARTS: usize = 64;
const PARTS_BITS: u32 = 6;

/// Up to 2^40 ns, some 18 minutes; what is longer is counted as that.
const POWERS: usize = 40;

/// Latencies in nanoseconds.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    longest: u64,
}

/// What is told of a histogram, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; PARTS * (POWERS - PARTS_BITS as usize + 1)], count: 0, longest: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, nanoseconds: u64) {
        let last = self.counts.len() - 1;
        self.counts[bucket(nanoseconds).min(last)] += 1;
        self.count += 1;
        self.longest = self.longest.max(nanoseconds);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, others) in self.counts.iter_mut().zip(&other.counts) {
            *mine += others;
        }
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }

    /// What was recorded since the last time, which is forgotten.
    pub(crate) fn take(&mut self) -> Summary {
        let summary = Summary {
            count: self.count,
            p50: self.quantile(0.50),
            p99: self.quantile(0.99),
            max: self.longest as f64 / 1e3,
        };
        self.counts.fill(0);
        self.count = 0;
        self.longest = 0;
        summary
    }

    /// In microseconds; the middle of the bucket it lies in.
    fn quantile(&self, share: f64) -> f64 {
        let rank = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return (floor(index) + floor(index + 1)) as f64 / 2e3;
            }
        }
        0.0
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    // Below 2^PARTS_BITS each value has its own.
    let power = value.max(1).ilog2().max(PARTS_BITS) - PARTS_BITS;
    let part = (value >> power) as usize;
    // From the second power on, `part` lies in PARTS..2*PARTS.
    power as usize * PARTS + part
}

/// The smallest value of a bucket.
fn floor(index: usize) -> u64 {
    if index < 2 * PARTS {
        return index as u64;
    }
    let power = index / PARTS - 1;
    ((index - power * PARTS) as u64) << power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..5_000).chain((13..39).flat_map(|power| [(1 << power) - 1, 1 << power, 3 << power])) {
            let index = bucket(value);
            assert!(floor(index) <= value && value < floor(index + 1), "{value} in {index}");
        }
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|microseconds| histogram.record(microseconds * 1000));
        let summary = histogram.take();
        assert_eq!(summary.count, 1000);
        assert!((summary.p50 - 500.0).abs() < 10.0, "{summary:?}");
        assert!((summary.p99 - 990.0).abs() < 20.0, "{summary:?}");
        assert_eq!(histogram.take().count, 0);
    }
}
