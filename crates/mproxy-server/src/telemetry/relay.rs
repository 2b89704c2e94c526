//! What is counted of the way of packets through a connection, for each listener: the dial, the time from reading to writing,
//! and how often a side was not read.

use std::time::{Duration, Instant};

use mproxy_core::Side;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::histogram;

/// From a broker on this machine to the longest that a client waits.
const DIAL_SECONDS: [f64; 13] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// From one system call to the time in which a thread had better things to do.
const FORWARD_SECONDS: [f64; 12] =
    [0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25];

/// From a turn that was waited for to the longest that a client waits.
const DIAL_WAIT_SECONDS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// How dials end.
const OUTCOMES: [&str; 5] = ["connected", "unreachable", "handshake_failed", "too_late", "exhausted"];

/// Why a side is not read.
const REASONS: [&str; 4] = ["receiver", "queue", "budget", "rate"];

/// Of all listeners.
#[derive(Clone, Debug)]
pub(super) struct RelayMetrics {
    dials: Family<DialLabels, Histogram>,
    dials_waiting: Family<RelayLabels, Gauge>,
    dial_waits: Family<RelayLabels, Histogram>,
    forwarded: Family<RelayLabels, Histogram>,
    pauses: Family<PauseLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DialLabels {
    listener: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RelayLabels {
    listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PauseLabels {
    listener: String,
    from: &'static str,
    reason: &'static str,
}

impl Default for RelayMetrics {
    fn default() -> Self {
        Self {
            dials: Family::new_with_constructor(|| histogram(DIAL_SECONDS)),
            dials_waiting: Family::default(),
            dial_waits: Family::new_with_constructor(|| histogram(DIAL_WAIT_SECONDS)),
            forwarded: Family::new_with_constructor(|| histogram(FORWARD_SECONDS)),
            pauses: Family::default(),
        }
    }
}

impl RelayMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Duration of dials to the broker, with all handshakes, by their outcome";
        registry.register_with_unit("broker_dial_duration", help, Unit::Seconds, metrics.dials.clone());
        let help = "Dials to the broker that wait for others, because of max_dials";
        registry.register("broker_dials_waiting", help, metrics.dials_waiting.clone());
        let help = "Time that dials to the broker waited for others; those that did not are left out";
        registry.register_with_unit(
            "broker_dial_wait_duration",
            help,
            Unit::Seconds,
            metrics.dial_waits.clone(),
        );
        let help = "Time from reading packets to having written them, of one in 64 wake-ups of a connection";
        registry.register_with_unit("forward_duration", help, Unit::Seconds, metrics.forwarded.clone());
        let help = "Times that a side was not read any more, by what it waited for";
        registry.register("read_pauses", help, metrics.pauses.clone());
        metrics
    }

    /// The handles of one listener, at zero from now on.
    pub(super) fn listener(&self, name: &str) -> ListenerRelayMetrics {
        let listener = || name.to_owned();
        let dial = |outcome| self.dials.get_or_create_owned(&DialLabels { listener: listener(), outcome });
        let pause = |from: Side, reason| {
            let labels = PauseLabels { listener: listener(), from: from.name(), reason };
            self.pauses.get_or_create_owned(&labels)
        };
        let labels = RelayLabels { listener: listener() };
        ListenerRelayMetrics {
            dials: OUTCOMES.map(dial),
            dials_waiting: self.dials_waiting.get_or_create_owned(&labels),
            dial_waits: self.dial_waits.get_or_create_owned(&labels),
            forwarded: self.forwarded.get_or_create_owned(&labels),
            pauses: [Side::Client, Side::Broker].map(|from| REASONS.map(|reason| pause(from, reason))),
        }
    }
}

/// Of one listener.
#[derive(Clone, Debug)]
pub(super) struct ListenerRelayMetrics {
    /// In the order of [`OUTCOMES`].
    dials: [Histogram; 5],
    dials_waiting: Gauge,
    dial_waits: Histogram,
    forwarded: Histogram,
    /// In the order of sides and of [`REASONS`].
    pauses: [[Counter; 4]; 2],
}

impl ListenerRelayMetrics {
    pub(super) fn dial_ended(&self, outcome: &'static str, took: Duration) {
        let mut dials = OUTCOMES.into_iter().zip(&self.dials);
        if let Some((_, dials)) = dials.find(|(name, _)| *name == outcome) {
            dials.observe(took.as_secs_f64());
        }
    }

    pub(super) fn wait_to_dial(&self) -> DialWait {
        self.dials_waiting.inc();
        DialWait {
            waiting: self.dials_waiting.clone(),
            waits: self.dial_waits.clone(),
            begun: Instant::now(),
        }
    }

    pub(super) fn forwarded(&self, took: Duration) {
        self.forwarded.observe(took.as_secs_f64());
    }

    pub(super) fn count_pause(&self, side: Side, reason: &'static str) {
        let [client, broker] = &self.pauses;
        let pauses = match side {
            Side::Client => client,
            Side::Broker => broker,
        };
        if let Some((_, pauses)) = REASONS.into_iter().zip(pauses).find(|(name, _)| *name == reason) {
            pauses.inc();
        }
    }
}

/// A dial that waits for others; over when dropped.
pub(crate) struct DialWait {
    waiting: Gauge,
    waits: Histogram,
    begun: Instant,
}

impl Drop for DialWait {
    fn drop(&mut self) {
        self.waiting.dec();
        self.waits.observe(self.begun.elapsed().as_secs_f64());
    }
}
