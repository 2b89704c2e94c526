//! One rate, kept as one number (GCRA, as ATM has it): each event adds the time from one to the next to what is owed, and
//! time pays it off.

use std::time::Duration;

use crate::config::EventRate;

/// How fast, and how much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    interval: u64,
    burst: u64,
}

impl Pace {
    /// So many a second, and of them no more at once than come in a tenth of a second, or one.
    pub(crate) fn even(per_second: usize) -> Self {
        let interval = 1_000_000_000 / (per_second as u64).clamp(1, 1_000_000_000);
        Self { interval, burst: interval.max(100_000_000) }
    }
}

impl From<EventRate> for Pace {
    fn from(rate: EventRate) -> Self {
        Self { interval: nanos(rate.interval()), burst: nanos(rate.period()) }
    }
}

/// Until when something is owed, from a beginning that all times are counted from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Debt(pub(crate) u64);

impl Debt {
    /// Whether one more would be too much.
    pub(crate) fn is_over(self, pace: Pace, now: Duration) -> bool {
        self.0.saturating_sub(nanos(now)).saturating_add(pace.interval) > pace.burst
    }

    /// One more has come.
    pub(crate) fn charged(self, pace: Pace, now: Duration) -> Self {
        Self(self.0.max(nanos(now)).saturating_add(pace.interval))
    }

    /// One that came is taken back.
    pub(crate) const fn repaid(self, pace: Pace) -> Self {
        Self(self.0.saturating_sub(pace.interval))
    }

    /// Whether more is owed than anybody comes to who keeps to the rate.
    pub(crate) fn is_beyond(self, pace: Pace, now: Duration) -> bool {
        self.0 > nanos(now).saturating_add(pace.burst)
    }

    /// So much that it is [beyond](Self::is_beyond) the rate for so long.
    pub(crate) fn beyond(pace: Pace, now: Duration, lasts: Duration) -> Self {
        Self(nanos(now).saturating_add(pace.burst).saturating_add(nanos(lasts)))
    }

    /// When one more is not too much.
    pub(crate) fn allows_at(self, pace: Pace) -> Duration {
        Duration::from_nanos((self.0 + pace.interval).saturating_sub(pace.burst))
    }
}

fn nanos(time: Duration) -> u64 {
    // Some five hundred years.
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
