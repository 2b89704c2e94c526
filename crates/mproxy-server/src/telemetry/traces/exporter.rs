//! Spans as the collector is given them. What it does not take is counted, and told once until it takes something again.

use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_otlp::SpanExporter as OtlpExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tracing::{info, warn};

use crate::config::Otel;
use crate::config::otel::Signal;
use crate::telemetry::export_counts::{ExportCounts, ExportNews};
use crate::telemetry::otlp::otlp_exporter;

/// An exporter whose outcomes are counted.
#[derive(Debug)]
pub(super) struct CountingExporter {
    exporter: OtlpExporter,
    collector: Box<str>,
    counts: ExportCounts,
}

impl CountingExporter {
    /// Connects when there is something to send.
    pub(super) fn connect(otel: &Otel, endpoint: &str, counts: ExportCounts) -> anyhow::Result<Self> {
        let exporter = Self::build(otel).with_context(|| format!("traces to {endpoint}"))?;
        Ok(Self { exporter, collector: endpoint.into(), counts })
    }

    fn build(otel: &Otel) -> anyhow::Result<OtlpExporter> {
        Ok(otlp_exporter!(OtlpExporter, otel, Signal::Traces))
    }
}

impl SpanExporter for CountingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let (spans, collector) = (batch.len(), &*self.collector);
        let result = self.exporter.export(batch).await;
        let news = self.counts.count_export(spans, result.is_ok());
        match (&result, news) {
            (Ok(()), ExportNews::TakenAgain) => {
                info!(collector, lost = self.counts.lost(), "traces are taken again");
            }
            (Err(error), ExportNews::Failing) => {
                warn!(collector, spans, %error, "traces are not taken, dropping them (counted in mproxy_trace_spans_lost_total)");
            }
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
