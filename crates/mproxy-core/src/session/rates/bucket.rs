//! A token bucket of one client's.

use std::time::Instant;

use super::{ERROR, SLICES};
use crate::grant::PerSecond;

/// What may come, and how much of it more each second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    rate: f64,
    /// Below 0 where a packet was larger than the bucket, or was there already.
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full one, or one that has to fill first.
    pub(super) fn new(rate: PerSecond, full: bool, now: Instant) -> Self {
        let mut bucket = Self { rate: rate.get(), level: 0.0, at: now };
        if full {
            bucket.level = bucket.most();
        }
        bucket
    }

    /// What it gains in a second, and what is in it now.
    pub(super) fn written(&self, now: Instant) -> (f64, f64) {
        let mut bucket = *self;
        bucket.fill(now);
        (bucket.rate, bucket.level)
    }

    /// One that was [written](Self::written).
    pub(super) const fn read((rate, level): (f64, f64), now: Instant) -> Self {
        Self { rate, level, at: now }
    }

    /// One second's worth, and one at least.
    fn most(&self) -> f64 {
        self.rate.max(1.0)
    }

    pub(super) fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.rate).min(self.most());
        // Never back: a time that was told late must not be counted twice.
        self.at = self.at.max(now);
    }

    /// Another rate from now on. What was there stays, and nothing is added.
    pub(super) fn change(&mut self, rate: PerSecond, now: Instant) {
        self.fill(now);
        self.rate = rate.get();
        self.level = self.level.min(self.most());
    }

    pub(super) fn take(&mut self, amount: f64) {
        self.level -= amount;
    }

    /// Whether so much may come now. What is more than a bucket holds may come when that is full.
    pub(super) fn has(&self, amount: f64) -> bool {
        self.level + ERROR >= amount.min(self.most())
    }

    /// Seconds until so much is there, or a slice if that is more.
    pub(super) fn wait(&self, amount: f64) -> f64 {
        self.seconds_to(amount.min(self.most()).max(self.rate / SLICES))
    }

    /// Seconds until so much has come at this rate.
    pub(super) fn seconds_to(&self, amount: f64) -> f64 {
        ((amount - self.level) / self.rate).max(0.0)
    }

    /// How many of these bytes may pass now; 0 where there is not even a slice.
    pub(super) fn bytes_now(&self, here: usize) -> usize {
        let slice = self.slice(here);
        if self.level + ERROR >= slice { here.min((self.level + ERROR) as usize) } else { 0 }
    }

    /// Seconds until some of these bytes may pass.
    pub(super) fn wait_for_bytes(&self, here: usize) -> f64 {
        self.seconds_to(self.slice(here))
    }

    fn slice(&self, here: usize) -> f64 {
        (self.rate / SLICES).max(1.0).min(here as f64)
    }
}
