//! How many logins of each of any number of sources have failed, and until when it has to wait, in memory of a fixed size.
//!
//! As in [`rate_sketch`](super::rate_sketch), a source has a cell in each of a few rows, and shares cells with others: what is
//! known of it is the least that its cells say, which is never less than it should be. Cells have a count beside the time,
//! because each failure doubles the wait.

use std::hash::{BuildHasher, Hash, RandomState};

/// Cells of a row: two to the power of these bits.
const BITS: u32 = 16;
const CELLS: usize = 1 << BITS;
const ROWS: usize = 4;
const _: () = assert!(BITS as usize * ROWS <= 64, "one hash has bits for all rows");

/// Failures of a source, in one word: the time in the upper 48 bits, the count in the lower 16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FailureCount(u64);

/// Longer than any machine runs: the milliseconds that 48 bits hold.
const LATEST: u64 = (1 << 48) - 1;

impl FailureCount {
    pub(super) fn new(count: u16, until: u64) -> Self {
        Self(until.min(LATEST) << 16 | u64::from(count))
    }

    /// How many.
    pub(super) const fn count(self) -> u16 {
        self.0 as u16
    }

    /// Milliseconds from the beginning: nothing is to be tried before. In the past: when the last one failed, or could be tried
    /// again.
    pub(super) const fn until(self) -> u64 {
        self.0 >> 16
    }

    fn merged(self, other: Self, pick: impl Fn(u64, u64) -> u64) -> Self {
        let count = pick(self.count().into(), other.count().into());
        Self::new(count as u16, pick(self.until(), other.until()))
    }
}

/// What has failed. 2 MiB.
pub(super) struct FailureSketch {
    hasher: RandomState,
    cells: Box<[FailureCount]>,
}

/// When it is, and for how long a failure is remembered after it may be tried again. Milliseconds.
#[derive(Clone, Copy)]
pub(super) struct FailureMemory {
    pub(super) now: u64,
    pub(super) lasts: u64,
}

impl FailureMemory {
    /// What is left of it now.
    fn of(self, cell: FailureCount) -> FailureCount {
        if cell.until().saturating_add(self.lasts) < self.now { FailureCount::default() } else { cell }
    }
}

/// Cells of one source.
#[derive(Clone, Copy)]
pub(super) struct FailureCells([usize; ROWS]);

impl FailureSketch {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), cells: vec![FailureCount::default(); CELLS * ROWS].into() }
    }

    pub(super) fn cells(&self, source: &impl Hash) -> FailureCells {
        let bits = self.hasher.hash_one(source);
        FailureCells(std::array::from_fn(|row| row * CELLS + (bits >> (row as u32 * BITS)) as usize % CELLS))
    }

    /// What is known of a source.
    pub(super) fn of(&self, source: FailureCells, memory: FailureMemory) -> FailureCount {
        let cells = source.0.iter().map(|cell| memory.of(self.cells[*cell]));
        cells.reduce(|a, b| a.merged(b, u64::min)).unwrap_or_default()
    }

    /// So much has failed.
    pub(super) fn raise(&mut self, source: FailureCells, to: FailureCount, memory: FailureMemory) {
        for cell in source.0 {
            self.cells[cell] = memory.of(self.cells[cell]).merged(to, u64::max);
        }
    }

    /// Forgets it, as far as no other source has put more there.
    pub(super) fn forget(&mut self, source: FailureCells, memory: FailureMemory) {
        let known = self.of(source, memory);
        for cell in source.0 {
            if self.cells[cell] == known {
                self.cells[cell] = FailureCount::default();
            }
        }
    }
}
