//! The times of a grant that holds for a while only.

use std::time::Instant;

use crate::policy::Undecided;

/// How far a grant's renewal has come.
#[derive(Debug)]
pub(super) struct GrantClock {
    /// When to ask; `None` while the answer is out.
    pub(super) due: Option<Instant>,
    /// Until when the old grant serves; `None` once it does not.
    pub(super) serves: Option<Instant>,
    /// Why the last answer was none.
    pub(super) undecided: Option<Box<Undecided>>,
}
