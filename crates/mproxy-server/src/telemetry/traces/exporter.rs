//! The way to the collector: OTLP over gRPC, by the same tonic and the same TLS as the hook service's. What it does not
//! take is counted, and told once until it takes something again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use mproxy_tcp::tls::read_text;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tracing::{info, warn};

use crate::config::Otel;
use crate::config::otel::{deadline, request_headers, tls};
use crate::telemetry::span_counts::SpanCounts;

/// A connection that nobody answers to is given up after so long: without it, that is the kernel's two minutes.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// An exporter whose outcomes are counted.
#[derive(Debug)]
pub(super) struct CountingExporter {
    exporter: OtlpExporter,
    collector: Box<str>,
    counts: SpanCounts,
    failing: AtomicBool,
}

impl CountingExporter {
    /// Connects when there is something to send.
    pub(super) fn connect(otel: &Otel, endpoint: &str, counts: SpanCounts) -> anyhow::Result<Self> {
        let headers = request_headers(otel).into_iter().collect();
        let exporter = OtlpExporter::builder()
            .with_tonic()
            .with_channel(channel(otel, endpoint).with_context(|| format!("traces to {endpoint}"))?)
            .with_metadata(MetadataMap::from_headers(headers))
            .with_timeout(deadline(otel))
            .build()?;
        Ok(Self { exporter, collector: endpoint.into(), counts, failing: AtomicBool::new(false) })
    }
}

impl SpanExporter for CountingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let (spans, collector) = (batch.len(), &*self.collector);
        let result = self.exporter.export(batch).await;
        self.counts.count_export(spans, result.is_ok());
        match &result {
            Ok(()) if self.failing.swap(false, Ordering::Relaxed) => {
                info!(collector, lost = self.counts.lost(), "traces are taken again");
            }
            // Once: an outage is one piece of news.
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                warn!(collector, spans, %error, "traces are not taken, dropping them (counted in mproxy_trace_spans_lost_total)");
            }
            Ok(()) | Err(_) => {}
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

fn channel(otel: &Otel, endpoint: &str) -> anyhow::Result<Channel> {
    let mut target = Endpoint::from_shared(endpoint.to_owned())?
        .connect_timeout(CONNECT_WITHIN.min(deadline(otel)))
        .timeout(deadline(otel));
    if let Some(tls) = tls(otel) {
        let mut config = ClientTlsConfig::new();
        config = match &tls.roots {
            Some(path) => config.ca_certificate(Certificate::from_pem(read_text(path)?)),
            None => config.with_native_roots(),
        };
        if let Some(own) = &tls.identity {
            config = config.identity(Identity::from_pem(read_text(&own.cert)?, read_text(&own.key)?));
        }
        target = target.tls_config(config)?;
    }
    Ok(target.connect_lazy())
}
