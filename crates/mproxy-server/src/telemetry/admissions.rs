//! What is counted of clients that wait to be admitted, for each listener.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::connections::ListenerLabels;

/// From a turn that was waited for to the longest that a client waits.
const WAIT_SECONDS: [f64; 10] = [0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const OUTCOMES: [&str; 5] = ["admitted", "queue_full", "evicted", "timed_out", "left"];

/// Of all listeners.
#[derive(Clone, Debug)]
pub(super) struct AdmissionFamilies {
    waiting: Family<ListenerLabels, Gauge>,
    wait: Family<ListenerLabels, Histogram>,
    outcomes: Family<AdmissionLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AdmissionLabels {
    listener: String,
    outcome: &'static str,
}

impl AdmissionFamilies {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let families = Self {
            waiting: Family::default(),
            wait: Family::new_with_constructor(|| Histogram::new(WAIT_SECONDS)),
            outcomes: Family::default(),
        };
        let help = "Clients that wait to be admitted, because of max_admissions_per_second";
        registry.register("admissions_waiting", help, families.waiting.clone());
        let help = "Time that clients waited to be admitted, whatever became of them";
        registry.register_with_unit("admission_wait_duration", help, Unit::Seconds, families.wait.clone());
        let help = "Clients that were to be admitted where max_admissions_per_second is set, by outcome";
        registry.register("admissions", help, families.outcomes.clone());
        families
    }

    /// The handles of one listener, at zero from now on.
    pub(super) fn listener(&self, name: &str) -> AdmissionMetrics {
        let labels = ListenerLabels { listener: name.to_owned() };
        let counter = |outcome| {
            let labels = AdmissionLabels { listener: name.to_owned(), outcome };
            self.outcomes.get_or_create_owned(&labels)
        };
        AdmissionMetrics {
            waiting: self.waiting.get_or_create_owned(&labels),
            wait: self.wait.get_or_create_owned(&labels),
            outcomes: OUTCOMES.map(counter),
        }
    }
}

/// Of one listener.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionMetrics {
    pub(crate) waiting: Gauge,
    wait: Histogram,
    outcomes: [Counter; OUTCOMES.len()],
}

impl AdmissionMetrics {
    /// Somebody was to be admitted, this came of it, and it waited so long.
    pub(crate) fn count(&self, outcome: &'static str, waited: Duration) {
        let known = OUTCOMES.iter().position(|known| *known == outcome);
        debug_assert!(known.is_some(), "{outcome} is no outcome of an admission");
        if let Some(at) = known {
            self.outcomes[at].inc();
            self.wait.observe(waited.as_secs_f64());
        }
    }
}
