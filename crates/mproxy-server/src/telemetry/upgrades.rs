//! What is counted of upgrades.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// All of them from the start: what appears with its first count has not grown for whoever watches growth.
const OUTCOMES: [&str; 6] = ["completed", "refused", "not_started", "failed", "timed_out", "other_protocol"];

/// Upgrades: by the new process those that have completed, by the old one those that have not.
#[derive(Debug, Default)]
pub(super) struct UpgradeMetrics {
    upgrades: Family<UpgradeLabels, Counter>,
    sessions: Family<UpgradeSessionLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpgradeSessionLabels {
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpgradeLabels {
    outcome: &'static str,
}

impl UpgradeMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Upgrades by outcome; unless it is completed, the old process goes on serving";
        registry.register("upgrades", help, metrics.upgrades.clone());
        let help =
            "Sessions of the process before this one, by outcome: handed over, or why they stayed with it";
        registry.register("upgrade_sessions", help, metrics.sessions.clone());
        metrics.count_sessions("handed_over", 0);
        for outcome in OUTCOMES {
            drop(metrics.upgrades.get_or_create(&UpgradeLabels { outcome }));
        }
        metrics
    }

    pub(super) fn count(&self, outcome: &'static str) {
        self.upgrades.get_or_create(&UpgradeLabels { outcome }).inc();
    }

    pub(super) fn count_sessions(&self, outcome: &str, count: u64) {
        self.sessions.get_or_create(&UpgradeSessionLabels { outcome: outcome.to_owned() }).inc_by(count);
    }
}
