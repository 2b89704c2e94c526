//! What is counted of spans: those that wait for the collector, those that it has taken, and those that are lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tracing::warn;

use super::labels::ReasonLabels;

/// What is counted of spans. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SpanCounts {
    exported: Counter,
    lost: Family<ReasonLabels, Counter>,
    waiting: Arc<AtomicUsize>,
    full: Arc<AtomicBool>,
}

const QUEUE_FULL: ReasonLabels = ReasonLabels { reason: "queue_full" };
const NOT_TAKEN: ReasonLabels = ReasonLabels { reason: "export_failed" };

impl SpanCounts {
    pub(super) fn register(&self, metrics: &mut Registry) {
        let help = "Spans that the collector of traces has taken";
        metrics.register("trace_spans_exported", help, self.exported.clone());
        let help = "Spans that were dropped: too many waited, or the collector did not take them";
        metrics.register("trace_spans_lost", help, self.lost.clone());
    }

    /// So many have left the queue, and were taken or not.
    pub(super) fn count_export(&self, spans: usize, taken: bool) {
        self.waiting.fetch_sub(spans, Ordering::AcqRel);
        let spans = spans as u64;
        if taken {
            self.exported.inc_by(spans);
            self.full.store(false, Ordering::Relaxed);
        } else {
            self.lost.get_or_create(&NOT_TAKEN).inc_by(spans);
        }
    }

    /// Spans that were dropped so far.
    pub(super) fn lost(&self) -> u64 {
        [&QUEUE_FULL, &NOT_TAKEN].map(|reason| self.lost.get_or_create(reason).get()).iter().sum()
    }

    /// Spans that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// A place for one more, if there is any.
    pub(super) fn take_place(&self, most: usize) -> bool {
        let more = |waiting| (waiting < most).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    pub(super) fn count_full(&self, most: usize) {
        self.lost.get_or_create(&QUEUE_FULL).inc();
        // Once until some leave: a queue that is full drops thousands a second.
        if !self.full.swap(true, Ordering::Relaxed) {
            warn!(
                queue = most,
                "trace queue full, dropping spans (counted in mproxy_trace_spans_lost_total)"
            );
        }
    }
}
