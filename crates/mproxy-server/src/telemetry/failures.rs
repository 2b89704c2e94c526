//! Questions that were not decided: a counter for each kind, and log lines that a service which is down, or a client that
//! asks for them, cannot turn into a flood.

use std::time::Instant;

use mproxy_core::Peer;
use mproxy_core::policy::{Failure, Hook, OnError, Overload, Unusable};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tracing::warn;

use super::line_limit::LineLimit;

/// Counts and logs.
#[derive(Debug, Default)]
pub(super) struct Failures {
    counted: Family<FailureLabels, Counter>,
    unusable: Family<UnusableLabels, Counter>,
    overloaded: Family<OverloadLabels, Counter>,
    lines: LineLimit,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UnusableLabels {
    hook: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OverloadLabels {
    hook: &'static str,
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    hook: &'static str,
    kind: &'static str,
    on_error: &'static str,
}

/// A line about an answer for this client, unless there were too many.
macro_rules! warn_of {
    ($failures:ident, $peer:ident, $($rest:tt)+) => {
        if let Some(suppressed_lines) = $failures.lines.take(Instant::now()) {
            warn!(
                connection_id = %$peer.origin.connection_id,
                listener = &*$peer.origin.listener,
                peer_addr = %$peer.origin.remote,
                client_id = &*$peer.client_id,
                username = $peer.shown_username(),
                suppressed_lines,
                $($rest)+
            );
        }
    };
}

impl Failures {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let failures = Self::default();
        let help = "Answers of the policy service that failed, and what the failure rule made of the packet";
        registry.register("policy_failures", help, failures.counted.clone());
        let help = "Answers of the policy service that could not be carried out; the packet was refused";
        registry.register("policy_unusable_answers", help, failures.unusable.clone());
        let help = "Questions not answered because of a limit of mproxy; the packet was refused";
        registry.register("overloads", help, failures.overloaded.clone());
        failures
    }

    pub(super) fn failed(&self, hook: Hook, failure: &Failure, on_error: OnError, peer: &Peer) {
        let on_error = match on_error {
            OnError::Deny => "deny",
            OnError::Allow => "allow",
        };
        let (hook, kind) = (hook.name(), failure.kind.name());
        self.counted.get_or_create(&FailureLabels { hook, kind, on_error }).inc();
        warn_of!(self, peer, hook, kind, on_error, error = &*failure.detail, "policy answer failed");
    }

    pub(super) fn unusable(&self, hook: Hook, unusable: &Unusable, peer: &Peer) {
        let (hook, kind) = (hook.name(), unusable.kind.name());
        self.unusable.get_or_create(&UnusableLabels { hook, kind }).inc();
        let (reason_code, error) = (unusable.reason.0, &*unusable.detail);
        warn_of!(self, peer, hook, kind, reason_code, error, "policy answer unusable, packet refused");
    }

    pub(super) fn overloaded(&self, hook: Hook, overload: &Overload, peer: &Peer) {
        let (hook, limit) = (hook.name(), overload.limit);
        self.overloaded.get_or_create(&OverloadLabels { hook, limit }).inc();
        // Where admissions are paced, that a client comes again is how it is meant to be.
        if limit != Overload::ADMISSIONS {
            warn_of!(self, peer, hook, limit, error = &*overload.detail, "overloaded, packet refused");
        }
    }
}
