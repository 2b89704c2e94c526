//! How often something may happen, and which share of something.

use std::fmt;
use std::time::Duration;

use super::quoted;

/// So many in so long: all of them may come at once, and then one after the other as fast as that is on average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRate {
    count: u32,
    period: Duration,
}

/// Faster than any machine, and slow enough that the time from one to the next is a whole number of nanoseconds.
const MOST: u32 = 1_000_000;

impl EventRate {
    /// At least one, in a second, a minute or an hour.
    #[must_use]
    pub const fn new(count: u32, period: Duration) -> Self {
        assert!(count > 0 && count <= MOST, "a rate of nothing lets nobody in");
        Self { count, period }
    }

    /// How long it is from one to the next on average.
    #[must_use]
    pub fn interval(self) -> Duration {
        self.period / self.count
    }

    /// How much may come at once, as the time that it takes on average.
    #[must_use]
    pub const fn period(self) -> Duration {
        self.period
    }
}

/// The units, and how long each is.
const UNITS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3600)];

impl fmt::Display for EventRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, seconds)| self.period == Duration::from_secs(*seconds));
        write!(f, "{}/{}", self.count, unit.map_or("?", |(unit, _)| unit))
    }
}

/// `20/s`, `100/m`, `500/h`.
pub(in crate::config) fn event_rate(text: &str) -> Result<EventRate, String> {
    let wrong = || {
        format!(
            "{} is not a rate: expected a number from 1 to {MOST} and /s, /m or /h, for example 20/s or 100/m",
            quoted(text)
        )
    };
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    // A sign would be read, too.
    let digits = count.bytes().all(|byte| byte.is_ascii_digit());
    let count = count.parse().ok().filter(|count| digits && (1..=MOST).contains(count)).ok_or_else(wrong)?;
    Ok(EventRate::new(count, Duration::from_secs(*seconds)))
}

/// `90%`.
pub(in crate::config) fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|digits| digits.parse().ok()).filter(|percent| (1..=100).contains(percent));
    number.ok_or_else(|| format!("{} is not a share: expected 1% to 100%", quoted(text)))
}
