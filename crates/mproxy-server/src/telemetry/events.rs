//! What is counted of the events that go to the policy service: those that it did not receive, and for a stream of them
//! what was sent, sent again and confirmed.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::labels::ReasonLabels;

/// Counts of all calls and event streams together.
#[derive(Clone, Debug, Default)]
pub(super) struct EventMetrics {
    dropped: Family<DroppedLabels, Counter>,
    unconfirmed: Gauge,
    unconfirmed_size: Gauge,
    sent: Counter,
    resent: Counter,
    confirmed: Counter,
    open: Gauge,
    ended: Family<ReasonLabels, Counter>,
    spool_size: Gauge,
    not_spooled: Family<ReasonLabels, Counter>,
    spool_damage: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedLabels {
    kind: &'static str,
    reason: &'static str,
}

impl EventMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let events = Self::default();
        let help = "Events that the policy service did not receive";
        registry.register("events_dropped", help, events.dropped.clone());
        let help = "Events kept until the policy service confirms them";
        registry.register("events_unconfirmed", help, events.unconfirmed.clone());
        let help = "Size of the events kept until the policy service confirms them";
        registry.register_with_unit("events_unconfirmed", help, Unit::Bytes, events.unconfirmed_size.clone());
        let help = "Events written to event streams, each time that they were";
        registry.register("events_sent", help, events.sent.clone());
        let help =
            "Events written to an event stream again because an earlier one ended before they were confirmed";
        registry.register("events_resent", help, events.resent.clone());
        registry.register(
            "events_confirmed",
            "Events confirmed by the policy service",
            events.confirmed.clone(),
        );
        let help = "Event streams to the policy service that are in use: 0 or 1";
        registry.register("event_streams_open", help, events.open.clone());
        registry.register("event_streams_ended", "Event streams that ended, by reason", events.ended.clone());
        let help = "Size of the files of the event spool";
        registry.register_with_unit("event_spool", help, Unit::Bytes, events.spool_size.clone());
        let help = "Events not written to the event spool, which are kept in memory only";
        registry.register("events_not_spooled", help, events.not_spooled.clone());
        let help = "Bytes of the event spool that could not be read at the start";
        registry.register("event_spool_damaged_bytes", help, events.spool_damage.clone());
        events
    }

    pub(super) fn count_dropped(&self, kind: &'static str, reason: &'static str, events: u64) {
        self.dropped.get_or_create(&DroppedLabels { kind, reason }).inc_by(events);
    }

    pub(super) fn set_unconfirmed(&self, events: usize, bytes: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.unconfirmed.set(number(events));
        self.unconfirmed_size.set(number(bytes));
    }

    pub(super) fn count_sent(&self, events: u64, again: u64) {
        self.sent.inc_by(events);
        self.resent.inc_by(again);
    }

    pub(super) fn count_confirmed(&self, events: u64) {
        self.confirmed.inc_by(events);
    }

    pub(super) fn set_open(&self, open: bool) {
        self.open.set(i64::from(open));
    }

    pub(super) fn set_spool(&self, bytes: u64) {
        self.spool_size.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn count_not_spooled(&self, reason: &'static str, events: u64) {
        self.not_spooled.get_or_create(&ReasonLabels { reason }).inc_by(events);
    }

    pub(super) fn count_spool_damage(&self, bytes: u64) {
        self.spool_damage.inc_by(bytes);
    }

    pub(super) fn count_ended(&self, reason: &'static str) {
        self.ended.get_or_create(&ReasonLabels { reason }).inc();
    }
}
