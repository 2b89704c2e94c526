//! How short descriptors and memory are.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Levels by resource.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatermarkMetrics {
    levels: Family<ResourceLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: &'static str,
}

impl WatermarkMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help =
            "Watermark that is reached: 0 none, 1 new connections are refused, 2 sessions are disconnected";
        registry.register("watermark_level", help, metrics.levels.clone());
        metrics
    }

    /// It is at this level from now on.
    pub(crate) fn set(&self, resource: &'static str, level: u8) {
        self.levels.get_or_create(&ResourceLabels { resource }).set(level.into());
    }
}
