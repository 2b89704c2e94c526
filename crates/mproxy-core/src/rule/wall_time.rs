//! The time of day. Core reads no clock: whoever runs the sessions says what time it is, and says it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const DAY: u64 = 24 * 60 * 60;

/// The days of the week as conditions name them. The first day of 1970 was a Thursday.
pub const WEEKDAYS: [&str; 7] =
    ["thursday", "friday", "saturday", "sunday", "monday", "tuesday", "wednesday"];

/// A moment in UTC, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(u64);

impl WallTime {
    /// So long after the beginning of 1970.
    #[must_use]
    pub const fn since_1970(time: Duration) -> Self {
        Self(time.as_secs())
    }

    /// 0 to 23.
    #[must_use]
    pub const fn hour(self) -> u8 {
        (self.0 % DAY / 3600) as u8
    }

    /// 0 to 59.
    #[must_use]
    pub const fn minute(self) -> u8 {
        (self.0 % 3600 / 60) as u8
    }

    /// 0 to 59: leap seconds are not counted.
    #[must_use]
    pub const fn second(self) -> u8 {
        (self.0 % 60) as u8
    }

    /// `"monday"` for example.
    #[must_use]
    pub const fn weekday(self) -> &'static str {
        WEEKDAYS[(self.0 / DAY % 7) as usize]
    }
}

/// What time it is, for all sessions that share it. Until somebody has said it, it is not known.
#[derive(Clone, Debug, Default)]
pub struct WallClock(Arc<AtomicU64>);

impl WallClock {
    /// From now on it is this time.
    pub fn set(&self, time: WallTime) {
        self.0.store(time.0, Ordering::Relaxed);
    }

    /// The time that was said last.
    #[must_use]
    pub fn time(&self) -> Option<WallTime> {
        // Nobody's clock stands at the very beginning of 1970, unless it was never set.
        Some(self.0.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0).map(WallTime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_a_time_of_day_and_a_day_of_the_week() {
        // 2026-11-27 15:52:07, a Friday.
        let time = WallTime::since_1970(Duration::from_secs(1_795_794_727));
        assert_eq!((time.hour(), time.minute(), time.second(), time.weekday()), (15, 52, 7, "friday"));
        // 2024-02-29 23:59:59, a Thursday.
        let time = WallTime::since_1970(Duration::from_secs(1_709_251_199));
        assert_eq!((time.hour(), time.minute(), time.second(), time.weekday()), (23, 59, 59, "thursday"));
    }

    #[test]
    fn a_clock_that_nobody_has_set_knows_no_time() {
        let clock = WallClock::default();
        assert_eq!(clock.time(), None);
        let time = WallTime::since_1970(Duration::from_secs(7));
        clock.clone().set(time);
        assert_eq!(clock.time(), Some(time));
    }
}
