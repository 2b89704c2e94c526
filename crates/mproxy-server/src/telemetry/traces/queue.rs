//! The spans that wait for the collector. The SDK's own queue is bounded, too, but does not say what it drops: so nothing
//! is put into it for which there is no room.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanProcessor};
use tracing::warn;

use crate::telemetry::export_counts::ExportCounts;

/// Lets no more spans through than there is room for.
#[derive(Debug)]
pub(super) struct BoundedQueue {
    batches: BatchSpanProcessor,
    most: usize,
    counts: ExportCounts,
}

impl BoundedQueue {
    pub(super) const fn before(batches: BatchSpanProcessor, most: usize, counts: ExportCounts) -> Self {
        Self { batches, most, counts }
    }
}

impl BoundedQueue {
    fn count_full(&self) {
        if self.counts.count_full() {
            let queue = self.most;
            warn!(queue, "trace queue full, dropping spans (counted in mproxy_trace_spans_lost_total)");
        }
    }
}

impl SpanProcessor for BoundedQueue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.counts.take_place(self.most) {
            self.batches.on_end(span);
        } else {
            self.count_full();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}
