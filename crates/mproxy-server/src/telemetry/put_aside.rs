//! What is counted of clients that have to wait before they may come again.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Clients that have to wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct PutAsideMetrics {
    /// Logins that an adviser or the broker refused.
    pub(crate) failed_logins: Counter,
    /// Times that a client was put aside because it connects too often.
    pub(crate) flapping: Counter,
}

impl PutAsideMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "CONNECTs whose credentials the rule file, the hook service or the broker refused";
        registry.register("failed_logins", help, metrics.failed_logins.clone());
        let help = "Times that a client was put aside because it connected too often";
        registry.register("flapping_clients", help, metrics.flapping.clone());
        metrics
    }
}
