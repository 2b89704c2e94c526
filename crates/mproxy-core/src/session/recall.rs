//! How far a session is with what commands take back, as long as they cannot be reported.

use std::time::{Duration, Instant};

/// How long the client may take to read what had left for it.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// How far a session is with what commands take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecallStage {
    /// Commands that it has carried out can be reported.
    None,
    /// They cannot be reported yet: the grant is being renewed for one of them, or a delivery is half through.
    Coming,
    /// They can be reported when all is written that was sent to the client until now.
    Sent,
}

/// There while commands that were carried out cannot be reported.
#[derive(Debug, Default)]
pub(super) struct Recall {
    /// The grant is being renewed for one of them: what that takes back is not known.
    pub(super) renews: bool,
    /// Something was taken back: until when what had left before must be written.
    pub(super) until: Option<Instant>,
    /// The bytes of the broker's at which the delivery has passed that was half through then.
    passes_at: u64,
}

impl Recall {
    /// Something was taken back now; a delivery that is half through has passed at so many bytes of the broker's.
    pub(super) fn take_back(&mut self, passes_at: u64, now: Instant) {
        // Of several commands the first one is not reported later for the others.
        self.until = self.until.or_else(|| now.checked_add(READ_WITHIN));
        self.passes_at = self.passes_at.max(passes_at);
    }

    /// Whether there is nothing to wait for.
    pub(super) const fn is_over(&self) -> bool {
        !self.renews && self.until.is_none()
    }

    /// How far it is after so many bytes of the broker's.
    pub(super) const fn stage(&self, broker_bytes: u64) -> RecallStage {
        match self.until {
            Some(_) if broker_bytes >= self.passes_at => RecallStage::Sent,
            Some(_) => RecallStage::Coming,
            None if self.renews => RecallStage::Coming,
            None => RecallStage::None,
        }
    }
}
