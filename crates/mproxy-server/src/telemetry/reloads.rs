//! What is counted of reloads, and until when the certificates in force are valid.

use std::collections::HashSet;

use mproxy_tcp::tls::Dated;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Reloads of this process, and what they left in force.
#[derive(Debug, Default)]
pub(super) struct ReloadMetrics {
    reloads: Family<ReloadLabels, Counter>,
    expiries: Family<ExpiryLabels, Gauge>,
    /// Those that are shown.
    expiring: Mutex<HashSet<ExpiryLabels>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    what: &'static str,
    outcome: &'static str,
}

/// Something with a date: a certificate that is shown or believed, or a revocation list. Anybody may read metrics, and which
/// file it comes from is nobody's business; `/readyz` says it to whoever may know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExpiryLabels {
    used_by: String,
    kind: &'static str,
    subject: String,
    serial: String,
}

impl ReloadMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Reloads by outcome; after a failure the previous version stays in force";
        registry.register("reloads", help, metrics.reloads.clone());
        // All of them from the start: what appears with its first count has not grown for whoever watches growth.
        for what in ["configuration", "acl_file", "certificates"] {
            for outcome in ["reloaded", "failed"] {
                drop(metrics.reloads.get_or_create(&ReloadLabels { what, outcome }));
            }
        }
        let help = "Expiry of the certificates and revocation lists in force, in seconds since 1970";
        let expiries = metrics.expiries.clone();
        registry.register_with_unit("certificate_expiry_timestamp", help, Unit::Seconds, expiries);
        metrics
    }

    /// A reload of this ended, and what came of it is in force or not.
    pub(super) fn count(&self, what: &'static str, usable: bool) {
        let outcome = if usable { "reloaded" } else { "failed" };
        self.reloads.get_or_create(&ReloadLabels { what, outcome }).inc();
    }

    /// What is in force from now on, and what uses it. What is not among it is shown no more.
    pub(super) fn set_certificate_dates(&self, dates: &[(String, Dated)]) {
        let mut shown = HashSet::new();
        for (used_by, date) in dates {
            let Some(end) = date.not_after else { continue };
            let labels = ExpiryLabels {
                used_by: used_by.clone(),
                kind: date.kind.name(),
                subject: date.subject.clone(),
                serial: date.serial.clone(),
            };
            self.expiries.get_or_create(&labels).set(end);
            shown.insert(labels);
        }
        let mut expiring = self.expiring.lock();
        // An alert on its date would go on for a certificate that is in use no more.
        for gone in expiring.difference(&shown) {
            self.expiries.remove(gone);
        }
        *expiring = shown;
    }
}
