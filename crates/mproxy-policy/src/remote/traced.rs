//! How a question that is traced ended, or an event's call.

use mproxy_core::policy::{Decided, Failure, FailureKind, Undecided};

use super::service_call::outcome_of;
use super::unary::CallResult;
use crate::call_tracer::{CallEnd, CallSpan};
use crate::watch::CallOutcome;

/// What became of a question.
type TracedResult<D> = Result<CallResult<Result<D, Undecided>>, Failure>;

/// An event was told, or was not.
pub(super) fn end_event(span: Option<Box<dyn CallSpan>>, told: &Result<CallResult<()>, Failure>) {
    let Some(span) = span else { return };
    let (outcome, endpoint) = match told {
        Ok(CallResult::Answered((), by)) => (CallOutcome::Answered, Some(&**by)),
        Ok(CallResult::Unusable(unusable)) => (CallOutcome::Unusable, unusable.endpoint.as_deref()),
        Ok(CallResult::Unwanted) => (CallOutcome::Unimplemented, None),
        Err(failure) => (CallOutcome::Failed(failure.kind), failure.endpoint.as_deref()),
    };
    span.end(&CallEnd { outcome, endpoint, refused: None });
}

/// It had no turn within its deadline.
pub(super) fn end_overloaded(span: Option<Box<dyn CallSpan>>) {
    if let Some(span) = span {
        span.end(&CallEnd { outcome: CallOutcome::Overloaded, endpoint: None, refused: None });
    }
}

/// It was asked; `waited`: for its turn before.
pub(super) fn end<D: Decided>(span: Option<Box<dyn CallSpan>>, result: &mut TracedResult<D>, waited: bool) {
    let Some(span) = span else { return };
    let mut refused = None;
    let (outcome, endpoint) = match result {
        Ok(CallResult::Answered(verdict, by)) => {
            if let Ok(decision) = verdict {
                decision.for_each_refusal(|refusal| refused = refused.or(Some(refusal.reason)));
            }
            (outcome_of(verdict), Some(&**by))
        }
        Ok(CallResult::Unusable(unusable)) => (CallOutcome::Unusable, unusable.endpoint.as_deref()),
        Ok(CallResult::Unwanted) => (CallOutcome::Unimplemented, None),
        Err(failure) if waited && failure.kind == FailureKind::Deadline => {
            (CallOutcome::Overloaded, failure.endpoint.as_deref())
        }
        Err(failure) => (CallOutcome::Failed(failure.kind), failure.endpoint.as_deref()),
    };
    span.end(&CallEnd { outcome, endpoint, refused });
}
