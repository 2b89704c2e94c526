//! Who counts what the advisers do. Knows no metrics library.

use std::time::Duration;

use mproxy_core::event::Kind;
use mproxy_core::policy::FailureKind;

/// How one call to the policy service came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallOutcome {
    /// It was answered, whatever the answer.
    Answered,
    /// It was answered, and the answer cannot be used.
    Unusable,
    /// The service does not implement it.
    Unimplemented,
    /// It was not made: too many are open.
    Overloaded,
    /// It failed.
    Failed(FailureKind),
}

impl CallOutcome {
    /// The label: `"answered"`, `"unusable"`, `"unimplemented"`, `"overloaded"`, or that of the failure.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unusable => "unusable",
            Self::Unimplemented => "unimplemented",
            Self::Overloaded => "overloaded",
            Self::Failed(kind) => kind.name(),
        }
    }
}

/// Why an event was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The queue was full.
    QueueFull,
    /// The call that was to deliver it failed.
    CallFailed,
    /// mproxy ended before it was sent.
    Shutdown,
}

impl DropReason {
    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::CallFailed => "call_failed",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Somebody who counts. Called from the advisers' tasks and, for dropped events, from sessions: must not block.
pub trait Watch: Send + Sync {
    /// One call of this RPC (`"AuthPublish"`) ended so, after so long.
    fn call(&self, rpc: &'static str, outcome: CallOutcome, took: Duration) {
        let _ = (rpc, outcome, took);
    }

    /// So many events of this kind were dropped.
    fn events_dropped(&self, kind: Kind, reason: DropReason, count: u64) {
        let _ = (kind, reason, count);
    }

    /// An endpoint of the policy service became healthy or unhealthy.
    fn endpoint(&self, url: &str, healthy: bool) {
        let _ = (url, healthy);
    }
}

/// A watch that counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWatch;

impl Watch for NoWatch {}
