//! What is counted of tokens, and of the keys that verify them.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use mproxy_policy::acl::{AclAdviser, KeySetState};
use mproxy_policy::watch::{KeyReadOutcome, TokenOutcome};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// Tokens, and readings of key sets.
#[derive(Debug)]
pub(super) struct TokenMetrics {
    tokens: Family<OutcomeLabels, Counter>,
    reads: Family<OutcomeLabels, Counter>,
    keys: KeySetCollector,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl TokenMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let (tokens, reads, keys) = (Family::default(), Family::default(), KeySetCollector::default());
        let metrics = Self { tokens, reads, keys };
        let help = "Tokens (JWT) of clients that the rule file judged";
        registry.register("tokens", help, metrics.tokens.clone());
        let help = "Readings of the key set by which tokens are verified";
        registry.register("token_key_set_reads", help, metrics.reads.clone());
        registry.register_collector(Box::new(metrics.keys.clone()));
        // All of them from the start: what appears with its first count has not grown for whoever watches growth.
        for outcome in TokenOutcome::ALL.map(TokenOutcome::name) {
            drop(metrics.tokens.get_or_create(&OutcomeLabels { outcome }));
        }
        for outcome in KeyReadOutcome::ALL.map(KeyReadOutcome::name) {
            drop(metrics.reads.get_or_create(&OutcomeLabels { outcome }));
        }
        metrics
    }

    pub(super) fn count(&self, outcome: TokenOutcome) {
        self.tokens.get_or_create(&OutcomeLabels { outcome: outcome.name() }).inc();
    }

    pub(super) fn count_read(&self, outcome: KeyReadOutcome) {
        self.reads.get_or_create(&OutcomeLabels { outcome: outcome.name() }).inc();
    }

    /// Shows the keys of this rule file from now on, whatever a reload makes of it.
    pub(super) fn show_keys_of(&self, acl: &Arc<AclAdviser>) {
        // Not held: it counts here, and would hold this in turn.
        let _ = self.keys.0.set(Arc::downgrade(acl));
    }
}

/// The key set that is in force, looked at when metrics are asked for: its age has no moment at which it changes.
#[derive(Clone, Default)]
struct KeySetCollector(Arc<OnceLock<Weak<AclAdviser>>>);

impl fmt::Debug for KeySetCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySetCollector(..)")
    }
}

impl Collector for KeySetCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(KeySetState { keys, age }) = self.0.get().and_then(|acl| acl.upgrade()?.key_set()) else {
            return Ok(());
        };
        let gauge = ConstGauge::<i64>::new(i64::try_from(keys).unwrap_or(i64::MAX));
        let help = "Keys of the key set that verify tokens";
        gauge.encode(encoder.encode_descriptor("token_key_set_keys", help, None, gauge.metric_type())?)?;
        // Of a set that was never read there is no age.
        let Some(age) = age else { return Ok(()) };
        let gauge = ConstGauge::<f64>::new(age.as_secs_f64());
        let help = "Time since the key set was read";
        let kind = gauge.metric_type();
        gauge.encode(encoder.encode_descriptor("token_key_set_age", help, Some(&Unit::Seconds), kind)?)
    }
}
