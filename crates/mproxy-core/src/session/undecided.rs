//! What follows where nobody decided. The failure rule is looked at here and nowhere else.

use mproxy_codec::reason::ReasonCode;

use super::Session;
use crate::fault::Fault;
use crate::policy::{Hook, OnError, Refusal, Source, Undecided, Unusable};

impl Session {
    /// What became of a question that was not decided, told to the meter. `Ok`: the failure rule releases the packet as
    /// it came, which it does for a failed answer alone.
    ///
    /// # Errors
    /// It is refused, as [`Undecided::refusal`] says.
    pub(super) fn resolve_undecided(&self, hook: Hook, undecided: Undecided) -> Result<(), Undecided> {
        let rule = self.setting.on_error.of(hook);
        match (&undecided, self.peer()) {
            (_, None) => {}
            (Undecided::Failed(failure), Some(peer)) => {
                self.setting.meter.failed(hook, failure, rule, peer);
            }
            (Undecided::Unusable(unusable), Some(peer)) => {
                self.setting.meter.unusable(hook, unusable, peer);
            }
            (Undecided::Overloaded(overload), Some(peer)) => {
                self.setting.meter.overloaded(hook, overload, peer);
            }
        }
        match (&undecided, rule) {
            (Undecided::Failed(_), OnError::Allow) => Ok(()),
            (Undecided::Failed(_), OnError::Deny)
            | (Undecided::Unusable(_) | Undecided::Overloaded(_), _) => Err(undecided),
        }
    }

    /// The refusal of a packet that was allowed, and cannot go as it was allowed; told to the meter.
    pub(super) fn refuse_unusable(&self, hook: Hook, unusable: Unusable) -> (Refusal, Option<Undecided>) {
        if let Some(peer) = self.peer() {
            self.setting.meter.unusable(hook, &unusable, peer);
        }
        let undecided = Undecided::Unusable(unusable);
        (undecided.refusal(), Some(undecided))
    }
}

impl Undecided {
    /// Where the refusal came from.
    pub(super) const fn source(&self) -> Source {
        match self {
            Self::Failed(_) => Source::FailedClosed,
            Self::Unusable(_) => Source::Unusable,
            Self::Overloaded(_) => Source::Overloaded,
        }
    }

    /// The refusal that stands in for the decision.
    pub(super) const fn refusal(&self) -> Refusal {
        Refusal::new(match self {
            Self::Failed(_) => ReasonCode::SERVER_UNAVAILABLE,
            Self::Unusable(unusable) => unusable.reason,
            Self::Overloaded(_) => ReasonCode::QUOTA_EXCEEDED,
        })
    }

    /// The end of a session because of it.
    pub(super) fn fault(self, hook: Hook) -> Fault {
        match self {
            Self::Failed(failure) => Fault::PolicyFailed { hook, failure: Box::new(failure) },
            Self::Unusable(unusable) => Fault::PolicyUnusable { hook, unusable: Box::new(unusable) },
            Self::Overloaded(overload) => Fault::Overloaded { hook, overload: Box::new(overload) },
        }
    }
}
