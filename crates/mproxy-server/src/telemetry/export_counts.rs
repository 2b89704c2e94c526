//! What is counted of spans, or of log records, on their way to a collector: those that wait, those that it has taken, and those
//! that are lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::labels::ReasonLabels;

/// What is counted of one signal. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ExportCounts {
    exported: Counter,
    lost: Family<ReasonLabels, Counter>,
    waiting: Arc<AtomicUsize>,
    full: Arc<AtomicBool>,
    failing: Arc<AtomicBool>,
}

const QUEUE_FULL: ReasonLabels = ReasonLabels { reason: "queue_full" };
const NOT_TAKEN: ReasonLabels = ReasonLabels { reason: "export_failed" };

/// What is news of a request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExportNews {
    /// The first in a row that the collector did not take.
    Failing,
    /// The first that it has taken after such ones.
    TakenAgain,
    /// Nothing.
    None,
}

impl ExportCounts {
    pub(super) fn register_spans(&self, metrics: &mut Registry) {
        let help = "Spans that the collector of traces has taken";
        metrics.register("trace_spans_exported", help, self.exported.clone());
        let help = "Spans that were dropped: too many waited, or the collector did not take them";
        metrics.register("trace_spans_lost", help, self.lost.clone());
    }

    pub(super) fn register_log_records(&self, metrics: &mut Registry) {
        let help = "Log records that the collector of logs has taken";
        metrics.register("otlp_log_records_exported", help, self.exported.clone());
        let help = "Log records that were not sent: too many waited, or the collector did not take them";
        metrics.register("otlp_log_records_lost", help, self.lost.clone());
    }

    /// So many have left the queue, and were taken or not. An outage is news once.
    pub(super) fn count_export(&self, count: usize, taken: bool) -> ExportNews {
        self.waiting.fetch_sub(count, Ordering::AcqRel);
        let count = count as u64;
        if taken {
            self.exported.inc_by(count);
            self.full.store(false, Ordering::Relaxed);
        } else {
            self.lost.get_or_create(&NOT_TAKEN).inc_by(count);
        }
        match (self.failing.swap(!taken, Ordering::Relaxed), taken) {
            (false, false) => ExportNews::Failing,
            (true, true) => ExportNews::TakenAgain,
            _ => ExportNews::None,
        }
    }

    /// Those that were dropped so far.
    pub(super) fn lost(&self) -> u64 {
        [&QUEUE_FULL, &NOT_TAKEN].map(|reason| self.lost.get_or_create(reason).get()).iter().sum()
    }

    /// Those that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// A place for one more, if there is any.
    pub(super) fn take_place(&self, most: usize) -> bool {
        let more = |waiting| (waiting < most).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// One had no place. Whether that is news: until some leave, it is once, as a queue that is full drops thousands a second.
    pub(super) fn count_full(&self) -> bool {
        self.lost.get_or_create(&QUEUE_FULL).inc();
        !self.full.swap(true, Ordering::Relaxed)
    }
}
