//! What the shadow service would decide otherwise: a counter for each pair of outcomes, and a log line for some of them.

use std::time::Instant;

use mproxy_core::policy::Hook;
use mproxy_policy::comparison::Comparison;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::info;

use super::labels::EndpointLabels;
use super::line_limit::LineLimit;

/// Counts and logs.
#[derive(Debug, Default)]
pub(super) struct ShadowMetrics {
    comparisons: Family<ComparisonLabels, Counter>,
    skipped: Family<SkippedLabels, Counter>,
    endpoints: Family<EndpointLabels, Gauge>,
    lines: LineLimit,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ComparisonLabels {
    hook: &'static str,
    active: &'static str,
    shadow: &'static str,
    same: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SkippedLabels {
    hook: &'static str,
}

impl ShadowMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let shadow = Self::default();
        let help = "Questions that both the policy service and the shadow answered, by what each decided";
        registry.register("shadow_comparisons", help, shadow.comparisons.clone());
        let help = "Questions that were not put to the shadow service because too many were under way";
        registry.register("shadow_skipped", help, shadow.skipped.clone());
        let help = "1 if this endpoint of the shadow service is healthy, else 0";
        registry.register("shadow_endpoint_healthy", help, shadow.endpoints.clone());
        for hook in Hook::ALL {
            drop(shadow.skipped.get_or_create(&SkippedLabels { hook: hook.name() }));
        }
        shadow
    }

    pub(super) fn record(&self, comparison: &Comparison<'_>) {
        let Comparison { hook, peer, topic, filter, more_filters, active, shadow, difference } = comparison;
        let same = if active == shadow && difference.is_none() { "true" } else { "false" };
        let (hook, active, shadow) = (hook.name(), active.name(), shadow.name());
        self.comparisons.get_or_create(&ComparisonLabels { hook, active, shadow, same }).inc();
        let Some((active, shadow)) = difference else { return };
        // A policy that differs in everything would fill the log with what the counter says better.
        if let Some(suppressed_lines) = self.lines.take(Instant::now()) {
            info!(
                connection_id = %peer.origin.connection_id,
                listener = &*peer.origin.listener,
                peer_addr = %peer.origin.remote,
                client_id = &*peer.client_id,
                username = peer.shown_username(),
                hook,
                topic,
                filter,
                more_filters = (*more_filters > 0).then_some(more_filters),
                active,
                shadow,
                suppressed_lines,
                "shadow service would decide otherwise"
            );
        }
    }

    /// An endpoint became healthy or unhealthy. Apart from the service in force: an alert on that must not be answered by this.
    pub(super) fn set_endpoint_health(&self, url: &str, healthy: bool) {
        self.endpoints.get_or_create(&EndpointLabels { endpoint: url.to_owned() }).set(i64::from(healthy));
    }

    pub(super) fn count_skipped(&self, hook: Hook) {
        self.skipped.get_or_create(&SkippedLabels { hook: hook.name() }).inc();
    }
}
