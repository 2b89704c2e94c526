//! Rates that hold for all clients of a listener: for each of them, or for several together.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::grant::{PerSecond, RateAction};
use crate::peer::Peer;
use crate::policy::LimitKind;

/// Says which rates a client has to keep to beside those of its grant. Asked once, when its session opens.
pub trait ClientRates: Send + Sync {
    /// Those of this client.
    fn of(&self, peer: &Peer) -> Vec<RateLimit>;
}

/// A rate that a client has to keep to.
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// What is counted.
    pub unit: RateUnit,
    /// How fast.
    pub rate: LimitedRate,
    /// What follows where the client is faster.
    pub action: RateAction,
    /// Which limit it is.
    pub kind: LimitKind,
}

/// What a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateUnit {
    /// PUBLISH packets.
    Messages,
    /// Bytes of all packets.
    Bytes,
}

/// Whose a rate is.
#[derive(Clone, Debug)]
pub enum LimitedRate {
    /// One client's.
    Own(PerSecond),
    /// Shared by several sessions.
    Shared(Arc<SharedRate>),
}

/// A rate that several sessions share, on whatever threads they are. It holds a second's worth, or one packet where that is
/// more.
///
/// Kept as two numbers and without a lock: how fast, and until when what was taken is paid off (GCRA). Whoever has to wait
/// takes its part at once and waits until that is paid: so those who wait come in the order in which they began to, and nobody
/// is overtaken by somebody who needs less.
pub struct SharedRate {
    started: Instant,
    per_second: AtomicU64,
    /// Nanoseconds since the beginning.
    owed_until: AtomicU64,
}

impl SharedRate {
    /// A full one.
    #[must_use]
    pub fn new(rate: PerSecond, now: Instant) -> Self {
        let per_second = AtomicU64::new(rate.get().to_bits());
        Self { started: now, per_second, owed_until: AtomicU64::new(0) }
    }

    /// From now on it is this one, also for those who have begun to share it.
    pub fn set(&self, rate: PerSecond) {
        self.per_second.store(rate.get().to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn per_second(&self) -> f64 {
        f64::from_bits(self.per_second.load(Ordering::Relaxed))
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    /// What may come now; below 0 where others wait.
    pub(crate) fn level(&self, now: Instant) -> f64 {
        let (rate, now) = (self.per_second(), self.nanos(now));
        let owed = self.owed_until.load(Ordering::Acquire).saturating_sub(now);
        rate.max(1.0) - Duration::from_nanos(owed).as_secs_f64() * rate
    }

    /// Takes so much, or gives so much back; when that is paid.
    pub(crate) fn take(&self, amount: f64, now: Instant) -> Instant {
        let (rate, at) = (self.per_second(), self.nanos(now));
        // Of what is taken a fraction of a nanosecond is a whole one: never more than the rate.
        let nanos = (amount.abs() / rate * 1e9).ceil() as u64;
        let after = |owed: u64| match amount < 0.0 {
            true => owed.saturating_sub(nanos),
            false => owed.max(at).saturating_add(nanos),
        };
        // The order in which threads come to it is as good as any other.
        let before =
            self.owed_until.fetch_update(Ordering::AcqRel, Ordering::Acquire, |owed| Some(after(owed)));
        let owed = after(before.unwrap_or_else(|owed| owed));
        let full = (rate.max(1.0) / rate * 1e9) as u64;
        let paid = Duration::from_nanos(owed.saturating_sub(full));
        self.started.checked_add(paid).unwrap_or(now).max(now)
    }
}

impl fmt::Debug for SharedRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRate").field("per_second", &self.per_second()).finish_non_exhaustive()
    }
}
