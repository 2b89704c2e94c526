//! What is counted of upgrades.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// All of them from the start: what appears with its first count has not grown for whoever watches growth.
const OUTCOMES: [&str; 6] = ["completed", "refused", "not_started", "failed", "timed_out", "other_protocol"];

/// Upgrades: by the new process those that have completed, by the old one those that have not.
#[derive(Debug, Default)]
pub(super) struct UpgradeMetrics(Family<UpgradeLabels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpgradeLabels {
    outcome: &'static str,
}

impl UpgradeMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Upgrades by outcome; unless it is completed, the old process goes on serving";
        registry.register("upgrades", help, metrics.0.clone());
        for outcome in OUTCOMES {
            drop(metrics.0.get_or_create(&UpgradeLabels { outcome }));
        }
        metrics
    }

    pub(super) fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&UpgradeLabels { outcome }).inc();
    }
}
