//! Refusals, by what was refused, who refused it, and with which code.

use std::fmt::{self, Write as _};

use mproxy_core::Fault;
use mproxy_core::policy::{Hook, Refusal};
use mproxy_core::record::{DecisionOutcome, DecisionRecord, DecisionSubject};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Refusals of this process. There are as many series as there are codes that somebody has used.
#[derive(Clone, Debug, Default)]
pub(super) struct RefusalMetrics {
    refusals: Family<RefusalLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    hook: &'static str,
    source: &'static str,
    reason_code: CodeLabel,
}

/// A reason code of MQTT 5.0, `0x87`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CodeLabel(u8);

impl EncodeLabelValue for CodeLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(encoder, "0x{:02x}", self.0)
    }
}

impl RefusalMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Refusals by what was refused, who refused it, and the reason code";
        registry.register("refusals", help, metrics.refusals.clone());
        metrics
    }

    /// Counts it, if it is one.
    pub(super) fn count(&self, decision: &DecisionRecord<'_>) {
        let by = |refusal: &Refusal| (refusal.ground.source_name(), refusal.reason);
        let (of_connection, (source, code)) = match decision.outcome {
            DecisionOutcome::Refused(refusal) => (Hook::Connect, by(refusal)),
            DecisionOutcome::Undecided(undecided) => {
                (Hook::Connect, (undecided.source().name(), undecided.reason()))
            }
            DecisionOutcome::Ended { fault: Fault::Refused { hook, refusal }, .. } => (*hook, by(refusal)),
            DecisionOutcome::Ended { .. } | DecisionOutcome::Allowed { .. } => return,
        };
        let (hook, more) = match decision.subject {
            DecisionSubject::Message { hook, .. } => (hook, 0),
            DecisionSubject::Filter { more, .. } => (Hook::Subscribe, more),
            DecisionSubject::Connection { .. } | DecisionSubject::Packet(_) => (of_connection, 0),
        };
        let labels = RefusalLabels { hook: hook.name(), source, reason_code: CodeLabel(code.0) };
        self.refusals.get_or_create(&labels).inc_by(1 + more as u64);
    }
}
