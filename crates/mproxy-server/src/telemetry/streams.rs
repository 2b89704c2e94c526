//! What is counted of the streams to the policy service.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::ReasonLabels;

/// Counts of all streams together.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamMetrics {
    open: Gauge,
    ended: Family<ReasonLabels, Counter>,
    messages: Counter,
    dropped_answers: Family<ReasonLabels, Counter>,
    moved: Family<ReasonLabels, Counter>,
}

impl StreamMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let streams = Self::default();
        let help = "Decision streams to the policy service that are in use";
        registry.register("policy_streams_open", help, streams.open.clone());
        let help = "Decision streams that are no longer used, by reason";
        registry.register("policy_streams_ended", help, streams.ended.clone());
        let help = "Messages with questions that were written to decision streams";
        registry.register("policy_stream_messages", help, streams.messages.clone());
        let help = "Answers on decision streams that were dropped: to unknown ids, twice, or too late";
        registry.register("policy_stream_answers_dropped", help, streams.dropped_answers.clone());
        let help = "Questions asked again elsewhere because their stream was silent or had ended";
        registry.register("policy_stream_questions_moved", help, streams.moved.clone());
        streams
    }

    pub(super) fn count_opened(&self) {
        self.open.inc();
    }

    pub(super) fn count_ended(&self, reason: &'static str) {
        self.open.dec();
        self.ended.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(super) fn count_message(&self) {
        self.messages.inc();
    }

    pub(super) fn count_dropped_answers(&self, reason: &'static str, count: u64) {
        self.dropped_answers.get_or_create(&ReasonLabels { reason }).inc_by(count);
    }

    pub(super) fn count_moved(&self, reason: &'static str) {
        self.moved.get_or_create(&ReasonLabels { reason }).inc();
    }
}
