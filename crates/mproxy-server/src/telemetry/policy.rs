//! What is counted of calls to the policy service, of its endpoints, and of its commands.

use std::ops::Deref;
use std::time::Duration;

use mproxy_core::meter::ExchangeOutcome;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::histogram;
use super::labels::EndpointLabels;
use super::latencies::{CallLatency, latencies};

/// Counts of all endpoints together, but for their health.
#[derive(Clone, Debug)]
pub(super) struct PolicyMetrics {
    calls: Family<CallLabels, Histogram>,
    endpoints: Family<EndpointLabels, Gauge>,
    commands: Family<CommandLabels, Counter>,
    exchanges: Family<ExchangeLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExchangeLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    rpc: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabels {
    command: &'static str,
    outcome: &'static str,
}

/// From a call that never left the machine to the longest deadline that makes sense for a question.
const CALL_SECONDS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

impl PolicyMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let policy = Self {
            calls: Family::new_with_constructor(|| histogram(CALL_SECONDS)),
            endpoints: Family::default(),
            commands: Family::default(),
            exchanges: Family::default(),
        };
        let help = "Duration of calls to the policy service";
        registry.register_with_unit("policy_call_duration", help, Unit::Seconds, policy.calls.clone());
        let help = "1 if this endpoint of the policy service is healthy, else 0";
        registry.register("policy_endpoint_healthy", help, policy.endpoints.clone());
        let help = "Commands of the policy service, by what became of them";
        registry.register("policy_commands", help, policy.commands.clone());
        // All of them from the start: what appears with its first count has not grown for whoever watches growth.
        for command in ["disconnect", "replace_grant", "forget", "check_grants"] {
            for outcome in ["carried_out", "incomplete"] {
                drop(policy.commands.get_or_create(&CommandLabels { command, outcome }));
            }
        }
        drop(policy.commands.get_or_create(&CommandLabels { command: "unknown", outcome: "unusable" }));
        let help = "Enhanced authentications that mproxy answered, by how they ended";
        registry.register("auth_exchanges", help, policy.exchanges.clone());
        for again in [false, true] {
            for outcome in ExchangeOutcome::ALL {
                drop(policy.exchange_counter(again, outcome));
            }
        }
        policy
    }

    fn exchange_counter(&self, again: bool, outcome: ExchangeOutcome) -> impl Deref<Target = Counter> {
        let kind = if again { "reauthentication" } else { "connect" };
        self.exchanges.get_or_create(&ExchangeLabels { kind, outcome: outcome.name() })
    }

    /// An authentication came to its end.
    pub(super) fn count_exchange(&self, again: bool, outcome: ExchangeOutcome) {
        self.exchange_counter(again, outcome).inc();
    }

    /// A call ended with this outcome, after this time.
    pub(super) fn record_call(&self, rpc: &'static str, outcome: &'static str, took: Duration) {
        self.calls.get_or_create(&CallLabels { rpc, outcome }).observe(took.as_secs_f64());
    }

    /// How long calls took.
    pub(super) fn latencies(&self) -> Vec<CallLatency> {
        latencies(&self.calls)
    }

    /// An endpoint became healthy or unhealthy.
    pub(super) fn set_endpoint_health(&self, url: &str, healthy: bool) {
        self.endpoints.get_or_create(&EndpointLabels { endpoint: url.to_owned() }).set(i64::from(healthy));
    }

    /// A command came to this end.
    pub(super) fn count_command(&self, command: &'static str, outcome: &'static str) {
        self.commands.get_or_create(&CommandLabels { command, outcome }).inc();
    }
}
