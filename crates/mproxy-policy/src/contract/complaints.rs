//! What a service says that is not as the contract wants it, and that is understood all the same: warned of once for
//! each endpoint, so that a habit of the service does not fill the log.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

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
    /// Limits that this version does not serve.
    Rates,
}

/// What one endpoint was warned of.
#[derive(Debug)]
pub(crate) struct Complaints {
    endpoint: Arc<str>,
    said: AtomicU32,
}

impl Complaints {
    pub(crate) fn new(endpoint: impl Into<Arc<str>>) -> Self {
        Self { endpoint: endpoint.into(), said: AtomicU32::new(0) }
    }

    /// Warns, unless it was warned of this before.
    pub(crate) fn say(&self, complaint: Complaint, what: fmt::Arguments<'_>) {
        if self.first(complaint) {
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
}
