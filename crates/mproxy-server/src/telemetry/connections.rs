//! What is counted of connections, for each listener.

use std::sync::Arc;
use std::time::Duration;

use mproxy_core::policy::Hook;
use mproxy_core::{Fault, Side};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::relay::{DialWait, ListenerRelayMetrics, RelayMetrics};

/// Counts of all listeners.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionMetrics {
    connections: Family<ConnectionLabels, Counter>,
    open: Family<ListenerLabels, Gauge>,
    closed: Family<ClosedLabels, Counter>,
    connects_refused: Family<ConnectRefusedLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    relay: RelayMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    listener: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ListenerLabels {
    pub(super) listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabels {
    listener: String,
    cause: &'static str,
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    listener: String,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectRefusedLabels {
    listener: String,
    part: &'static str,
}

impl ConnectionMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self { relay: RelayMetrics::registered(registry), ..Self::default() };
        let help = "Connections by outcome of accepting them: accepted, or refused by a limit";
        registry.register("connections", help, metrics.connections.clone());
        let help = "Connections open now, counted from accept";
        registry.register("connections_open", help, metrics.open.clone());
        let help = "Connections closed, by cause and by who caused it";
        registry.register("connections_closed", help, metrics.closed.clone());
        let help = "Connections closed before any handshake, by the limit that they were over";
        registry.register("connections_refused", help, metrics.refused.clone());
        let help =
            "CONNECTs refused by a rule or the policy service, by the part of CONNECT that was refused";
        registry.register("connects_refused", help, metrics.connects_refused.clone());
        metrics
    }

    /// The handles of one listener, at zero from now on.
    pub(super) fn listener(&self, name: &str) -> ListenerMetrics {
        let connections = |outcome| {
            let labels = ConnectionLabels { listener: name.to_owned(), outcome };
            self.connections.get_or_create_owned(&labels)
        };
        ListenerMetrics {
            name: name.into(),
            accepted: connections("accepted"),
            refused: connections("refused"),
            refused_by_cause: self.refused.clone(),
            open: self.open.get_or_create_owned(&ListenerLabels { listener: name.to_owned() }),
            closed: self.closed.clone(),
            connects_refused: self.connects_refused.clone(),
            relay: self.relay.listener(name),
        }
    }
}

/// Counts the connections of one listener.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    name: Arc<str>,
    accepted: Counter,
    refused: Counter,
    refused_by_cause: Family<RefusedLabels, Counter>,
    open: Gauge,
    closed: Family<ClosedLabels, Counter>,
    connects_refused: Family<ConnectRefusedLabels, Counter>,
    relay: ListenerRelayMetrics,
}

impl ListenerMetrics {
    /// A dial of the broker ended so, and took so long.
    pub fn dial_ended(&self, outcome: &'static str, took: Duration) {
        self.relay.dial_ended(outcome, took);
    }

    /// A dial of the broker waits for others until this is dropped.
    pub(crate) fn wait_to_dial(&self) -> DialWait {
        self.relay.wait_to_dial()
    }

    /// What was read was written so long after.
    pub fn forwarded(&self, took: Duration) {
        self.relay.forwarded(took);
    }

    /// A side is not read from now on.
    pub fn count_pause(&self, side: Side, reason: &'static str) {
        self.relay.count_pause(side, reason);
    }

    /// A connection was accepted, and counts as open until it is counted as closed.
    pub fn count_accepted(&self) {
        self.accepted.inc();
        self.open.inc();
    }

    /// Shows these causes before a connection is refused for one of them: a first refusal is growth.
    pub fn show_refused_causes(&self, causes: impl IntoIterator<Item = &'static str>) {
        for cause in causes {
            let labels = RefusedLabels { listener: self.name.to_string(), cause };
            drop(self.refused_by_cause.get_or_create(&labels));
        }
    }

    /// A connection was refused before anything was done for it, for this cause.
    pub fn count_refused(&self, cause: &'static str) {
        self.refused.inc();
        self.count_refused_cause(cause);
    }

    /// The same where it counts as accepted: its PROXY header has said whose it is.
    pub fn count_refused_cause(&self, cause: &'static str) {
        self.refused_by_cause.get_or_create(&RefusedLabels { listener: self.name.to_string(), cause }).inc();
    }

    /// An accepted connection closed, for this reason.
    pub fn count_end(&self, fault: &Fault) {
        if let Fault::Refused { refusal, .. } = fault
            && refusal.is_of_watermark()
        {
            self.count_refused_cause(fault.label());
        } else if let Fault::Refused { hook: Hook::Connect, refusal } = fault {
            let listener = self.name.to_string();
            self.connects_refused
                .get_or_create(&ConnectRefusedLabels { listener, part: refusal.about.name() })
                .inc();
        }
        self.count_closed(fault.label(), fault.by().name());
    }

    /// An accepted connection closed, for this cause, which this party is responsible for.
    pub fn count_closed(&self, cause: &'static str, by: &'static str) {
        self.open.dec();
        self.closed.get_or_create(&ClosedLabels { listener: self.name.to_string(), cause, by }).inc();
    }
}
