//! What is counted of the packets of all sessions.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::tally::Tally;

/// Packets and decisions, and what was held back or dropped because of grants.
#[derive(Debug)]
pub(super) struct TrafficMetrics {
    pub(super) tally: Arc<Tally>,
    rate_waits: Counter,
    revoked_deliveries: Counter,
}

impl TrafficMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let traffic = Self {
            tally: Arc::new(Tally::new()),
            rate_waits: Counter::default(),
            revoked_deliveries: Counter::default(),
        };
        registry.register_collector(Box::new(Arc::clone(&traffic.tally)));
        let help = "Times that a client was not read because it exceeded a rate of its grant";
        registry.register("rate_waits", help, traffic.rate_waits.clone());
        let help = "Deliveries dropped because the grant in force allows no subscription that explains them";
        registry.register("revoked_deliveries", help, traffic.revoked_deliveries.clone());
        traffic
    }

    pub(super) fn count_rate_wait(&self) {
        self.rate_waits.inc();
    }

    pub(super) fn count_revoked_deliveries(&self, count: u64) {
        self.revoked_deliveries.inc_by(count);
    }
}
