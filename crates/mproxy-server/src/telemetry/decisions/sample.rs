//! Which of the decisions that allow are recorded: one in so many. Each thread counts for itself, so that a decision costs
//! a number that is one less.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;

/// One in so many of them, and each as likely as any other: a client that sends the same few messages in turn is not
/// recorded with one of them alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AllowedSample {
    one_in: u32,
}

thread_local! {
    /// Decisions of this thread until one is picked, with that one; 0: not known yet.
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

impl AllowedSample {
    pub(super) const fn one_in(one_in: NonZeroU32) -> Self {
        Self { one_in: one_in.get() }
    }

    /// Whether the decision that is asked about is one of them.
    pub(super) fn picks(self) -> bool {
        LEFT.with(|left| {
            let now = match left.get() {
                0 => self.distance(),
                some => some,
            };
            let picked = now == 1;
            left.set(if picked { self.distance() } else { now - 1 });
            picked
        })
    }

    /// How many decisions on the next one is picked: from 1 on, and on the average as many as one is picked in.
    fn distance(self) -> u32 {
        let longest = u64::from(self.one_in) * 2 - 1;
        // Keyed anew each time, by the standard library's random numbers.
        let random = RandomState::new().hash_one(());
        u32::try_from(random % longest + 1).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(one_in: u32, decisions: u32) -> Vec<u32> {
        LEFT.set(0);
        let sample = AllowedSample::one_in(NonZeroU32::new(one_in).expect("not 0"));
        (0..decisions).filter(|_| sample.picks()).collect()
    }

    #[test]
    fn one_in_one_is_all() {
        assert_eq!(picked(1, 1000).len(), 1000);
    }

    #[test]
    fn one_in_so_many_is_picked_on_the_average_and_not_always_the_same_of_a_pattern() {
        let picked = picked(10, 100_000);
        // 10,000 with a deviation of about 60.
        assert!((9_500..10_500).contains(&picked.len()), "{}", picked.len());
        let even = picked.iter().filter(|at| **at % 2 == 0).count();
        assert!((4_500..5_500).contains(&even), "{even} of {}", picked.len());
    }

    #[test]
    fn the_rarest_sample_is_no_trouble() {
        assert!(picked(u32::MAX, 1000).len() <= 1);
    }
}
