//! How long to wait before something is tried again, never the same for two mproxies.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// The pause after the first failure, and the longest. Quick at first: most outages are restarts. Below a second in the
/// end, too: whoever waits for the service to return is served within a second of it.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_millis(800);

/// A connection that stood so long is a good one: after it the pauses begin anew.
pub(super) const STEADY: Duration = Duration::from_secs(10);

/// A random time up to 100 ms doubled with each failure, 800 ms at most ("full jitter"): after an outage the
/// mproxies of a fleet do not come back in step.
pub(super) fn pause(failures: u32) -> Duration {
    // A shift of 32 or more would overflow; at 16 the longest pause is long reached.
    let longest = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MOST);
    // The floor keeps a pause of nothing from being a busy loop.
    longest.mul_f64(random_part()).max(Duration::from_millis(5))
}

/// A random number from 0 up to 1.
pub(super) fn random_part() -> f64 {
    // Each RandomState has keys of its own; that is random enough for a pause.
    let random = RandomState::new().build_hasher().finish();
    // The upper 53 bits are what an f64 holds exactly.
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_below_a_second() {
        for (failures, most) in [(1, 100), (2, 200), (3, 400), (4, 800), (50, 800), (u32::MAX, 800)] {
            for _ in 0..100 {
                assert!(pause(failures) <= Duration::from_millis(most), "{failures}");
            }
        }
        let spread = (0..100).map(|_| pause(8)).collect::<std::collections::HashSet<_>>();
        assert!(spread.len() > 50, "no jitter");
    }
}
