//! What the advisers tell of themselves, counted.

use std::time::Duration;

use mproxy_core::event::Kind;
use mproxy_policy::watch::{CallOutcome, DropReason, Watch};

use super::metrics::Metrics;

impl Watch for Metrics {
    fn call(&self, rpc: &'static str, outcome: CallOutcome, took: Duration) {
        self.record_call(rpc, outcome.name(), took);
    }

    fn events_dropped(&self, kind: Kind, reason: DropReason, count: u64) {
        self.count_dropped_events(kind.name(), reason.name(), count);
    }

    fn endpoint(&self, url: &str, healthy: bool) {
        self.set_endpoint_health(url, healthy);
    }
}
