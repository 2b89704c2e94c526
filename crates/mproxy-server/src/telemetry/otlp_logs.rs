//! Lines of the log as OpenTelemetry's log records, sent by OTLP where that is asked for, beside what is written to standard
//! error. Nobody who logs waits for a collector: what has no place is counted. Where it is not asked for, nothing of this is
//! built.
//!
//! What this room itself says goes to standard error alone: a line for each request that fails would be one more to send.

mod record;

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::InstrumentationScope;
use opentelemetry::logs::LoggerProvider as _;
use opentelemetry_otlp::LogExporter as OtlpExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{
    BatchConfigBuilder, BatchLogProcessor, LogBatch, LogExporter, SdkLoggerProvider,
};
use tracing::level_filters::LevelFilter;
use tracing::{Subscriber, info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use self::record::OtlpLogLayer;
use super::export_counts::{ExportCounts, ExportNews};
use super::otlp::{otlp_exporter, resource};
use super::traces::TARGET as SPANS;
use crate::config::otel::{Signal, target};
use crate::config::{LogLevel, Otel};

/// What the lines of this room are called.
const OWN_LINES: &str = module_path!();

/// Who sends log records.
pub struct OtlpLogs {
    provider: SdkLoggerProvider,
    counts: ExportCounts,
    queue: usize,
}

/// Changes from which level on lines are sent.
pub(super) type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

impl OtlpLogs {
    /// Builds what these settings ask for; `None`: no logs are sent. Call it inside a tokio runtime. Nobody is waited for.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub fn start(otel: &Otel, instance: &str) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = target(otel, Signal::Logs) else { return Ok(None) };
        let counts = ExportCounts::default();
        let exporter = Self::exporter(otel).with_context(|| format!("logs to {endpoint}"))?;
        let exporter = CountingLogExporter { exporter, collector: endpoint.into(), counts: counts.clone() };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(otel.logs_queue)
            .with_max_export_batch_size(otel.logs_batch)
            .with_scheduled_delay(otel.logs_delay)
            .build();
        let provider = SdkLoggerProvider::builder()
            .with_log_processor(BatchLogProcessor::builder(exporter).with_batch_config(batches).build())
            .with_resource(resource(otel, instance))
            .build();
        Ok(Some(Self { provider, counts, queue: otel.logs_queue }))
    }

    fn exporter(otel: &Otel) -> anyhow::Result<OtlpExporter> {
        Ok(otlp_exporter!(OtlpExporter, otel, Signal::Logs))
    }

    /// Says where logs go, beside standard error.
    pub(crate) fn announce(otel: &Otel) {
        if let Some(collector) = target(otel, Signal::Logs) {
            info!(collector, "logs are sent by OTLP");
        }
    }

    /// Makes log records of our lines from this level on, and what changes that.
    pub(super) fn layer<S>(&self, level: LogLevel) -> (impl Layer<S> + Send + Sync + use<S>, SetLevel)
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync + 'static,
    {
        let (filter, reload) = reload::Layer::new(sent(level));
        let scope = InstrumentationScope::builder("mproxy").with_version(env!("CARGO_PKG_VERSION")).build();
        let layer = OtlpLogLayer {
            logger: self.provider.logger_with_scope(scope),
            counts: self.counts.clone(),
            queue: self.queue,
        };
        let set = move |level| {
            // Fails only when the subscriber is gone, and then nobody logs.
            let _ = reload.reload(sent(level));
        };
        (layer.with_filter(filter), Box::new(set))
    }

    /// What is counted of log records.
    pub(super) const fn counts(&self) -> &ExportCounts {
        &self.counts
    }

    /// Sends what waits, for at most so long. No line is sent after it. Blocks.
    pub fn flush(&self, within: Duration) {
        let ended = self.provider.shutdown_with_timeout(within);
        let records = self.counts.waiting();
        if ended.is_err() && records > 0 {
            warn!(records, "log records dropped: the collector did not take them before the end");
        }
    }
}

impl fmt::Debug for OtlpLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OtlpLogs")
    }
}

/// Our lines, but not those of this room; none of libraries, among which are those that send.
fn sent(level: LogLevel) -> Targets {
    Targets::new()
        .with_target("mproxy", LevelFilter::from(level))
        .with_target(OWN_LINES, LevelFilter::OFF)
        .with_target(SPANS, LevelFilter::OFF)
}

/// One had no place.
fn count_full(counts: &ExportCounts, queue: usize) {
    if counts.count_full() {
        warn!(queue, "log queue full, not sending lines (counted in mproxy_otlp_log_records_lost_total)");
    }
}

/// An exporter whose outcomes are counted.
#[derive(Debug)]
struct CountingLogExporter {
    exporter: OtlpExporter,
    collector: Box<str>,
    counts: ExportCounts,
}

impl LogExporter for CountingLogExporter {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let (records, collector) = (batch.iter().count(), &*self.collector);
        let result = self.exporter.export(batch).await;
        let news = self.counts.count_export(records, result.is_ok());
        match (&result, news) {
            (Ok(()), ExportNews::TakenAgain) => {
                info!(collector, lost = self.counts.lost(), "logs are taken again");
            }
            (Err(error), ExportNews::Failing) => {
                warn!(collector, records, %error, "logs are not taken, dropping them (counted in mproxy_otlp_log_records_lost_total)");
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
