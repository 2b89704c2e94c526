//! How often each of any number of sources has come lately, in memory of a fixed size.
//!
//! A table with a row for each source would have to forget some when there are too many, and whoever comes from enough
//! addresses could have it forget the worst. Here nothing is forgotten: a source has a cell in each of a few rows, found by
//! a hash that nobody outside can compute, and cells are shared. What a source owes is the least of what its cells say, so
//! that it is never less than it should be; it is more only where all of its cells are shared with others that come often,
//! which takes nearly as many arrivals as [`CELLS`] sources may have together. So an attacker who changes addresses wins
//! nothing, and to hit somebody else he has to come faster than all limits together let him.

use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use super::pace::{Debt, Pace};

/// Cells of a row: two to the power of these bits.
const BITS: u32 = 15;
const CELLS: usize = 1 << BITS;

/// By chance two sources share all of their cells once in two to the 60th.
const ROWS: usize = 4;
const _: () = assert!(BITS as usize * ROWS <= 64, "one hash has bits for all rows");

/// What sources owe. 1 MiB.
pub(super) struct RateSketch {
    hasher: RandomState,
    cells: Box<[Debt]>,
}

/// Cells of one source.
#[derive(Clone, Copy)]
pub(super) struct SourceCells([usize; ROWS]);

impl RateSketch {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), cells: vec![Debt::default(); CELLS * ROWS].into() }
    }

    pub(super) fn cells(&self, source: &impl Hash) -> SourceCells {
        let bits = self.hasher.hash_one(source);
        SourceCells(std::array::from_fn(|row| row * CELLS + (bits >> (row as u32 * BITS)) as usize % CELLS))
    }

    pub(super) fn owed(&self, source: SourceCells) -> Debt {
        source.0.iter().map(|cell| self.cells[*cell]).min().unwrap_or_default()
    }

    /// Whether one more would be more than the rate allows.
    pub(super) fn is_over(&self, source: SourceCells, pace: Pace, now: Duration) -> bool {
        self.owed(source).is_over(pace, now)
    }

    /// One more has come.
    pub(super) fn charge(&mut self, source: SourceCells, pace: Pace, now: Duration) {
        self.raise(source, self.owed(source).charged(pace, now));
    }

    /// It owes more than anybody who keeps to the rate, for so long.
    pub(super) fn put_aside(&mut self, source: SourceCells, pace: Pace, now: Duration, lasts: Duration) {
        self.raise(source, Debt::beyond(pace, now, lasts));
    }

    fn raise(&mut self, source: SourceCells, owed: Debt) {
        for cell in source.0 {
            // Not the sum: a cell says no more than the source in it that owes most (Estan and Varghese).
            self.cells[cell] = self.cells[cell].max(owed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EventRate;

    const SECOND: Duration = Duration::from_secs(1);

    fn take(sketch: &mut RateSketch, source: u128, rate: EventRate, now: Duration) -> bool {
        let rate = rate.into();
        let cells = sketch.cells(&source);
        let over = sketch.is_over(cells, rate, now);
        if !over {
            sketch.charge(cells, rate, now);
        }
        !over
    }

    #[test]
    fn a_source_has_its_burst_and_then_its_rate() {
        let (mut sketch, rate) = (RateSketch::new(), EventRate::new(5, SECOND));
        let mut taken = |now| (0..100).filter(|_| take(&mut sketch, 1, rate, now)).count();
        assert_eq!(taken(SECOND), 5);
        assert_eq!(taken(SECOND + Duration::from_millis(199)), 0);
        assert_eq!(taken(SECOND + Duration::from_millis(200)), 1);
        assert_eq!(taken(SECOND * 100), 5, "what was not used is not saved up");
    }

    #[test]
    fn a_source_that_changes_addresses_does_not_have_its_debt_forgotten() {
        let (mut sketch, rate) = (RateSketch::new(), EventRate::new(5, Duration::from_secs(60)));
        let now = SECOND;
        assert_eq!((0..100).filter(|_| take(&mut sketch, 1, rate, now)).count(), 5);
        // Far more addresses than there are cells.
        for other in 2..1_000_000 {
            take(&mut sketch, other, rate, now);
        }
        assert!(!take(&mut sketch, 1, rate, now + SECOND));
    }

    #[test]
    fn others_are_hit_only_when_more_come_than_all_may() {
        let (mut sketch, rate) = (RateSketch::new(), EventRate::new(20, Duration::from_secs(60)));
        // 30,000 strangers a second for ten seconds, each from an address of its own.
        let mut innocent = 0;
        for tenth in 0..100 {
            let now = SECOND + Duration::from_millis(100 * tenth);
            for stranger in 0..3000 {
                take(&mut sketch, u128::from(tenth) << 64 | stranger, rate, now);
            }
            innocent += u64::from(take(&mut sketch, u128::MAX - u128::from(tenth), rate, now));
        }
        assert_eq!(innocent, 100, "300,000 arrivals, where 655,360 may come at once");
    }
}
