//! The one deadline that a session may have at a time.

use std::time::{Duration, Instant};

pub(super) use crate::fault::Deadline;

/// A deadline, armed or not. The phases of a session wait for one thing each, so one is enough.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer(Option<(Deadline, Instant)>);

impl Timer {
    pub(super) fn arm(&mut self, deadline: Deadline, now: Instant, after: Duration) {
        // What is further away than the clock reaches never comes.
        self.0 = now.checked_add(after).map(|at| (deadline, at));
    }

    pub(super) fn arm_at(&mut self, deadline: Deadline, at: Instant) {
        self.0 = Some((deadline, at));
    }

    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }

    pub(super) fn at(&self) -> Option<Instant> {
        self.0.map(|(_, at)| at)
    }

    /// The deadline that has passed, if one has; it is disarmed.
    pub(super) fn take_passed(&mut self, now: Instant) -> Option<Deadline> {
        let (deadline, at) = self.0?;
        if now < at {
            return None;
        }
        self.0 = None;
        Some(deadline)
    }
}
