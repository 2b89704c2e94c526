//! One clock for all processes of this machine.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since some moment that is the same for every process: `Instant` cannot be sent to another one.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}
