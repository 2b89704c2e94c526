//! What a client has to keep to: a bucket of its own, or one that it shares with others.

use std::sync::Arc;
use std::time::Instant;

use super::bucket::Bucket;
use super::{ERROR, SLICES};
use crate::rate::SharedRate;

/// How much may come.
#[derive(Debug)]
pub(super) enum Gauge {
    /// One client's own.
    Own(Bucket),
    /// Shared with other sessions.
    Shared(SharedGauge),
}

/// A session's part of what several share.
#[derive(Debug)]
pub(super) struct SharedGauge {
    rate: Arc<SharedRate>,
    /// When it was looked at, and what was there. Behind those who wait.
    at: Instant,
    level: f64,
    /// What was taken already, for the packet at the front.
    claim: Option<RateClaim>,
}

/// So much was taken, and may pass then.
#[derive(Clone, Copy, Debug)]
struct RateClaim {
    amount: f64,
    at: Instant,
}

/// Bytes of a packet that are claimed at once, at most: more of it than this streams, and is not read sooner.
const ONE_CLAIM: f64 = 65_536.0;

impl SharedGauge {
    fn fill(&mut self, now: Instant) {
        self.at = self.at.max(now);
        self.level = self.rate.level(self.at);
    }

    /// What is claimed for so much.
    fn due(&self, amount: f64) -> f64 {
        amount.min(self.rate.per_second().max(1.0)).min(ONE_CLAIM)
    }

    fn slice(&self, here: usize) -> f64 {
        self.due((self.rate.per_second() / SLICES).max(1.0).min(here as f64))
    }

    fn is_paid(&self, claim: RateClaim) -> bool {
        claim.at <= self.at
    }

    fn has(&self, amount: f64) -> bool {
        match self.claim {
            Some(claim) => self.is_paid(claim),
            None => self.level + ERROR >= self.due(amount),
        }
    }

    /// Takes so much now; seconds until it may pass.
    fn wait(&mut self, due: f64) -> f64 {
        let rate = &self.rate;
        let now = self.at;
        let claim = self.claim.get_or_insert_with(|| RateClaim { amount: due, at: rate.take(due, now) });
        claim.at.saturating_duration_since(now).as_secs_f64()
    }

    fn seconds_to(&self, amount: f64) -> f64 {
        let rate = self.rate.per_second();
        match self.claim {
            Some(RateClaim { amount: claimed, at }) => {
                let first = at.saturating_duration_since(self.at).as_secs_f64();
                first + ((amount - claimed) / rate).max(0.0)
            }
            None => ((amount - self.level) / rate).max(0.0),
        }
    }

    fn take(&mut self, amount: f64) {
        let claimed = self.claim.take().map_or(0.0, |claim| claim.amount);
        let rest = amount - claimed;
        if rest != 0.0 {
            self.rate.take(rest, self.at);
        }
        self.level = self.rate.level(self.at);
    }

    fn bytes_now(&self, here: usize) -> usize {
        let slice = self.slice(here);
        match self.claim {
            Some(claim) if self.is_paid(claim) => here.min((claim.amount as usize).max(1)),
            Some(_) => 0,
            None if self.level + ERROR >= slice => here.min((self.level + ERROR) as usize),
            None => 0,
        }
    }
}

impl Drop for SharedGauge {
    /// The session ends while it waits: what it has not used is there for the others.
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.rate.take(-claim.amount, self.at);
        }
    }
}

impl Gauge {
    pub(super) fn shared(rate: Arc<SharedRate>, now: Instant) -> Self {
        let level = rate.level(now);
        Self::Shared(SharedGauge { rate, at: now, level, claim: None })
    }

    pub(super) fn fill(&mut self, now: Instant) {
        match self {
            Self::Own(bucket) => bucket.fill(now),
            Self::Shared(shared) => shared.fill(now),
        }
    }

    /// Whether so much may come now.
    pub(super) fn has(&self, amount: f64) -> bool {
        match self {
            Self::Own(bucket) => bucket.has(amount),
            Self::Shared(shared) => shared.has(amount),
        }
    }

    /// Seconds until so much may come. Of a shared rate it is taken now: nobody who comes later is before it.
    pub(super) fn wait(&mut self, amount: f64) -> f64 {
        match self {
            Self::Own(bucket) => bucket.wait(amount),
            Self::Shared(shared) => shared.wait(shared.due(amount)),
        }
    }

    /// Seconds until so much has come.
    pub(super) fn seconds_to(&self, amount: f64) -> f64 {
        match self {
            Self::Own(bucket) => bucket.seconds_to(amount),
            Self::Shared(shared) => shared.seconds_to(amount),
        }
    }

    pub(super) fn take(&mut self, amount: f64) {
        match self {
            Self::Own(bucket) => bucket.take(amount),
            Self::Shared(shared) => shared.take(amount),
        }
    }

    /// How many of these bytes may pass now; 0 where there is not even a slice.
    pub(super) fn bytes_now(&self, here: usize) -> usize {
        match self {
            Self::Own(bucket) => bucket.bytes_now(here),
            Self::Shared(shared) => shared.bytes_now(here),
        }
    }

    /// Seconds until some of these bytes may pass.
    pub(super) fn wait_for_bytes(&mut self, here: usize) -> f64 {
        match self {
            Self::Own(bucket) => bucket.wait_for_bytes(here),
            Self::Shared(shared) => shared.wait(shared.slice(here)),
        }
    }
}
