//! Failures of one connection in a row. After a few of them it is given up: a service that hangs accepts for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwapOption;
use tokio_util::sync::CancellationToken;

/// After so many failures in a row.
const STRIKES: u32 = 5;

#[derive(Debug)]
pub(super) struct Strikes {
    count: AtomicU32,
    /// What went wrong last.
    last: ArcSwapOption<String>,
    gone: CancellationToken,
}

impl Strikes {
    /// None so far; `gone` is cancelled when there are too many.
    pub(super) fn new(gone: CancellationToken) -> Self {
        Self { count: AtomicU32::new(0), last: ArcSwapOption::empty(), gone }
    }

    /// A call went wrong like this; whether it counts is said apart.
    pub(super) fn note(&self, why: &str) {
        self.last.store(Some(Arc::new(why.to_owned())));
    }

    /// Why it was given up, where calls have failed: what went wrong last.
    pub(super) fn last(&self) -> Option<Arc<String>> {
        self.last.load_full().filter(|_| self.count.load(Ordering::Relaxed) >= STRIKES)
    }

    /// What went wrong last, however often.
    pub(super) fn last_noted(&self) -> Option<Arc<String>> {
        self.last.load_full()
    }

    /// The service answered: they count from zero again.
    pub(super) fn reset(&self) {
        // Most often it is zero already: a read does not take the cache line from the other cores.
        if self.count.load(Ordering::Relaxed) != 0 {
            self.count.store(0, Ordering::Relaxed);
        }
    }

    /// It said nothing during the whole time that a question has.
    pub(super) fn give_up(&self) {
        // Else it has answered elsewhere since that began.
        if self.count.load(Ordering::Relaxed) != 0 {
            self.gone.cancel();
        }
    }

    /// It did not answer in time, or answered "unavailable".
    pub(super) fn strike(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 >= STRIKES {
            self.gone.cancel();
        }
    }
}
