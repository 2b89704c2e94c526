//! What a service says that is not as the contract wants it, and that is understood all the same: warned of once for
//! each endpoint, so that a habit of the service does not fill the log.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::warn;

/// Something to be warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// `Deny.reason_code` is no refusal.
    DenyCode,
    /// `Deny.action` is none.
    DenyAction,
    /// `Deny.server_reference` without the codes that it goes with.
    ServerReference,
    /// `Grant.ttl` is below the floor.
    ShortTtl,
    /// A command that cannot be carried out.
    Command,
    /// A `cache_for` that is no time.
    CacheFor,
    /// `HelloResponse.streams` of a service that is called with JSON.
    StreamsOfJson,
}

/// What one endpoint was warned of.
#[derive(Debug)]
pub(crate) struct Complaints {
    endpoint: Arc<str>,
    said: AtomicU32,
    /// Where they are kept for somebody to read, and not logged.
    kept: Option<Mutex<Vec<String>>>,
}

impl Complaints {
    pub(crate) fn new(endpoint: impl Into<Arc<str>>) -> Self {
        Self { endpoint: endpoint.into(), said: AtomicU32::new(0), kept: None }
    }

    /// Some that are kept, see [`take`](Self::take).
    pub(crate) fn kept() -> Self {
        Self { kept: Some(Mutex::default()), ..Self::new("") }
    }

    /// What was kept so far.
    pub(crate) fn take(&self) -> Vec<String> {
        // Nothing is left half done in there.
        let kept = self.kept.as_ref().map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner));
        kept.map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default()
    }

    /// The endpoint; `None`: nobody has named it.
    pub(crate) fn endpoint(&self) -> Option<Arc<str>> {
        (!self.endpoint.is_empty()).then(|| Arc::clone(&self.endpoint))
    }

    /// Warns, unless it was warned of this before.
    pub(crate) fn say(&self, complaint: Complaint, what: fmt::Arguments<'_>) {
        if !self.first(complaint) {
            return;
        }
        if let Some(kept) = &self.kept {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(what.to_string());
        } else {
            warn!(endpoint = &*self.endpoint, detail = %what, "questionable answer of the policy service, logged once");
        }
    }

    fn first(&self, complaint: Complaint) -> bool {
        let bit = 1 << complaint as u32;
        self.said.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_complaint_is_said_once() {
        let complaints = Complaints::new("http://a:1");
        assert!(complaints.first(Complaint::DenyCode));
        assert!(complaints.first(Complaint::ShortTtl));
        assert!(!complaints.first(Complaint::DenyCode));
    }

    #[test]
    fn what_is_kept_can_be_read_once() {
        let complaints = Complaints::kept();
        complaints.say(Complaint::DenyCode, format_args!("5"));
        complaints.say(Complaint::DenyCode, format_args!("6"));
        assert_eq!(complaints.take(), ["5"]);
        assert!(complaints.take().is_empty());
    }
}
