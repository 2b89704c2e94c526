//! What is counted of bans.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Bans of this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct BanMetrics {
    /// Those in force; one that is over counts until it is removed.
    pub(crate) bans: Gauge,
    /// The file could not be written.
    pub(crate) file_errors: Counter,
}

impl BanMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("bans", "Bans in force", metrics.bans.clone());
        let help = "Times that the file of bans could not be written";
        registry.register("ban_file_errors", help, metrics.file_errors.clone());
        metrics
    }
}
